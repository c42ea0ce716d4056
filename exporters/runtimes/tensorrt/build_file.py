"""The settings of a build on disk, build.toml, and as the line of TensorRT's own tool, trtexec."""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path

from ....targets.errors import SourceUnreadable
from .options import Profile, Settings

NAME = "build.toml"


def to_toml(settings: Settings) -> str:
    """build.toml: what `from_toml` reads."""
    lines = [
        "# How TensorRT builds the engine from model.onnx; `modelport finish` reads it. Precision is in the graph.",
        f"optimization_level = {settings.level}",
        f"version_compatible = {str(settings.version_compatible).lower()}",
        f"hardware_compatible = {_quoted(settings.hardware_compatible)}",
    ]
    if settings.workspace_bytes is not None:
        lines.append(f"workspace_bytes = {settings.workspace_bytes}")
    if settings.timing_cache is not None:
        lines.append(f"timing_cache = {_quoted(settings.timing_cache)}")
    for name, profile in settings.profiles.items():
        lines += [
            "",
            f"[profile.{_quoted(name)}]",
            f"least = {list(profile.least)}",
            f"best = {list(profile.best)}",
            f"most = {list(profile.most)}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML string: JSON's, but for its pairs of surrogates."""
    return json.dumps(text, ensure_ascii=False)


def from_toml(path: Path) -> Settings:
    """The settings of a bundle. Raises SourceUnreadable naming file and key."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        return Settings(
            profiles={
                name: Profile(tuple(given["least"]), tuple(given["best"]), tuple(given["most"]))
                for name, given in raw.get("profile", {}).items()
            },
            workspace_bytes=raw.get("workspace_bytes"),
            timing_cache=raw.get("timing_cache"),
            version_compatible=raw["version_compatible"],
            hardware_compatible=raw["hardware_compatible"],
            level=raw["optimization_level"],
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SourceUnreadable(f"cannot be read: {error}", where=str(path), mend="Convert again") from error


def trtexec(settings: Settings, onnx: str, engine: str) -> str:
    """The line with which TensorRT's own tool builds the same engine (TensorRT 10 wants --stronglyTyped)."""
    words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", "--stronglyTyped"]
    for option, side in (("minShapes", "least"), ("optShapes", "best"), ("maxShapes", "most")):
        if settings.profiles:
            shapes = (
                f"{name}:{'x'.join(map(str, getattr(profile, side)))}"
                for name, profile in settings.profiles.items()
            )
            words.append(f"--{option}={','.join(shapes)}")
    words.append(f"--builderOptimizationLevel={settings.level}")
    if settings.workspace_bytes is not None:
        words.append(f"--memPoolSize=workspace:{settings.workspace_bytes / 2**20:g}M")
    if settings.timing_cache is not None:
        words.append(f"--timingCacheFile={settings.timing_cache}")
    if settings.version_compatible:
        words.append("--versionCompatible")
    if settings.hardware_compatible != "none":
        level = {"ampere-plus": "ampere+", "same-compute-capability": "sameComputeCapability"}
        words.append(f"--hardwareCompatibilityLevel={level[settings.hardware_compatible]}")
    return shlex.join(words)
