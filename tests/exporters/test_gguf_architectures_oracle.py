"""Keys, tensors and their data against llama.cpp's own converter, for every architecture and many configs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_compare import tensors_of
from llama_oracle import Conversion, run_conversions
from modelport.exporters.runtimes.gguf import architectures
from modelport.exporters.runtimes.gguf.blueprint import Tensor
from modelport.sources import gguf as gguf_source
from modelport.sources.gguf import header
from modelport.sources.huggingface import causal_lm, checkpoint, decoders
from tiny_llms import ARCHITECTURES, make, pre_of, write_shards

pytestmark = pytest.mark.slow

LEFT_TO_OTHERS = ("general.file_type", "general.quantization_version")
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
NESTED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
}
OLD_GEMMA = ("rope_theta", "rope_local_base_freq", "rope_scaling", "sliding_window_pattern")
CONFIGS: Mapping[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}, ()),
    "dynamic": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, ()),
    "five": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 2e4}},
        ("rope_theta",),
    ),
    "llama1": (
        "llama",
        {},
        ("rope_theta", "rope_scaling", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps"),
    ),
    "others": (
        "llama",
        {"n_ctx": 77, "layer_norm_eps": 1e-4, "num_experts_per_tok": 3, "is_causal": False},
        (),
    ),
    "named": ("llama", {"_name_or_path": "meta-llama/Llama-3.2-1B-Instruct"}, ()),
    "null": ("llama3", {"head_dim": None}, ()),
    "inside": ("llama3", {"original_max_position_embeddings": 4096}, ()),
    "outside": (
        "llama3",
        {"original_max_position_embeddings": 4096, "rope_scaling": {"type": "llama3", **LLAMA3}},
        (),
    ),
    "eight": (
        "llama3",
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
        ("rope_scaling",),
    ),
    "mistral": ("mistral", {}, ("rope_theta", "max_position_embeddings", "rms_norm_eps")),
    "yarn": (
        "qwen2",
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}},
        (),
    ),
    "yarn2": (
        "qwen3",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4,
                "attention_factor": 1.2,
                "beta_fast": 32,
                "beta_slow": 1.0,
            }
        },
        (),
    ),
    "smollm3": ("smollm3", {}, ("rope_theta", "no_rope_layers", "layer_types", "tie_word_embeddings")),
    "gemma2": (
        "gemma2",
        {},
        (
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "sliding_window",
            "rope_theta",
            "tie_word_embeddings",
        ),
    ),
    "gemma3": ("gemma3", {}, (*OLD_GEMMA, "max_position_embeddings", "tie_word_embeddings")),
    "gemma3linear": ("gemma3", {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}, ()),
    "gemma3nested": ("gemma3", {"rope_parameters": NESTED, "final_logit_softcapping": 30.0}, OLD_GEMMA),
    "phi3": (
        "phi3",
        {},
        ("original_max_position_embeddings", "rope_scaling", "rope_theta", "sliding_window"),
    ),
    "phi3outside": ("phi3-longrope", {"original_max_position_embeddings": 2048}, ()),
    "phi3four": ("phi3-longrope", {}, ("original_max_position_embeddings",)),
    "gpt2": ("gpt2", {"n_ctx": 100}, ()),
}
"""name: (architecture, fields of config.json that are set, fields that are taken out)."""
FURTHER: Mapping[str, tuple[str, dict[str, Any]]] = {
    "mixtral": (
        "mistral",
        {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4},
    ),
    "qwen3_moe": (
        "qwen3",
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 256,
        },
    ),
    "olmo2": ("qwen3", {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"}),
    "olmo2 biased": (
        "qwen2",
        {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": True},
    ),
    "gemma": ("gemma2", {"architectures": ["GemmaForCausalLM"], "model_type": "gemma"}),
    "llama biased": ("llama3", {"attention_bias": True, "mlp_bias": True}),
}
"""Families that tiny_llms does not make: (the one whose tokenizer and config they take, fields that are set)."""
CARDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "Llama-3.2-1B-Instruct-v2": (
        "license: mit\nbase_model: meta-llama/Llama-3.2-1B\nlanguage: [en, de]\n"
        "datasets:\n- HuggingFaceFW/fineweb\n- https://huggingface.co/datasets/x\n",
        {},
    ),
    "org--x": (
        "license:\n- mit\n- apache-2.0\nlicense_name: l\nlicense_link: https://x/y\nlanguage:\n- no\n- en\n"
        "model_name: Mein Modell\nmodel_creator: Wer\nbase_model:\n- a/b-7B-v1.0\n"
        "- https://huggingface.co/c/d-chat\n- name: hand\n  version: '3'\n",
        {"top_k": 40, "temperature": 0.7, "repetition_penalty": 1.1, "min_p": 0.05},
    ),
    "model": (
        "name: Named\nauthor: A\nversion: v1.5\norganization: O\ndescription: d\nurl: http://u\n"
        "model_type: basey\ntags: one\npipeline_tag: text-generation\n",
        {"temperature": 1},
    ),
    "a sentence as a name": ("\n", {}),
    "7b1-bloom_x-Q4_K_M-70B": ("license: other\n", {}),
}
"""Folder's name: (front matter of README.md, generation_config.json)."""


def _edit(folder: Path, changes: Mapping[str, Any], out: tuple[str, ...]) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in out}))
    return folder


def _rewritten(folder: Path, changes: Mapping[str, Any]) -> Path:
    """The folder as another family's: config.json edited, and new weights of the shapes that it implies."""
    fields = checkpoint.read_config(_edit(folder, changes, ("sliding_window",)))
    shapes = decoders.expected(fields, decoders.geometry(fields, "x"))
    write_shards(folder, shapes, "bfloat16", shards=1, seed=1, gemma=fields.text("model_type") == "gemma")
    return folder


def _saved_again(folder: Path) -> Path:
    """The folder with the config that transformers 5 writes: rope_parameters, dtype."""
    from transformers import AutoConfig

    AutoConfig.from_pretrained(folder).save_pretrained(folder)
    return folder


def _folders(root: Path) -> Iterator[tuple[str, Path, str]]:
    """(case, folder, architecture) of everything that is converted."""
    for name in ARCHITECTURES:
        yield name, make(name, root / name / f"Tiny-{name}-v0.1", card=True), name
    for name in ARCHITECTURES:
        yield f"v5 {name}", _saved_again(make(name, root / "v5" / name)), name
    yield "untied", make("qwen2", root / "untied" / "q", tied=False, shards=2), "qwen2"
    yield "tied", make("llama3", root / "tied" / "t", tied=True, shards=3), "llama3"
    yield "half", make("gemma2", root / "half" / "h", dtype="float16"), "gemma2"
    yield "single", make("llama", root / "single" / "s", dtype="float32"), "llama"
    for case, (name, changes) in FURTHER.items():
        yield case, _rewritten(make(name, root / "f" / case), changes), name
    for case, (name, changes, out) in CONFIGS.items():
        yield f"config {case}", _edit(make(name, root / "c" / case), changes, out), name
    for title, (front, generation) in CARDS.items():
        folder = make("llama", root / "cards" / title)
        (folder / "README.md").write_text(f"---\n{front}---\n# A model\n---\n")
        (folder / "generation_config.json").write_text(json.dumps(generation))
        yield f"card {title}", folder, "llama"


CASES = (
    *ARCHITECTURES, *(f"v5 {name}" for name in ARCHITECTURES), "untied", "tied", "half", "single", *FURTHER,
    *(f"config {case}" for case in CONFIGS), *(f"card {title}" for title in CARDS),
)  # fmt: skip


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """case: (the Hugging Face folder, the oracle's 32-bit file); the 16-bit one stands beside it."""
    root = tmp_path_factory.mktemp("architectures")
    jobs: list[Conversion] = []
    found: dict[str, tuple[Path, Path]] = {}
    for case, folder, name in _folders(root / "hf"):
        out = root / f"{len(found)}.gguf"
        jobs.append(Conversion(folder, out, "f32", pre_of(name)))
        if case in (*ARCHITECTURES, *FURTHER):
            jobs.append(Conversion(folder, out.with_suffix(".bf16"), "bf16", pre_of(name)))
        found[case] = (folder, out)
    run_conversions(jobs)
    return found


def drawn(folder: Path, names: Any) -> tuple[list[header.Entry], tuple[Tensor, ...]]:
    """The keys and tensors that `draw` gives, read back from a file as it was written."""
    writer = architectures.new_writer(folder)
    tensors = architectures.draw(folder, writer, names)
    path = folder / "drawn.gguf"
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return list(header.read_header(path).entries), tensors


def before_tokenizer(path: Path) -> list[header.Entry]:
    """The oracle's keys without those that are left to others."""
    entries = header.read_header(path).entries
    return [e for e in entries if not e.key.startswith("tokenizer.") and e.key not in LEFT_TO_OTHERS]


def stored(folder: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint; bfloat16 as float32, which holds every value of it."""
    found = {}
    for name, place in checkpoint.places(folder).items():
        raw = np.fromfile(place.file, np.uint8, place.nbytes, offset=place.begin)
        if place.dtype == "bfloat16":
            values = (raw.view("<u2").astype("<u4") << 16).view("<f4")
        else:
            values = raw.view({"float32": "<f4", "float16": "<f2"}[place.dtype])
        found[name] = values.reshape(place.shape)
    return found


def applied(tensor: Tensor, weights: Mapping[str, Any]) -> Any:
    """A tensor's data in float32, as its parts and transform say."""
    if tensor.values:
        return np.array(tensor.values, np.float32)
    data = np.concatenate([weights[part] for part in tensor.parts])
    if tensor.transform == "transpose":
        data = data.T
    elif tensor.transform == "plus one":
        data = data + data.dtype.type(1)
    elif tensor.transform == "permute":
        halves = data.reshape(tensor.heads, 2, len(data) // tensor.heads // 2, *data.shape[1:])
        data = halves.swapaxes(1, 2).reshape(data.shape)
    assert data.size == tensor.elements
    return data.astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_keys_are_the_converters_in_type_value_and_order(
    case: str, converted: dict[str, tuple[Path, Path]]
) -> None:
    folder, oracle = converted[case]
    entries, _ = drawn(folder, set(checkpoint.places(folder)))
    assert entries == before_tokenizer(oracle)


@pytest.mark.parametrize("case", CASES)
def test_tensors_and_their_data_are_the_converters(
    case: str, converted: dict[str, tuple[Path, Path]]
) -> None:
    folder, oracle = converted[case]
    _, tensors = drawn(folder, set(checkpoint.places(folder)))
    shapes = {name: place.shape for name, place in gguf_source.places(oracle).items()}
    assert {tensor.name: tensor.shape for tensor in tensors} == shapes
    weights, data = stored(folder), {name: raw for name, (_, raw) in tensors_of(oracle).items()}
    different = [tensor.name for tensor in tensors if applied(tensor, weights).tobytes() != data[tensor.name]]
    assert not different


@pytest.mark.parametrize("case", [*ARCHITECTURES, *FURTHER])
def test_what_stays_in_32_bits_is_the_converters(case: str, converted: dict[str, tuple[Path, Path]]) -> None:
    folder, oracle = converted[case]
    _, tensors = drawn(folder, set(checkpoint.places(folder)))
    kinds = {name: kind for name, (kind, _) in tensors_of(oracle.with_suffix(".bf16")).items()}
    assert {tensor.name: "F32" if tensor.float32 else "BF16" for tensor in tensors} == kinds


@pytest.mark.parametrize("case", CASES)
def test_config_alone_tells_the_same_keys_and_tensors(
    case: str, converted: dict[str, tuple[Path, Path]]
) -> None:
    folder, _ = converted[case]
    entries, tensors = drawn(folder, set(checkpoint.places(folder)))
    implied = [(t.name, t.shape, t.float32) for t in drawn(folder, None)[1]]
    assert implied == [(t.name, t.shape, t.float32) for t in tensors]
    assert drawn(folder, None)[0] == entries


@pytest.mark.parametrize("case", CASES)
def test_the_source_validates_every_covered_model(case: str, converted: dict[str, tuple[Path, Path]]) -> None:
    folder, _ = converted[case]
    source = causal_lm.open(folder)
    assert "was not checked" not in " ".join(causal_lm.inspect(source).notes)
