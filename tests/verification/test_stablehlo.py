"""StableHLO files opened again: counted by what a TPU multiplies in, and run at any batch."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from modelport.targets.errors import ConversionFailed
from modelport.verification.stablehlo_files import read_header


def safetensors(path: Path, header: bytes, length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)
    return path


def test_a_header_is_read(tmp_path: Path) -> None:
    entry = {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}
    path = safetensors(tmp_path / "weights.safetensors", json.dumps({"w": entry}).encode())
    assert read_header(path) == {"w": entry}


@pytest.mark.parametrize("length", [1 << 60, 1000])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(ConversionFailed, match=r"weights\.safetensors"):
        read_header(safetensors(tmp_path / "weights.safetensors", b"{}", length))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ConversionFailed):
        read_header(tmp_path / "weights.safetensors")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    pytest.importorskip("jax")
    from stablehlo_jobs import export, write_program

    folder = tmp_path_factory.mktemp("counted")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),
        torch.nn.ConvTranspose2d(6, 8, 2, stride=2, bias=False),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 100, 7, bias=False),
    )
    path = write_program(folder / "net.pt2", net, [torch.randn(2, 4, 5, 5)], {0: "batch"})
    for quant in ("fp32", "bf16"):
        export(path, quant, folder / quant)
    return folder


PRODUCTS = 5 * 5 * 6 * 2 * 9 + 5 * 5 * 6 * 8 * 4 + 800 * 7
WEIGHTS = 6 * 2 * 9 + 6 * 8 * 4 + 7 * 800


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize(("quant", "dtype", "width"), [("fp32", "float32", 4), ("bf16", "bfloat16", 2)])
def test_products_and_weights_are_counted(
    program: Path, quant: str, dtype: str, width: int, wide: bool
) -> None:
    import jax

    from modelport.verification.audit import audit

    with jax.enable_x64(wide):
        counted = audit(program / quant / "model.stablehlo", "stablehlo")
    assert counted is not None
    assert counted.macs == {dtype: PRODUCTS}
    assert counted.weight_bytes == {dtype: WEIGHTS * width}
    assert counted.operators["convolution"] == 2
    assert len(counted.float_ops) == (3 if quant == "fp32" else 0)


@pytest.mark.slow
def test_float32_that_a_tpu_would_round_counts_as_bfloat16(program: Path, tmp_path: Path) -> None:
    import jax
    import jax.numpy as jnp
    from jax import export as jax_export
    from safetensors.flax import save_file

    from modelport.verification.audit import audit

    def model(weights: dict[str, jax.Array], inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"y": inputs["x"] @ weights["w"]}

    given = ({"w": jnp.ones((3, 5), jnp.float32)}, {"x": jnp.ones((2, 3), jnp.float32)})
    data = jax_export.export(jax.jit(model), platforms=("tpu", "cpu"))(*given).serialize()
    (tmp_path / "model.stablehlo").write_bytes(bytes(data))
    save_file(given[0], tmp_path / "weights.safetensors")
    counted = audit(tmp_path / "model.stablehlo", "stablehlo")
    assert counted is not None
    assert counted.macs == {"bfloat16": 30}


@pytest.mark.slow
def test_a_program_whose_mesh_is_not_told_is_refused(program: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from modelport.verification.stablehlo_files import open_program

    (tmp_path / "model.stablehlo").write_bytes((program / "fp32" / "model.stablehlo").read_bytes())
    weights = load_file(program / "fp32" / "weights.safetensors")
    save_file(weights, tmp_path / "weights.safetensors", metadata={"mesh": "data=2,model=2"})
    with pytest.raises(ConversionFailed, match="data=2"):
        open_program(tmp_path / "model.stablehlo")
