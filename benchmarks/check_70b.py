"""`modelport check` on the headers and config of a 70B-parameter checkpoint: wall time and peak memory."""

from __future__ import annotations

import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bar import close

LAYERS, HIDDEN, INTERMEDIATE, VOCAB, KV = 80, 8192, 28672, 128256, 1024
SHARD_BYTES = 4_600_000_000


def tensors() -> dict[str, tuple[int, ...]]:
    """Names and shapes of Llama-3-70B's tensors."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        for name, rows in (("q", HIDDEN), ("k", KV), ("v", KV), ("o", HIDDEN)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows, HIDDEN)
        shapes[f"{at}mlp.gate_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{at}mlp.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{at}mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
        shapes[f"{at}input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{at}post_attention_layernorm.weight"] = (HIDDEN,)
    shapes["model.norm.weight"] = (HIDDEN,)
    shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    return shapes


def make(folder: Path) -> None:
    """A sparse checkpoint: true headers, holes where the weights would be."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": VOCAB,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in tensors().items():
        nbytes = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        if filled + nbytes > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += nbytes
    weight_map, total = {}, 0
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        header, offset = {}, 0
        for name, shape in shard.items():
            nbytes = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + nbytes]}
            offset += nbytes
            weight_map[name] = file
        raw = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(struct.pack("<Q", len(raw)) + raw)
        os.truncate(folder / file, 8 + len(raw) + offset)
        total += offset
    index_json = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_json))
    print(f"{len(weight_map)} tensors, {total / 1e9:.1f} GB in {len(shards)} shards")


def main() -> None:
    """Five runs; the median of the wall time and the largest resident set of any."""
    command = Path(sys.executable).with_name("modelport")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "llama-70b"
        folder.mkdir()
        make(folder)
        seconds = []
        for run in range(5):
            start = time.perf_counter()
            done = subprocess.run(
                [str(command), "check", str(folder), "--target", "local-llm", "--quant", "q4_k_m"],
                capture_output=True,
                text=True,
            )
            seconds.append(time.perf_counter() - start)
            if run == 0:
                print(done.stdout, done.stderr)
            assert done.returncode in (0, 3), done.stderr
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    close(
        "check-70b",
        [("seconds", statistics.median(seconds), "<=", 1), ("peak MB", peak * 1.048576, "<=", 200)],
    )


if __name__ == "__main__":
    main()
