"""The memory planner: live buffers never overlap, and it places them where TensorFlow Lite Micro's own does."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.exporters.runtimes.tflite_micro.arena.greedy import ALIGNMENT, Need, extent, place


@st.composite
def needs(draw: st.DrawFn, *, fixed: bool = False) -> Need:
    first = draw(st.integers(-1, 12))
    offset = draw(st.none() | st.integers(0, 20).map(lambda n: n * ALIGNMENT)) if fixed else None
    return Need(draw(st.integers(0, 9)) * ALIGNMENT, first, first + draw(st.integers(0, 6)), offset)


def as_written(given_needs: list[Need]) -> list[int]:
    """The algorithm of greedy_memory_planner.cc step by step: a swapping sort and a linked list."""
    count = len(given_needs)
    sizes, ids, offsets = [0] * count, [0] * count, [-1] * count
    tail, head = count, 0
    for i, need in enumerate(given_needs):
        if need.fixed is None:
            tail -= 1
            sizes[tail], ids[tail] = need.size, i
        else:
            sizes[head], ids[head], offsets[i] = need.size, i, need.fixed
            head += 1
    swapped = True
    while swapped:
        swapped = False
        for i in range(head + 1, count):
            if sizes[i - 1] < sizes[i]:
                sizes[i - 1], sizes[i] = sizes[i], sizes[i - 1]
                ids[i - 1], ids[i] = ids[i], ids[i - 1]
                swapped = True
    if not count:
        return []
    if given_needs[ids[0]].fixed is None:
        offsets[ids[0]] = 0
    following: dict[int, int | None] = {ids[0]: None}
    start = ids[0]

    def active(buffer: int | None, need: Need) -> int | None:
        current = start if buffer is None else following[buffer]
        while current is not None:
            other = given_needs[current]
            if not (other.first > need.last or need.first > other.last):
                return current
            current = following[current]
        return None

    for index in ids[1:]:
        need, candidate = given_needs[index], 0
        if need.fixed is None:
            prior: int | None = None
            while True:
                after = active(prior, need)
                if prior is not None:
                    candidate = max(candidate, offsets[prior] + given_needs[prior].size)
                if after is None or offsets[after] - candidate >= need.size:
                    break
                prior = after
        else:
            candidate = need.fixed
        offsets[index] = candidate
        if offsets[start] > candidate:
            following[index], start = start, index
            continue
        current = start
        while (beyond := following[current]) is not None and offsets[beyond] <= candidate:
            current = beyond
        following[index], following[current] = beyond, index
    return offsets


@settings(max_examples=150, deadline=None)
@given(st.lists(needs(fixed=True), max_size=14))
def test_the_offsets_are_those_of_the_algorithm_written_out(wanted: list[Need]) -> None:
    assert list(place(wanted)) == as_written(wanted)


@settings(max_examples=100, deadline=None)
@given(st.lists(needs(), max_size=20))
def test_buffers_that_live_together_do_not_share_bytes(wanted: list[Need]) -> None:
    offsets = place(wanted)
    for i, one in enumerate(wanted):
        assert offsets[i] >= 0
        assert offsets[i] % ALIGNMENT == 0
        for j in range(i):
            if one.overlaps(wanted[j]):
                assert offsets[i] + one.size <= offsets[j] or offsets[j] + wanted[j].size <= offsets[i]


@settings(max_examples=100, deadline=None)
@given(st.lists(needs(), min_size=1, max_size=20))
def test_the_head_lies_between_the_peak_and_the_sum(wanted: list[Need]) -> None:
    head = extent(wanted, place(wanted))
    alive = [sum(need.size for need in wanted if need.first <= step <= need.last) for step in range(-1, 20)]
    assert max(alive) <= head <= sum(need.size for need in wanted)


def test_of_equal_sizes_the_last_one_lies_lowest() -> None:
    assert place([Need(32, 0, 1), Need(32, 0, 1), Need(32, 1, 2)]) == (64, 32, 0)


def test_buffers_planned_beforehand_stay_where_they_are_and_may_overlap() -> None:
    assert place([Need(32, 0, 1, 16), Need(32, 0, 1, 16), Need(16, 0, 1), Need(32, 0, 1)]) == (16, 16, 0, 48)
