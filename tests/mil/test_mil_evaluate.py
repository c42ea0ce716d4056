"""The evaluator on packages that coremltools wrote, and on programs made to be difficult."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mil_packages as made
import mil_wire as w
from modelport.mil import compile as compiling
from modelport.mil.evaluate import Evaluator
from modelport.mil.ops import OPS
from modelport.mil.package import open_package
from modelport.mil.program import Operation, Program, UnknownOperator
from modelport.mil.values import Inputs
from modelport.targets.errors import ModelportError, SourceUnreadable, UsageError

pytestmark = pytest.mark.slow


class Net(torch.nn.Module):
    """Convolutions of every kind of padding and grouping, pools, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, groups=8, dilation=2, padding=2)
        self.up = torch.nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
        self.last = torch.nn.Linear(4 * 8 * 8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.relu6(self.first(x))
        x = torch.nn.functional.gelu(self.depthwise(x)) + x
        x = torch.nn.functional.avg_pool2d(self.up(x), 3, stride=2, padding=1, count_include_pad=False)
        x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, 1:-1, 1:-1].flatten(1)
        return self.last(x)


def evaluator(path: Path, **options: Any) -> Evaluator:
    return Evaluator(open_package(path).program, **options)


def single(values: Any) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def decibels(signal: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    return float(10 * np.log10(np.square(signal).sum() / np.square(signal - found).sum()))


@pytest.mark.parametrize("target", made.IOS)
def test_a_network_of_every_opset_computes_what_torch_does(tmp_path: Path, target: str) -> None:
    net, x = Net().eval(), torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        expected = net(x).numpy()
    package = open_package(made.trace(tmp_path / "full.mlpackage", net, x, target))
    assert (
        package.program.main.opset
        == {"iOS15": "CoreML5", "iOS16": "CoreML6", "iOS17": "CoreML7", "iOS18": "CoreML8"}[target]
    )
    found = Evaluator(package.program).run({"x": x.numpy()})["y"]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    half = made.trace(tmp_path / "half.mlpackage", net, x, target, half=True)
    rounded, exact = (
        evaluator(half, rounding=rounding).run({"x": x.numpy()})["y"] for rounding in (True, False)
    )
    assert min(decibels(expected, rounded), decibels(expected, exact)) >= 50
    assert np.array_equal(rounded, rounded.astype(np.float16))
    assert not np.array_equal(exact, exact.astype(np.float16))


def test_float16_overflows_as_on_a_device_only_with_rounding(tmp_path: Path) -> None:
    def body(mb: Any, x: Any) -> Any:
        return mb.mul(x=mb.mul(x=x, y=np.float32(300)), y=np.float32(0.001))

    path = made.build(tmp_path / "m.mlpackage", body, [(2,)], half=True)
    x = np.array([1, 300], np.float32)
    seen: dict[str, np.ndarray[Any, Any]] = {}
    (output,) = evaluator(path).run({"x0": x}, watch=seen.__setitem__).values()
    assert output[1] == np.inf
    assert np.isfinite(output[0])
    (exact,) = evaluator(path, rounding=False).run({"x0": x}, watch=seen.__setitem__).values()
    np.testing.assert_allclose(exact, x * 0.3, rtol=1e-3)
    assert any(value.max() == 90_000 for value in seen.values())


def test_every_computed_value_is_watched_by_name(tmp_path: Path) -> None:
    path = made.build(
        tmp_path / "m.mlpackage",
        lambda mb, x: mb.relu(x=mb.sub(x=x, y=np.float32(1), name="less"), name="kept"),
        [(3,)],
    )
    seen: dict[str, list[float]] = {}
    evaluator(path).run(
        {"x0": single([0, 1, 2])}, watch=lambda name, value: seen.update({name: value.tolist()})
    )
    assert seen == {"less": [-1, 0, 1], "kept": [0, 0, 1]}


def test_conditions_see_the_values_around_them(tmp_path: Path) -> None:
    def body(mb: Any, x: Any) -> Any:
        twice = mb.mul(x=x, y=np.float32(2))
        pred = mb.greater(x=mb.reduce_sum(x=x, keep_dims=False), y=np.float32(0))
        return mb.cond(
            pred=pred, _true_fn=lambda: mb.add(x=twice, y=x), _false_fn=lambda: mb.sub(x=twice, y=x)
        )

    run = evaluator(made.build(tmp_path / "m.mlpackage", body, [(2,)])).run
    assert next(iter(run({"x0": single([1, 2])}).values())).tolist() == [3, 6]
    assert next(iter(run({"x0": single([-1, -2])}).values())).tolist() == [-1, -2]


def test_a_loop_runs_until_its_condition_fails(tmp_path: Path) -> None:
    def body(mb: Any, x: Any) -> Any:
        turns = mb.while_loop(
            _cond=lambda n, v: mb.less(x=n, y=np.float32(5)),
            _body=lambda n, v: (mb.add(x=n, y=np.float32(1)), mb.mul(x=v, y=np.float32(2))),
            loop_vars=(np.float32(0), x),
        )
        return turns[1]

    run = evaluator(made.build(tmp_path / "m.mlpackage", body, [(2,)])).run
    assert next(iter(run({"x0": single([1, 3])}).values())).tolist() == [32, 96]


def test_a_state_is_kept_between_runs(tmp_path: Path) -> None:
    import coremltools

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(2, dtype=torch.float16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total.add_(x)
            return self.total * 1

    states = [coremltools.StateType(wrapped_type=coremltools.TensorType(shape=(2,)), name="total")]
    path = made.trace(tmp_path / "m.mlpackage", Sum(), torch.zeros(2), "iOS18", half=True, states=states)
    package = open_package(path)
    assert [(state.name, state.shape) for state in package.states] == [("total", (2,))]
    ready = Evaluator(package.program)
    assert [given.name for given in ready.inputs] == ["x"]
    totals = [ready.run({"x": single([1, 2])})["y"].tolist() for _ in range(3)]
    assert totals == [[1, 2], [2, 4], [3, 6]]
    ready.reset()
    assert ready.run({"x": single([1, 2])})["y"].tolist() == [1, 2]


def test_free_sizes_are_taken_from_the_feed(tmp_path: Path) -> None:
    import coremltools

    free = coremltools.RangeDim(1, 8, default=4)

    class Turned(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x.transpose(1, 2), -1)

    traced = torch.jit.trace(Turned(), torch.zeros(1, 4, 3))
    inputs = [coremltools.TensorType("x", (1, free, 3))]
    path = made.save(traced, tmp_path / "m.mlpackage", inputs=inputs, outputs=[coremltools.TensorType("y")])
    package = open_package(path)
    assert package.inputs[0].ranges == ((1, 1), (1, 8), (3, 3))
    ready = Evaluator(package.program)
    for size in (1, 5):
        assert ready.run({"x": np.zeros((1, size, 3), np.float32)})["y"].shape == (1, 3, size)
    with pytest.raises(UsageError, match=r"input x.*\[1, 5, 4\]|\[1, 5, 4\] is given"):
        ready.run({"x": np.zeros((1, 5, 4), np.float32)})


def test_an_input_that_is_not_given_is_named(tmp_path: Path) -> None:
    path = made.build(tmp_path / "m.mlpackage", lambda mb, x: mb.relu(x=x), [(2,)])
    with pytest.raises(UsageError, match="input x0"):
        evaluator(path).run({"x": np.zeros(2, np.float32)})


def test_compressed_weights_are_expanded_once_for_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(mb: Any, x: Any) -> Any:
        packed = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
        weight = mb.constexpr_affine_dequantize(
            quantized_data=packed, zero_point=np.int8(1), scale=np.float32(0.5), axis=0
        )
        return mb.linear(x=x, weight=weight)

    calls = []
    known = OPS["constexpr_affine_dequantize"]

    def counted(op: Operation, x: Inputs) -> tuple[Any, ...]:
        calls.append(op.name)
        return known(op, x)

    monkeypatch.setitem(OPS, "constexpr_affine_dequantize", counted)
    ready = evaluator(made.build(tmp_path / "m.mlpackage", body, [(1, 3)], "iOS16"))
    weight = (np.arange(-6, 6).reshape(4, 3) - 1) * 0.5
    for _ in range(2):
        (found,) = ready.run({"x0": single([[1, 2, 3]])}).values()
        np.testing.assert_allclose(found[0], weight @ [1, 2, 3])
    assert len(calls) == 1


# Programs that no converter writes.


def chain(*operations: bytes, inputs: tuple[bytes, ...] = (), outputs: tuple[str, ...] = ("y",)) -> bytes:
    return w.model(w.program(inputs or (w.named("x", "fp32", (4, 3)),), operations, outputs))


def loaded(tmp_path: Path, message: bytes, data: bytes = b"") -> Program:
    return open_package(w.write(tmp_path / "m.mlpackage", message, data)).program


def test_an_operator_that_is_not_known_is_named_before_anything_runs(tmp_path: Path) -> None:
    program = loaded(
        tmp_path, chain(w.operation("conjure", w.named("y", "fp32", (4, 3)), {"x": "x"}, name="rabbit"))
    )
    with pytest.raises(UnknownOperator, match=r"operation rabbit: .* conjure") as caught:
        Evaluator(program)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.name, again.operator, str(again)) == ("rabbit", "conjure", str(caught.value))


def test_a_result_of_another_shape_than_declared_is_found(tmp_path: Path) -> None:
    program = loaded(tmp_path, chain(w.operation("relu", w.named("y", "fp32", (3, 4)), {"x": "x"}, name="r")))
    with pytest.raises(SourceUnreadable, match=r"relu gives \[4, 3\], \[3, 4\] is declared"):
        Evaluator(program).run({"x": np.zeros((4, 3), np.float32)})


def test_what_torch_refuses_names_the_operation(tmp_path: Path) -> None:
    program = loaded(
        tmp_path,
        chain(w.operation("matmul", w.named("y", "fp32", (4, 3)), {"x": "x", "y": "x"}, name="square")),
    )
    with pytest.raises(SourceUnreadable, match="operation square: matmul cannot be computed"):
        Evaluator(program).run({"x": np.zeros((4, 3), np.float32)})


def test_a_declared_size_beyond_all_memory_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    program = loaded(tmp_path, chain(w.operation("relu", w.named("y", "fp32", (1 << 40,)), {"x": "x"})))
    with pytest.raises(SourceUnreadable, match="at most"):
        Evaluator(program)


def test_every_value_dies_after_its_last_use(tmp_path: Path) -> None:
    kind = ("fp32", (4, 3))
    parts = [w.operation("relu", w.named("a", *kind), {"x": "x"})]
    parts += [w.operation("abs", w.named("b", *kind), {"x": "a"})]
    parts += [w.operation("add", w.named("unused", *kind), {"x": "b", "y": "x"})]
    parts += [w.operation("mul", w.named("y", *kind), {"x": "a", "y": "b"})]
    code = compiling.compile_block(loaded(tmp_path, chain(*parts)).main.block, True)
    assert [step.dead for step in code.steps] == [(), (), ("unused", "x"), ("a", "b")]


def test_constants_are_views_of_the_weight_file_that_stays_as_it_is(tmp_path: Path) -> None:
    held = np.arange(12, dtype=np.float32)
    data, (offset,) = w.weights([("fp32", held.tobytes())])
    message = chain(w.constant("y", "fp32", (4, 3), w.stored("fp32", (4, 3), offset)))
    program = loaded(tmp_path, message, data)
    constant = program.main.block.operations[0].attributes["val"]
    first, second = compiling.carried(constant), compiling.carried(constant)
    assert first.data_ptr() == second.data_ptr()
    assert np.array_equal(Evaluator(program).run({"x": held.reshape(4, 3)})["y"].ravel(), held)
    first.fill_(0)
    stored = (tmp_path / "m.mlpackage/Data/com.apple.CoreML/weights/weight.bin").read_bytes()
    assert stored == data


def test_the_thread_count_holds_for_the_run_alone(tmp_path: Path) -> None:
    program = loaded(tmp_path, chain(w.operation("relu", w.named("y", "fp32", (4, 3)), {"x": "x"})))
    before, seen = torch.get_num_threads(), []
    feeds = {"x": np.zeros((4, 3), np.float32)}
    Evaluator(program, threads=before + 1).run(feeds, watch=lambda *_: seen.append(torch.get_num_threads()))
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_another_function_than_the_default_is_run_by_name(tmp_path: Path) -> None:
    parts = {name: w.operation(name, w.named("y", "fp32", (4, 3)), {"x": "x"}) for name in ("relu", "abs")}
    body = b"".join(
        w.program([w.named("x", "fp32", (4, 3))], [part], ["y"], name) for name, part in parts.items()
    )
    with pytest.raises(SourceUnreadable, match="the function main is missing"):
        loaded(tmp_path, w.model(body))
    program = loaded(tmp_path, w.model(body, default="abs"))
    feeds = {"x": np.full((4, 3), -2, np.float32)}
    assert Evaluator(program).run(feeds)["y"][0, 0] == 2
    assert Evaluator(program, function="relu").run(feeds)["y"][0, 0] == 0


def everything() -> tuple[bytes, bytes]:
    """A program of several kinds of operators, constants and types, and its weights: what is damaged below."""
    kernel = np.arange(54, dtype=np.float16)
    data, (offset,) = w.weights([("fp16", kernel.tobytes())])
    parts = [
        w.constant("k", "fp16", (2, 3, 3, 3), w.stored("fp16", (2, 3, 3, 3), offset)),
        w.operation(
            "conv",
            w.named("c", "fp16", (1, 2, 4, 4)),
            {"x": "x", "weight": "k", "pad_type": w.text("same")},
            name="c",
        ),
        w.operation("relu", w.named("r", "fp16", (1, 2, 4, 4)), {"x": "c"}),
        w.operation(
            "concat", w.named("j", "fp16", (1, 4, 4, 4)), {"values": ["r", "c"], "axis": w.ints([1], ())}
        ),
        w.operation(
            "reshape", w.named("y", "fp16", (4, 16)), {"x": "j", "shape": w.ints([4, 16], (2,))}, name="last"
        ),
    ]
    return chain(*parts, inputs=(w.named("x", "fp16", (1, 3, 4, 4)),)), data


def attempt(folder: Path, message: bytes, data: bytes) -> dict[str, np.ndarray[Any, Any]] | None:
    try:
        program = open_package(w.write(folder / "damaged.mlpackage", message, data)).program
        return Evaluator(program, threads=1).run({"x": np.ones((1, 3, 4, 4), np.float32)})
    except ModelportError:
        return None


@settings(max_examples=300, deadline=None)
@given(
    place=st.integers(0, 10_000), change=st.integers(0, 255), kind=st.sampled_from(["set", "cut", "insert"])
)
def test_a_damaged_program_is_one_error_or_runs(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int, kind: str
) -> None:
    message, data = everything()
    place %= len(message)
    edits: dict[str, Callable[[], bytes]] = {
        "set": lambda: message[:place] + bytes([change]) + message[place + 1 :],
        "cut": lambda: message[:place] + message[place + 1 + change % 4 :],
        "insert": lambda: message[:place] + bytes([change]) + message[place:],
    }
    attempt(tmp_path_factory.getbasetemp(), edits[kind](), data)


def test_the_program_that_is_damaged_there_runs_when_it_is_whole(tmp_path: Path) -> None:
    found = attempt(tmp_path, *everything())
    assert found is not None
    x, kernel = torch.ones(1, 3, 4, 4), torch.arange(54.0).reshape(2, 3, 3, 3)
    c = torch.nn.functional.conv2d(x, kernel, padding=1)
    assert np.array_equal(found["y"], torch.cat([c.relu(), c], 1).reshape(4, 16).numpy())
