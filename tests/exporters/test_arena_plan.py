"""The arena of a file: TensorFlow Lite Micro's own figures for tiny models, and what cannot be planned."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.exporters.litert import flatbuffer
from modelport.exporters.runtimes.tflite_micro.arena import plan, with_offline_plan
from modelport.exporters.runtimes.tflite_micro.arena.reading import OFFLINE, read
from modelport.exporters.runtimes.tflite_micro.arena.structures import structures
from modelport.exporters.runtimes.tflite_micro.operators import registered
from modelport.targets.errors import ModelportError, SourceUnreadable, Unsupported
from tiny_edge import TINY, conv_mean, crossing
from tiny_tflite import O, T, model, zeros

MEASURED = {
    ("conv_mean", 8): (192, 1360, 1856),
    ("crossing", 8): (352, 1648, 1760),
    ("matmul", 8): (144, 1056, 1056),
    ("transpose_conv", 8): (688, 1456, 1456),
    ("variable", 8): (32, 736, 944),
    ("conv_mean", 4): (192, 924, 1344),
    ("crossing", 4): (352, 1144, 1232),
    ("matmul", 4): (144, 716, 720),
    ("transpose_conv", 4): (688, 1164, 1168),
    ("variable", 4): (32, 460, 608),
}
"""What TensorFlow Lite Micro 90b983c2b3f1 reported: head, total and smallest arena, in bytes, by size of a pointer.

It ran on an x86-64 host, and as a 32-bit program whose 8-byte numbers are aligned to 8 as on Arm."""


@pytest.mark.parametrize(("name", "pointer"), sorted(MEASURED))
def test_the_arena_is_the_one_that_tensorflow_lite_micro_takes(name: str, pointer: int) -> None:
    found = plan(flatbuffer.write(TINY[name]()), pointer)
    head, total, smallest = MEASURED[name, pointer]
    assert (found.head, found.total) == (head, total)
    assert smallest <= found.needed <= smallest + 512


def test_narrow_pointers_take_a_smaller_tail_and_the_same_head() -> None:
    data = flatbuffer.write(conv_mean())
    narrow, wide = plan(data, 4), plan(data, 8)
    assert narrow.head == wide.head
    assert narrow.tail < wide.tail
    assert sum(narrow.parts.values()) == narrow.tail


def test_the_peak_is_named() -> None:
    found = plan(flatbuffer.write(conv_mean()), 4)
    assert found.peak_operator == "CONV_2D (operator 0)"
    assert (found.peak_tensor, found.peak_tensor_bytes) == ("t0", 112)
    assert found.peak_bytes == 112 + 80
    assert found.peak_bytes <= found.head


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("conv_mean", [32, 16, 16]), ("transpose_conv", [4 * 8 * 8 * 2]), ("matmul", []), ("crossing", [])],
)
def test_kernels_get_the_scratch_buffers_that_they_ask_for(name: str, sizes: list[int]) -> None:
    found = plan(flatbuffer.write(TINY[name]()))
    scratch = [buffer for buffer in found.buffers if buffer.tensor is None]
    assert [buffer.bytes for buffer in scratch] == sizes
    assert all(buffer.first == buffer.last for buffer in scratch)


def test_a_plan_in_the_file_is_followed_and_needs_no_more() -> None:
    given_model = crossing()
    before = plan(flatbuffer.write(given_model))
    written = with_offline_plan(given_model, before)
    after = plan(flatbuffer.write(written))
    assert after.offsets == before.offsets
    assert after.head == before.head
    again = with_offline_plan(written, after)
    assert [entry.name for entry in again.metadata] == [OFFLINE.encode()]
    assert given_model.metadata is None, "the model that was given is left as it was"


def test_a_plan_for_other_tensors_is_refused() -> None:
    written = with_offline_plan(crossing(), plan(flatbuffer.write(crossing())))
    written.subgraphs[0].tensors.append(written.subgraphs[0].tensors[0])
    with pytest.raises(SourceUnreadable, match="9 offsets for 10 tensors"):
        plan(flatbuffer.write(written))


def test_weights_outside_the_file_are_refused() -> None:
    given_model = conv_mean()
    given_model.buffers[1].data, given_model.buffers[1].offset, given_model.buffers[1].size = None, 4096, 135
    with pytest.raises(Unsupported, match="1 of 5 buffers lie outside"):
        plan(_packed(given_model))


def _packed(given_model: Any) -> bytes:
    """The model as the schema's own code packs it, with offsets of buffers as they are."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(given_model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("tensors", "operator", "message"),
    [
        ([T((1, -1)), T((1, 4))], O("RELU", (0,), (1,)), "only known while running"),
        ([T((4,)), T((4,))], O("GELU", (0,), (1,), "GeluOptions"), "the arena of GELU is not known"),
        ([T((4,), "STRING"), T((4,))], O("RELU", (0,), (1,)), "no STRING tensors"),
        ([T((4,)), T((4,))], O("RELU", (0,), (5,)), "an operator names tensor 5 of 2"),
        ([T((2**20, 2**12)), T((4,))], O("RELU", (0,), (1,)), "sizes end at 2 GiB"),
        ([T((1, 4, 4, 1)), zeros(1, 1)], O("CONV_2D", (0, -1), (1,), "Conv2DOptions"), "no input 1"),
        (
            [T((1, 4, 4, 1)), zeros(1, 1)],
            O("DEPTHWISE_CONV_2D", (0, 1), (0,)),
            r"no inputs of \[\[1, 4, 4, 1\], ",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(tensors: list[T], operator: O, message: str) -> None:
    with pytest.raises(ModelportError, match=message):
        plan(flatbuffer.write(model(tensors, [operator], [0], [1])))


def test_another_kind_of_file_is_refused() -> None:
    with pytest.raises(SourceUnreadable, match="TFL3"):
        plan(b"PK\x03\x04 and more")


VALID = flatbuffer.write(crossing())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(8, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_bytes_raise_an_error_of_ours_or_none(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(VALID)
    for place, value in changes:
        damaged[place] = value
    with contextlib.suppress(ModelportError):
        plan(bytes(damaged))


def test_every_registered_operator_has_its_structures() -> None:
    without = {"ASSIGN_VARIABLE", "READ_VARIABLE", "VAR_HANDLE"}
    assert set(structures(4).operators) == set(registered().methods) - without
    assert structures(4).version == registered().version


def test_only_two_sizes_of_a_pointer_are_known() -> None:
    with pytest.raises(ValueError, match="4 or 8"):
        plan(VALID, 2)


def test_constants_take_no_memory() -> None:
    program = read(flatbuffer.write(conv_mean()))
    assert [tensor.constant for tensor in program.subgraphs[0].tensors] == [
        False, True, True, False, True, False, True, False,
    ]  # fmt: skip
    assert {key[1] for key in plan(flatbuffer.write(conv_mean())).offsets} == {0, 3, 5, 7}
    assert dataclasses.is_dataclass(program)
