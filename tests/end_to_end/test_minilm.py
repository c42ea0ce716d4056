"""A real sentence encoder with real English sentences, on both targets."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from typing import Any

import pytest

import modelport

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 sentences from the docstrings of Python's own library, one a line."""
    folder = Path(ast.__file__).parent
    found: set[str] = set()
    for name in (
        "argparse",
        "socket",
        "threading",
        "tarfile",
        "random",
        "statistics",
        "pathlib",
        "shutil",
        "smtplib",
    ):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                found.update(s.strip() + "." for s in text.split(". ") if 30 < len(s) < 300)
    chosen = sorted(found)
    random.Random(0).shuffle(chosen)
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    path.write_text("\n".join(chosen[:160]))
    return path


def embedding(manifest: dict[str, Any]) -> dict[str, Any]:
    (name,) = manifest["fidelity"]["outputs"]
    assert name == "sentence_embedding"
    return dict(manifest["fidelity"]["outputs"][name])


@pytest.mark.parametrize(
    ("target", "quant", "least"),
    [
        ("server-cpu", "int8-dynamic", 0.99),
        ("server-cpu", "int8", 0.96),
        ("android", "int8-dynamic", 0.985),
        ("android", "int8", 0.95),
    ],
)
def test_embeddings_stay_close(
    minilm: Path, sentences: Path, tmp_path: Path, target: str, quant: str, least: float
) -> None:
    done = modelport.convert(
        minilm, target=target, quant=quant, calibration=str(sentences), out=tmp_path / "out", sequence=64
    )
    manifest = dict(done.manifest)
    figures = embedding(manifest)
    assert figures["cosine"] >= least
    assert manifest["calibration"]["kind"] == "text"
    assert manifest["measured"]["file_bytes"] <= 0.35 * manifest["source"]["bytes"]
    if (target, quant) == ("server-cpu", "int8"):
        assert any("int8-dynamic" in note for note in manifest["notes"])
