"""A mesh of devices as users write it, and where a model's arrays lie on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.exporters.runtimes.stablehlo.options import Mesh, read, read_mesh
from modelport.targets.errors import UsageError


@given(data=st.integers(1, 64), model=st.integers(1, 64))
def test_a_mesh_is_read_as_it_is_written(data: int, model: int) -> None:
    mesh = Mesh(data, model)
    assert read_mesh(str(mesh)) == mesh
    assert read_mesh(f" model={model} , data={data}") == mesh
    assert mesh.devices == data * model


def test_an_axis_that_is_not_named_has_one_device() -> None:
    assert read_mesh("model=8") == Mesh(1, 8)
    assert read({}, "bf16") is None


@pytest.mark.parametrize(
    "text", ["", "data", "data=0", "data=-1", "data=2,data=2", "rows=2", "data=²", "data=9999999"]
)
def test_a_wrong_mesh_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        read({"mesh": text}, "bf16")
    assert refused.value.where == "--mesh"


def test_more_devices_than_there_are_in_a_pod_are_refused() -> None:
    with pytest.raises(UsageError, match="4608"):
        read_mesh("data=9,model=512")


@pytest.mark.slow
def test_wide_matrices_are_split_on_their_wider_side_and_small_ones_copied() -> None:
    mesh = pytest.importorskip("modelport.exporters.runtimes.stablehlo.mesh")
    grid = Mesh(2, 4)
    split = {
        (3072, 768): ("model",),
        (768, 3072): (None, "model"),
        (512, 512): ("model",),
        (30001, 768): (None, "model"),
        (257, 129): (),
        (3072,): (),
        (8, 8): (),
    }
    for shape, spec in split.items():
        assert tuple(mesh.of_weight(grid, shape).spec) == spec, shape
    assert tuple(mesh.of_input(grid, 2).spec) == ("data",)
    assert tuple(mesh.of_input(grid, 0).spec) == ()
