"""LSTM, GRU and RNN against torch's modules, and what torch does not have against the documented formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_calls import apply_all
from modelport.mil.program import UnknownOperator
from modelport.targets.errors import SourceUnreadable

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "linear": lambda x: x,
}


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-5, atol=1e-5)


def reordered(value: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Gate blocks on the first axis in another order."""
    parts = value.chunk(len(order))
    return torch.cat([parts[place] for place in order])


def weights(module: torch.nn.RNNBase, order: tuple[int, ...], back: bool = False) -> dict[str, torch.Tensor]:
    """Weights of one direction of a torch layer under MIL's names and in MIL's order of gates."""
    state, end = module.state_dict(), "_l0_reverse" if back else "_l0"
    found = {
        "weight_ih": reordered(state["weight_ih" + end], order),
        "weight_hh": reordered(state["weight_hh" + end], order),
    }
    if module.bias:
        found["bias"] = reordered(state["bias_ih" + end] + state["bias_hh" + end], order)
    return {name + ("_back" if back else ""): value for name, value in found.items()}


IFOZ = (0, 1, 3, 2)
"""torch has the gates of an LSTM as input, forget, cell, output; MIL has the cell last."""


@settings(max_examples=40, deadline=None)
@given(
    sizes=SIZES, bias=st.booleans(), sequence=st.booleans(), reverse=st.booleans(), seed=st.integers(0, 2**16)
)
def test_an_lstm_is_torchs(
    sizes: tuple[int, ...], bias: bool, sequence: bool, reverse: bool, seed: int
) -> None:
    length, batch, features, hidden = sizes
    torch.manual_seed(seed)
    module = torch.nn.LSTM(features, hidden, bias=bias)
    x = torch.randn(length, batch, features)
    h, c = torch.randn(2, 1, batch, hidden)
    with torch.no_grad():
        # The reversed layer's outputs stay in the order in which they were computed.
        expected, (last_h, last_c) = module(x.flip(0) if reverse else x, (h, c))
    found = apply_all(
        "lstm", ("fp32",) * 3, x=x, initial_h=h[0], initial_c=c[0], **weights(module, IFOZ),
        direction="reverse" if reverse else "forward", output_sequence=sequence,
    )  # fmt: skip
    close(found[0], expected if sequence else expected[-1:])
    close(found[1], last_h[0])
    close(found[2], last_c[0])


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, bias=st.booleans(), sequence=st.booleans(), seed=st.integers(0, 2**16))
def test_a_bidirectional_lstm_is_torchs(
    sizes: tuple[int, ...], bias: bool, sequence: bool, seed: int
) -> None:
    length, batch, features, hidden = sizes
    torch.manual_seed(seed)
    module = torch.nn.LSTM(features, hidden, bias=bias, bidirectional=True)
    x = torch.randn(length, batch, features)
    h, c = torch.randn(2, 2, batch, hidden)
    with torch.no_grad():
        expected, (last_h, last_c) = module(x, (h, c))
    side_by_side = lambda state: torch.cat((state[0], state[1]), dim=-1)  # noqa: E731
    found = apply_all(
        "lstm", ("fp32",) * 3, x=x, initial_h=side_by_side(h), initial_c=side_by_side(c),
        **weights(module, IFOZ), **weights(module, IFOZ, back=True),
        direction="bidirectional", output_sequence=sequence,
    )  # fmt: skip
    close(found[0], expected if sequence else side_by_side(last_h)[None])
    close(found[1], side_by_side(last_h))
    close(found[2], side_by_side(last_c))


@settings(max_examples=40, deadline=None)
@given(
    sizes=SIZES,
    names=st.tuples(*[st.sampled_from(sorted(ACTIVATIONS))] * 3),
    clip=st.one_of(st.none(), st.floats(0.01, 2)),
    peephole=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_an_lstm_has_its_own_activations_peepholes_and_clip(
    sizes: tuple[int, ...], names: tuple[str, str, str], clip: float | None, peephole: bool, seed: int
) -> None:
    length, batch, features, hidden = sizes
    rng = np.random.default_rng(seed)
    draw = lambda *shape: np.asarray(rng.uniform(-1, 1, shape), np.float32)  # noqa: E731
    x, h, c = draw(length, batch, features), draw(batch, hidden), draw(batch, hidden)
    w_ih, w_hh, bias = draw(4 * hidden, features), draw(4 * hidden, hidden), draw(4 * hidden)
    p = draw(3 * hidden) if peephole else np.zeros(3 * hidden, np.float32)
    found = apply_all(
        "lstm", ("fp32",) * 3, x=x, initial_h=h, initial_c=c, weight_ih=w_ih, weight_hh=w_hh, bias=bias,
        peephole=p if peephole else None, clip=clip, output_sequence=True,
        recurrent_activation=names[0], cell_activation=names[1], activation=names[2],
    )  # fmt: skip
    recurrent, cell, output = (ACTIVATIONS[name] for name in names)
    p_i, p_f, p_o = np.split(p, 3)
    for step in range(length):
        i, f, o, z = np.split(x[step] @ w_ih.T + bias + h @ w_hh.T, 4, axis=-1)
        c = recurrent(f + p_f * c) * c + recurrent(i + p_i * c) * cell(z)
        c = c if clip is None else np.clip(c, -clip, clip)
        h = recurrent(o + p_o * c) * output(c)
        np.testing.assert_allclose(found[0][step], h, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[2], c, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    sizes=SIZES, bias=st.booleans(), sequence=st.booleans(), reverse=st.booleans(), seed=st.integers(0, 2**16)
)
def test_a_gru_with_reset_after_is_torchs(
    sizes: tuple[int, ...], bias: bool, sequence: bool, reverse: bool, seed: int
) -> None:
    length, batch, features, hidden = sizes
    torch.manual_seed(seed)
    module = torch.nn.GRU(features, hidden, bias=bias)
    x, h = torch.randn(length, batch, features), torch.randn(1, batch, hidden)
    with torch.no_grad():
        expected, last = module(x.flip(0) if reverse else x, h)
    order = (0, 2, 1)
    given = weights(module, order)
    if bias:
        state = module.state_dict()
        given |= {
            name: reordered(state[f"bias_{end}_l0"], order)
            for name, end in (("input_bias", "ih"), ("bias", "hh"))
        }
    found = apply_all(
        "gru", ("fp32",) * 2, x=x, initial_h=h[0], **given, reset_after=True,
        direction="reverse" if reverse else "forward", output_sequence=sequence,
    )  # fmt: skip
    close(found[0], expected if sequence else expected[-1:])
    close(found[1], last[0])


@settings(max_examples=40, deadline=None)
@given(
    sizes=SIZES, names=st.tuples(*[st.sampled_from(sorted(ACTIVATIONS))] * 2), bias=st.booleans(),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_a_gru_resets_the_state_before_its_product(
    sizes: tuple[int, ...], names: tuple[str, str], bias: bool, seed: int
) -> None:
    length, batch, features, hidden = sizes
    rng = np.random.default_rng(seed)
    draw = lambda *shape: np.asarray(rng.uniform(-1, 1, shape), np.float32)  # noqa: E731
    x, h = draw(length, batch, features), draw(batch, hidden)
    w_ih, w_hh = draw(3 * hidden, features), draw(3 * hidden, hidden)
    b = draw(3 * hidden) if bias else np.zeros(3 * hidden, np.float32)
    found = apply_all(
        "gru", ("fp32",) * 2, x=x, initial_h=h, weight_ih=w_ih, weight_hh=w_hh, bias=b if bias else None,
        output_sequence=True, recurrent_activation=names[0], activation=names[1],
    )  # fmt: skip
    recurrent, activation = (ACTIVATIONS[name] for name in names)
    (w_r, w_o, w_z), (b_r, b_o, b_z) = np.split(w_hh, 3), np.split(b, 3)
    for step in range(length):
        x_r, x_o, x_z = np.split(x[step] @ w_ih.T, 3, axis=-1)
        r, z = recurrent(x_r + h @ w_r.T + b_r), recurrent(x_z + h @ w_z.T + b_z)
        h = (1 - z) * activation(x_o + (r * h) @ w_o.T + b_o) + z * h
        np.testing.assert_allclose(found[0][step], h, rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    sizes=SIZES, kind=st.sampled_from(["tanh", "relu"]), sequence=st.booleans(), reverse=st.booleans(),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_an_rnn_is_torchs(
    sizes: tuple[int, ...], kind: str, sequence: bool, reverse: bool, seed: int
) -> None:
    length, batch, features, hidden = sizes
    torch.manual_seed(seed)
    module = torch.nn.RNN(features, hidden, nonlinearity=kind)
    x, h = torch.randn(length, batch, features), torch.randn(1, batch, hidden)
    with torch.no_grad():
        expected, last = module(x.flip(0) if reverse else x, h)
    found = apply_all(
        "rnn", ("fp32",) * 2, x=x, initial_h=h[0], **weights(module, (0,)), activation=kind,
        direction="reverse" if reverse else "forward", output_sequence=sequence,
    )  # fmt: skip
    close(found[0], expected if sequence else expected[-1:])
    close(found[1], last[0])


def layer(**more: Any) -> dict[str, Any]:
    return {
        "x": np.zeros((2, 1, 3)), "initial_h": np.zeros((1, 2)), "weight_ih": np.zeros((2, 3)),
        "weight_hh": np.zeros((2, 2)), **more,
    }  # fmt: skip


def test_what_it_does_not_know_is_named() -> None:
    with pytest.raises(UnknownOperator, match="activation=swish"):
        apply_all("rnn", ("fp32",) * 2, **layer(activation="swish"))
    with pytest.raises(UnknownOperator, match="direction=sideways"):
        apply_all("rnn", ("fp32",) * 2, **layer(direction="sideways"))
    with pytest.raises(SourceUnreadable, match="initial_h"):
        apply_all("rnn", ("fp32",) * 2, **layer(initial_h=None))
