"""What several of the exporters' tests share: the server-cpu networks, written once, and the GGUF quantizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def ggml() -> Any:
    """The libggml that llama-cpp-python ships."""
    pytest.importorskip("llama_cpp")
    from modelport.exporters.runtimes.gguf import library

    return library.ggml()


@pytest.fixture(scope="module")
def levels(ggml: Any) -> dict[str, Any]:
    """One quantizer for every level that this processor has, by the level's name."""
    from gguf_lane_cases import CASES, NAMES, X86
    from modelport.exporters.runtimes.gguf import lanes

    made = (lanes.load(ggml, level) for level in ("avx512", "avx2", "plain"))
    found = {quantizer.name: quantizer for quantizer in made}
    if set(found) == {"ggml"}:
        pytest.skip("the extension was not built, for want of a compiler")
    for quantizer in found.values() if X86 else ():
        # Without this the gate in `load` would hide a difference: it leaves such a type to ggml.
        quantizer._proved = frozenset((NAMES[name], weighed) for name, weighed in CASES)
    return found


@pytest.fixture(scope="session")
def off(ggml: Any) -> Any:
    """The quantizer that leaves everything to ggml."""
    from modelport.exporters.runtimes.gguf import lanes

    return lanes.load(ggml, "off")
