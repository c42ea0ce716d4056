"""Weights of Core ML packages in fewer bits: what is written, how close it is, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelport.exporters.runtimes.coreml import palette
from modelport.targets.errors import Unsupported, UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a table of 64 wide, a narrow convolution, a wide one and two linear layers."""
    import torch

    from coreml_quantize import save

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(40, 64)
            self.narrow = torch.nn.Conv1d(3, 64, 7, padding=3)
            self.wide = torch.nn.Conv1d(64, 64, 3, padding=1)
            self.norm = torch.nn.LayerNorm(64)
            self.hidden = torch.nn.Linear(64, 96)
            self.last = torch.nn.Linear(96, 10)

        def forward(self, signal: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            seen = torch.relu(self.wide(torch.relu(self.narrow(signal)))).mean(2)
            known = self.norm(self.table(ids).sum(1))
            return self.last(torch.relu(self.hidden(seen + known)))

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("network")
    example = (torch.zeros(1, 3, 24), torch.zeros(1, 6, dtype=torch.int64))
    return save(Network(), example, folder / "network.pt2")


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        "signal": draw.standard_normal((24, 3, 24)).astype(np.float32),
        "ids": draw.integers(0, 40, (24, 6)),
    }


@pytest.mark.parametrize(
    ("quant", "options", "operator", "dtypes", "least_db"),
    [
        ("int8-weight", {"deployment_target": "iOS16"}, "constexpr_affine_dequantize", {"int8"}, 38),
        ("int8-weight", {"deployment_target": "iOS18"}, "constexpr_blockwise_shift_scale", {"int8"}, 38),
        ("int4-weight", {}, "constexpr_blockwise_shift_scale", {"int4", "int8"}, 17),
        ("palette4", {}, "constexpr_lut_to_dense", {"uint8"}, 17),
        ("palette4", {"deployment_target": "iOS18"}, "constexpr_lut_to_dense", {"uint4"}, 16),
        ("palette6", {"deployment_target": "iOS18"}, "constexpr_lut_to_dense", {"uint6"}, 30),
        ("palette8", {}, "constexpr_lut_to_dense", {"uint8"}, 36),
    ],
)
def test_each_scheme_writes_its_operator_and_stays_close(
    source: Path,
    data: dict[str, np.ndarray],
    tmp_path: Path,
    quant: str,
    options: dict[str, str],
    operator: str,
    dtypes: set[str],
    least_db: float,
) -> None:
    from coreml_quantize import Converted, make_job

    made = Converted(make_job(tmp_path, source, quant, data, **options))
    compressed = made.operations(operator)
    assert len(compressed) == 4
    assert least_db < made.sqnr_db(data) < 60
    assert set(stored_types(compressed)) == dtypes


def stored_types(operations: list) -> list[str]:
    """The types in which these operations hold their data."""
    names = ("quantized_data", "data", "indices")
    found = []
    for op in operations:
        given = {**op.inputs, **{name: (value,) for name, value in op.attributes.items()}}
        found += [given[name][0].type.dtype for name in names if name in given]
    return found


def test_what_finds_no_blocks_is_int8_in_an_int4_package(
    source: Path, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    from coreml_quantize import Converted, make_job

    made = Converted(make_job(tmp_path, source, "int4-weight", data))
    assert (
        "Int4 weights, one scale for 16 to 32 along the input axis: 1 conv, 1 gather, 1 linear" in made.notes
    )
    assert "Int8 weights, one scale an output channel: 1 conv (1,344 elements)" in made.notes
    assert (
        "Weights left in float, since they are small or have no channel axis: 1 linear (960 elements)"
        in made.notes
    )


def test_the_same_job_gives_the_same_bytes(source: Path, data: dict[str, np.ndarray], tmp_path: Path) -> None:
    from coreml_quantize import Converted, make_job

    first, second = (
        Converted(make_job(tmp_path / name, source, "palette4", data)) for name in ("first", "second")
    )
    files = [path.relative_to(first.path) for path in first.path.rglob("*") if path.is_file()]
    assert len(files) == 3
    for file in files:
        assert (first.path / file).read_bytes() == (second.path / file).read_bytes(), file


def test_a_scheme_that_an_older_system_cannot_read_is_refused(
    source: Path, data: dict[str, np.ndarray], tmp_path: Path
) -> None:
    from coreml_quantize import Converted, make_job

    with pytest.raises(Unsupported, match="iOS18"):
        Converted(make_job(tmp_path / "a", source, "int4-weight", data, deployment_target="iOS17"))
    with pytest.raises(UsageError, match="no palette of 5 bits"):
        Converted(make_job(tmp_path / "b", source, "palette5", data))


def test_int4_that_would_reach_little_is_refused(tmp_path: Path) -> None:
    import torch

    from coreml_quantize import Converted, make_job, save

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Flatten())
    path = save(module, (torch.zeros(1, 3, 8, 8),), tmp_path / "narrow.pt2")
    with pytest.raises(Unsupported, match="would reach 0% of this model's weights"):
        Converted(make_job(tmp_path / "job", path, "int4-weight", None))


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float16, st.integers(1, 9), elements=st.floats(-100, 100, width=16)),
    st.sampled_from([1, 2]),
)
def test_a_palette_is_the_best_that_there_is(values: np.ndarray, bits: int) -> None:
    table, indices = palette.palette(values, bits)
    assert table.shape == (2**bits,)
    assert table.dtype == values.dtype
    assert indices.dtype == np.uint8
    found = squares(values, table.astype(np.float64)[indices])
    ordered = np.sort(values.astype(np.float64))
    least = min(
        sum(
            squares(part, np.full(len(part), part.mean()))
            for part in np.split(ordered, list(cuts))
            if len(part)
        )
        for cuts in itertools.combinations_with_replacement(range(len(ordered) + 1), 2**bits - 1)
    )
    # The table is rounded to float16.
    assert found <= least + len(values) * (np.abs(ordered).max() * 2**-10) ** 2 + 2 * 0.25 * least**0.5


def squares(values: np.ndarray, others: np.ndarray) -> float:
    return float(np.square(values.astype(np.float64) - others).sum())


def test_float32_weights_have_palettes_too() -> None:
    values = (np.random.default_rng(0).standard_normal((64, 100)) * 1e6).astype(np.float32)
    table, indices = palette.palette(values, 8)
    assert table.dtype == np.float32
    read = table[indices].reshape(values.shape)
    assert np.square(values - read).mean() < 1e-4 * np.square(values).mean()
