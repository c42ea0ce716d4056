"""What is said of a node of torch's graph, or of whatever torch raised: the operator, and the model's own line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from ..targets.errors import Unsupported

LONGEST, MOST = 300, 8
"""Characters of an error, and operators, that are named."""


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
    # What a decomposition made of it ("prims.bessel_j0") is of no use to a person.
    return f"{node.meta.get('original_aten') or node.target} ({line or f'node {node.name}'})"


def without_form(nodes: Sequence[Any], fact: str, path: str) -> Unsupported:
    """The error for nodes whose operators have no form, all of them at once, as in "Core ML has no form of"."""
    first = {str(node.target): describe(node) for node in reversed(nodes)}
    listed = sorted(first.values())
    more = f" and {len(listed) - MOST} more" if len(listed) > MOST else ""
    return Unsupported(
        f"{fact} {'; '.join(listed[:MOST])}{more}",
        where=path,
        mend="Replace these operators in the model",
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to a length that a terminal shows."""
    return shortened(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__))


def shortened(text: str) -> str:
    """A text in one line, cut to a length that a terminal shows."""
    line = " ".join(text.split())
    return (line if len(line) <= LONGEST else line[: LONGEST - 3] + "...").rstrip(".")
