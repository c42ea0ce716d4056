"""What `modelport doctor ENGINE` tells: will this TensorRT engine load here, if not why, and how to build it again."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ..exporters.runtimes.tensorrt import build_file, cuda, engine
from ..targets.errors import ModelportError, SourceUnreadable, UsageError
from . import manifest

TAG, HEADER_BYTES, VERSION_AT = b"ftrt", 28, 24
"""A plan's first bytes, and where its version stands, as TensorRT's own trtexec reads them (`printPlanVersion` in
samples/common/sampleEngines.cpp) for serialization version 0; nothing else of the header is published."""
DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-lean", "tensorrt-cu13-bindings")
FIRST_COMPATIBLE = (8, 6)
"""Version compatibility begins here: TensorRT documentation, "Version Compatibility"."""

Version = tuple[int, ...]


def examine(path: Path) -> dict[str, Any]:
    """Everything as JSON values: `loads` is "yes", "no" or "unknown", with `reasons`, `unknown` and `rebuild`.

    Raises UsageError where there is no such file, SourceUnreadable where it is no engine or differs from the hash
    that the manifest beside it holds.
    """
    if not path.is_file():
        raise UsageError("there is no such file", where=str(path))
    built, unknown = header_version(path)
    label = _label(path)
    here = machine()
    reasons = [*_version_reasons(built, label, here), *_gpu_reasons(label, here)]
    doubts = [*unknown, *_doubts(built, label, here)]
    return {
        "engine": str(path),
        "built_with": _text(built) if built else label.get("tensorrt"),
        "label": label or None,
        "here": here,
        "loads": "no" if reasons else "unknown" if doubts else "yes",
        "reasons": reasons,
        "unknown": doubts,
        "rebuild": _rebuild(path.parent),
    }


def header_version(path: Path) -> tuple[Version | None, list[str]]:
    """TensorRT's version out of a plan's own header, and what it does not tell. SourceUnreadable for no plan."""
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES or head[:4] != TAG:
        raise SourceUnreadable(
            "is no TensorRT engine: it does not begin with TensorRT's mark", where=str(path)
        )
    (layout,) = struct.unpack_from("<I", head, 4)
    if layout != 0:
        return None, [f"the engine's header has layout {layout}, which is not published"]
    return tuple(head[VERSION_AT : VERSION_AT + 4]), []


def machine() -> dict[str, Any]:
    """TensorRT and the GPU of this machine; what is not there is None, and `no_gpu` says why."""
    found = engine.find_gpu()
    return {
        "tensorrt": _installed(),
        "gpu": None if isinstance(found, str) else found.name,
        "compute_capability": None if isinstance(found, str) else found.compute_capability,
        "driver": None if isinstance(found, str) else found.driver,
        "cuda": None if isinstance(found, str) else found.cuda,
        "no_gpu": found if isinstance(found, cuda.Device) is False else None,
    }


def _installed() -> str | None:
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _label(path: Path) -> Mapping[str, Any]:
    """The portability label of the manifest beside the engine; empty where there is none."""
    if not (path.parent / manifest.NAME).is_file():
        return {}
    found = manifest.read(path.parent)
    for entry in found["files"]:
        if entry["path"] == path.name and manifest.check_hashes(path.parent, {**found, "files": [entry]}):
            raise SourceUnreadable("differs from the hash in its manifest", where=str(path))
    label = found.get("portability")
    return label if isinstance(label, dict) else {}


def _version_reasons(
    built: Version | None, label: Mapping[str, Any], here: Mapping[str, Any]
) -> Iterator[str]:
    built = built or _version(label.get("tensorrt"))
    installed = _version(here["tensorrt"])
    if installed is None:
        yield "tensorrt is not installed here"
    elif built is not None and not _same(built, installed):
        if not label.get("version_compatible"):
            yield (
                f"it was built with TensorRT {_text(built)}, and {here['tensorrt']} is installed: an engine loads in "
                "the version that built it, unless it was built with --version-compatible"
            )
        elif installed[:3] < built[:3] or min(built[:2], installed[:2]) < FIRST_COMPATIBLE:
            yield (
                f"it is version-compatible, from TensorRT {_text(built)} on, and {here['tensorrt']} is installed"
            )


def _gpu_reasons(label: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    built, found = _version(label.get("compute_capability")), _version(here["compute_capability"])
    if built is None or found is None or built == found:
        return
    if label.get("hardware_compatible") != "ampere-plus":
        yield (
            f"it was built for compute capability {_text(built)} ({label.get('gpu')}), and this GPU "
            f"({here['gpu']}) has {_text(found)}: --hardware-compatible ampere-plus builds for several"
        )
    elif found < (8, 0):
        yield f"it was built for Ampere and later GPUs, and this one ({here['gpu']}) has {_text(found)}"


def _doubts(built: Version | None, label: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    if here["no_gpu"]:
        yield here["no_gpu"]
    if built is None and not label.get("tensorrt"):
        yield "nothing tells which TensorRT built it"
    if not label:
        yield "there is no manifest beside it that tells for which GPU it was built"
        return
    needed, there = _version(label.get("cuda")), _version(here["cuda"])
    if needed and there and there[0] < needed[0]:
        yield f"it was built under a driver for CUDA {_text(needed)}, and this one ends at {_text(there)}"
    same = label.get("compute_capability") == here["compute_capability"]
    if here["gpu"] and same and label.get("gpu") != here["gpu"]:
        yield f"it was tuned on {label.get('gpu')}, and may be slower on {here['gpu']}"


def _rebuild(folder: Path) -> list[str]:
    """The commands that build the engine again from what was kept beside it; empty where nothing was."""
    if not (folder / engine.GRAPH).is_file() or not (folder / build_file.NAME).is_file():
        return []
    try:
        line = build_file.trtexec(build_file.from_toml(folder / build_file.NAME), engine.GRAPH, engine.ENGINE)
    except ModelportError:
        return []
    return [f"modelport finish --rebuild {folder}", f"cd {folder} && {line}"]


def _same(built: Version, installed: Version) -> bool:
    length = min(len(built), len(installed))
    return length > 0 and built[:length] == installed[:length]


def _version(text: object) -> Version | None:
    if not isinstance(text, str):
        return None
    numbers = [part for part in text.split(".") if part.isdigit()]
    return tuple(map(int, numbers)) or None


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def show(found: Mapping[str, Any]) -> None:
    """Print it, one fact a line."""
    from .terminal import output

    console = output()
    here = found["here"]
    console.print(f"{found['engine']}: built with TensorRT {found['built_with'] or 'of unknown version'}")
    label = found["label"] or {}
    if label:
        console.print(
            f"on {label.get('gpu')}, compute capability {label.get('compute_capability')}, driver {label.get('driver')}"
        )
    gpu = f"{here['gpu']}, {here['compute_capability']}, driver {here['driver']}" if here["gpu"] else "no GPU"
    console.print(f"here: TensorRT {here['tensorrt'] or 'not installed'}, {gpu}")
    verdict = {"yes": "It loads here.", "no": "It does not load here:", "unknown": "Whether it loads here:"}
    console.print(verdict[found["loads"]])
    for reason in (*found["reasons"], *found["unknown"]):
        console.print(f"  {reason}")
    if found["loads"] != "yes" and found["rebuild"]:
        console.print("Build it again from the graph that was kept, on the machine where it shall run:")
        for line in found["rebuild"]:
            console.print(f"  {line}", soft_wrap=True)
