"""One ONNX node as its operator's function sees it: inputs, attributes, and what must be known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ....targets.errors import Unsupported

if TYPE_CHECKING:
    import numpy as np
    import torch

Value = Any
"""A NumPy array is known when the program is made; a tensor depends on the model's inputs."""


Result = Any
"""A tensor, or a tuple of them; a NumPy array where the result does not depend on the inputs' values."""


OTHERWISE = "Export the model without it, or choose target server-cpu, which takes the file as it is"


class Refused(Unsupported):
    """An operator's function does not cover this form: the standard may write it out in others."""


@dataclass(frozen=True)
class Call:
    """A node with its inputs' values. `where` names it in errors."""

    op: str
    inputs: Sequence[Value]
    """None where an optional one is left out."""
    attributes: Mapping[str, Any]
    opset: int
    outputs: int
    where: str
    constants: dict[int, torch.Tensor] = field(default_factory=dict)
    """Known inputs as tensors, by position: made once, and kept as buffers of the module."""

    def has(self, index: int) -> bool:
        """Whether the optional input is given."""
        return len(self.inputs) > index and self.inputs[index] is not None

    def tensor(self, index: int) -> torch.Tensor:
        """Input `index` as a tensor."""
        import torch

        from .dtypes import to_torch

        value: Value = self.inputs[index]
        if isinstance(value, torch.Tensor):
            return value
        if index not in self.constants:
            self.constants[index] = to_torch(value)
        return self.constants[index]

    def tensors(self) -> list[torch.Tensor]:
        """Every given input as a tensor."""
        return [self.tensor(index) for index in range(len(self.inputs)) if self.has(index)]

    def known(self, index: int) -> np.ndarray[Any, Any]:
        """Input `index`, which must not depend on the model's inputs; raises Unsupported where it does."""
        import numpy as np

        value = self.inputs[index]
        if not isinstance(value, np.ndarray):
            raise Unsupported(
                f"input {index} of {self.op} depends on the model's inputs, and a program needs to know it",
                where=self.where,
                mend="Export the model with fixed shapes, or simplify the graph",
            )
        return value

    def type_of(self, index: int) -> int:
        """ONNX's number of the data type of input `index`; of narrow types that depend on the inputs, the holder's."""
        from onnx import helper

        from .dtypes import NUMBERS

        value = self.inputs[index]
        return (
            NUMBERS[value.dtype] if value.dtype in NUMBERS else helper.np_dtype_to_tensor_dtype(value.dtype)
        )

    def ints(self, index: int, name: str = "") -> list[int] | None:
        """Integers that older opsets hold in attribute `name`, newer ones in input `index`; None: neither."""
        if self.has(index):
            return [int(value) for value in self.known(index).reshape(-1)]
        found = self.attributes.get(name)
        return None if found is None else [int(value) for value in found]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)

    def refuse(self, fact: str) -> Refused:
        """The error for a form of the operator that is not covered."""
        return Refused(f"{self.op} {fact}", where=self.where, mend=OTHERWISE)


Operator = Callable[[Call], Result]
