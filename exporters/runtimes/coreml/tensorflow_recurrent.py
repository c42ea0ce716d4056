"""Loops that are an LSTM, a GRU or a simple RNN, recognised by what they compute, as one operator each.

Keras writes a recurrent layer as a loop over a list of steps, and a SavedModel holds nothing but that loop. So its
body is run on random values and compared with the formula of each kind of layer: that is the proof that the
weights found in it are the layer's, in this order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import tensorflow_lists as lists
from .passes.recurrent import Layer, gru_before_step, gru_step, rnn_step
from .tensorflow_functions import full, known

if TYPE_CHECKING:
    import numpy as np

    from .tensorflow_functions import Body
    from .tensorflow_replay import Replay

    Array = np.ndarray[Any, Any]

MARKER = "CudnnRNNV3"
"""TensorFlow's operator for a whole GRU, which stands in the graph for `translate` to find; it is never run."""

GATES = {"lstm": 4, "gru": 3, "gru_before": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""Kinds of layers with the number of their gates. A GRU multiplies its reset gate into the recurrent product, as
torch's does and Keras's by default; gru_before multiplies it into the state before (Keras's reset_after=False)."""

TRIALS = 3
TOLERANCE = 1e-4
"""Largest difference between the loop's body and the formula: both are float32, and states are below 1."""


@dataclass(frozen=True)
class Places:
    """Where things are in a loop's variables, as indices, and how many steps it runs."""

    steps: int
    source: int
    sink: int
    hidden: tuple[int, ...]
    counters: Mapping[int, Any]
    """Values of the counters after the last step."""
    written: str
    """The tensor of the body that is written into the sink."""
    every: bool
    """Whether each step is written, or only the last one into a list of one."""


@dataclass(frozen=True)
class Found:
    """A recurrent layer: its kind, weights in torch's layout, and places (hidden state first, then the cell's)."""

    kind: str
    layer: Layer
    places: Places

    @property
    def title(self) -> str:
        """For the report."""
        return f"{self.kind.partition('_')[0].upper()} of {self.places.steps} steps"


def recognised(replay: Replay, cond: str, body: str, state: Sequence[Any]) -> Found | None:
    """The layer that a loop with these functions and first values is, None for any other loop."""
    places = _places(replay, cond, replay.body(body), state)
    if places is None:
        return None
    return next(_fitting(replay, replay.body(body), state, places), None)


def _places(replay: Replay, cond: str, body: Body, state: Sequence[Any]) -> Places | None:
    held = [isinstance(value, list) for value in state]
    sources = [i for i, value in enumerate(state) if held[i] and lists.is_full(value)]
    sinks = [i for i, value in enumerate(state) if held[i] and not any(item is not None for item in value)]
    counters = [i for i, v in enumerate(state) if not held[i] and _is_counter(v) and known(v) is not None]
    kept = [i for i, name in enumerate(body.arguments) if body.origin(body.results[i]) == f"{name}:0"]
    hidden = [i for i in range(len(state)) if not held[i] and i not in (*counters, *kept)]
    if len(sources) != 1 or len(sinks) != 1 or not 1 <= len(hidden) <= 2 or sources[0] not in kept:
        return None
    source, sink = sources[0], sinks[0]
    setter = body.nodes.get(body.origin(body.results[sink]).partition(":")[0])
    getters = [
        node
        for node in body.nodes.values()
        if node.op == "TensorListGetItem" and body.origin(node.input[0]) == f"{body.arguments[source]}:0"
    ]
    if setter is None or setter.op != "TensorListSetItem" or len(getters) != 1:
        return None
    if body.origin(setter.input[0]) != f"{body.arguments[sink]}:0":
        return None
    given = {body.arguments[i]: state[i] for i in (*counters, *(i for i in kept if not held[i]))}
    steps = len(state[source])
    last = _counted(
        replay, cond, body, given, [body.arguments[i] for i in counters],
        [body.results[i] for i in counters], (full(getters[0].input[1]), full(setter.input[1])), steps,
    )  # fmt: skip
    if last is None:
        return None
    values, writes = last
    every = writes == list(range(steps)) and len(state[sink]) == steps
    if not every and not (len(state[sink]) == 1 and set(writes) == {0}):
        return None
    return Places(
        steps,
        source,
        sink,
        tuple(hidden),
        dict(zip(counters, values, strict=True)),
        full(setter.input[2]),
        every,
    )


def _is_counter(value: Any) -> bool:
    return bool(value.dtype.is_integer and value.shape.rank == 0)


def _counted(
    replay: Replay,
    cond: str,
    body: Body,
    given: dict[str, Any],
    names: Sequence[str],
    results: Sequence[str],
    indices: tuple[str, str],
    steps: int,
) -> tuple[list[Any], list[int]] | None:
    """The counters after the loop and the index that each step writes, if step t reads item t of `steps`."""
    writes = []
    test = replay.body(cond)
    for step in range(steps + 1):
        tested = {
            name: given[own] for name, own in zip(test.arguments, body.arguments, strict=True) if own in given
        }
        goes_on = known(replay.run(test.nodes, tested, test.results)[0])
        if goes_on is None or bool(goes_on) != (step < steps):
            return None
        if step == steps:
            break
        read, written, *following = replay.run(body.nodes, given, [*indices, *results])
        if known(read) is None or int(known(read)) != step or known(written) is None:
            return None
        writes.append(int(known(written)))
        given = {**given, **dict(zip(names, following, strict=True))}
    return [given[name] for name in names], writes


def _fitting(replay: Replay, body: Body, state: Sequence[Any], places: Places) -> Iterator[Found]:
    """The layers whose formula gives what the body gives, in all trials."""
    import numpy as np

    trials = _trials(replay, body, state, places)
    if trials is None:
        return
    hidden = trials[0].states[0].shape[-1]
    orders = list(itertools.permutations(range(len(places.hidden))))
    for kind, gates in GATES.items():
        if (kind == "lstm") != (len(places.hidden) == 2):
            continue
        for layer, order in itertools.product(
            _layers(trials[0].constants, trials[0].x.shape[-1], hidden, gates), orders
        ):
            if all(_agrees(kind, layer, order, trial) for trial in trials):
                chosen = tuple(places.hidden[i] for i in order)
                arrays = Layer(*(np.ascontiguousarray(a) for a in _arrays(layer)))
                yield Found(kind, arrays, Places(**{**vars(places), "hidden": chosen}))


def _arrays(layer: Layer) -> tuple[Array, ...]:
    return layer.weight_ih, layer.weight_hh, layer.bias_ih, layer.bias_hh


@dataclass(frozen=True)
class _Trial:
    """The body of a loop, run once on random values."""

    constants: tuple[Array, ...]
    x: Array
    states: tuple[Array, ...]
    results: tuple[Array, ...]
    written: Array


def _trials(replay: Replay, body: Body, state: Sequence[Any], places: Places) -> list[_Trial] | None:
    """The body run on random values; None where it needs what is not constant, or has states of other shapes."""
    import numpy as np
    import tensorflow as tf

    item, shapes = state[places.source][0].shape, [state[i].shape for i in places.hidden]
    if item.rank != 2 or any(shape.rank != 2 or shape[-1] != shapes[0][-1] for shape in shapes):
        return None
    if item[-1] is None or shapes[0][-1] is None:
        return None
    others = [i for i in range(len(state)) if i not in (places.source, places.sink, *places.hidden)]
    fixed = {i: known(state[i]) for i in others if not isinstance(state[i], list)}
    if any(value is None for value in fixed.values()) or len(fixed) != len(others):
        return None
    inside = [tf.make_ndarray(n.attr["value"].tensor) for n in body.nodes.values() if n.op == "Const"]
    constants = tuple(a for a in (*fixed.values(), *inside) if a.dtype == np.float32 and a.ndim in (1, 2))
    batch = item[0] or 1
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, (batch, item[-1]))
        states = [tf.compat.v1.placeholder(tf.float32, (batch, shape[-1])) for shape in shapes]
        feeds = {body.arguments[i]: tf.constant(value) for i, value in fixed.items()}
        feeds |= {body.arguments[i]: given for i, given in zip(places.hidden, states, strict=True)}
        feeds[body.arguments[places.source]] = lists.Items([x] * places.steps)
        feeds[body.arguments[places.sink]] = lists.Items([None] * len(state[places.sink]))
        wanted = [places.written, *(body.results[i] for i in places.hidden)]
        fetched = replay.run(body.nodes, feeds, wanted)
        random = np.random.default_rng(0)
        found = []
        for _ in range(TRIALS):
            given = random.normal(size=x.shape).astype(np.float32)
            before = [random.uniform(-1, 1, s.shape).astype(np.float32) for s in states]
            written, *after = session.run(fetched, {x: given, **dict(zip(states, before, strict=True))})
            found.append(_Trial(constants, given, tuple(before), tuple(after), written))
    return found


def _layers(constants: Sequence[Array], inputs: int, hidden: int, gates: int) -> Iterator[Layer]:
    """Every way to read the constants as a layer's weights; they are in Keras's layout, the layers in torch's."""
    import numpy as np

    turn = _gru_order if gates == 3 else np.asarray
    wide = gates * hidden
    kernels = [a for a in constants if a.shape == (inputs, wide)]
    recurrents = [a for a in constants if a.shape == (hidden, wide)]
    none = np.zeros(wide, np.float32)
    biases = [(none, none)]
    biases += [(a, none) for a in constants if a.shape == (wide,)]
    biases += [(a[0], a[1]) for a in constants if a.shape == (2, wide)]
    for kernel, recurrent, (own, other) in itertools.product(kernels, recurrents, biases):
        if kernel is not recurrent:
            yield Layer(turn(kernel.T), turn(recurrent.T), turn(own), turn(other))


def _agrees(kind: str, layer: Layer, order: Sequence[int], trial: _Trial) -> bool:
    import numpy as np

    results = formula(kind, layer, trial.x, [trial.states[i] for i in order])
    wanted = [trial.written, *(trial.results[i] for i in order)]
    return all(
        given.shape == want.shape and bool(np.abs(given - want).max(initial=0.0) <= TOLERANCE)
        for given, want in zip([results[0], *results], wanted, strict=True)
    )


def formula(kind: str, layer: Layer, x: Array, states: Sequence[Array]) -> list[Array]:
    """One step of torch.nn's LSTM, GRU or RNN: x (batch, inputs), states (batch, hidden) -> the next states."""
    import numpy as np

    weight_ih, weight_hh, bias_ih, bias_hh = _arrays(layer)
    own = x @ weight_ih.T + bias_ih
    past = states[0] @ weight_hh.T + bias_hh
    size = states[0].shape[-1]
    if kind == "lstm":
        entering, forgetting, new, leaving = np.split(own + past, 4, axis=-1)
        cell = _sigmoid(forgetting) * states[1] + _sigmoid(entering) * np.tanh(new)
        return [_sigmoid(leaving) * np.tanh(cell), cell]
    if kind.startswith("gru"):
        reset, update = np.split(_sigmoid((own + past)[:, : 2 * size]), 2, axis=-1)
        carried = reset * past[:, 2 * size :]
        if kind == "gru_before":
            carried = (reset * states[0]) @ weight_hh[2 * size :].T + bias_hh[2 * size :]
        return [(1 - update) * np.tanh(own[:, 2 * size :] + carried) + update * states[0]]
    return [np.tanh(own + past) if kind == "rnn_tanh" else np.maximum(own + past, 0)]


def _sigmoid(x: Array) -> Array:
    import numpy as np

    result: Array = 1 / (1 + np.exp(-x))
    return result


def _gru_order(array: Array) -> Array:
    """Keras's gates of a GRU (update, reset, new) in torch's order (reset, update, new); an LSTM's are the same."""
    import numpy as np

    update, reset, new = np.split(array, 3)
    return np.concatenate([reset, update, new])


def fused(found: Found, state: Sequence[Any], name: str) -> list[Any]:
    """The loop's results by one operator for the whole layer."""
    places = found.places
    x = lists.whole(state[places.source])
    make = _block_lstm if found.kind == "lstm" else _marker
    sequence, last = make(found, x, [state[i] for i in places.hidden], name)
    results = list(state)
    for index, value in (*places.counters.items(), *zip(places.hidden, last, strict=True)):
        results[index] = value
    results[places.sink] = lists.unstacked(sequence) if places.every else lists.Items([last[0]])
    return results


def _block_lstm(found: Found, x: Any, states: Sequence[Any], name: str) -> tuple[Any, list[Any]]:
    """TensorFlow's own operator for an LSTM, which coremltools makes Core ML's of: all hidden states, the last two."""
    import numpy as np
    import tensorflow as tf

    layer = found.layer
    weights = np.concatenate([layer.weight_ih.T, layer.weight_hh.T])
    none = tf.zeros(layer.weight_hh.shape[1])
    made = tf.raw_ops.BlockLSTMV2(
        seq_len_max=tf.constant(found.places.steps, tf.int64),
        x=x, cs_prev=states[1], h_prev=states[0], w=tf.constant(weights), wci=none, wcf=none, wco=none,
        b=tf.constant(layer.bias_ih + layer.bias_hh), name=name,
    )  # fmt: skip
    return made.h, [made.h[-1], made.cs[-1]]


def _marker(found: Found, x: Any, states: Sequence[Any], name: str) -> tuple[Any, list[Any]]:
    """An operator that TensorFlow has only on GPUs, for `translate` to find: all hidden states, and the last."""
    import numpy as np
    import tensorflow as tf

    first = tf.expand_dims(states[0], 0)
    sequence = tf.raw_ops.CudnnRNNV3(
        input=x,
        input_h=first,
        input_c=first,
        params=tf.constant(np.concatenate([array.ravel() for array in _arrays(found.layer)])),
        sequence_lengths=tf.fill([x.shape[1] or 1], found.places.steps),
        rnn_mode="gru",
        seed=list(GATES).index(found.kind),
        is_training=False,
        name=name,
    ).output
    return sequence, [sequence[-1]]


def translate(context: Any, node: Any) -> None:
    """The marker as MIL: its parameters cut into a layer again, and that as Core ML's own operator."""
    import numpy as np
    from coremltools.converters.mil import Builder as mb

    x, first, _, parameters = (context[name] for name in node.inputs[:4])
    kind = list(GATES)[int(node.attr["seed"])]
    inputs, size, gates = x.shape[-1], first.shape[-1], GATES[kind]
    lengths = [gates * size * inputs, gates * size * size, gates * size]
    flat = np.split(parameters.val, np.cumsum(lengths))
    layer = Layer(flat[0].reshape(-1, inputs), flat[1].reshape(-1, size), flat[2], flat[3])
    initial = (mb.squeeze(x=first, axes=[0]),)
    if kind == "gru":
        sequence, _ = gru_step(x, initial, layer)
    elif kind == "gru_before":
        sequence, _ = gru_before_step(x, initial, layer)
    else:
        sequence, _ = rnn_step(x, initial, layer, kind.removeprefix("rnn_"))
    context.add(node.name, mb.identity(x=sequence, name=node.name))
