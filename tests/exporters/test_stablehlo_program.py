"""What the StableHLO exporter writes: one program for every batch, weights apart, and nothing it cannot compute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from modelport.targets.errors import Unsupported
from stablehlo_jobs import export, run, write_program

pytestmark = pytest.mark.slow
pytest.importorskip("jax")

LEAST = float(np.finfo(np.float32).min)


class Small(nn.Module):
    """A convolution, a norm, and a head that shares its weight with a second one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.head, self.twin = nn.Linear(8, 5), nn.Linear(8, 5)
        self.twin.weight = self.head.weight

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        return self.head(x), self.twin(x) > 0


class Masked(nn.Module):
    """Attention with a mask of float32's least value, as transformers makes it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.key = nn.Embedding(50, 16), nn.Linear(16, 16)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        scores = self.key(x) @ x.transpose(1, 2)
        scores = scores + (1.0 - mask[:, None, :].float()) * LEAST
        return scores.softmax(-1) @ x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stablehlo")
    write_program(out / "small.pt2", Small(), [torch.randn(2, 3, 8, 8)], {0: "batch"})
    export(out / "small.pt2", "fp32", out / "fp32")
    export(out / "small.pt2", "bf16", out / "bf16")
    ids = torch.ones(2, 6, dtype=torch.long)
    write_program(out / "masked.pt2", Masked(), [ids, ids.clone()], {0: "batch", 1: "sequence"})
    export(out / "masked.pt2", "bf16", out / "masked")
    return out


@pytest.mark.parametrize("batch", [1, 3])
def test_the_written_program_computes_what_the_source_does_at_any_batch(folder: Path, batch: int) -> None:
    image = np.random.default_rng(batch).normal(size=(batch, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected, flags = Small().eval()(torch.tensor(image))
    found = run(folder / "fp32", image=image)
    np.testing.assert_allclose(found["output_0"], expected.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["output_1"], flags.numpy())
    assert found["output_1"].dtype == bool
    rounded = run(folder / "bf16", image=image)["output_0"]
    assert rounded.dtype == np.float32
    error = np.abs(rounded - expected.numpy()).max() / np.abs(expected.numpy()).max()
    assert 1e-5 < error < 0.02


def test_a_row_masked_as_a_whole_stays_finite_in_bfloat16(folder: Path) -> None:
    ids = np.arange(8, dtype=np.int64).reshape(2, 4)
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    (found,) = run(folder / "masked", ids=ids, mask=mask).values()
    with torch.no_grad():
        expected = Masked().eval()(torch.tensor(ids), torch.tensor(mask)).numpy()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_weights_stand_apart_in_the_schemes_dtype_and_once(folder: Path) -> None:
    from safetensors import safe_open

    def dtypes(name: str) -> dict[str, str]:
        with safe_open(folder / name / "weights.safetensors", "pt") as file:
            return {key: str(file.get_slice(key).get_dtype()) for key in file.keys()}  # noqa: SIM118

    assert set(dtypes("fp32").values()) == {"F32"}
    narrow = dtypes("bf16")
    assert narrow["conv.weight"] == narrow["head.bias"] == "BF16"
    assert narrow["norm.running_mean"] == "F32", "statistics keep their precision"
    assert ("head.weight" in narrow) != ("twin.weight" in narrow), "a shared weight is stored once"
    assert (folder / "fp32" / "model.stablehlo").stat().st_size < 20_000


def test_products_of_float32_are_asked_for_in_full(folder: Path) -> None:
    from jax import export as jax_export

    text = jax_export.deserialize(bytearray((folder / "fp32" / "model.stablehlo").read_bytes())).mlir_module()
    products = [
        line for line in text.splitlines() if "= stablehlo.dot_general" in line or "= stablehlo.conv" in line
    ]
    products = [line for line in products if "stablehlo.convert" not in line]
    assert len(products) >= 3
    assert all("HIGHEST" in line for line in products)
    assert jax_export.deserialize(
        bytearray((folder / "fp32" / "model.stablehlo").read_bytes())
    ).platforms == ("tpu", "cpu")


def test_the_same_input_gives_the_same_bytes_without_a_path_of_this_machine(folder: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from stablehlo_jobs import export; "
        "export(Path(sys.argv[2]), 'bf16', Path(sys.argv[3]))"
    )
    support = str(Path(__file__).parents[1] / "support")
    again = folder / "again"
    subprocess.run(
        [sys.executable, "-c", code, support, str(folder / "small.pt2"), str(again)], check=True, timeout=600
    )
    for name in ("model.stablehlo", "weights.safetensors", "load.py", "README.md"):
        data = (again / name).read_bytes()
        assert data == (folder / "bf16" / name).read_bytes(), name
        assert b"site-packages" not in data
        assert str(folder).encode() not in data
        assert str(Path(__file__).parents[2]).encode() not in data


def test_the_loader_runs_by_itself(folder: Path, tmp_path: Path) -> None:
    image = np.ones((2, 3, 8, 8), np.float32)
    np.savez(tmp_path / "in.npz", image=image)
    done = subprocess.run(
        [sys.executable, str(folder / "fp32" / "load.py"), str(tmp_path / "in.npz")],
        capture_output=True, text=True, timeout=600, env={"PATH": "", "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "output_0 float32 (2, 5)" in done.stdout
    readme = (folder / "fp32" / "README.md").read_text()
    assert "`image` | float32 | batch × 3 × 8 × 8" in readme


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.special.bessel_j0(x), torch.linalg.inv(x @ x.T)


def test_operators_without_a_form_are_all_named_before_anything_is_written(tmp_path: Path) -> None:
    path = write_program(tmp_path / "odd.pt2", Odd(), [torch.eye(3)])
    with pytest.raises(Unsupported) as refused:
        export(path, "fp32", tmp_path / "out")
    assert "bessel_j0" in refused.value.fact
    assert "inv" in refused.value.fact
    assert not list((tmp_path / "out").glob("model*"))


def test_an_operator_without_a_form_is_named_with_its_line_of_source() -> None:
    from modelport.exporters.runtimes.stablehlo import capture, interpret
    from modelport.sources.loading.torch_model import TorchModel

    model = TorchModel(Odd(), ("x",), ("a", "b"), (torch.eye(3),), {})
    with pytest.raises(
        Unsupported, match=r"test_stablehlo_program\.py:\d+, in forward: return torch\.special"
    ):
        interpret.refuse_missing(capture.capture(model, "odd").program, "odd")


class Unpooled(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pooled, places = nn.functional.max_pool2d(image, 2, return_indices=True)
        return pooled + places


def test_a_result_that_has_no_form_is_refused_where_something_reads_it(tmp_path: Path) -> None:
    path = write_program(tmp_path / "u.pt2", Unpooled(), [torch.randn(1, 2, 4, 4)])
    with pytest.raises(Unsupported, match="max_pool2d_with_indices"):
        export(path, "fp32", tmp_path / "out")


class Large(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.tensor([0, number]))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids + self.offsets


def test_integers_beyond_32_bits_are_refused_by_name(tmp_path: Path) -> None:
    ids = torch.ones(1, 2, dtype=torch.long)
    export(write_program(tmp_path / "a.pt2", Large(2**31 - 1), [ids]), "fp32", tmp_path / "a")
    with pytest.raises(Unsupported) as refused:
        export(write_program(tmp_path / "b.pt2", Large(2**31), [ids]), "fp32", tmp_path / "b")
    assert "offsets" in refused.value.where


class Halves(nn.Module):
    """Tokens in pairs: their number must be even."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1] // 2, 2, 4).sum(2)


def test_positions_beyond_what_bfloat16_counts_stay_exact(tmp_path: Path) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(600, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            places = (torch.arange(ids.shape[1]).float() * 1.0).long()
            return self.table(places) + self.table(ids)

    torch.manual_seed(0)
    module = Positions()
    ids = torch.zeros(1, 600, dtype=torch.long)
    out = tmp_path / "out"
    export(write_program(tmp_path / "p.pt2", module, [ids]), "bf16", out)
    (found,) = run(out, ids=ids.numpy()).values()
    np.testing.assert_allclose(found, module(ids).detach().numpy(), atol=0.05)


def test_a_free_size_that_must_be_even_stays_free(tmp_path: Path) -> None:
    path = tmp_path / "h.pt2"
    dims = ({0: torch.export.Dim("batch", min=1, max=64), 1: 2 * torch.export.Dim("pairs", min=1, max=64)},)
    torch.export.save(torch.export.export(Halves(), (torch.ones(2, 6, 4),), dynamic_shapes=dims), path)
    export(path, "fp32", tmp_path / "out")
    x = np.random.default_rng(0).normal(size=(1, 8, 4)).astype(np.float32)
    (found,) = run(tmp_path / "out", x=x).values()
    np.testing.assert_allclose(found, x.reshape(1, 4, 2, 4).sum(2), rtol=1e-5)


class Pooled(nn.Module):
    """Cells of a size that depends on the image's."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(image, scale_factor=2.0, mode="bilinear")


def test_an_axis_that_jax_must_know_is_fixed_and_told(tmp_path: Path) -> None:
    image = torch.randn(1, 3, 6, 5)
    path = write_program(tmp_path / "p.pt2", Pooled(), [image], {2: "height"})
    done = export(path, "fp32", tmp_path / "out")
    assert any(note.startswith("Fixed at the example's size") and "axis 2" in note for note in done.notes)


class Placed(nn.Module):
    """A table of 16 places added to as many tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(64.0).reshape(1, 16, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table[:, : x.shape[1]]


def test_a_bound_of_the_model_is_checked_when_the_program_runs(tmp_path: Path) -> None:
    from jax import export as jax_export

    path = tmp_path / "s.pt2"
    dims = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", min=1, max=16)},)
    torch.export.save(torch.export.export(Placed(), (torch.randn(2, 8, 4),), dynamic_shapes=dims), path)
    out = tmp_path / "out"
    export(path, "fp32", out)
    (found,) = run(out, x=np.zeros((1, 16, 4), np.float32)).values()
    np.testing.assert_array_equal(found.ravel(), np.arange(64))
    program = jax_export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    assert "<= 16" in program.mlir_module()
    with pytest.raises(ValueError, match="shapes"):
        run(out, x=np.zeros((1, 17, 4), np.float32))
