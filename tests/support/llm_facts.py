"""Published language models from the figures of their config.json alone: their facts, and folders of headers."""

import json
import math
from pathlib import Path

from modelport.sources.files.jsonfile import Fields
from modelport.sources.huggingface import decoders
from modelport.targets.facts import ModelFacts, TensorFact

_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
CONFIGS = {
    "llama-2-7b": {
        **_LLAMA, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
    },
    "llama-3-8b": {
        **_LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
    },
    "llama-3-70b": {
        **_LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
    },
    "llama-3.1-405b": {
        **_LLAMA, "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126,
        "num_attention_heads": 128, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 131072,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896,
        "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768, "tie_word_embeddings": True,
    },
    "mixtral-8x7b": {
        "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
        "max_position_embeddings": 32768, "num_local_experts": 8, "num_experts_per_tok": 2,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "num_experts": 128, "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    "phi-3-mini": {
        "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064, "max_position_embeddings": 4096,
    },
    "gpt2": {
        "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257,
    },
}  # fmt: skip
"""The figures of config.json that memory and speed follow from, as the models' publishers give them."""


def published(name: str, **changes: int) -> ModelFacts:
    """The facts of a published model in bfloat16; `changes` replace figures of its config.json."""
    config = Fields({**CONFIGS[name], **changes}, "config.json")
    llm = decoders.geometry(config, name)
    weights = decoders.expected(config, llm)
    tensors = tuple(TensorFact(n, "bfloat16", shape, 2 * math.prod(shape)) for n, shape in weights.items())
    return ModelFacts("causal-lm", name, name, tensors, (), (), llm=llm)


def write_headers(folder: Path, name: str) -> Path:
    """A published model as a Hugging Face folder: true headers, and a hole where the weights would be."""
    header, end = {}, 0
    for tensor in published(name).tensors:
        header[tensor.name] = {
            "dtype": "BF16", "shape": tensor.shape, "data_offsets": [end, end + tensor.nbytes]
        }  # fmt: skip
        end += tensor.nbytes
    raw = json.dumps(header).encode()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        stream.truncate(8 + len(raw) + end)
    return folder
