import json
import math
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from modelport import sources
from modelport.sources.files import jsonfile
from modelport.sources.huggingface import causal_lm, checkpoint, decoders
from modelport.targets.errors import SourceUnreadable

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 50,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
LLAMA_70B = {
    **LLAMA,
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def header(tensors: Mapping[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """A safetensors header for bf16 tensors, and the bytes of data behind it."""
    entries, position = {}, 0
    for name, shape in tensors.items():
        end = position + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    raw = json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw, position


def expected(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    fields = jsonfile.Fields(config, "config.json")
    return decoders.expected(fields, decoders.geometry(fields, "x"))


def write(folder: Path, config: Any, shards: int = 1, drop: str = "", **shapes: tuple[int, ...]) -> Path:
    """A sparse checkpoint: the files have their full length and take no space on disk."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {n: shapes.get(n.rsplit(".", 2)[-2], s) for n, s in expected(config).items() if n != drop}
    parts = [dict(list(tensors.items())[i::shards]) for i in range(shards)]
    weight_map = {}
    for index, part in enumerate(parts):
        name = "model.safetensors" if shards == 1 else f"model-{index + 1:05}-of-{shards:05}.safetensors"
        head, size = header(part)
        with (folder / name).open("wb") as stream:
            stream.write(head)
            stream.truncate(len(head) + size)
        weight_map.update(dict.fromkeys(part, name))
    if shards > 1:
        (folder / checkpoint.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_geometry_comes_from_config(tmp_path: Path) -> None:
    source = sources.open_source(write(tmp_path / "m", LLAMA))
    llm = sources.inspect(source).llm
    assert source.kind == "causal-lm"
    assert llm is not None
    assert (llm.layers, llm.hidden, llm.heads, llm.kv_heads, llm.head_dim) == (2, 64, 8, 2, 8)
    assert (llm.intermediate, llm.vocab, llm.context, llm.tied_embeddings) == (96, 50, 4096, False)


def test_an_explicit_head_dim_wins(tmp_path: Path) -> None:
    config = {**LLAMA, "model_type": "qwen3", "head_dim": 32}
    llm = sources.inspect(sources.open_source(write(tmp_path / "m", config))).llm
    assert llm is not None
    assert llm.head_dim == 32


def test_weights_are_counted_from_headers(tmp_path: Path) -> None:
    facts = sources.inspect(sources.open_source(write(tmp_path / "m", LLAMA, shards=3)))
    assert facts.parameters == sum(math.prod(shape) for shape in expected(LLAMA).values())
    assert facts.bytes_by_dtype == {"bfloat16": 2 * facts.parameters}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_heads": 3}, "config.json: num_key_value_heads: 8 heads are no multiple of 3"),
        ({"num_attention_heads": 7}, "config.json: num_key_value_heads: 7 heads"),
        ({"num_attention_heads": "8"}, "config.json: num_attention_heads: an integer is expected, not text"),
        ({"num_hidden_layers": None}, "config.json: num_hidden_layers: this field is missing"),
        ({"num_hidden_layers": 10**8}, "config.json: num_hidden_layers: 100000000 is not between"),
        ({"vocab_size": 0}, "config.json: vocab_size: 0 is not between"),
        ({"vocab_size": 51}, r"embed_tokens.weight: shape \[50, 64\], where config.json implies \[51, 64\]"),
        ({"num_hidden_layers": 3}, "are missing: model.layers.2.input_layernorm.weight"),
        ({"tie_word_embeddings": "yes"}, "config.json: tie_word_embeddings: true or false is expected"),
    ],
)
def test_a_config_that_contradicts_itself_or_the_weights_is_refused(
    tmp_path: Path, changes: Any, words: str
) -> None:
    folder = write(tmp_path / "m", LLAMA)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    with pytest.raises(SourceUnreadable, match=words):
        sources.open_source(folder)


def test_a_missing_head_is_named_unless_embeddings_are_tied(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", LLAMA, drop="lm_head.weight")
    with pytest.raises(SourceUnreadable, match=r"are missing: lm_head.weight"):
        sources.open_source(folder)
    (folder / "config.json").write_text(json.dumps({**LLAMA, "tie_word_embeddings": True}))
    assert sources.inspect(sources.open_source(folder)).llm is not None


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", LLAMA, shards=3)
    shard = folder / "model-00002-of-00003.safetensors"
    with shard.open("r+b") as stream:
        stream.truncate(shard.stat().st_size - 1)
    with pytest.raises(SourceUnreadable, match=r"model-00002-of-00003.safetensors: .*ends at byte"):
        sources.open_source(folder)


def test_other_families_are_noted_as_unchecked(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", LLAMA)
    (folder / "config.json").write_text(json.dumps({**LLAMA, "model_type": "olmo", "vocab_size": 77}))
    facts = sources.inspect(sources.open_source(folder))
    assert "were not checked" in facts.notes[0]
    assert facts.llm is not None


CHECK = """
import json, re, sys, time
from pathlib import Path
from modelport import sources

# VmHWM is this process's own; ru_maxrss would keep the size of the one that started it.
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

bare, begin = peak(), time.perf_counter()
facts = sources.inspect(sources.open_source(sys.argv[1]))
seconds = time.perf_counter() - begin
print(json.dumps([seconds, peak() - bare, len(facts.tensors), facts.parameters]))
"""


def test_a_70b_checkpoint_takes_a_moment_and_little_memory(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", LLAMA_70B, shards=30)

    def measured() -> Iterator[list[float]]:
        for _ in range(3):
            done = subprocess.run([sys.executable, "-c", CHECK, folder], capture_output=True, check=True)
            yield json.loads(done.stdout)

    seconds, megabytes, tensors, parameters = min(measured())
    assert (tensors, parameters) == (723, 70_553_706_496)
    # 0.3 s is the bar; the machine may be busy.
    assert seconds < 1.0
    assert megabytes < 50


SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
REAL = [
    ("Llama", "LlamaForCausalLM", {**SMALL, "attention_bias": False}),
    ("Mistral", "MistralForCausalLM", {**SMALL, "head_dim": 16}),
    ("Qwen2", "Qwen2ForCausalLM", SMALL),
    ("Qwen3", "Qwen3ForCausalLM", {**SMALL, "head_dim": 16}),
    ("Gemma", "GemmaForCausalLM", {**SMALL, "head_dim": 16}),
    ("Gemma2", "Gemma2ForCausalLM", {**SMALL, "head_dim": 16}),
    ("Gemma3Text", "Gemma3ForCausalLM", {**SMALL, "head_dim": 16}),
    ("Phi3", "Phi3ForCausalLM", SMALL),
    ("Mixtral", "MixtralForCausalLM", {**SMALL, "num_local_experts": 2}),
    ("GPT2", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 100}),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("family", "model", "sizes"), REAL, ids=[family for family, _, _ in REAL])
def test_what_transformers_saves_matches_the_geometry(
    tmp_path: Path, family: str, model: str, sizes: dict[str, Any]
) -> None:
    import transformers

    config = getattr(transformers, f"{family}Config")(**sizes)
    network = getattr(transformers, model)(config)
    network.save_pretrained(tmp_path / "m", max_shard_size="40KB")
    source = causal_lm.open(tmp_path / "m")
    facts = sources.inspect(source)
    llm = facts.llm
    assert llm is not None
    assert (llm.hidden, llm.layers, llm.heads) == (32, 2, 4)
    assert llm.kv_heads == sizes.get("num_key_value_heads", 4)
    assert llm.head_dim == sizes.get("head_dim", 8)
    assert llm.tied_embeddings == bool(config.tie_word_embeddings)
    fields = checkpoint.read_config(tmp_path / "m")
    implied = set(decoders.expected(fields, llm))
    stored = {tensor.name for tensor in facts.tensors}
    assert implied <= stored
    assert all("experts" in name or "gate" in name for name in stored - implied)
