"""Building an engine and running it: what the exporter, `finish` and the verification's runner share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....calibration import model_files
from ....targets.errors import ConversionFailed
from ...job import Progress
from . import cuda, options
from .builder import Execution, Installed, TensorRT, installed
from .options import Settings

if TYPE_CHECKING:
    import numpy as np
    import onnx

ENGINE, GRAPH = "model.engine", "model.onnx"
DEFAULT_SEQUENCE = 128

__all__ = ["ENGINE", "GRAPH", "Session", "build", "installed", "missing", "with_profiles"]


def missing() -> str:
    """Why no engine can be built here; "" where TensorRT and a GPU are at hand."""
    if not installed():
        return "tensorrt is not installed"
    found = find_gpu()
    if isinstance(found, str):
        return found
    try:
        tensorrt()
    except (ImportError, OSError, AttributeError) as error:
        return f"tensorrt cannot be imported: {error}"
    return ""


def tensorrt() -> TensorRT:
    """TensorRT as it is installed; a double takes this function's place in tests."""
    return Installed()


def find_gpu() -> cuda.Device | str:
    """The GPU or why there is none; a double takes this function's place in tests."""
    return cuda.find()


def gpu() -> cuda.Gpu:
    """The GPU's memory and stream; a double takes this function's place in tests."""
    return cuda.Driver()


def with_profiles(
    asked: Settings, model: onnx.ModelProto, given: Mapping[str, Any], source: Path
) -> Settings:
    """The settings with a profile for every input of this graph that has a free axis."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
        if value.name not in stored
    }
    sequence = int(given.get("sequence") or DEFAULT_SEQUENCE)
    longest = (model_files.longest_sequence(source) if source.is_dir() else None) or sequence
    shapes = options.read_shapes(given.get("shapes") or "")
    return replace(asked, profiles=options.profiles(inputs, shapes, sequence, longest))


def build(folder: Path, wanted: Settings, progress: Progress, base: Path) -> dict[str, Any]:
    """Build model.engine in `folder` from its model.onnx; gives the portability label.

    A relative timing cache lies under `base`. It is written back whole, by a rename, also where the build fails
    to use it.
    """
    device, runtime = find_gpu(), tensorrt()
    if isinstance(device, str):
        raise ConversionFailed(device, where="GPU")
    cache = (base / wanted.timing_cache) if wanted.timing_cache else None
    before = cache.read_bytes() if cache is not None and cache.is_file() else b""
    progress("build the engine", 0, 1)
    engine, after = runtime.build(folder / GRAPH, wanted, before)
    (folder / ENGINE).write_bytes(engine)
    if cache is not None and after != before:
        cache.parent.mkdir(parents=True, exist_ok=True)
        part = cache.with_name(f"{cache.name}.part")
        part.write_bytes(after)
        part.replace(cache)
    progress("build the engine", 1, 1)
    modes = {
        "version_compatible": wanted.version_compatible,
        "hardware_compatible": wanted.hardware_compatible,
    }
    return cuda.label(device, runtime.version, modes)


class Session:
    """An engine on the GPU, as arrays in, arrays out; the buffers grow with the largest shapes seen."""

    def __init__(self, path: Path, *, trusted: bool) -> None:
        """Load the engine at `path`; `trusted` lets it bring host code, as version-compatible ones do."""
        self._gpu, self._engine = gpu(), tensorrt().load(path.read_bytes(), trusted=trusted)
        self._buffers: dict[str, tuple[int, int]] = {}

    @property
    def engine(self) -> Execution:
        """The engine's names and dtypes."""
        return self._engine

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """One inference; inputs are cast to the engine's dtypes."""
        import numpy as np

        given = {
            name: np.ascontiguousarray(feeds[name], dtype=kind) for name, kind in self._engine.inputs.items()
        }
        shapes = self._engine.shapes({name: array.shape for name, array in given.items()})
        made = {name: np.empty(shapes[name], kind) for name, kind in self._engine.outputs.items()}
        for name, array in given.items():
            self._gpu.upload(self._room(name, array.nbytes), array)
        for name, array in made.items():
            self._room(name, array.nbytes)
        self.invoke()
        for name, array in made.items():
            self._gpu.download(self._buffers[name][0], array)
        return made

    def invoke(self) -> None:
        """The inference alone, on what was uploaded last, until it is done."""
        self._engine.run({name: address for name, (address, _) in self._buffers.items()}, self._gpu.stream)
        self._gpu.wait()

    def _room(self, name: str, size: int) -> int:
        address, had = self._buffers.get(name, (0, -1))
        if size > had:
            if had >= 0:
                self._gpu.free(address)
            address = self._gpu.allocate(size)
            self._buffers[name] = (address, size)
        return address
