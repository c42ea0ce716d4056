from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.sources import flops
from modelport.sources.flops import Step
from modelport.sources.torch_program import symbolic


def test_a_linear_layer_is_two_operations_a_weight_and_row() -> None:
    assert flops.gemm(3, 5, 7) == 210


def test_a_convolution_counts_each_output_element_once_a_kernel() -> None:
    assert flops.conv((8, 10, 10), 3, (3, 3)) == 2 * 800 * 27


def test_depthwise_is_one_group_a_channel() -> None:
    assert [flops.conv_class(g, 8) for g in (1, 2, 8)] == ["conv", "conv", "depthwise"]
    assert flops.conv_class(1, 1) == "conv"


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((2, 3), (3, 4), 48),
        ((5, 2, 3), (3, 4), 240),
        ((5, 1, 2, 3), (7, 3, 4), 5 * 7 * 48),
        ((3,), (3,), 6),
        ((3,), (3, 4), 24),
        ((2, 3), (3,), 12),
        ((2, 3), (4, 5), None),
        ((2, 2, 3), (3, 3, 4), None),
        ((), (3,), None),
    ],
)
def test_matmul_broadcasts_as_numpy_does(
    left: tuple[int, ...], right: tuple[int, ...], expected: int | None
) -> None:
    assert flops.matmul(left, right) == expected


def test_attention_is_two_products_a_head() -> None:
    assert flops.attention(4, 16, 16, 8) == 2 * flops.gemm(16, 8, 16) * 4


def test_recurrent_layers_multiply_each_weight_once_a_step() -> None:
    assert flops.recurrent(steps=10, inputs=3, units=5, gates=4) == 10 * 2 * (4 * 5 * 3 + 4 * 5 * 5)


def test_what_has_no_cost_by_element_is_unknown() -> None:
    assert flops.per_element("softmax", (2, 3)) == 30
    assert flops.per_element("unknown", (2, 3)) is None


def chain(*steps: Step) -> int:
    return flops.liveness(steps, {"x": 10}, [next(iter(steps[-1].outputs))])


def test_an_activation_dies_after_its_last_use() -> None:
    assert chain(Step(["x"], {"a": 100}), Step(["a"], {"b": 1}), Step(["b"], {"c": 50})) == 110


def test_a_skip_connection_keeps_its_source_alive() -> None:
    assert chain(Step(["x"], {"a": 100}), Step(["a"], {"b": 60}), Step(["b", "x"], {"c": 10})) == 170


def test_a_view_takes_no_memory_and_keeps_what_it_views() -> None:
    views = (
        Step(["x"], {"a": 100}),
        Step(["a"], {"v": 100}, alias=True),
        Step(["w"], {"b": 5}),
        Step(["v"], {"c": 1}),
    )
    assert chain(*views) == 110
    assert chain(*views[:2], Step(["v"], {"c": 30}), Step(["c"], {"d": 90})) == 130


def test_weights_are_no_activations() -> None:
    assert chain(Step(["x", "weight"], {"a": 3})) == 13


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_liveness_agrees_with_counting_by_hand(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    sizes = {"x": data.draw(st.integers(0, 9))}
    steps: list[Step] = []
    for index in range(count):
        inputs = data.draw(st.lists(st.sampled_from(sorted(sizes)), max_size=3))
        sizes[f"v{index}"] = data.draw(st.integers(0, 9))
        steps.append(Step(inputs, {f"v{index}": sizes[f"v{index}"]}))
    outputs = data.draw(st.lists(st.sampled_from(sorted(sizes)), max_size=2))

    def alive(name: str, at: int) -> bool:
        born = -1 if name == "x" else int(name[1:])
        uses = [i for i, step in enumerate(steps) if name in step.inputs]
        last = count if name in outputs else max([born, *uses])
        return born <= at and (at <= last or (name == "x" and not uses))

    peak = max(sum(sizes[n] for n in sizes if alive(n, at)) for at in range(-1, count))
    assert flops.liveness(steps, {"x": sizes["x"]}, outputs) == peak


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Symbol('s0', positive=True, integer=True)", 6),
        ("Mul(Integer(2), Symbol('s0'))", 12),
        ("Add(Pow(Symbol('s0'), Integer(2)), Integer(-1))", 35),
        ("FloorDiv(Add(Symbol('s0'), Integer(-1)), Integer(2))", 2),
        ("Max(Symbol('s0'), Integer(9))", 9),
        ("Mul(Rational(1, 2), Symbol('s0'))", 3),
        ("(s0 + 1)//2 - 1", 2),
        ("Mod(s0, 4)", 2),
    ],
)
def test_size_expressions_have_the_value_that_sympy_gives(text: str, value: int) -> None:
    assert symbolic.evaluate(text, {"s0": 6}) == value
    assert symbolic.symbols(text) == ("s0",)


@pytest.mark.parametrize(
    "text",
    ["", "s0 + ", "exec('1')", "Symbol(s0)", "Symbol('a b')", "s0.x", "[s0]", "s0 if s0 else 1", "Integer('1')",
     "f's'", "2**2000", "Mul(*[1])", "Mul(x=1)", "Symbol('s0', __class__=True)", "'text'", "1j", "()" * 3000],
)  # fmt: skip
def test_anything_else_is_no_size_expression(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        symbolic.symbols(text)


@pytest.mark.parametrize(
    "text", ["s1", "FloorDiv(s0, 0)", "s0/4", "Pow(s0, Integer(65))", "Pow(10, Integer(64))"]
)
def test_a_size_that_cannot_be_known_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        symbolic.evaluate(text, {"s0": 6})


def test_expressions_are_shown_as_people_write_them() -> None:
    assert symbolic.readable("Symbol('s0', positive=True)") == "s0"
    assert symbolic.readable("Mul(Integer(2), Symbol('s0'))") == "2*s0"


@settings(deadline=None, max_examples=60)
@given(text=st.text(alphabet="s01()+-*/.,'PowMulSymbol ", max_size=40))
def test_no_text_does_worse_than_value_error(text: str) -> None:
    try:
        found = symbolic.symbols(text)
        symbolic.evaluate(text, dict.fromkeys(found, 2))
    except ValueError:
        pass


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_convolutions_cost_what_torch_counts(data: st.DataObject) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    groups = data.draw(st.sampled_from([1, 2, 4]))
    kernel = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    stride = data.draw(st.integers(1, 2))
    layer = torch.nn.Conv2d(4, 8, kernel, stride=stride, groups=groups, padding=1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = layer(torch.ones(1, 4, 9, 7))
    assert flops.conv(tuple(out.shape), 4 // groups, kernel) == counter.get_total_flops()
    up = torch.nn.ConvTranspose2d(4, 8, kernel, stride=stride, groups=groups)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        up(torch.ones(1, 4, 9, 7))
    assert flops.conv_transpose((1, 4, 9, 7), 8 // groups, kernel) == counter.get_total_flops()


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    batch=st.lists(st.integers(1, 3), max_size=2),
    m=st.integers(1, 5),
    k=st.integers(1, 5),
    n=st.integers(1, 5),
)
def test_products_cost_what_torch_counts(batch: list[int], m: int, k: int, n: int) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    left, right = (*batch, m, k), (*batch, k, n)
    with FlopCounterMode(display=False) as counter:
        torch.ones(left) @ torch.ones(right)
    assert flops.matmul(left, right) == counter.get_total_flops() == prod(batch) * flops.gemm(m, k, n)


def test_an_einsum_costs_a_multiply_add_per_point_of_its_index_space() -> None:
    assert flops.einsum("b i k, b k j -> b i j", [(2, 3, 5), (2, 5, 7)]) == 2 * 2 * 3 * 5 * 7
    assert flops.einsum("ij->i", [(3, 4)]) == 12
    assert flops.einsum("...ij,jk->...ik", [(2, 3, 4), (4, 5)]) is None
    assert flops.einsum("ij,jk->ik", [(3, 4), None]) is None
