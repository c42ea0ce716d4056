"""What is done to an exported program before coremltools reads it: an ordered list, each with its reason.

coremltools 9 was written for torch 2.7 and for graphs that it traced itself. Each pass is one file that says
what coremltools cannot do with the graph as it is; `translations` are operators that we write into MIL ourselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import checks, constants, decompose, defaults, outputs

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Pass = Callable[["ExportedProgram"], "ExportedProgram"]

PASSES: tuple[tuple[str, Pass, str], ...] = (
    ("checks", checks.remove, "assertions compute nothing, and coremltools knows few of them"),
    ("constants", constants.fold, "masks and positions of a fixed shape are constants, of operators without a form"),
    ("defaults", defaults.write, "coremltools reads arguments by position, and torch leaves defaults out"),
    ("outputs", outputs.separate, "an output that is an input, a constant or another output cannot be renamed"),
)  # fmt: skip
"""Name, function, reason; in order, after `decompose.decompose`."""


def prepare(program: ExportedProgram, whole: frozenset[str] = frozenset()) -> ExportedProgram:
    """The program made of operators that coremltools translates, as far as torch can decompose into them.

    `whole` are operators ("aten.gelu.default") to decompose although coremltools claims to know them. Must run
    inside `translations.registered()`, so that our own translations count as known.
    """
    program = decompose.decompose(program, whole)
    for _, apply, _ in PASSES:
        program = apply(program)
    return program
