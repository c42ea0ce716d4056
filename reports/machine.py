"""What `modelport doctor` tells: this machine, and which parts are installed in which versions."""

from __future__ import annotations

import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..targets.host import this_host
from . import figures

PARTS = {
    "android": ("tensorflow", "litert-torch", "ai-edge-litert", "ai-edge-quantizer", "torch", "transformers"),
    "server-cpu": ("onnx", "onnxruntime", "onnxscript", "torch", "transformers"),
    "ios": ("coremltools", "torch"),
    "local-llm": ("gguf", "llama-cpp-python"),
    "server-gpu": ("tensorrt", "onnx", "onnxruntime"),
    "server-gpu-llm": ("compressed-tensors", "torch", "transformers"),
    "cloud-tpu": ("jax", "torch"),
}
"""Extra to the distributions that it brings and whose versions matter."""


def examine() -> dict[str, Any]:
    """Everything as JSON values; a version that is None is not installed."""
    host = this_host()
    return {
        "modelport": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "host": {
            "title": host.title,
            "memory_bytes": host.memory_bytes,
            "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        },
        "parts": {part: {name: _version(name) for name in names} for part, names in PARTS.items()},
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def show(found: dict[str, Any]) -> None:
    """Print it as tables, with the command that installs what is missing."""
    from rich.table import Table

    from .terminal import output

    console = output()
    console.print(f"modelport {found['modelport']}, Python {found['python']}, {found['system']}")
    host = found["host"]
    console.print(
        f"{host['title']}: {figures.size(host['memory_bytes'])} memory, "
        f"{figures.size(host['disk_free_bytes'])} disk free"
    )
    table = Table("part", "ready", "versions")
    wanting = []
    for part, versions in found["parts"].items():
        if None in versions.values():
            wanting.append(part)
        shown = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
        table.add_row(part, "no" if part in wanting else "yes", shown)
    console.print(table)
    for part in wanting:
        console.print(f"for {part}: pip install 'modelport[{part}]'")
