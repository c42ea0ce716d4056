"""Qwen 2 and 3, dense and with experts: Llama's layers, with biases or norms on q and k."""

from __future__ import annotations

from typing import Any

from .....sources.files import jsonfile
from .....sources.files.containment import contained
from .....sources.files.jsonfile import Fields
from .....sources.huggingface import decoders
from .....targets.errors import SourceUnreadable, Unsupported
from . import shared
from .family import Family, Model, require_activation

_POOLING = (
    ("pooling_mode_mean_tokens", "mean", "MEAN"),
    ("pooling_mode_cls_token", "cls", "CLS"),
    ("pooling_mode_lasttoken", "lasttoken", "LAST"),
)
"""Flags of a sentence-transformers pooling module, its newer names, and members of gguf.PoolingType."""


def _parameters(model: Model, writer: Any) -> None:
    require_activation(model, ("silu", "swish"), "hidden_act")
    shared.add(model, writer)
    _pooling(model, writer)


def _pooling(model: Model, writer: Any) -> None:
    """How an embedding model (Qwen3-Embedding) makes one vector of its tokens."""
    import gguf

    if not (model.folder / "modules.json").exists():
        return
    listed = jsonfile.read(contained(model.folder, "modules.json", where="modules.json"))
    if not isinstance(listed, list) or not all(isinstance(module, dict) for module in listed):
        raise SourceUnreadable("a list of modules is expected", where="modules.json")
    for index, raw in enumerate(listed):
        module = Fields(raw, f"modules.json: [{index}]")
        if not module.text("type").endswith("Pooling"):
            continue
        name = f"{module.text('path')}/config.json"
        path = contained(model.folder, name, where=module.where("path"))
        settings = Fields(jsonfile.read_object(path), name)
        mode = settings.text("pooling_mode", "")
        found = next((m for flag, _, m in _POOLING if settings.flag(flag, False)), None)
        found = found or next((m for _, word, m in _POOLING if word == mode), None)
        if found is None:
            raise Unsupported(
                "llama.cpp pools by mean, first or last token alone", where=settings.where("pooling_mode")
            )
        writer.add_pooling_type(gguf.PoolingType[found])
        return


def _mixture(model: Model, writer: Any) -> None:
    if not all(decoders.is_sparse(model.config, layer) for layer in range(model.facts.layers)):
        fact = "llama.cpp wants experts in every layer of this architecture"
        raise Unsupported(fact, where=model.config.where("mlp_only_layers, decoder_sparse_step"))
    require_activation(model, ("silu", "swish"), "hidden_act")
    shared.add(model, writer)
    writer.add_expert_feed_forward_length(model.config.integer("moe_intermediate_size", high=1 << 24))


FAMILIES = {
    "Qwen2ForCausalLM": Family("QWEN2", _parameters),
    "Qwen3ForCausalLM": Family("QWEN3", _parameters),
    "Qwen3MoeForCausalLM": Family("QWEN3MOE", _mixture),
}
