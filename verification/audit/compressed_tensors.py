"""Counts a checkpoint of vLLM's format: weights by the form that they are stored in, and one token's products."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...sources.huggingface import checkpoint, decoders
from ...targets.errors import SourceUnreadable
from ...targets.facts import TensorFact
from . import Audit

PACKED = "weight_packed"
"""The ending of a matrix that is stored in words of 32 bits."""
BESIDE = ("weight_scale", "weight_zero_point", "weight_shape")
"""What a quantized matrix is stored with; counted as a part of it."""

APART = ("embed_tokens.weight", "lm_head.weight")
"""Tables that no scheme here quantizes: llm-compressor's own recipes leave them out."""


def count(path: Path) -> Audit:
    """Count the checkpoint in the folder `path` by its headers and its `quantization_config` alone.

    Multiply-accumulates are those of one token through every matrix, by what vLLM's kernels multiply in: the
    activations' form where they are rounded, else 16 bits. Attention itself, whose cost grows with the context,
    is left out. Raises SourceUnreadable where the config names another form than the files hold.
    """
    config = checkpoint.read_config(path)
    weights = checkpoint.read_weights(path)
    scheme = _scheme(config.values)
    visited = _visited(config.values)
    tied = "lm_head.weight" not in weights.tensors
    stored: Counter[str] = Counter()
    apart: Counter[str] = Counter()
    macs: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    left: list[tuple[int, str]] = []
    for name, form, parts, elements in _matrices(weights.tensors, scheme):
        stored[form] += sum(part.nbytes for part in parts)
        if scheme and name.endswith(APART):
            apart[form] += parts[0].nbytes
        shape = parts[0].shape
        if elements == 0 or len(shape) < 2:
            continue
        operators[name.split(".")[-2]] += 1
        quantized = form in ("int4", "int8", "float8_e4m3")
        if not quantized:
            left.append((-parts[0].nbytes, f"{form} {name!r}"))
        if "embed" not in name or tied:
            share = visited if ".experts." in name else Fraction(1)
            compute = scheme.get("activations") or (parts[-1].dtype if quantized else form)
            macs[compute if quantized else form] += int(elements * share)
    return Audit(
        weight_bytes=dict(sorted(stored.items())),
        macs=dict(sorted(macs.items())),
        operators=dict(sorted(operators.items())),
        float_ops=tuple(name for _, name in sorted(left)),
        file_bytes=sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        apart=dict(sorted(apart.items())),
    )


def _matrices(
    tensors: Mapping[str, TensorFact], scheme: Mapping[str, str]
) -> Iterator[tuple[str, str, list[TensorFact], int]]:
    """(name, form, its stored parts with the scale last, elements) of every weight."""
    for name, tensor in tensors.items():
        module, _, ending = name.rpartition(".")
        if ending in BESIDE:
            if f"{module}.{PACKED}" not in tensors and f"{module}.weight" not in tensors:
                raise SourceUnreadable("a scale without its matrix", where=name)
            continue
        elements = math.prod(tensor.shape)
        beside = [f"{module}.{other}" for other in reversed(BESIDE)]
        if ending not in ("weight", PACKED) or not any(other in tensors for other in beside):
            yield name, tensor.dtype, [tensor], elements
            continue
        form = scheme.get("weights", "")
        if form != ("int4" if ending == PACKED else tensor.dtype):
            held = "packed words" if ending == PACKED else tensor.dtype
            raise SourceUnreadable(
                f"stored as {held}, where quantization_config says {form or 'nothing'}", where=name
            )
        parts = [tensor, *(tensors[other] for other in beside if other in tensors)]
        yield name, form, parts, 8 * elements if ending == PACKED else elements


def _scheme(config: Mapping[str, Any]) -> dict[str, str]:
    """The forms of weights and of activations that `quantization_config` names; {} where nothing is quantized."""
    found = config.get("quantization_config")
    if found is None:
        return {}
    try:
        (group,) = found["config_groups"].values()
        forms = {"weights": _form(group["weights"])}
        if group.get("input_activations"):
            forms["activations"] = _form(group["input_activations"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SourceUnreadable(
            f"not one group of linear layers: {error}", where="config.json: quantization_config.config_groups"
        ) from error
    return forms


def _form(arguments: Mapping[str, Any]) -> str:
    bits, kind = arguments["num_bits"], arguments["type"]
    return "float8_e4m3" if (kind, bits) == ("float", 8) else f"{kind}{bits}"


def _visited(config: Mapping[str, Any]) -> Fraction:
    """Share of the experts that one token visits."""
    model_type = config.get("model_type")
    family = decoders.FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None or family.experts is None:
        return Fraction(1)
    used, experts = config.get("num_experts_per_tok"), config.get(family.experts.count)
    if not isinstance(used, int) or not isinstance(experts, int) or not 0 < used <= experts:
        return Fraction(1)
    return Fraction(used, experts)
