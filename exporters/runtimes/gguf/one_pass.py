"""From the header and the checkpoint to the file: bind, decide, lay out, stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ....sources.gguf import header
from ....sources.place import Place
from ....targets import host
from ....targets.errors import Unsupported, UsageError
from ...job import Job, Progress
from . import blueprint, lanes, library, mixture, rows, stream
from .file import Described, Layout, lay_out

if TYPE_CHECKING:
    from .mixture import Importance

HEADER = "header.gguf"
TENSORS = "tensors.json"
"""What the worker before this one left in the work folder."""

FLOAT_SCHEMES = {"f32": mixture.F32, "f16": mixture.F16, "bf16": mixture.BF16}
"""Schemes that quantize nothing, with their ggml types."""

FREE = ("float32", "float16", "bfloat16", "float64", "q8_0")
"""Stored types that lose nothing worth asking about when they are quantized."""

WHOLE_TABLES = ("token_embd.weight", "per_layer_token_embd.weight")
"""Tensors whose entry in an importance matrix llama.cpp leaves out when its size differs."""


@dataclass(frozen=True)
class Model:
    """A model that can be written: its keys, its tensors' places, and the file that would come in between."""

    entries: tuple[header.Entry, ...]
    tensors: tuple[rows.Bound, ...]
    between: tuple[int, ...]
    """ggml type of each tensor in the file that llama.cpp's quantizer would read."""

    @property
    def described(self) -> tuple[Described, ...]:
        """The tensors of that file."""
        return describe(self.tensors, self.between)

    def through(self, scheme: str) -> Model:
        """The same model by way of a file in "f32", "f16" or "bf16"."""
        kind = FLOAT_SCHEMES[scheme]
        between = tuple(mixture.F32 if bound.tensor.float32 else kind for bound in self.tensors)
        return dataclasses.replace(self, between=between)


@dataclass(frozen=True)
class Written:
    """What one pass wrote."""

    total: int
    types: Mapping[str, int]
    """Bytes of tensor data by ggml type."""
    lanes: str = "llama.cpp"
    """What quantized: the quantizer's name, or llama.cpp itself."""


def open_model(job: Job) -> Model:
    """The model that the header worker described, bound to the weights in the job's source.

    A GGUF source is itself the file in between. Raises SourceUnreadable for weights that are not there.
    """
    work = Path(job.work)
    entries = header.read_header(work / HEADER).entries
    tensors = rows.bind(blueprint.load(work / TENSORS), places(job))
    if job.source_kind == "gguf":
        return Model(entries, tensors, tuple(rows.type_id(bound.stored) for bound in tensors))
    model = Model(entries, tensors, ())
    return model.through(route(own_scheme(tensors), job.quant, job.options.get("via")))


def places(job: Job) -> Mapping[str, Place]:
    """Where the tensors of the job's source lie."""
    if job.source_kind == "gguf":
        from ....sources import gguf

        return gguf.places(Path(job.source_path))
    from ....sources.huggingface import checkpoint

    return checkpoint.places(Path(job.source_path))


def own_scheme(tensors: Sequence[rows.Bound]) -> str:
    """The float scheme that loses nothing of what most weights are stored in."""
    held: dict[str, int] = {}
    for bound in tensors:
        if not bound.tensor.float32:
            held[bound.stored] = held.get(bound.stored, 0) + bound.tensor.elements
    most = max(held, key=held.__getitem__, default="")
    return {"float16": "f16", "bfloat16": "bf16"}.get(most, "f32")


def route(own: str, scheme: str, via: str | None) -> str:
    """The scheme of the file that convert_hf_to_gguf.py would write first.

    That is the float scheme itself where one is asked for, then `via`, then the weights' own.
    """
    return scheme if scheme in FLOAT_SCHEMES else via or own


def describe(tensors: Sequence[rows.Bound], types: Sequence[int]) -> tuple[Described, ...]:
    """The tensors by name, type and shape."""
    return tuple(
        Described(bound.tensor.name, kind, bound.tensor.shape)
        for bound, kind in zip(tensors, types, strict=True)
    )


def require_allowed(model: Model, types: Sequence[int], requantize: bool) -> tuple[str, ...]:
    """Refuse to quantize tensors that are low-bit already, unless asked to; then a note that says so."""
    low = sorted(
        {
            bound.stored
            for bound, kind in zip(model.tensors, types, strict=True)
            if bound.stored not in FREE and rows.type_id(bound.stored) != kind
        }
    )
    if not low:
        return ()
    if not requantize:
        raise Unsupported(
            f"the file holds weights in {', '.join(low)}, which were rounded already: quantizing them again "
            "adds a second error to the first",
            where=next(bound.where for bound in model.tensors if bound.stored in low),
            mend="Start from a file in f16, bf16 or q8_0, or add --requantize",
        )
    return (
        f"Weights stored in {', '.join(low)} were quantized a second time (--requantize): quality is below "
        "what this scheme reaches from the original weights.",
    )


def weigh(model: Model, types: Sequence[int], importance: Importance | None, name: str) -> list[str | None]:
    """For each tensor the entry of the importance matrix that its columns are weighed with, or None.

    Raises UsageError for an entry of another size, as of another model; `name` is the matrix's file.
    """
    chosen: list[str | None] = []
    for bound, between, kind in zip(model.tensors, model.between, types, strict=True):
        tensor = bound.tensor
        if importance is None or tensor.name not in importance or kind in (between, *mixture.FLOATS):
            chosen.append(None)
            continue
        matrices = tensor.shape[-3] if len(tensor.shape) > 2 else 1
        wanted, found = tensor.width * matrices, importance[tensor.name].size
        if found != wanted and tensor.name not in WHOLE_TABLES:
            raise UsageError(
                f"{found:,} values for {tensor.name}, which has {wanted:,} columns",
                where=name,
                mend="Take the importance matrix that was made from this very model",
            )
        chosen.append(tensor.name if found == wanted else None)
    if importance is not None and not any(bound.tensor.name in importance for bound in model.tensors):
        raise UsageError("no entry is of a tensor of this model", where=name, mend="Take this model's own")
    return chosen


def write(
    model: Model,
    types: Sequence[int],
    scheme: str,
    out: Path,
    progress: Progress,
    *,
    threads: int,
    importance: Importance | None = None,
    importance_name: str = "",
    stage: str = "quantize",
) -> Written:
    """Write the model to `out` with these types, header first. Nothing is left of it when that fails."""
    weighed = weigh(model, types, importance, importance_name)
    layout = lay_out(model.entries, describe(model.tensors, types), mixture.file_type(scheme))
    quantizer = lanes.load(library.ggml())
    orders = _orders(
        model, types, layout, [importance[name] if importance and name else None for name in weighed]
    )
    try:
        with out.open("wb") as file:
            file.write(layout.front)
            file.truncate(layout.total)
        stream.run(
            orders,
            out,
            quantizer,
            threads=threads,
            slab=stream.slab_bytes(threads),
            progress=progress,
            stage=stage,
        )
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return Written(layout.total, by_type(describe(model.tensors, types)), quantizer.name)


def _orders(
    model: Model, types: Sequence[int], layout: Layout, importance: Sequence[object]
) -> list[stream.Order]:
    """Orders in the sequence of the file, so that it is written from front to back."""
    orders = [
        stream.Order(bound, kind, between, layout.begins[bound.tensor.name], values)  # type: ignore[arg-type]
        for bound, kind, between, values in zip(model.tensors, types, model.between, importance, strict=True)
    ]
    return sorted(orders, key=lambda order: order.begin)


def by_type(tensors: Sequence[Described]) -> dict[str, int]:
    """Bytes of tensor data by ggml type's name, largest first."""
    held: dict[str, int] = {}
    for tensor in tensors:
        name = header.TYPES[tensor.type][0]
        held[name] = held.get(name, 0) + tensor.nbytes
    return dict(sorted(held.items(), key=lambda item: -item[1]))


def threads(job: Job) -> int:
    """Threads to convert with: those asked for, or every CPU that this process may use."""
    asked = job.options.get("threads")
    return int(asked) if asked else host.cpu_count()
