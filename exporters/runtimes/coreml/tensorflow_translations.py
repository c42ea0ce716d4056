"""Our own translations of TensorFlow operators into MIL, known to coremltools only while a model is converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from . import tensorflow_recurrent as recurrent

Translation = Callable[[Any, Any], None]
"""`translation(context, node)`: adds MIL operators, the last of them under the node's name."""


def registry() -> dict[str, Translation]:
    """coremltools' table of TensorFlow operators."""
    from coremltools.converters.mil.frontend import tensorflow2  # noqa: F401  # fills the table
    from coremltools.converters.mil.frontend.tensorflow.tf_op_registry import _TF_OPS_REGISTRY

    table: dict[str, Translation] = _TF_OPS_REGISTRY
    return table


def cast(context: Any, node: Any) -> None:
    """A cast to any type that numbers have: coremltools' own knows neither bool nor integers below 32 bits.

    All integers are int32 in a program. To bool means not equal to 0; to an integer cuts towards 0.
    """
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    wanted, x = node.attr["DstT"], context[node.inputs[0]]
    if wanted == types.bool:
        dtype = "bool"
    elif wanted == types.fp16:
        dtype = "fp16"
    elif types.is_float(wanted):
        dtype = "fp32"
    elif types.is_int(wanted):
        dtype = "int32"
    else:
        raise NotImplementedError(f"a cast to {types.builtin_to_string(wanted)}")
    context.add(node.name, mb.cast(x=x, dtype=dtype, name=node.name))


TRANSLATIONS: Mapping[str, Translation] = {"Cast": cast, recurrent.MARKER: recurrent.translate}


@contextmanager
def registered() -> Iterator[None]:
    """While inside, coremltools translates the operators of `TRANSLATIONS` by them; its own are put back after."""
    table = registry()
    before = dict(table)
    table.update(TRANSLATIONS)
    try:
        yield
    finally:
        table.clear()
        table.update(before)
