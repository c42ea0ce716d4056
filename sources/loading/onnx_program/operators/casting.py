"""What changes the data type, by value or bit by bit."""

from __future__ import annotations

import numpy as np
import torch
from onnx import helper

from ..call import Call, Operator
from ..dtypes import NUMBERS, cast, dtype_of


def cast_like(call: Call) -> torch.Tensor:
    """To the type of the second input."""
    like = call.inputs[1]
    known = isinstance(like, np.ndarray)
    return cast(
        call, call.tensor(0), helper.np_dtype_to_tensor_dtype(like.dtype) if known else NUMBERS[like.dtype]
    )


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
