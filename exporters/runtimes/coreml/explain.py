"""What broke in torch or coremltools, as one error that names the operator and the line of the model's source."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from ....targets.errors import ConversionFailed, ModelportError, Unsupported

_LONGEST = 300


def source_line(stack_trace: str | None) -> str:
    """The innermost line of a node's stack trace: 'model.py:12, in forward: x = torch.erfinv(x)'; "" without.

    Only the file's name is given: the folders are those of the machine where the model was exported.
    """
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)\n\s*(.*)', stack_trace or "")
    own = [frame for frame in frames if "/torch/" not in frame[0]] or frames
    if not own:
        return ""
    file, line, function, code = own[-1]
    return f"{PurePath(file).name}:{line}, in {function}: {code.strip()}"


def describe(node: Any) -> str:
    """An fx node for a person: the operator that the model called, and where it did, or the node's name."""
    line = source_line(node.meta.get("stack_trace"))
    # What a decomposition made of it ("prims.bessel_j0") is of no use to a person.
    return f"{node.meta.get('original_aten') or node.target} ({line or f'node {node.name}'})"


def unsupported(nodes: list[Any], path: str) -> Unsupported:
    """The error for fx nodes that neither coremltools nor torch's decompositions can turn into MIL."""
    first = {str(node.target): describe(node) for node in reversed(nodes)}
    listed = sorted(first.values())
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return Unsupported(
        f"Core ML has no form of {'; '.join(listed[:5])}{more}",
        where=path,
        mend="Replace these operators in the model",
    )


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
    text = _short(error)
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


def _short(error: BaseException) -> str:
    lines = " ".join(str(error).split()) or type(error).__name__
    return (lines if len(lines) <= _LONGEST else lines[: _LONGEST - 3] + "...").rstrip(".")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to a length that a terminal shows."""
    return _short(Exception(next((line for line in str(error).splitlines() if line.strip()), repr(error))))
