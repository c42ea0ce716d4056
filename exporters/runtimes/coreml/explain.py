"""What broke in coremltools, as one error that names the operator and the line of the model's source."""

from __future__ import annotations

import re
from typing import Any

from ....targets.errors import ConversionFailed, ModelportError, Unsupported
from ...torch_nodes import shortened, source_line


def failing_node(error: BaseException) -> Any | None:
    """coremltools' node (kind, name, meta) whose translation raised the error, found in its traceback."""
    found, trace = None, error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_name == "convert_single_node" and "coremltools" in code.co_filename:
            found = trace.tb_frame.f_locals.get("node")
        trace = trace.tb_next
    return found


def failed(error: Exception, path: str, target: str) -> ModelportError:
    """The error for whatever coremltools raised: Unsupported where an operator's translation failed."""
    if isinstance(error, ModelportError):
        return error
    text = shortened(str(error) or type(error).__name__)
    later = re.findall(r"(?:at least |AvailableTarget\.|target\.)(iOS\d+)", str(error))
    newer = [name for name in later if int(name[3:]) > int(target[3:])]
    node = failing_node(error)
    if node is not None:
        line = source_line((node.meta or {}).get("stack_trace"))
        fact = f"coremltools cannot translate {node.kind} ({line or f'node {node.name}'}): {text}"
        mend = "Replace this operator in the model"
        if newer:
            mend = f"Ask for --deployment-target {max(newer)}"
        return Unsupported(fact, where=path, mend=mend)
    if newer:
        return Unsupported(text, where=path, mend=f"Ask for --deployment-target {max(newer)}")
    return ConversionFailed(f"coremltools: {text}", where=path)
