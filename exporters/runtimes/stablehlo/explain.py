"""Errors about one node of torch's graph: the operator, and the line of the model's source that called it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from ....targets.errors import Unsupported

_LONGEST = 300


def source_line(stack_trace: str | None) -> str:
    """The innermost line of a node's stack trace: 'model.py:12, in forward: x = torch.erfinv(x)'; "" without.

    Only the file's name is given: the folders are those of the machine where the model was exported. Code that torch
    generated from a program ("<eval_with_key>") is nobody's source.
    """
    frames = re.findall(r'File "([^"<]+)", line (\d+), in (\S+)\n\s*(.*)', stack_trace or "")
    own = [frame for frame in frames if "/torch/" not in frame[0]]
    if not own:
        return ""
    file, line, function, code = own[-1]
    return f"{PurePath(file).name}:{line}, in {function}: {code.strip()}"


def describe(node: Any) -> str:
    """A node for a person: the operator that the model called, and where it did, or the node's name."""
    line = source_line(node.meta.get("stack_trace"))
    return f"{node.meta.get('original_aten') or node.target} ({line or f'node {node.name}'})"


def missing(nodes: Sequence[Any], path: str) -> Unsupported:
    """The error for nodes whose operators have no form in JAX here, all of them at once."""
    first = {str(node.target): describe(node) for node in reversed(nodes)}
    listed = sorted(first.values())
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return Unsupported(
        f"there is no StableHLO form of {'; '.join(listed[:8])}{more}",
        where=path,
        mend="Replace these operators in the model",
    )


def failed(node: Any, error: Exception, path: str) -> Unsupported:
    """The error for a form of an operator that JAX or our function of it does not take."""
    return Unsupported(
        f"no StableHLO form of {describe(node)}: {first_line(error)}",
        where=path,
        mend="Replace this operator in the model",
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to a length that a terminal shows."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    short = " ".join(line.split())
    return (short if len(short) <= _LONGEST else short[: _LONGEST - 3] + "...").rstrip(".")
