"""Every operator that the evaluator knows, by MIL op type, and the contract that each keeps.

An operator is a plain function

    def conv(op: Operation, x: Inputs) -> tuple[Tensor, ...]:

- `x` gives the inputs by their MIL names (`x["x"]`, `x["weight"]`) as **torch tensors** on the CPU, constants
  and runtime values alike; strings are `str`; variadic inputs are read with `x.many("values")`. Read small
  constants as Python values: `x.integer("axis", -1)`, `x.number("epsilon", 1e-5)`, `x.flag("keep_dims", False)`,
  `x.integers("strides", (1, 1))`, `x.text("pad_type", "valid")`; `x.optional("bias")` is None when absent; each
  default is the MIL documentation's. `x.run(n, values)` evaluates nested block n (cond, while_loop).
- Carriers (`values.CARRIERS`): every float type (fp16 and fp32) arrives and leaves as float32, bool as torch.bool,
  int8/uint8/int16/int32/int64 as themselves, int4 as int8, uint1..uint6 as uint8, uint16 as int32. An operator never
  rounds to float16: `evaluate.py` casts each result to the carrier of its declared type and rounds there.
- `op` is the `program.Operation`: `op.type`, `op.name`, `op.outputs[i].type.dtype` (MIL dtype name such as "fp16")
  and `.shape` (None for an unknown size), `op.blocks`. Needed by few.
- It returns a tuple with one value an output, in the order of the MIL documentation. It may return views of its
  inputs, and must never write into them (constants are views of the mapped weight file).
- An output that may be far larger than the inputs (tile, fill, one_hot, pad, ...) is checked by
  `values.bounded(shape, op.name)` before it is allocated. Nothing from the model is executed.
- A mode that it does not know raises `targets.errors.SourceUnreadable` or, for a known but unwritten one,
  `program.UnknownOperator.at(op.name, f"{op.type} with mode={mode}")`, so that it is reported as not checked.

A family module holds its functions and one dict `OPS: dict[str, OpFunction]` at its end; it is listed in `FAMILIES`.
All op versions of iOS15 to iOS18 share a name and one function.
"""

from __future__ import annotations

from ..values import OpFunction
from . import (
    activation,
    attention,
    constexpr,
    control,
    convolution,
    creation,
    elementwise,
    gather,
    layout,
    linear,
    normalisation,
    ordering,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    sampling,
    scatter,
    shape,
)

FAMILIES = (
    activation,
    attention,
    constexpr,
    control,
    convolution,
    creation,
    elementwise,
    gather,
    layout,
    linear,
    normalisation,
    ordering,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    sampling,
    scatter,
    shape,
)

OPS: dict[str, OpFunction] = {name: function for family in FAMILIES for name, function in family.OPS.items()}
"""Op type to function."""
