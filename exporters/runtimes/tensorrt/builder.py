"""Every call into TensorRT's Python API, behind one interface. Nothing else of modelport imports tensorrt."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ....targets.errors import ConversionFailed
from .options import Settings, Shape


class Execution(Protocol):
    """One engine that is loaded, ready to run. Addresses are those of device memory."""

    inputs: Mapping[str, str]
    """Inputs by name, and their NumPy dtype's name."""
    outputs: Mapping[str, str]

    def shapes(self, given: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """Set the inputs' shapes; gives the outputs'. ConversionFailed where the engine does not take them."""

    def run(self, addresses: Mapping[str, int], stream: int) -> None:
        """Put one inference on a stream; every input and output has an address."""


class TensorRT(Protocol):
    """What modelport asks of TensorRT: the interface that a double implements in the tests."""

    version: str

    def build(self, graph: Path, settings: Settings, cache: bytes) -> tuple[bytes, bytes]:
        """The engine and the timing cache. ConversionFailed with TensorRT's words where it cannot be built."""

    def load(self, engine: bytes, *, trusted: bool) -> Execution:
        """An engine ready to run. `trusted`: it may bring host code, as version-compatible engines do."""


def installed() -> bool:
    """Whether the package is there; it is not imported."""
    return importlib.util.find_spec("tensorrt") is not None


class Installed:
    """The tensorrt package of this environment. ImportError and OSError where its libraries are missing."""

    def __init__(self) -> None:
        import tensorrt

        self._trt, self.version, self._said = tensorrt, str(tensorrt.__version__), list[str]()
        self._logger = _logger(tensorrt, self._said)

    def build(self, graph: Path, settings: Settings, cache: bytes) -> tuple[bytes, bytes]:
        """Parse, configure and build."""
        trt, self._said[:] = self._trt, []
        builder = trt.Builder(self._logger)
        # TensorRT 11 has strongly typed networks only and ignores the flag; TensorRT 10 needs it.
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(typed)
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(graph)):
            errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
            raise self._failed("TensorRT's parser does not take the graph", errors)
        config = builder.create_builder_config()
        timing = self._configure(builder, config, settings, cache)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise self._failed("TensorRT could not build the engine", [])
        return bytes(engine), bytes(timing.serialize())

    def _configure(self, builder: Any, config: Any, settings: Settings, cache: bytes) -> Any:
        """Put every setting into `config`; gives the timing cache that the build fills."""
        trt = self._trt
        config.builder_optimization_level = settings.level
        if settings.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
        if settings.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if settings.hardware_compatible == "ampere-plus":
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        elif settings.hardware_compatible == "same-compute-capability":
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        if settings.profiles:
            profile = builder.create_optimization_profile()
            for name, given in settings.profiles.items():
                profile.set_shape(name, given.least, given.best, given.most)
            config.add_optimization_profile(profile)
        timing = config.create_timing_cache(cache)
        if not config.set_timing_cache(timing, False):  # measured on another GPU or version: begin anew
            timing = config.create_timing_cache(b"")
            config.set_timing_cache(timing, False)
        return timing

    def load(self, engine: bytes, *, trusted: bool) -> Execution:
        """Deserialize."""
        self._said[:] = []
        runtime = self._trt.Runtime(self._logger)
        runtime.engine_host_code_allowed = trusted
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise self._failed("TensorRT does not load the engine", [])
        return _Loaded(self._trt, runtime, loaded, self._said)

    def _failed(self, fact: str, errors: list[str]) -> ConversionFailed:
        return ConversionFailed(_with_words(fact, errors or self._said))


def _with_words(fact: str, said: list[str]) -> str:
    return f"{fact}: {'; '.join(dict.fromkeys(said))[:2000]}" if said else fact


class _Loaded:
    """An engine and its execution context."""

    def __init__(self, trt: Any, runtime: Any, engine: Any, said: list[str]) -> None:
        # The runtime must outlive the engine that it loaded.
        self._runtime, self._engine, self._said = runtime, engine, said
        self._context = engine.create_execution_context()
        if self._context is None:
            raise ConversionFailed(_with_words("the GPU has no room for the engine", said))
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        kinds = {name: trt.nptype(engine.get_tensor_dtype(name)).__name__ for name in names}
        given = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        self.inputs: Mapping[str, str] = {name: kinds[name] for name in names if name in given}
        self.outputs: Mapping[str, str] = {name: kinds[name] for name in names if name not in given}

    def shapes(self, given: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """Set the inputs' shapes."""
        for name, shape in given.items():
            if not self._context.set_input_shape(name, shape):
                raise ConversionFailed(
                    f"the engine was not built for input {name!r} of shape {'x'.join(map(str, shape))}",
                    mend="Convert with --shapes that hold it",
                )
        found = {name: tuple(self._context.get_tensor_shape(name)) for name in self.outputs}
        open_ended = sorted(name for name, shape in found.items() if min(shape, default=1) < 0)
        if open_ended:
            raise ConversionFailed(f"the shape of output {', '.join(open_ended)} depends on the data")
        return found

    def run(self, addresses: Mapping[str, int], stream: int) -> None:
        """Enqueue."""
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(stream):
            raise ConversionFailed(_with_words("the engine could not be run", self._said))


def _logger(trt: Any, said: list[str]) -> Any:
    """A logger that keeps TensorRT's errors: a failed call returns nothing but None."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                said.append(msg)

    return Logger()
