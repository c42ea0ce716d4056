"""Networks that the server-cpu exporter's tests share, written once a session: as sources, and as float files."""

from __future__ import annotations

from pathlib import Path

import pytest

# The helpers import torch, which the exporters' fast tests do without: only a fixture that is used imports them.


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every network as a source, and calibration samples for images and for text."""
    from onnxruntime_jobs import write_sources

    return write_sources(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def float_files(folder: Path) -> dict[str, Path]:
    """Each network once through torch.onnx: what the schemes' tests start from, as an ONNX source."""
    from onnxruntime_jobs import write_float_files

    return write_float_files(folder)
