"""What changes the data type, by value or bit by bit."""

from __future__ import annotations

import numpy as np
import torch

from ..call import Call, Operator
from ..dtypes import cast, dtype_of, to_numpy, to_torch


def cast_like(call: Call) -> torch.Tensor | np.ndarray:
    """To the type of the second input: known where the first is, whatever the second's values are."""
    like = call.inputs[1]
    if isinstance(call.inputs[0], np.ndarray) and isinstance(like, torch.Tensor):
        return to_numpy(cast(call, to_torch(call.inputs[0]), call.type_of(1)))
    return cast(call, call.tensor(0), call.type_of(1))


def bit_cast(call: Call) -> torch.Tensor:
    """The same bits in another type of the same width."""
    x, wanted = call.tensor(0), dtype_of(call, call.get("to"))
    if x.element_size() != torch.empty(0, dtype=wanted).element_size():
        raise call.refuse("to a type of another width")
    return x.view(wanted)


def constant(call: Call) -> np.ndarray:
    """A tensor, a number or a list of numbers among the attributes."""
    for name, value in call.attributes.items():
        if name == "value":
            return np.asarray(value)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise call.refuse("of texts, or sparse")


OPERATORS: dict[str, Operator] = {
    "Cast": lambda call: cast(call, call.tensor(0), call.get("to")),
    "CastLike": cast_like,
    "BitCast": bit_cast,
    "Constant": constant,
}
