"""One sample through the written file in LiteRT's reference kernels: what a board has to give to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....calibration.samples import SampleSet
from ....targets.errors import ConversionFailed
from ...job import Job, Port
from ...litert.boundary import to_boundary
from ...litert.micro_rounding import as_micro
from ...ports import to_artifact

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Edge:
    """One input or output of the file, in the order of the file."""

    name: str
    dtype: str
    """numpy's name, as in "int8"."""
    shape: tuple[int, ...]
    scale: float
    """0 where the values are no quantized numbers."""
    zero_point: int
    values: Array
    """The sample's integers."""


@dataclass(frozen=True)
class Sample:
    """A held-out sample as the file's integers, and what the reference kernels make of it."""

    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]


def run_sample(data: bytes, job: Job, ports: Sequence[Port]) -> Sample:
    """The first held-out sample (the first calibration sample where none is held out), and its outputs."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    folder = Path(str(job.samples))
    held_out = folder / "held_out"
    samples = SampleSet.open(held_out if (held_out / "set.json").is_file() else folder / "calibration")
    feed = to_artifact(next(iter(samples.feeds())), ports)
    interpreter = Interpreter(
        model_content=as_micro(data), experimental_op_resolver_type=OpResolverType.BUILTIN_REF, num_threads=1
    )
    try:
        interpreter.allocate_tensors()
    except RuntimeError as error:
        raise ConversionFailed(
            f"the reference kernels do not take the file: {str(error).strip().splitlines()[0]}",
            where="model.tflite",
        ) from error
    # The file keeps the order of the graph; names by tensor are the source's, by signature.
    signature = interpreter._get_full_signature_list()["serving_default"]
    names = {index: name for side in ("inputs", "outputs") for name, index in signature[side].items()}
    given = []
    for detail in interpreter.get_input_details():
        name = names[detail["index"]]
        values = to_boundary(feed[name], detail)
        interpreter.set_tensor(detail["index"], values)
        given.append(_edge(name, detail, values))
    interpreter.invoke()
    made = [
        _edge(names[detail["index"]], detail, interpreter.get_tensor(detail["index"]))
        for detail in interpreter.get_output_details()
    ]
    return Sample(tuple(given), tuple(made))


def _edge(name: str, detail: dict[str, Any], values: Array) -> Edge:
    found = detail["quantization_parameters"]
    scaled = len(found["scales"]) > 0
    return Edge(
        name=name,
        dtype=str(values.dtype),
        shape=tuple(values.shape),
        scale=float(found["scales"][0]) if scaled else 0.0,
        zero_point=int(found["zero_points"][0]) if scaled else 0,
        values=values,
    )
