"""Pre-processing as ONNX Runtime's quantizers want it: folded, fused, and a shape for every value."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import onnx

from ...targets.errors import ConversionFailed
from . import files


def prepared(model: onnx.ModelProto, work: Path) -> onnx.ModelProto:
    """The model after ONNX Runtime's basic optimisations and shape inference.

    Symbolic shape inference comes on top where onnx's own leaves values without a shape: it is slower, and
    gives up on some graphs of torch (`GatherND` of an attention mask), whose shapes the exporter wrote anyway.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = files.nbytes(model) > files.LARGEST_FILE
    target = work / "prepared.onnx"
    files.save(model, work, "float.onnx")
    for symbolic in (False, True):
        try:
            with quiet():
                quant_pre_process(
                    work / "float.onnx",
                    target,
                    skip_symbolic_shape=not symbolic,
                    save_as_external_data=large,
                    all_tensors_to_one_file=large,
                    external_data_location="prepared.onnx.data" if large else None,
                )
            model = onnx.load(str(target))
        except Exception as error:  # both inferences raise bare Exception
            if symbolic:
                break
            raise ConversionFailed(f"ONNX Runtime's pre-processing: {error}") from error
        if _complete(model):
            break
    return files.tidy(model)


def _complete(model: onnx.ModelProto) -> bool:
    known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    return all(name in known for node in model.graph.node for name in node.output if name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the quantizers' own logging off the worker's log, and undo what importing them does to it.

    They say the same of every model, in one line a tensor, and one of them turns all logging on.
    """
    root = logging.getLogger()
    before, level, handlers = root.manager.disable, root.level, list(root.handlers)
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
        root.setLevel(level)
        root.handlers[:] = handlers
