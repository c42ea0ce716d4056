"""What is drawn from config.json and the model card, and what is refused there by file and field."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.exporters.runtimes.gguf import architectures
from modelport.sources.files.jsonfile import Fields
from modelport.sources.gguf import header
from modelport.sources.huggingface import decoders
from modelport.targets.errors import ModelportError, SourceUnreadable, Unsupported
from tiny_configs import FAMILIES, config_of, sizes_of

pytest.importorskip("gguf")

IDS = {"bos": 1, "eos": 2, "pad": 0}


def config(name: str, **changes: Any) -> dict[str, Any]:
    tied = FAMILIES[name].tied
    return config_of(name, sizes_of(name, 300), tied=tied, dtype="bfloat16", ids=IDS) | changes


def folder_of(path: Path, values: Mapping[str, Any], **files: str) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(values))
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return path


def keys(folder: Path, names: Any = None) -> dict[str, Any]:
    writer = architectures.new_writer(folder)
    architectures.draw(folder, writer, names)
    path = folder / "drawn.gguf"
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return {entry.key: header.value(entry) for entry in header.read_header(path).entries}


def tensors(folder: Path, names: Any = None) -> dict[str, Any]:
    return {t.name: t for t in architectures.draw(folder, architectures.new_writer(folder), names)}


def weights(values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    fields = Fields(values, "config.json")
    return decoders.expected(fields, decoders.geometry(fields, "x"))


def test_covering_is_asked_without_numpy() -> None:
    code = (
        "import sys; from modelport.exporters.runtimes.gguf.architectures.covered import require_covered\n"
        "require_covered('LlamaForCausalLM'); assert not {'numpy', 'gguf', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_architecture_that_is_not_covered_is_refused_with_those_that_are(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", config("llama", architectures=["MambaForCausalLM"]))
    with pytest.raises(
        Unsupported, match=r"'MambaForCausalLM'.*Covered: LlamaForCausalLM, .*GPT2LMHeadModel"
    ):
        architectures.new_writer(folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_becomes_one_tensor_of_as_many_values(name: str, tmp_path: Path) -> None:
    values = config(name)
    folder = folder_of(tmp_path / "m", values)
    drawn = [tensor for tensor in tensors(folder).values() if not tensor.values]
    implied = weights(values)
    assert sorted(part for tensor in drawn for part in tensor.parts) == sorted(implied)
    for tensor in drawn:
        shape = implied[tensor.parts[0]]
        assert tensor.shape == (shape[::-1] if tensor.transform == "transpose" else shape)


@pytest.mark.parametrize(
    ("name", "changes", "kind", "words"),
    [
        (
            "llama",
            {"rope_scaling": {"type": "magic", "factor": 2}},
            Unsupported,
            "rope_scaling.*'magic' is not known",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "linear"}},
            SourceUnreadable,
            "factor: this field is missing",
        ),
        ("llama", {"rope_scaling": 7}, SourceUnreadable, "config.json: rope_scaling: an object is expected"),
        (
            "llama",
            {"rope_parameters": {"rope_type": 3}},
            SourceUnreadable,
            "rope_parameters: rope_type: a short text",
        ),
        ("llama", {"rope_theta": "big"}, SourceUnreadable, "rope_theta: a number is expected, not text"),
        (
            "llama",
            {"hidden_act": "relu"},
            Unsupported,
            "config.json: hidden_act: 'relu' is not what llama.cpp",
        ),
        (
            "llama",
            {"model_type": "mistral"},
            Unsupported,
            "model_type: 'mistral' contradicts the architecture",
        ),
        (
            "llama",
            {"rms_norm_eps": None},
            SourceUnreadable,
            "config.json: rms_norm_eps: this field is missing",
        ),
        ("llama", {"vocab_size": None}, SourceUnreadable, "config.json: vocab_size: this field is missing"),
        ("llama", {"text_config": "x"}, SourceUnreadable, "config.json: text_config: an object is expected"),
        (
            "llama",
            {"num_hidden_layers": 513},
            Unsupported,
            "num_hidden_layers: llama.cpp takes at most 512 layers",
        ),
        ("llama", {"head_dim": 33}, SourceUnreadable, "head_dim: 33 is odd"),
        (
            "llama",
            {"max_position_embeddings": 1 << 40},
            SourceUnreadable,
            "max_position_embeddings: .* not between",
        ),
        (
            "llama3",
            {"rope_scaling": {"rope_type": "llama3", "factor": 0}},
            SourceUnreadable,
            "rope_scaling: factor: 0.0 is not above 0",
        ),
        (
            "llama3",
            {"rope_scaling": {"rope_type": "llama3", "low_freq_factor": 4, "high_freq_factor": 4}},
            SourceUnreadable,
            "high_freq_factor: 4.0 is not above low_freq_factor, 4.0",
        ),
        (
            "smollm3",
            {"no_rope_layers": [1, 1, 1, 1]},
            Unsupported,
            "config.json: no_rope_layers: llama.cpp rotates",
        ),
        (
            "gemma2",
            {"attn_logit_softcapping": None},
            SourceUnreadable,
            "attn_logit_softcapping: this field is missing",
        ),
        (
            "gemma2",
            {"layer_types": ["full_attention"] * 2},
            Unsupported,
            "config.json: layer_types: llama.cpp lets",
        ),
        ("gemma3", {"attn_logit_softcapping": 50.0}, Unsupported, "config.json: attn_logit_softcapping"),
        (
            "gemma3",
            {"use_bidirectional_attention": True},
            Unsupported,
            "use_bidirectional_attention: this model reads",
        ),
        ("gemma3", {"query_pre_attn_scalar": 100}, Unsupported, "query_pre_attn_scalar: llama.cpp scales"),
        ("gemma3", {"sliding_window_pattern": 4}, Unsupported, "config.json: sliding_window_pattern"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2}}, Unsupported, "'linear' is not known"),
        (
            "phi3",
            {"partial_rotary_factor": 1.5},
            SourceUnreadable,
            "partial_rotary_factor: 1.5 is not between 0 and 1",
        ),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}},
            SourceUnreadable,
            "long_factor: a list of 32 numbers is expected",
        ),
        ("gpt2", {"activation_function": "relu"}, Unsupported, "config.json: activation_function: 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, Unsupported, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_a_config_that_cannot_be_written_is_refused_by_field(
    name: str, changes: dict[str, Any], kind: type[ModelportError], words: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "m", config(name, **changes))
    with pytest.raises(kind, match=words):
        keys(folder)


def test_more_experts_than_any_model_has_are_refused_before_they_are_listed(tmp_path: Path) -> None:
    many = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 60_000}
    with pytest.raises(SourceUnreadable, match="num_local_experts: 60,000 experts in 2 layers are more"):
        keys(folder_of(tmp_path / "m", config("mistral", **many)))


def test_a_nested_text_config_counts(tmp_path: Path) -> None:
    values = config("gemma3")
    nested = {"architectures": values.pop("architectures"), "text_config": values}
    flat = keys(folder_of(tmp_path / "m", config("gemma3")))
    assert keys(folder_of(tmp_path / "m", nested)) == flat


def test_names_without_the_models_prefix_are_found(tmp_path: Path) -> None:
    values = config("gpt2")
    bare = [name.removeprefix("transformer.") for name in weights(values)]
    drawn = tensors(folder_of(tmp_path / "m", values), [*bare, "h.0.attn.bias", "h.1.attn.masked_bias"])
    assert drawn["blk.0.attn_qkv.weight"].parts == ("h.0.attn.c_attn.weight",)
    assert drawn["position_embd.weight"].float32


def test_a_head_that_is_stored_though_tied_is_written(tmp_path: Path) -> None:
    values = config("qwen2")
    folder = folder_of(tmp_path / "m", values)
    assert "output.weight" not in tensors(folder, list(weights(values)))
    drawn = tensors(folder, [*weights(values), "lm_head.weight"])
    assert drawn["output.weight"].shape == (300, 256)


def test_gemmas_head_is_left_out(tmp_path: Path) -> None:
    values = config("gemma2")
    assert "output.weight" not in tensors(
        folder_of(tmp_path / "m", values), [*weights(values), "lm_head.weight"]
    )


def test_biases_follow_config_and_are_permuted_with_their_rows(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", config("llama3", attention_bias=True, mlp_bias=True))
    drawn = tensors(folder)
    key, output = drawn["blk.1.attn_k.bias"], drawn["blk.1.attn_output.bias"]
    assert (key.shape, key.transform, key.heads, key.float32) == ((128,), "permute", 2, True)
    assert (output.shape, output.transform) == ((256,), "keep")
    assert drawn["blk.0.ffn_down.bias"].shape == (256,)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("model.layers.0.self_attn.sinks", "implies no weight 'model.layers.0.self_attn.sinks'"),
        ("visual.x", "visual"),
    ],
)
def test_a_weight_that_config_does_not_imply_is_refused(extra: str, words: str, tmp_path: Path) -> None:
    values = config("llama")
    with pytest.raises(Unsupported, match=words):
        tensors(folder_of(tmp_path / "m", values), [*weights(values), extra])


def test_a_weight_that_is_missing_is_named(tmp_path: Path) -> None:
    values = config("llama")
    with pytest.raises(SourceUnreadable, match=r"model\.norm\.weight is missing"):
        tensors(folder_of(tmp_path / "m", values), set(weights(values)) - {"model.norm.weight"})


@settings(max_examples=60, deadline=None)
@given(
    base=st.floats(1e3, 1e8),
    factor=st.floats(1.5, 64),
    low=st.floats(0.5, 2),
    above=st.floats(0.5, 8),
    original=st.integers(64, 65536),
)
def test_llama3_slows_long_waves_by_the_factor_and_leaves_short_ones(
    base: float,
    factor: float,
    low: float,
    above: float,
    original: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    scaling = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": low + above,
        "original_max_position_embeddings": original,
    }  # fmt: skip
    path = tmp_path_factory.mktemp("rope") / "m"
    values = tensors(folder_of(path, config("llama3", rope_theta=base, rope_scaling=scaling)))[
        "rope_freqs.weight"
    ].values
    assert len(values) == 32
    assert all(1 - 1e-5 <= value <= factor * (1 + 1e-5) for value in values)
    assert all(before <= after * (1 + 1e-5) for before, after in itertools.pairwise(values))
    waves = [6.283185307 * base ** (2 * n / 64) for n in range(32)]
    for wave, value in zip(waves, values, strict=True):
        if wave < original / (low + above) * 0.999:
            assert value == 1
        if wave > original / low * 1.001:
            assert value == factor


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("---\na: [1\n---\n", "README.md: the front matter is not YAML"),
        ("---\na: &x [1, 2]\nb: *x\n---\n", "README.md: the front matter uses YAML aliases"),
        ("---\na: !!python/object/apply:os.system ['x']\n---\n", "README.md: the front matter is not YAML"),
        ("---\n" + "a: b # ------\n" * 20_000 + "---\n", "front matter is longer than the 262,144"),
    ],
)
def test_a_damaged_model_card_is_refused(card: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match=words):
        keys(folder_of(tmp_path / "m", config("llama"), README__md=card))


def test_a_model_card_from_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("---\nname: secret\n---\n")
    folder = folder_of(tmp_path / "m", config("llama"))
    (folder / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceUnreadable, match="leads out of the model's folder"):
        keys(folder)


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        ({"top_k": "many"}, "generation_config.json: top_k: an integer is expected"),
        ({"top_k": 1 << 40}, "generation_config.json: top_k: .* is not between"),
        ({"temperature": True}, "generation_config.json: temperature: a number is expected"),
    ],
)
def test_sampling_settings_of_the_wrong_kind_are_refused(generation: Any, words: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", config("llama"), generation_config__json=json.dumps(generation))
    with pytest.raises(SourceUnreadable, match=words):
        keys(folder)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates())
ANY = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3)
)
FIELDS = (
    "name", "author", "version", "license", "license_name", "tags", "language", "base_model", "datasets",
    "pipeline_tag", "url", "model_name", "model_creator", "model_type", "size_label",
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(card=st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=8))
def test_any_model_card_gives_clean_texts_or_one_error(
    card: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    import yaml  # type: ignore[import-untyped]

    front = yaml.safe_dump(card, allow_unicode=True)
    folder = folder_of(
        tmp_path_factory.mktemp("card") / "m", config("llama"), README__md=f"---\n{front}\n---\n"
    )
    try:
        found = keys(folder)
    except SourceUnreadable as error:
        if "README.md" not in error.where:
            raise
        return
    for value in found.values():
        for text in value if isinstance(value, list) else [value]:
            assert not isinstance(text, str) or all(c.isprintable() or c in "\n\t" for c in text)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("mistral", {"sliding_window": 64}, True),
        ("mistral", {"sliding_window": None}, False),
        ("phi3", {"sliding_window": 2047, "max_position_embeddings": 4096}, True),
        ("phi3", {"sliding_window": 4096, "max_position_embeddings": 4096}, False),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": False}, False),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True}, True),
        ("gemma3", {}, False),
    ],
)
def test_a_window_that_llama_cpp_does_not_have_is_told(name, changes, told, tmp_path) -> None:
    notes = architectures.limits_of(folder_of(tmp_path, config(name, **changes)))
    assert any("attends to" in note for note in notes) is told
