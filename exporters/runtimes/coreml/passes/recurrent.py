"""GRU, LSTM and simple RNN layers of exported programs, as Core ML's own recurrent operators.

coremltools translates these layers from traced models only: in an exported program the operator is called
`gru.input` and gives one tuple, which it does not know. (Decomposed by torch they are unrolled: a thousand
operators for a sequence of a hundred.) For a GRU it writes a loop over the steps, since Core ML adds the new
gate's recurrent bias outside of the reset gate's product, torch inside. Here the GRU is one operator all the
same: a hidden unit that always holds 1 is added, whose weight into the new gate is that bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

HELD = 60.0
"""Bias of the update gate that keeps the added unit: sigmoid(60) is 1 in float32 and in float16."""


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
    """torch: n = tanh(W_in x + b_in + r * (W_hn h + b_hn)); MIL: o = tanh(W_io x + b_o + r * (W_ho h))."""
    _run(_call(context, node, 3), gru_step, context, node)


def gru_step(x: Any, initial: tuple[Any, ...], layer: Layer) -> tuple[Any, ...]:
    """One GRU layer in one direction: x (sequence, batch, input) -> all hidden states, and the last."""
    from coremltools.converters.mil import Builder as mb

    hidden = layer.weight_hh.shape[1]
    plain = not layer.bias_hh[2 * hidden :].any()
    weight_ih, weight_hh, bias = _gru_weights(layer) if plain else _gru_with_unit(layer)
    state = initial[0]
    if not plain:
        one = mb.fill_like(ref_tensor=_columns(state, 0, 1), value=1.0)
        state = mb.concat(values=[state, one], axis=1)
    sequence, last = mb.gru(
        x=x, initial_h=state, weight_ih=weight_ih, weight_hh=weight_hh, bias=bias, output_sequence=True
    )
    if not plain:
        sequence, last = _columns(sequence, 0, hidden), _columns(last, 0, hidden)
    return sequence, last


def _gates(array: Array, order: Sequence[int], count: int) -> list[Array]:
    import numpy as np

    parts = np.split(array, count)
    return [parts[index] for index in order]


def _gru_weights(layer: Layer) -> tuple[Array, Array, Array]:
    """Weights and bias in MIL's order of gates (reset, new, update), where torch has reset, update, new."""
    import numpy as np

    order = (0, 2, 1)
    bias_ih, bias_hh = _gates(layer.bias_ih, order, 3), _gates(layer.bias_hh, order, 3)
    bias = [bias_ih[0] + bias_hh[0], bias_ih[1], bias_ih[2] + bias_hh[2]]
    return (
        np.concatenate(_gates(layer.weight_ih, order, 3)),
        np.concatenate(_gates(layer.weight_hh, order, 3)),
        np.concatenate(bias),
    )


def _gru_with_unit(layer: Layer) -> tuple[Array, Array, Array]:
    """The same with a last hidden unit that stays 1, and whose weight into the new gate is torch's b_hn."""
    import numpy as np

    weight_ih, weight_hh, bias = (np.split(array, 3) for array in _gru_weights(layer))
    inner = np.split(layer.bias_hh, 3)[2]
    for gate in range(3):
        weight_ih[gate] = np.pad(weight_ih[gate], ((0, 1), (0, 0)))
        weight_hh[gate] = np.pad(weight_hh[gate], ((0, 1), (0, 1)))
        bias[gate] = np.pad(bias[gate], (0, 1), constant_values=HELD if gate == 2 else 0.0)
    weight_hh[1][:-1, -1] = inner
    return np.concatenate(weight_ih), np.concatenate(weight_hh), np.concatenate(bias)


def _columns(x: Any, begin: int, end: int) -> Any:
    """x[..., begin:end]."""
    from coremltools.converters.mil import Builder as mb

    axes = x.rank - 1
    return mb.slice_by_index(
        x=x,
        begin=[0] * axes + [begin],
        end=[0] * axes + [end],
        begin_mask=[True] * axes + [False],
        end_mask=[True] * axes + [False],
    )


def lstm(context: Any, node: Any) -> None:
    """torch's gates are input, forget, cell, output; MIL's are input, forget, output, cell."""
    _run(_call(context, node, 4), lstm_step, context, node)


def lstm_step(x: Any, initial: tuple[Any, ...], layer: Layer) -> tuple[Any, ...]:
    """One LSTM layer in one direction: x (sequence, batch, input) -> all hidden states, the last, the last cell."""
    import numpy as np
    from coremltools.converters.mil import Builder as mb

    order = (0, 1, 3, 2)
    sequence, hidden, cell = mb.lstm(
        x=x,
        initial_h=initial[0],
        initial_c=initial[1],
        weight_ih=np.concatenate(_gates(layer.weight_ih, order, 4)),
        weight_hh=np.concatenate(_gates(layer.weight_hh, order, 4)),
        bias=np.concatenate(_gates(layer.bias_ih + layer.bias_hh, order, 4)),
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
