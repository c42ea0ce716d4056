"""GRU, LSTM and simple RNN layers of exported programs.

coremltools translates these layers from traced models only: in an exported program the operator is called
`gru.input` and gives one tuple, which it does not know. (Decomposed by torch they are unrolled: a thousand
operators for a sequence of a hundred.)

LSTM and RNN become Core ML's own operators. The GRU becomes a loop over the steps, as coremltools writes one for
traced models: Core ML's operator multiplies the reset gate into the state before the recurrent product, torch
into its result; iOS 18 has an option for that (`reset_after`), but coremltools' own test of it against torch on a
Mac is marked as failing. What does not depend on the state is computed for all steps before the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layer:
    """One direction of one layer, in torch's layout: gates stacked on axis 0."""

    weight_ih: Array
    weight_hh: Array
    bias_ih: Array
    bias_hh: Array


@dataclass(frozen=True)
class _Call:
    """The arguments of one recurrent operator, constants as arrays."""

    x: Any
    states: tuple[Any, ...]
    layers: tuple[tuple[Layer, ...], ...]
    """By layer, by direction (forward, backward)."""
    batch_first: bool


def _call(context: Any, node: Any, gates: int) -> _Call:
    """The arguments of `gru.input(x, h, params, has_biases, num_layers, dropout, train, bidirectional, first)`."""
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    x, states, parameters, biased, count, _, _, bidirectional, batch_first = _get_inputs(
        context, node, expected=9
    )
    arrays = [_array(parameter, node) for parameter in parameters]
    directions, each = 1 + int(bidirectional.val), 4 if biased.val else 2
    if len(arrays) != int(count.val) * directions * each:
        raise NotImplementedError("a recurrent layer with projections has no form in Core ML")
    layers = [_layer(arrays[start : start + each], gates) for start in range(0, len(arrays), each)]
    return _Call(
        x=x,
        states=tuple(states) if isinstance(states, (list, tuple)) else (states,),
        layers=tuple(tuple(layers[i : i + directions]) for i in range(0, len(layers), directions)),
        batch_first=bool(batch_first.val),
    )


def _array(parameter: Any, node: Any) -> Array:
    if parameter.val is None:
        raise NotImplementedError(f"the weights of {node.name} are computed, Core ML wants constants")
    array: Array = parameter.val
    return array


def _layer(arrays: Sequence[Array], gates: int) -> Layer:
    import numpy as np

    none = np.zeros(arrays[1].shape[1] * gates, arrays[1].dtype)
    bias_ih, bias_hh = arrays[2:] if len(arrays) == 4 else (none, none)
    return Layer(arrays[0], arrays[1], bias_ih, bias_hh)


Step = Callable[[Any, tuple[Any, ...], Layer], tuple[Any, ...]]
"""One layer in one direction: x (sequence, batch, input), initial states (batch, hidden) -> sequence, states."""


def _run(call: _Call, step: Step, context: Any, node: Any) -> None:
    """All layers and directions; adds (output, last state...) as torch gives them, under the node's name."""
    from coremltools.converters.mil import Builder as mb

    x = mb.transpose(x=call.x, perm=[1, 0, 2]) if call.batch_first else call.x
    last: list[tuple[Any, ...]] = []
    for index, directions in enumerate(call.layers):
        sequences = []
        for way, layer in enumerate(directions):
            position = index * len(directions) + way
            initial = tuple(_state(state, position) for state in call.states)
            given = mb.reverse(x=x, axes=[0]) if way else x
            sequence, *states = step(given, initial, layer)
            sequences.append(mb.reverse(x=sequence, axes=[0]) if way else sequence)
            last.append(tuple(states))
        x = sequences[0] if len(sequences) == 1 else mb.concat(values=sequences, axis=2)
    x = mb.transpose(x=x, perm=[1, 0, 2]) if call.batch_first else x
    stacked = tuple(mb.stack(values=list(states), axis=0) for states in zip(*last, strict=True))
    context.add((x, *stacked), torch_name=node.name)


def _state(state: Any, position: int) -> Any:
    """State (batch, hidden) of one layer and direction out of torch's (layers * directions, batch, hidden)."""
    from coremltools.converters.mil import Builder as mb

    return mb.slice_by_index(
        x=state,
        begin=[position, 0, 0],
        end=[position + 1, 0, 0],
        begin_mask=[False, True, True],
        end_mask=[False, True, True],
        squeeze_mask=[True, False, False],
    )


def gru(context: Any, node: Any) -> None:
    """n = tanh(W_in x + b_in + r * (W_hn h + b_hn)), h' = (1 - z) * n + z * h, gates in the order r, z, n."""
    _run(_call(context, node, 3), gru_step, context, node)


def gru_step(x: Any, initial: tuple[Any, ...], layer: Layer) -> tuple[Any, ...]:
    """One GRU layer in one direction: x (sequence, batch, input) -> all hidden states, and the last."""
    import numpy as np
    from coremltools.converters.mil import Builder as mb

    projected = mb.linear(x=x, weight=layer.weight_ih, bias=layer.bias_ih)
    steps = mb.gather(x=mb.shape(x=x), indices=0, axis=0)
    empty = mb.mul(x=_first_gate(projected, layer.weight_hh.shape[1]), y=0.0)

    def goes_on(step: Any, state: Any, sequence: Any) -> Any:
        return mb.less(x=step, y=steps)

    def body(step: Any, state: Any, sequence: Any) -> tuple[Any, ...]:
        inner = mb.linear(x=state, weight=layer.weight_hh, bias=layer.bias_hh)
        where = mb.expand_dims(x=step, axes=[0])
        # A slice, since coremltools writes a guard against negative indices around each gather.
        begin = mb.concat(values=[where, np.zeros(2, np.int32)], axis=0)
        outer = mb.squeeze(x=mb.slice_by_size(x=projected, begin=begin, size=[1, -1, -1]), axes=[0])
        new = _gru_cell(outer, inner, state)
        row = mb.expand_dims(x=new, axes=[0])
        return (
            mb.add(x=step, y=1),
            new,
            mb.scatter(data=sequence, indices=where, updates=row, axis=0, mode="update"),
        )

    _, last, sequence = mb.while_loop(_cond=goes_on, _body=body, loop_vars=(0, initial[0], empty))
    return sequence, last


def gru_before_step(x: Any, initial: tuple[Any, ...], layer: Layer) -> tuple[Any, ...]:
    """One layer of the other GRU, n = tanh(W_in x + W_hn (r * h) + b_n), by Core ML's own operator (gates r, n, z)."""
    from coremltools.converters.mil import Builder as mb

    order = (0, 2, 1)
    sequence, last = mb.gru(
        x=x,
        initial_h=initial[0],
        weight_ih=_gates(layer.weight_ih, order),
        weight_hh=_gates(layer.weight_hh, order),
        bias=_gates(layer.bias_ih + layer.bias_hh, order),
        output_sequence=True,
    )
    return sequence, last


def _gru_cell(outer: Any, inner: Any, state: Any) -> Any:
    """The next state (batch, hidden) from the gates' input and recurrent parts (batch, 3 * hidden)."""
    from coremltools.converters.mil import Builder as mb

    outer_r, outer_z, outer_n = mb.split(x=outer, num_splits=3, axis=1)
    inner_r, inner_z, inner_n = mb.split(x=inner, num_splits=3, axis=1)
    reset = mb.sigmoid(x=mb.add(x=outer_r, y=inner_r))
    update = mb.sigmoid(x=mb.add(x=outer_z, y=inner_z))
    new = mb.tanh(x=mb.add(x=outer_n, y=mb.mul(x=reset, y=inner_n)))
    # (1 - z) * n + z * h, and not n + z * (h - n), which rounds otherwise than torch.
    return mb.add(x=mb.mul(x=mb.sub(x=1.0, y=update), y=new), y=mb.mul(x=update, y=state))


def _first_gate(x: Any, hidden: int) -> Any:
    """x[..., :hidden] of (sequence, batch, 3 * hidden)."""
    from coremltools.converters.mil import Builder as mb

    return mb.slice_by_index(
        x=x, begin=[0, 0, 0], end=[0, 0, hidden], begin_mask=[True] * 3, end_mask=[True, True, False]
    )


def _gates(array: Array, order: Sequence[int]) -> Array:
    """The gates stacked on axis 0, in another order."""
    import numpy as np

    parts = np.split(array, len(order))
    return np.concatenate([parts[index] for index in order])


def lstm(context: Any, node: Any) -> None:
    """torch's gates are input, forget, cell, output; MIL's are input, forget, output, cell."""
    _run(_call(context, node, 4), lstm_step, context, node)


def lstm_step(x: Any, initial: tuple[Any, ...], layer: Layer) -> tuple[Any, ...]:
    """One LSTM layer in one direction: x (sequence, batch, input) -> all hidden states, the last, the last cell."""
    from coremltools.converters.mil import Builder as mb

    order = (0, 1, 3, 2)
    sequence, hidden, cell = mb.lstm(
        x=x,
        initial_h=initial[0],
        initial_c=initial[1],
        weight_ih=_gates(layer.weight_ih, order),
        weight_hh=_gates(layer.weight_hh, order),
        bias=_gates(layer.bias_ih + layer.bias_hh, order),
        direction="forward",
        output_sequence=True,
    )
    return sequence, hidden, cell


def _rnn(activation: str) -> Callable[[Any, Any], None]:
    def step(x: Any, initial: tuple[Any, ...], layer: Layer) -> tuple[Any, ...]:
        return rnn_step(x, initial, layer, activation)

    def translate(context: Any, node: Any) -> None:
        _run(_call(context, node, 1), step, context, node)

    return translate


def rnn_step(x: Any, initial: tuple[Any, ...], layer: Layer, activation: str) -> tuple[Any, ...]:
    """One layer of h = activation(W x + b + U h); `activation` is tanh or relu."""
    from coremltools.converters.mil import Builder as mb

    sequence, last = mb.rnn(
        x=x,
        initial_h=initial[0],
        weight_ih=layer.weight_ih,
        weight_hh=layer.weight_hh,
        bias=layer.bias_ih + layer.bias_hh,
        output_sequence=True,
        activation=activation,
    )
    return sequence, last


TRANSLATIONS: Mapping[str, Callable[[Any, Any], None]] = {
    "gru.input": gru,
    "lstm.input": lstm,
    "rnn_tanh.input": _rnn("tanh"),
    "rnn_relu.input": _rnn("relu"),
}
