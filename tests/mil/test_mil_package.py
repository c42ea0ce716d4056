"""Packages read from their bytes: what they hold, and one clear error where they are damaged or hostile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mil_wire as w
from modelport.mil.blobs import BITS, decode
from modelport.mil.package import Feature, open_package
from modelport.mil.program import Reference
from modelport.targets.errors import ModelportError, SourceUnreadable, Unsupported

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def message(
    offset: int = 64, dtype: str = "fp32", shape: tuple[int, ...] = (2, 3), file: str | None = None
) -> bytes:
    """x [4, 3] times a stored weight."""
    place = {} if file is None else {"file": file}
    body = w.program(
        [w.named("x", "fp32", (4, 3))],
        [
            w.constant("weight", dtype, shape, w.stored(dtype, shape, offset, **place)),
            w.operation(
                "linear", w.named("y", "fp32", (4, 2)), {"x": "x", "weight": "weight"}, name="product"
            ),
        ],
        ["y"],
    )
    return w.model(body, [w.array_feature("x", (4, 3))], [w.array_feature("y", (4, 2))])


def good(tmp_path: Path, **changes: object) -> Path:
    data, _ = w.weights([("fp32", KERNEL.tobytes())])
    return w.write(tmp_path / "model.mlpackage", message(**changes), data)


def test_a_package_tells_its_interface_and_its_program(tmp_path: Path) -> None:
    package = open_package(good(tmp_path))
    assert package.inputs == (Feature("x", "array", "fp32", (4, 3)),)
    assert [output.name for output in package.outputs] == ["y"]
    weight, product = package.program.main.block.operations
    assert (product.type, product.name, product.inputs["x"]) == ("linear", "product", (Reference("x"),))
    held = weight.attributes["val"]
    assert held.nbytes == 24
    assert np.array_equal(held.load(), KERNEL)


@given(dtype=st.sampled_from([name for name, bits in BITS.items() if bits < 8]), data=st.data())
def test_values_smaller_than_a_byte_are_packed_from_the_lowest_bit(dtype: str, data: st.DataObject) -> None:
    bits = BITS[dtype]
    low, high = (-8, 7) if dtype == "int4" else (0, 2**bits - 1)
    values = data.draw(st.lists(st.integers(low, high), min_size=0, max_size=40))
    stream = sum((value % 2**bits) << (bits * n) for n, value in enumerate(values))
    stored = stream.to_bytes((len(values) * bits + 7) // 8, "little")
    assert decode(stored, dtype, (len(values),), "here").tolist() == values


def test_bfloat16_becomes_float32() -> None:
    values = np.array([1.5, -2.0, 0.0], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    assert np.array_equal(decode(upper.tobytes(), "bf16", (3,), "here"), values)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"offset": 65}, "no blob can be at this offset"),
        ({"offset": 128}, "no blob at this offset|there is no blob"),
        ({"offset": 1 << 40}, "no blob can be at this offset"),
        ({"dtype": "fp16"}, "holds fp32, the program declares fp16"),
        ({"shape": (2, 4)}, "24 bytes, 32 are needed"),
        ({"shape": (1, 3)}, "24 bytes, 12 are needed"),
        ({"shape": (1 << 40, 1 << 20)}, "are needed"),
        ({"file": "@model_path/../../Manifest.json"}, "leads out"),
        ({"file": "/etc/passwd"}, "not in the package"),
        ({"file": "@model_path/weights/none.bin"}, "missing"),
    ],
)
def test_a_weight_that_is_not_where_and_what_is_declared_is_refused(
    tmp_path: Path, changes: dict[str, object], match: str
) -> None:
    with pytest.raises(SourceUnreadable, match=match):
        open_package(good(tmp_path, **changes))


def test_a_weight_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = good(tmp_path)
    file = path / "Data/com.apple.CoreML/weights/weight.bin"
    file.write_bytes(file.read_bytes()[:140])
    with pytest.raises(SourceUnreadable, match=r"24 bytes at 128 are not in the file of 140 bytes"):
        open_package(path)


def test_a_weight_file_behind_a_link_out_of_the_package_is_refused(tmp_path: Path) -> None:
    path = good(tmp_path)
    file = path / "Data/com.apple.CoreML/weights/weight.bin"
    outside = tmp_path / "outside.bin"
    file.rename(outside)
    file.symlink_to(outside)
    with pytest.raises(SourceUnreadable, match="link"):
        open_package(path)


def test_the_manifest_cannot_name_a_model_outside_the_package(tmp_path: Path) -> None:
    path = good(tmp_path)
    w.write(path, message(), root="../../other.mlmodel")
    with pytest.raises(SourceUnreadable, match=r"Manifest\.json: itemInfoEntries\.A\.path"):
        open_package(path)


def test_what_is_no_package_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "model.mlmodel"
    file.write_bytes(b"x")
    with pytest.raises(SourceUnreadable, match="folder"):
        open_package(file)
    with pytest.raises(SourceUnreadable, match="missing"):
        open_package(tmp_path)
    (tmp_path / "Manifest.json").write_text(json.dumps({"itemInfoEntries": {}}))
    with pytest.raises(SourceUnreadable, match="rootModelIdentifier"):
        open_package(tmp_path)


def test_an_older_neural_network_is_unsupported_and_not_damaged(tmp_path: Path) -> None:
    from wire import field, number

    path = w.write(tmp_path / "old.mlpackage", number(1, 4) + field(2, b"") + field(500, b""))
    with pytest.raises(Unsupported, match="no ML program"):
        open_package(path)


def test_a_value_that_is_used_before_it_is_computed_is_refused(tmp_path: Path) -> None:
    body = w.program([], [w.operation("relu", w.named("y", "fp32", ()), {"x": "z"}, name="early")], ["y"])
    with pytest.raises(SourceUnreadable, match="'z' before that is computed"):
        open_package(w.write(tmp_path / "m.mlpackage", w.model(body)))


def test_an_immediate_value_of_another_size_than_its_type_is_refused(tmp_path: Path) -> None:
    body = w.program([], [w.constant("c", "fp32", (2, 2), w.floats([1, 2, 3], (2, 2)))], ["c"])
    with pytest.raises(SourceUnreadable, match="3 values or bytes where the type asks for 4"):
        open_package(w.write(tmp_path / "m.mlpackage", w.model(body)))


@pytest.mark.parametrize("size", [0, 6, 10])
def test_immediate_bytes_of_another_size_than_their_type_are_refused(tmp_path: Path, size: int) -> None:
    body = w.program([], [w.constant("c", "fp16", (2, 2), w.raw(bytes(size), "fp16", (2, 2)))], ["c"])
    with pytest.raises(SourceUnreadable, match=f"{size} values or bytes where the type asks for 8"):
        open_package(w.write(tmp_path / "m.mlpackage", w.model(body)))


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_model_never_fails_in_another_way(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, cut: bool
) -> None:
    whole = message()
    place %= len(whole)
    damaged = whole[:place] if cut else whole[:place] + bytes([byte]) + whole[place + 1 :]
    path = tmp_path_factory.getbasetemp() / "damaged.mlpackage"
    data, _ = w.weights([("fp32", KERNEL.tobytes())])
    try:
        package = open_package(w.write(path, damaged, data))
        for operation in package.program.main.block.operations:
            for constant in operation.attributes.values():
                constant.load()
    except ModelportError:
        pass
