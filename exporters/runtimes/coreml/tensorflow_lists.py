"""TensorFlow's lists of tensors, where every index is known: a Python list while the graph is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....targets.errors import Unsupported

Known = Callable[[Any], Any]
"""The NumPy value of a constant tensor, None for another."""

MAX_LENGTH = 4096


class Items(list[Any]):
    """The tensors of a list, and the tensor that they are the slices of, where there is one."""

    whole: Any = None


def unstacked(tensor: Any) -> Items:
    """The slices of a tensor along its first axis, whose size is known."""
    import tensorflow as tf

    items = Items(tf.unstack(tensor, axis=0))
    items.whole = tensor
    return items


def whole(items: Items) -> Any:
    """The slices as one tensor again."""
    import tensorflow as tf

    return tf.stack(items, axis=0) if items.whole is None else items.whole


def is_full(items: Items) -> bool:
    """Whether the list has items and all of them are written."""
    return bool(items) and all(item is not None for item in items)


def _from_tensor(node: Any, inputs: list[Any], known: Known) -> Sequence[Any]:
    size = inputs[0].shape[0] if inputs[0].shape.rank else None
    if size is None:
        raise _open_length(node)
    _bounded(size, node)
    return [unstacked(inputs[0])]


def _reserve(node: Any, inputs: list[Any], known: Known) -> Sequence[Any]:
    size = known(inputs[1])
    if size is None:
        raise _open_length(node)
    _bounded(int(size), node)
    return [Items([None] * int(size))]


def _empty(node: Any, inputs: list[Any], known: Known) -> Sequence[Any]:
    return [Items()]


def _push(node: Any, inputs: list[Any], known: Known) -> Sequence[Any]:
    _bounded(len(inputs[0]) + 1, node)
    return [Items([*inputs[0], inputs[1]])]


def _get(node: Any, inputs: list[Any], known: Known) -> Sequence[Any]:
    items, index = inputs[0], _index(node, inputs, known)
    if items[index] is None:
        raise Unsupported(f"item {index} of a list is read before it is written", where=_where(node))
    return [items[index]]


def _set(node: Any, inputs: list[Any], known: Known) -> Sequence[Any]:
    items, index = Items(inputs[0]), _index(node, inputs, known)
    items[index] = inputs[2]
    return [items]


def _stack(node: Any, inputs: list[Any], known: Known) -> Sequence[Any]:
    if not is_full(inputs[0]):
        raise Unsupported("a list is stacked before all of it is written", where=_where(node))
    return [whole(inputs[0])]


def _length(node: Any, inputs: list[Any], known: Known) -> Sequence[Any]:
    import tensorflow as tf

    return [tf.constant(len(inputs[0]), tf.int32)]


def _index(node: Any, inputs: list[Any], known: Known) -> int:
    index = known(inputs[1])
    if index is None or not 0 <= int(index) < len(inputs[0]):
        raise Unsupported(
            "which item of a list is meant depends on the input",
            where=_where(node),
            mend="Save the model with loops of a fixed length",
        )
    return int(index)


def _bounded(size: int, node: Any) -> None:
    if not 0 <= size <= MAX_LENGTH:
        raise Unsupported(f"a list of {size:,} tensors, over {MAX_LENGTH:,}", where=_where(node))


def _open_length(node: Any) -> Unsupported:
    return Unsupported(
        "the length of a list depends on the input",
        where=_where(node),
        mend="Save the model with a fixed input shape",
    )


def _where(node: Any) -> str:
    return f"operator {node.name}"


OPERATORS: dict[str, Callable[[Any, list[Any], Known], Sequence[Any]]] = {
    "TensorListFromTensor": _from_tensor,
    "TensorListReserve": _reserve,
    "EmptyTensorList": _empty,
    "TensorListPushBack": _push,
    "TensorListGetItem": _get,
    "TensorListSetItem": _set,
    "TensorListStack": _stack,
    "TensorListLength": _length,
}
"""Operator to the function that gives its outputs, lists as Python lists."""
