"""Recurrent layers: LSTM, GRU and simple RNN, by the formulas of the MIL documentation.

Where the documentation leaves something open, coremltools' own operator tests decide, whose expectations hold on a
Mac (`coremltools/converters/mil/mil/ops/tests/iOS14/test_recurrent.py`): the output sequence of `direction="reverse"`
stays in the order of computation, while that of the backward half of a bidirectional LSTM is in the order of the
input; the GRU's reset gate acts on h before the recurrent product; the LSTM clips the cell state, and its output
gate's peephole sees the new, clipped one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..program import Operation, UnknownOperator
from ..values import Inputs, OpFunction, Tensor

Activation = Callable[[Tensor], Tensor]


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0, 1)


def _linear(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Activation] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "scaled_tanh": torch.tanh,  # Both of its scales are 1 here: a recurrent layer has no inputs for them.
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": _hard_sigmoid,
    "sigmoid_hard": _hard_sigmoid,
    "linear": _linear,
}


def _activation(op: Operation, x: Inputs, name: str, default: str) -> Activation:
    kind = x.text(name, default).lower()
    if kind not in ACTIVATIONS:
        raise UnknownOperator.at(op.name, f"{op.type} with {name}={kind}")
    return ACTIVATIONS[kind]


def _steps(op: Operation, x: Inputs) -> range:
    """The time steps in the order in which one direction visits them."""
    length, direction = x["x"].shape[0], x.text("direction", "forward")
    if direction not in ("forward", "reverse"):
        raise UnknownOperator.at(op.name, f"{op.type} with direction={direction}")
    return range(length) if direction == "forward" else range(length - 1, -1, -1)


def _sequence(x: Inputs, states: list[Tensor]) -> Tensor:
    """All hidden states or the last, with time in front: [s or 1, b, H]."""
    return torch.stack(states if x.flag("output_sequence", False) else states[-1:])


def rnn(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """h = activation(W_ih x + W_hh h + b); outputs the sequence and the last h."""
    activation = _activation(op, x, "activation", "tanh")
    projected = F.linear(x["x"], x["weight_ih"], x.optional("bias"))
    h, weight, states = x["initial_h"], x["weight_hh"], []
    for step in _steps(op, x):
        h = activation(projected[step] + F.linear(h, weight))
        states.append(h)
    return _sequence(x, states), h


def gru(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Gates in the order reset, output, update; outputs the sequence and the last h.

    o = activation(W_io x + W_ho (r * h) + b_o); with `reset_after` (iOS18, as torch's GRU has it)
    o = activation(W_io x + b_io + r * (W_ho h + b_ho)), `input_bias` being b_i and `bias` b_h.
    """
    recurrent = _activation(op, x, "recurrent_activation", "sigmoid")
    activation = _activation(op, x, "activation", "tanh")
    reset_after = x.flag("reset_after", False)
    h, weight = x["initial_h"], x["weight_hh"]
    hidden = weight.shape[-1]
    bias = x.optional("bias")
    if bias is None:
        bias = weight.new_zeros(3 * hidden)
    (weight_r, weight_o, weight_z), (bias_r, bias_o, bias_z) = weight.split(hidden), bias.split(hidden)
    projected = F.linear(x["x"], x["weight_ih"], x.optional("input_bias"))
    states = []
    for step in _steps(op, x):
        r, o, z = projected[step].split(hidden, dim=-1)
        r = recurrent(r + F.linear(h, weight_r, bias_r))
        z = recurrent(z + F.linear(h, weight_z, bias_z))
        carried = r * F.linear(h, weight_o, bias_o) if reset_after else F.linear(r * h, weight_o, bias_o)
        h = (1 - z) * activation(o + carried) + z * h
        states.append(h)
    return _sequence(x, states), h


class _Lstm(NamedTuple):
    """What both directions of an LSTM share."""

    recurrent: Activation
    cell: Activation
    output: Activation
    clip: float | None


def _lstm_direction(
    x: Inputs, suffix: str, steps: range, h: Tensor, c: Tensor, lstm: _Lstm
) -> tuple[list[Tensor], Tensor]:
    """The hidden states of one direction in the order of computation, and the last cell state."""
    projected = F.linear(x["x"], x["weight_ih" + suffix], x.optional("bias" + suffix))
    weight, peephole = x["weight_hh" + suffix], x.optional("peephole" + suffix)
    hidden = weight.shape[-1]
    p_i, p_f, p_o = (None, None, None) if peephole is None else peephole.split(hidden)
    states = []
    for step in steps:
        i, f, o, z = (projected[step] + F.linear(h, weight)).split(hidden, dim=-1)
        if peephole is not None:
            i, f = i + p_i * c, f + p_f * c
        c = lstm.recurrent(f) * c + lstm.recurrent(i) * lstm.cell(z)
        if lstm.clip is not None:
            c = c.clamp(-lstm.clip, lstm.clip)
        if peephole is not None:
            o = o + p_o * c
        h = lstm.recurrent(o) * lstm.output(c)
        states.append(h)
    return states, c


def lstm(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Gates in the order input, forget, output, cell; outputs the sequence, the last h and the last c.

    Bidirectional: states and outputs hold both directions side by side, forward first.
    """
    shared = _Lstm(
        _activation(op, x, "recurrent_activation", "sigmoid"),
        _activation(op, x, "cell_activation", "tanh"),
        _activation(op, x, "activation", "tanh"),
        x.number("clip") if "clip" in x else None,
    )
    h, c = x["initial_h"], x["initial_c"]
    if x.text("direction", "forward") != "bidirectional":
        states, c = _lstm_direction(x, "", _steps(op, x), h, c, shared)
        return _sequence(x, states), states[-1], c
    length = x["x"].shape[0]
    (h, h_back), (c, c_back) = h.chunk(2, dim=-1), c.chunk(2, dim=-1)
    states, c = _lstm_direction(x, "", range(length), h, c, shared)
    back, c_back = _lstm_direction(x, "_back", range(length - 1, -1, -1), h_back, c_back, shared)
    last = torch.cat((states[-1], back[-1]), dim=-1)
    sequence = last.unsqueeze(0)
    if x.flag("output_sequence", False):
        sequence = torch.cat((torch.stack(states), torch.stack(back[::-1])), dim=-1)
    return sequence, last, torch.cat((c, c_back), dim=-1)


OPS: dict[str, OpFunction] = {"gru": gru, "lstm": lstm, "rnn": rnn}
