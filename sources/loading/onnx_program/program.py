"""The planned steps of an ONNX graph as a torch module."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .call import Call
from .dtypes import to_torch
from .known import Array
from .plan import Slot, Step


class Program(torch.nn.Module):
    """The steps on tensors, in order; what is known are buffers."""

    def __init__(
        self, steps: Sequence[Step], inputs: Sequence[Slot], outputs: Sequence[Slot | Array]
    ) -> None:
        super().__init__()
        self._steps, self._inputs, self._outputs = tuple(steps), tuple(inputs), tuple(outputs)
        for number, step in enumerate(steps):
            for index, tensor in step.constants.items():
                self.register_buffer(f"constant_{number}_{index}", tensor)
        for index, output in enumerate(outputs):
            if isinstance(output, np.ndarray):
                self.register_buffer(f"output_{index}", to_torch(output))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The graph's outputs, in its order."""
        values = dict(zip(self._inputs, tensors, strict=True))
        for number, step in enumerate(self._steps):
            given = [values[value] if isinstance(value, Slot) else value for value in step.inputs]
            constants = {index: getattr(self, f"constant_{number}_{index}") for index in step.constants}
            result = step.function(
                Call(step.op, given, step.attributes, step.opset, len(step.outputs), step.where, constants)
            )
            results = result if isinstance(result, tuple) else (result,)
            for slot, value in zip(step.outputs, results, strict=True):
                if slot is not None:
                    values[slot] = value
        return tuple(
            values[output] if isinstance(output, Slot) else getattr(self, f"output_{index}")
            for index, output in enumerate(self._outputs)
        )
