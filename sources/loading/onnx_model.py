"""An ONNX source as a callable in ONNX Runtime, and the look at its weights that must come first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...targets.errors import SourceUnreadable
from . import finite

if TYPE_CHECKING:
    import numpy as np
    import onnx

Reference = Callable[[Mapping[str, "np.ndarray[Any, Any]"]], dict[str, "np.ndarray[Any, Any]"]]

FLOATS = (1, 10, 11)
"""ONNX's numbers for float32, float16 and float64."""


def load_reference(kind: str, path: Path, options: Mapping[str, Any]) -> Reference:
    """The file as it is in ONNX Runtime's CPU provider, on `options["threads"]` (1) threads.

    Raises SourceUnreadable where a weight holds NaN or Inf, or where ONNX Runtime does not take the file.
    """
    import onnx
    import onnxruntime

    model = onnx.load(str(path), load_external_data=False)
    refuse_non_finite(model, path)
    del model
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = int(options.get("threads") or 1)
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # the binding's exceptions share no base of their own
        raise SourceUnreadable(f"ONNX Runtime does not load it: {error}", where=str(path)) from error
    names = [output.name for output in session.get_outputs()]
    accepted = {given.name: given.type for given in session.get_inputs()}

    def run(feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        cast = {name: as_input(feeds[name], kind) for name, kind in accepted.items()}
        return dict(zip(names, session.run(names, cast), strict=True))

    return run


def as_input(value: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """`value` in the dtype that an input of ONNX Runtime's type name `kind`, as in "tensor(int64)", wants."""
    import numpy as np

    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.ascontiguousarray(value, dtype={"float": "float32", "double": "float64"}.get(name, name))


def refuse_non_finite(model: onnx.ModelProto, path: Path) -> None:
    """Raise SourceUnreadable naming the first weight of the main graph that holds NaN or Inf.

    External data is read from beside `path`, one tensor at a time.
    """
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATS:
            value = numpy_helper.to_array(tensor, str(path.parent))
            finite.refuse_non_finite(value, f"{path}: initializer {tensor.name}")
