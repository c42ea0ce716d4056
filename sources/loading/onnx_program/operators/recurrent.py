"""LSTM, GRU and RNN, unrolled step by step: a program's number of steps is fixed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..call import Call, Operator

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu,
}  # fmt: skip


def _activations(call: Call, defaults: list[str], directions: int) -> list[list[Callable[..., torch.Tensor]]]:
    names = [name.lower() for name in call.get("activations") or defaults * directions]
    unknown = [name for name in names if name not in ACTIVATIONS]
    if unknown:
        raise call.refuse(f"with activation {unknown[0]!r}")
    each = len(defaults)
    return [[ACTIVATIONS[n] for n in names[i * each : (i + 1) * each]] for i in range(directions)]


def _run(call: Call, gates: int, states: int, defaults: list[str], step: Callable[..., tuple]) -> tuple:  # type: ignore[type-arg]
    """Every direction over all steps; gives Y (steps, directions, batch, hidden) and the last states."""
    if call.get("clip") is not None or call.get("input_forget", 0):
        raise call.refuse("with clip or input_forget")
    if call.has(4):
        lengths = call.known(4).reshape(-1)
        if (lengths != call.tensor(0).shape[1 if call.get("layout", 0) else 0]).any():
            raise call.refuse("with sequences of several lengths")
    x = call.tensor(0)
    x = x.transpose(0, 1) if call.get("layout", 0) else x
    weights, recurrence = call.tensor(1), call.tensor(2)
    hidden, directions = recurrence.shape[2], weights.shape[0]
    bias = call.tensor(3) if call.has(3) else torch.zeros(directions, 2 * gates * hidden, dtype=x.dtype)
    functions = _activations(call, defaults, directions)
    outputs, lasts = [], []
    for d in range(directions):
        backwards = call.get("direction", "forward") == "reverse" or d == 1
        state = []
        for index in range(states):
            given = call.tensor(5 + index) if call.has(5 + index) else None
            if given is not None and call.get("layout", 0):
                given = given.transpose(0, 1)
            state.append(torch.zeros(x.shape[1], hidden, dtype=x.dtype) if given is None else given[d])
        made = []
        order = range(x.shape[0] - 1, -1, -1) if backwards else range(x.shape[0])
        for t in order:
            state = list(step(x[t], state, weights[d], recurrence[d], bias[d], functions[d], d))
            made.append(state[0])
        outputs.append(torch.stack(made[::-1] if backwards else made))
        lasts.append(state)
    y = torch.stack(outputs, 1)
    ends = [torch.stack([state[index] for state in lasts]) for index in range(states)]
    if call.get("layout", 0):
        y, ends = y.permute(2, 0, 1, 3), [end.transpose(0, 1) for end in ends]
    return (y, *ends)


def lstm(call: Call) -> tuple[torch.Tensor, ...]:
    """Gates in the order input, output, forget, cell; peepholes where given."""
    holes = call.tensor(7) if call.has(7) else None

    def step(x, state, w, r, b, act, d):  # type: ignore[no-untyped-def]
        h, c = state
        size = h.shape[1]
        i, o, f, g = (x @ w.t() + h @ r.t() + b[: 4 * size] + b[4 * size :]).chunk(4, 1)
        p = holes[d].chunk(3) if holes is not None else (0, 0, 0)
        i, f = act[0](i + p[0] * c), act[0](f + p[2] * c)
        c = f * c + i * act[1](g)
        return act[0](o + p[1] * c) * act[2](c), c

    return _run(call, 4, 2, ["sigmoid", "tanh", "tanh"], step)[: call.outputs]


def gru(call: Call) -> tuple[torch.Tensor, ...]:
    """Gates in the order update, reset, hidden."""
    after = bool(call.get("linear_before_reset", 0))

    def step(x, state, w, r, b, act, d):  # type: ignore[no-untyped-def]
        (h,) = state
        size = h.shape[1]
        gate = x @ w[: 2 * size].t() + h @ r[: 2 * size].t() + b[: 2 * size] + b[3 * size : 5 * size]
        z, reset = (act[0](part) for part in gate.chunk(2, 1))
        outer = x @ w[2 * size :].t() + b[2 * size : 3 * size]
        if after:
            inner = reset * (h @ r[2 * size :].t() + b[5 * size :])
        else:
            inner = (reset * h) @ r[2 * size :].t() + b[5 * size :]
        return ((1 - z) * act[1](outer + inner) + z * h,)

    return _run(call, 3, 1, ["sigmoid", "tanh"], step)[: call.outputs]


def rnn(call: Call) -> tuple[torch.Tensor, ...]:
    """One gate."""

    def step(x, state, w, r, b, act, d):  # type: ignore[no-untyped-def]
        (h,) = state
        size = h.shape[1]
        return (act[0](x @ w.t() + h @ r.t() + b[:size] + b[size:]),)

    return _run(call, 1, 1, ["tanh"], step)[: call.outputs]


OPERATORS: dict[str, Operator] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
