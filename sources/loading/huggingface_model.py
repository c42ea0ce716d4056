"""A Hugging Face encoder or vision directory as a torch module, pooling and normalisation in the graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...targets.errors import SourceUnreadable, Unsupported, UsageError

if TYPE_CHECKING:
    import torch

    from .torch_model import TorchModel

    Pool = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Token states (batch, sequence, hidden) and attention mask (batch, sequence) to (batch, hidden)."""

UNREAD = ("pooler.",)
"""Parts of a backbone that no output named here reads, so a checkpoint may lack their weights."""


def load(path: Path, options: Mapping[str, Any]) -> TorchModel:
    """Load the directory: safetensors only, local files only, never its own code, weights as float32.

    transformers fills missing or misshapen weights with random numbers and a log line; here they raise
    SourceUnreadable naming them. Attention is "eager": it exports to a smaller graph than the fused form.
    """
    import torch

    from .. import huggingface
    from .torch_model import DEFAULT_SEQUENCE, TorchModel

    inputs, outputs = huggingface.signature(path)
    input_names = tuple(fact.name for fact in inputs)
    output_names = tuple(fact.name for fact in outputs)
    pooled = output_names == ("sentence_embedding",)
    backbone = pretrained(path, base=pooled)
    longest = _positions(backbone.config)
    sequence = int(options.get("sequence") or min(DEFAULT_SEQUENCE, longest))
    if sequence > longest and any("sequence" in (fact.shape or ()) for fact in inputs):
        raise UsageError(
            f"the model takes at most {longest} tokens, not {sequence}",
            where=f"{path}/config.json: max_position_embeddings",
            mend=f"Give a sequence of {longest} or less",
        )
    sizes = {"batch": 1, "sequence": sequence}
    example = tuple(
        torch.ones(
            [sizes[str(d)] if isinstance(d, str) else d for d in fact.shape or ()],
            dtype=getattr(torch, fact.dtype),
        )
        for fact in inputs
    )
    dynamic = {
        fact.name: {axis: size for axis, size in enumerate(fact.shape or ()) if isinstance(size, str)}
        for fact in inputs
    }
    module = _positional(backbone, input_names, output_names, _pooling(path) if pooled else None)
    return TorchModel(module, input_names, output_names, example, dynamic)


def pretrained(path: Path, *, base: bool) -> Any:
    """The model of config.json's architecture (or, with `base`, its backbone), every weight accounted for."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    quiet = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        model, info = _model_class(config, base=base).from_pretrained(
            path,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="eager",
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # so that they are named below, instead of a bare error
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise SourceUnreadable(
            f"transformers {transformers.__version__} cannot load this model: {error}", where=str(path)
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(quiet)
    _refuse_incomplete(info, path)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def _model_class(config: Any, *, base: bool) -> Any:
    """The class that config.architectures names, if it is transformers' own; AutoModel otherwise."""
    import transformers

    named = getattr(transformers, str((getattr(config, "architectures", None) or [""])[0]), None)
    is_model = isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)
    return transformers.AutoModel if base or not is_model else named


def _refuse_incomplete(info: Mapping[str, Any], path: Path) -> None:
    missing = sorted(name for name in info["missing_keys"] if not _unread(name))
    if missing:
        raise SourceUnreadable(
            f"{len(missing)} weights are missing: {_first(missing)}",
            where=f"{path}: weights",
            mend="Save the complete model again, or correct config.json's architectures",
        )
    wrong = sorted(f"{name} is {tuple(is_)}, not {tuple(due)}" for name, is_, due in info["mismatched_keys"])
    if wrong:
        raise SourceUnreadable(
            f"{len(wrong)} weights do not have the shape that config.json implies: {_first(wrong)}",
            where=f"{path}: weights",
        )
    if info["error_msgs"]:
        raise SourceUnreadable("; ".join(map(str, info["error_msgs"][:3])), where=f"{path}: weights")


def _unread(name: str) -> bool:
    return name.endswith("position_ids") or any(
        name.startswith(part) or f".{part}" in name for part in UNREAD
    )


def _first(names: Iterable[str], count: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more


def _positions(config: Any) -> int:
    """The most tokens that the model takes; without a limit of its own, more than anybody asks for."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return 1 << 31
    # RoBERTa's family counts positions from behind the padding index.
    if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer"):
        positions -= int(getattr(config, "pad_token_id", 1) or 0) + 1
    return positions


def _positional(
    backbone: Any, input_names: tuple[str, ...], output_names: tuple[str, ...], pool: Pool | None
) -> torch.nn.Module:
    """`backbone` taking positional tensors and returning the outputs that `output_names` names."""
    import torch

    fields = ("last_hidden_state",) if pool else output_names

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            named = dict(zip(input_names, tensors, strict=True))
            given = self.backbone(**named, return_dict=True)
            states = tuple(getattr(given, field) for field in fields)
            return (pool(states[0], named["attention_mask"]),) if pool else states

    return Positional().eval()


def _pooling(path: Path) -> Pool:
    """What modules.json puts behind the backbone: pooling, and normalisation to length 1 where listed."""
    listed = json.loads((path / "modules.json").read_text())
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: str(module["path"]) for module in listed}
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if unknown or "Pooling" not in kinds:
        raise Unsupported(
            f"sentence-transformers modules {', '.join(unknown) or 'without Pooling'}",
            where=f"{path}/modules.json: type",
            mend="Transformer, Pooling and Normalize are supported; or export the whole with torch.export",
        )
    where = path / kinds["Pooling"] / "config.json"
    modes = _pooling_modes(json.loads(where.read_text()))
    if len(modes) != 1 or modes[0] not in _POOLS:
        raise Unsupported(
            f"pooling {' + '.join(modes) or 'of no kind'}",
            where=str(where),
            mend=f"One of {', '.join(_POOLS)} is supported",
        )
    chosen, normalise = _POOLS[modes[0]], "Normalize" in kinds

    def pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        import torch

        pooled = chosen(states, mask.unsqueeze(-1).to(states.dtype))
        return torch.nn.functional.normalize(pooled, p=2.0, dim=1) if normalise else pooled

    return pool


def _pooling_modes(config: Mapping[str, Any]) -> list[str]:
    named = config.get("pooling_mode")
    if named is not None:
        return [named] if isinstance(named, str) else [str(mode) for mode in named]
    short = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    found = [
        key.removeprefix("pooling_mode_")
        for key, on in config.items()
        if key.startswith("pooling_mode_") and on
    ]
    return [short.get(mode, mode) for mode in found]


# The arithmetic of sentence-transformers' Pooling: masked sums over the sequence, never divided by zero.
def _cls(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states[:, 0]


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


def _mean_sqrt(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9).sqrt()


def _max(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states.masked_fill(mask == 0, -1e9).max(1).values


_POOLS: dict[str, Pool] = {"cls": _cls, "mean": _mean, "mean_sqrt_len_tokens": _mean_sqrt, "max": _max}
