"""The protobuf reader: agrees with google.protobuf, and answers damage with one error and no hang."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.sources.files import protobuf
from modelport.targets.errors import SourceUnreadable
from wire import field, varint

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.lists(INT64, max_size=30), st.booleans())
def test_repeated_integers_are_read_packed_and_unpacked(values: list[int], packed: bool) -> None:
    if packed:
        data = field(7, b"".join(map(varint, values)))
    else:
        data = b"".join(varint(7 << 3) + varint(value) for value in values)
    message = protobuf.parse(data, "x")
    assert message.integers(7) == values
    assert message.count(7) == len(values)


@given(st.lists(st.text(max_size=20), max_size=5), st.floats(width=32, allow_nan=False), INT64)
def test_texts_floats_and_messages_come_back(texts: list[str], number: float, integer: int) -> None:
    inner = b"".join(field(1, text.encode()) for text in texts) + b"\x15" + struct.pack("<f", number)
    data = field(3, inner) + varint(1 << 3) + varint(integer) + b"\x21" + bytes(8)
    message = protobuf.parse(data, "x")
    child = message.message(3, "child")
    assert child is not None
    assert child.texts(1) == texts
    assert child.float32(2) == number
    assert message.integer(1) == integer
    assert 4 in message
    assert 5 not in message


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_random_bytes_give_fields_or_one_error(data: bytes) -> None:
    message = protobuf.parse(data, "x")
    try:
        for number in list(message.index):
            for child in message.messages(number, "child"):
                child.texts(1)
                child.integers(2)
                child.float32(3)
    except SourceUnreadable as error:
        assert error.where.startswith("x")  # noqa: PT017 - either outcome is right


@given(st.integers(1, 5), st.binary(min_size=1, max_size=40), st.data())
def test_truncation_is_refused_or_ends_between_fields(
    count: int, payload: bytes, data: st.DataObject
) -> None:
    whole = field(1, payload) * count
    cut = data.draw(st.integers(1, len(whole) - 1))
    message = protobuf.parse(whole[:cut], "x")
    if cut % len(field(1, payload)) == 0:
        assert len(message.spans(1)) < count
    else:
        with pytest.raises(SourceUnreadable, match="byte"):
            message.spans(1)


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"\x0a\xff\xff\xff\xff\x0f", "are left"),
        (b"\x08" + b"\xff" * 11, "longer than 10"),
        (b"\x08\x80", "past the end"),
        (b"\x0b", "wire type 3"),
        (b"\x00\x00", "field number 0"),
        (b"\x0d\x00", "4 bytes are expected"),
    ],
)
def test_damage_is_named_with_its_byte(data: bytes, fact: str) -> None:
    with pytest.raises(SourceUnreadable, match=fact) as caught:
        _ = protobuf.parse(data, "model.onnx").index
    assert caught.value.where.startswith("model.onnx")
    assert "at byte" in str(caught.value)


def test_the_wrong_wire_type_is_refused() -> None:
    with pytest.raises(SourceUnreadable, match="expected"):
        protobuf.parse(b"\x0d\x00\x00\x00\x00", "x").integers(1)
    with pytest.raises(SourceUnreadable, match="length-delimited"):
        protobuf.parse(b"\x08\x01", "x").texts(1)


def test_depth_and_number_of_fields_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b""
    for _ in range(protobuf.MAX_DEPTH + 2):
        data = field(1, data)
    message = protobuf.parse(data, "x")
    with pytest.raises(SourceUnreadable, match="nested deeper"):  # noqa: PT012 - the loop is the walk
        while True:
            message = message.messages(1, "child")[0]
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 100)
    with pytest.raises(SourceUnreadable, match="more than 100 fields"):
        _ = protobuf.parse(b"\x08\x01" * 101, "x").index
    with pytest.raises(SourceUnreadable, match="more than 100 fields"):
        protobuf.parse(field(1, b"\x01" * 101), "x").integers(1)


def test_an_empty_or_missing_file_is_one_error(tmp_path) -> None:
    (tmp_path / "empty").touch()
    for name, fact in (("empty", "empty"), ("missing", "No such file")):
        with pytest.raises(SourceUnreadable, match=fact), protobuf.open_message(tmp_path / name):
            pass


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(INT64, max_size=6),
    st.text(max_size=30),
    st.binary(max_size=100),
    st.lists(st.floats(width=32), max_size=6),
)
def test_agrees_with_google_protobuf_on_onnx_tensors(
    dims: list[int], name: str, raw: bytes, floats: list[float]
) -> None:
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto(dims=dims, name=name, raw_data=raw, float_data=floats, data_type=1)
    model = onnx.ModelProto(ir_version=10, graph=onnx.GraphProto(name=name, initializer=[tensor]))
    message = protobuf.parse(model.SerializeToString(), "x")
    graph = message.message(7, "graph")
    assert graph is not None
    assert message.integer(1) == 10
    assert graph.text(2) == name
    read = graph.messages(5, "initializer")[0]
    assert read.integers(1) == dims
    assert read.text(8) == name
    assert read.raw(9) == raw
    assert read.count(4, width=4) == len(floats)
