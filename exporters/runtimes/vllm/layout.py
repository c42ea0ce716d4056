"""Every tensor of the checkpoint that will be written, with dtype, shape and the weight that it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....sources.huggingface import checkpoint, decoders
from ....sources.place import Place
from ....targets.errors import SourceUnreadable, Unsupported
from .schemes import GROUP, Scheme, require_columns

ITEM_BYTES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3": 1, "int64": 8, "int32": 4, "int8": 1,
}  # fmt: skip
FLOATS = ("float64", "float32", "float16", "bfloat16")
_AGAIN = "Download the model again, with all its files"


@dataclass(frozen=True)
class Stored:
    """One tensor of the written checkpoint."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True)
class Weight:
    """One weight of the model: where it lies, and what it becomes."""

    name: str
    place: Place
    dtype: str
    """What it is cast to before anything else: the dtype that the model is loaded in."""
    matrix: bool
    """Whether it is a linear layer of the decoder, which the schemes quantize."""
    stored: tuple[Stored, ...]

    @property
    def layer(self) -> int | None:
        """The decoder layer that it belongs to; None for tables, the last norm and the head."""
        parts = self.name.split(".")
        at = parts.index("layers") if "layers" in parts else -1
        return int(parts[at + 1]) if 0 <= at < len(parts) - 1 and parts[at + 1].isdigit() else None

    @property
    def where(self) -> str:
        """File and name, for an error."""
        return f"{self.place.file.name}: {self.name}"


@dataclass(frozen=True)
class Layout:
    """The whole checkpoint, in the order in which the model names its weights."""

    weights: tuple[Weight, ...]
    ignore: tuple[str, ...]
    """Linear layers that stay as they are, in the words of `quantization_config`."""
    layers: int
    notes: tuple[str, ...] = ()

    @property
    def stored(self) -> tuple[Stored, ...]:
        """Every tensor that is written."""
        return tuple(tensor for weight in self.weights for tensor in weight.stored)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.stored)


def of(folder: Path, scheme: Scheme) -> Layout:
    """The layout of the checkpoint in `folder` under a scheme, from config.json and headers alone.

    Raises Unsupported for a checkpoint that is quantized already, a model type whose weights are not known, and
    matrices that do not divide into groups; SourceUnreadable for weights that are missing.
    """
    config = checkpoint.read_config(folder)
    _refuse_quantized(config.values)
    if scheme.calibrates:
        _refuse_family(decoders.complete(config).text("model_type", ""), scheme)
    model_type = decoders.complete(config).text("model_type", "")
    if model_type not in decoders.FAMILIES:
        raise Unsupported(
            f"{model_type or 'a model without model_type'} is not among the models whose linear layers are known here",
            where="config.json: model_type",
            mend=f"Known: {', '.join(decoders.FAMILIES)}",
        )
    places = checkpoint.places(folder)
    geometry = decoders.geometry(config, (*checkpoint.architectures(config), model_type)[0])
    expected = decoders.expected(config, geometry)
    base, dtype = decoders.base(config), scheme.dtype or named_dtype(config.values)
    weights, used = [], set()
    for name, shape in expected.items():
        source = next((n for n in (name, name.removeprefix(base)) if n in places), None)
        if source is None:
            raise SourceUnreadable(f"the weight {name!r} is missing", where="the checkpoint", mend=_AGAIN)
        used.add(source)
        weights.append(_weight(name, places[source], shape, dtype, scheme))
    left = sorted(places.keys() - used)
    note = f"{len(left)} tensors that the model does not read were left out, as {left[0]}" if left else ""
    return Layout(tuple(weights), _ignored(expected), geometry.layers, (note,) if note else ())


def named_dtype(config: Mapping[str, Any]) -> str:
    """The dtype that config.json says the model is loaded in, as transformers' dtype="auto"; "" for none."""
    named = config.get("dtype") or config.get("torch_dtype") or ""
    return named if isinstance(named, str) and named in FLOATS else ""


def _refuse_quantized(config: Mapping[str, Any]) -> None:
    found = config.get("quantization_config")
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, dict) else None
    raise Unsupported(
        f"the checkpoint is quantized already ({method if isinstance(method, str) else 'unknown method'})",
        where="config.json: quantization_config",
        mend="Start from the original weights",
    )


def _refuse_family(model_type: str, scheme: Scheme) -> None:
    """Refuse a model that llm-compressor's modifiers cannot work on layer by layer here."""
    family = decoders.FAMILIES.get(model_type)
    if family is not None and family.experts is not None:
        raise Unsupported(
            "experts that no calibration text reaches would stay unquantized",
            where=f"--quant {scheme.name}",
            mend="Choose w8a8-fp8, or w8a8-int8 without --calibration",
        )
    if model_type.startswith("gemma") and scheme.name != "w4a16-gptq":
        raise Unsupported(
            "Gemma's norms multiply by 1 + weight, which scales cannot be moved into",
            where=f"--quant {scheme.name}",
            mend="Choose w4a16-gptq, w8a8-fp8, or w8a8-int8 without --calibration",
        )


def _weight(name: str, place: Place, shape: tuple[int, ...], dtype: str, scheme: Scheme) -> Weight:
    if place.dtype not in FLOATS:
        raise Unsupported(
            f"stored as {place.dtype}, and schemes start from floating-point weights",
            where=f"{place.file.name}: {name}",
            mend="Start from the original weights",
        )
    kept = dtype or place.dtype
    matrix = _is_linear(name, shape)
    if not (matrix and scheme.quantizes):
        return Weight(name, place, kept, matrix, (Stored(name, kept, shape),))
    require_columns(scheme, name, shape[1])
    return Weight(name, place, kept, matrix, tuple(_quantized(name, kept, shape, scheme)))


def _is_linear(name: str, shape: Sequence[int]) -> bool:
    """Whether the weight is a linear layer that llm-compressor's target "Linear" quantizes, routers left out."""
    return ".layers." in name and len(shape) == 2 and not name.endswith(ROUTER)


ROUTER = ".gate.weight"
"""The ending of a mixture's router: it decides which experts are asked, and stays as it is."""


def _ignored(expected: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    routers = any(name.endswith(ROUTER) for name in expected)
    return ("lm_head", "re:.*\\.gate$") if routers else ("lm_head",)


def _quantized(name: str, dtype: str, shape: tuple[int, ...], scheme: Scheme) -> Iterator[Stored]:
    """What compressed-tensors stores for a linear layer: names, dtypes and shapes of its formats."""
    rows, columns = shape
    if scheme.weights != "int4":
        yield Stored(name, scheme.weights, shape)
        yield Stored(f"{name}_scale", dtype, (rows, 1))
        return
    groups = columns // GROUP
    yield Stored(f"{name}_packed", "int32", (rows, math.ceil(columns / 8)))
    yield Stored(f"{name}_scale", dtype, (rows, groups))
    yield Stored(f"{name}_shape", "int64", (2,))
    if not scheme.symmetric:
        yield Stored(f"{name}_zero_point", "int32", (math.ceil(rows / 8), groups))
