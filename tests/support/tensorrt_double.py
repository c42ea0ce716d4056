"""A double of `builder.TensorRT` and `cuda.Gpu`: the graph in ONNX Runtime, device memory on the host.

It stands for what cannot be had here, the builder and the GPU; everything around it is modelport's own.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.exporters.runtimes.tensorrt import cuda, engine
from modelport.exporters.runtimes.tensorrt.options import Settings, Shape
from modelport.targets.errors import ConversionFailed

DEVICE = cuda.Device("Double", "8.9", "580.65.06", "13.0", 24 << 30)
HEADER = b"ftrt" + bytes(20) + bytes((10, 3, 0, 26))


@dataclass
class Double:
    """TensorRT as modelport sees it. An "engine" is a plan's header, the profiles and the graph."""

    version: str = "10.3.0.26"
    asked: list[tuple[Settings, bytes]] = field(default_factory=list)
    loaded: list[bool] = field(default_factory=list)
    spoil: float = 0.0
    """What is added to every output: an engine that computes something else."""

    def build(self, graph: Path, settings: Settings, cache: bytes) -> tuple[bytes, bytes]:
        """Keep what was asked, and put the graph into the engine."""
        self.asked.append((settings, cache))
        profiles = {name: [each.least, each.most] for name, each in settings.profiles.items()}
        told = json.dumps(profiles).encode()
        return HEADER + len(told).to_bytes(4, "little") + told + graph.read_bytes(), cache + b"kernels"

    def load(self, engine: bytes, *, trusted: bool) -> Loaded:
        """The graph out of an engine."""
        self.loaded.append(trusted)
        if not engine.startswith(HEADER):
            raise ConversionFailed("TensorRT does not load the engine")
        start = len(HEADER) + 4
        size = int.from_bytes(engine[len(HEADER) : start], "little")
        return Loaded(engine[start + size :], json.loads(engine[start : start + size]), self.spoil)


class Loaded:
    """One engine of the double."""

    def __init__(self, graph: bytes, profiles: Mapping[str, Any], spoil: float) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self._profiles, self._spoil, self._shapes = profiles, spoil, dict[str, Shape]()
        kinds = {"tensor(float)": "float32", "tensor(int64)": "int64"}
        self.inputs = {value.name: kinds[value.type] for value in self._session.get_inputs()}
        self.outputs = {value.name: kinds[value.type] for value in self._session.get_outputs()}

    def shapes(self, given: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """As TensorRT: shapes outside the profiles are refused, and outputs' follow."""
        for name, shape in given.items():
            least, most = self._profiles.get(name, (shape, shape))
            if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
                raise ConversionFailed(f"the engine was not built for input {name!r} of shape {shape}")
        self._shapes = dict(given)
        made = self._session.run(None, {n: np.zeros(s, self.inputs[n]) for n, s in given.items()})
        return {name: value.shape for name, value in zip(self.outputs, made, strict=True)}

    def run(self, addresses: Mapping[str, int], stream: int) -> None:
        """Read and write the memory at the addresses, as a GPU would."""
        assert stream == Host.stream
        feeds = {name: _at(addresses[name], shape, self.inputs[name]) for name, shape in self._shapes.items()}
        for name, value in zip(self.outputs, self._session.run(None, feeds), strict=True):
            _at(addresses[name], value.shape, self.outputs[name])[...] = value + self._spoil


def _at(address: int, shape: Shape, kind: str) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    memory: Any = (ctypes.c_char * size).from_address(address)
    values: np.ndarray = np.frombuffer(memory, kind).reshape(shape)
    return values


class Host:
    """Device memory that is the host's."""

    stream = 7

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}

    def allocate(self, size: int) -> int:
        """A buffer of the host."""
        buffer = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        """Only what was given."""
        del self.held[address]

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy, and no further than the buffer."""
        assert array.nbytes <= len(self.held[address])
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, address: int, array: np.ndarray) -> None:
        """Copy back."""
        assert array.nbytes <= len(self.held[address])
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def wait(self) -> None:
        """Nothing is under way."""


def install(monkeypatch: pytest.MonkeyPatch, double: Double) -> Host:
    """Let this process have the double and its GPU."""
    host = Host()
    monkeypatch.setattr(engine, "installed", lambda: True)
    monkeypatch.setattr(engine, "find_gpu", lambda: DEVICE)
    monkeypatch.setattr(engine, "tensorrt", lambda: double)
    monkeypatch.setattr(engine, "gpu", lambda: host)
    return host
