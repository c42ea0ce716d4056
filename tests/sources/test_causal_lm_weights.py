"""The weights that config.json implies against the models that transformers builds from the same config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelport.sources.files.jsonfile import Fields
from modelport.sources.huggingface import checkpoint, decoders
from tiny_configs import FAMILIES, config_of, sizes_of

pytestmark = pytest.mark.slow

IDS = {"bos": 1, "eos": 2, "pad": 0}
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in FAMILIES},
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama without head_dim": ("llama3", {"head_dim": None, "num_key_value_heads": None}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True, "head_dim": 32}),
    "gemma": ("gemma2", {"model_type": "gemma", "hidden_act": "gelu_pytorch_tanh"}),
    "gemma2 with biases": ("gemma2", {"attention_bias": True}),
    "olmo2": ("qwen3", {"model_type": "olmo2", "attention_bias": True}),
    "phi3 in part": ("phi3", {"partial_rotary_factor": 0.5, "num_key_value_heads": 2}),
    "gpt2 narrow": ("gpt2", {"n_inner": 100}),
}


def _fields(name: str, changes: dict[str, Any]) -> Fields:
    tied = FAMILIES[name].tied
    values = config_of(name, sizes_of(name, 300), tied=tied, dtype="bfloat16", ids=IDS) | changes
    return Fields(values, "config.json")


def _config(fields: Fields) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[fields.text("model_type")].from_dict(dict(fields.values))


@pytest.mark.parametrize("case", CHANGES)
def test_weights_are_those_of_transformers_own_model(case: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    fields = _fields(*CHANGES[case])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_config(fields))
    facts = decoders.geometry(fields, "x")
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if facts.tied_embeddings:
        shapes.pop("lm_head.weight")
    assert decoders.expected(fields, facts) == shapes


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_that_transformers_5_wrote_says_the_same(name: str, tmp_path: Path) -> None:
    fields = _fields(name, {})
    _config(fields).save_pretrained(tmp_path)
    written = checkpoint.read_config(tmp_path)
    assert "rope_theta" not in written.values
    facts = decoders.geometry(fields, "x")
    assert decoders.geometry(written, "x") == facts
    assert decoders.expected(written, facts) == decoders.expected(fields, facts)


def test_a_nested_text_config_is_lifted() -> None:
    flat = _fields("gemma3", {})
    nested = Fields({"architectures": ["x"], "text_config": dict(flat.values)}, "config.json")
    assert decoders.geometry(nested, "x") == decoders.geometry(flat, "x")
    assert decoders.base(nested) == "model."
