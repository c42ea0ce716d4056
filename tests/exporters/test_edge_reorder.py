"""The order with the lowest peak: never above the given one, a topological order, and the best there is."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.exporters.runtimes.tflite_micro.reorder import Work, greedy, lowest, peak


@st.composite
def graphs(draw):
    """Up to six operators, each with one output, that read the input (0) or earlier outputs."""
    count = draw(st.integers(1, 6))
    works = []
    for index in range(count):
        reads = draw(st.sets(st.integers(0, index), min_size=1, max_size=min(3, index + 1)))
        works.append(Work(frozenset(reads), frozenset({index + 1})))
    sizes = {t: 16 * draw(st.integers(1, 50)) for t in range(count + 1)}
    read = set().union(*(work.reads for work in works))
    outputs = [t for t in range(1, count + 1) if t not in read]
    return works, sizes, [0], outputs


def is_topological(works, order) -> bool:
    made = {0}
    for index in order:
        if not works[index].reads <= made:
            return False
        made |= works[index].writes
    return sorted(order) == list(range(len(works)))


@given(graphs())
@settings(deadline=None, max_examples=150)
def test_no_other_order_has_a_lower_peak(graph):
    works, sizes, inputs, outputs = graph
    order = lowest(works, sizes, inputs, outputs)
    assert is_topological(works, order)
    found = peak(works, sizes, inputs, outputs, order)
    every = (o for o in itertools.permutations(range(len(works))) if is_topological(works, o))
    assert found == min(peak(works, sizes, inputs, outputs, list(o)) for o in every)


def test_two_branches_run_one_after_the_other():
    # 0 -> 1 (large) -> 3 (small), 0 -> 2 (large) -> 4 (small), 3 + 4 -> 5; written breadth first
    works = [
        Work(frozenset({0}), frozenset({1})),
        Work(frozenset({0}), frozenset({2})),
        Work(frozenset({1}), frozenset({3})),
        Work(frozenset({2}), frozenset({4})),
        Work(frozenset({3, 4}), frozenset({5})),
    ]
    sizes = {0: 16, 1: 1600, 2: 1600, 3: 16, 4: 16, 5: 16}
    assert peak(works, sizes, [0], [5], [0, 1, 2, 3, 4]) == 16 + 1600 + 1600
    order = lowest(works, sizes, [0], [5])
    assert peak(works, sizes, [0], [5], order) == 1600 + 16 + 16


@given(graphs())
@settings(deadline=None, max_examples=150)
def test_the_greedy_order_is_an_order(graph):
    works, sizes, inputs, outputs = graph
    order = greedy(works, sizes, inputs, outputs)
    assert is_topological(works, order)
    assert peak(works, sizes, inputs, outputs, order) >= peak(
        works, sizes, inputs, outputs, lowest(works, sizes, inputs, outputs)
    )


def test_a_graph_too_wide_for_the_search_still_runs_its_branches_one_by_one():
    # Sixteen branches of a large and a small value each, written breadth first, and a sum of the small ones.
    wide, small = range(1, 17), range(17, 33)
    works = [Work(frozenset({0}), frozenset({t})) for t in wide]
    works += [Work(frozenset({w}), frozenset({s})) for w, s in zip(wide, small, strict=True)]
    works.append(Work(frozenset(small), frozenset({33})))
    sizes = {0: 16, 33: 16, **dict.fromkeys(wide, 1600), **dict.fromkeys(small, 16)}
    assert lowest(works, sizes, [0], [33]) is None
    order = greedy(works, sizes, [0], [33])
    assert peak(works, sizes, [0], [33], order) < 2000 < peak(works, sizes, [0], [33], range(len(works)))
