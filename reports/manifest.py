"""manifest.json: what was asked, what was made, what was predicted and what was measured (schema 1).

docs/manifest.md describes every key. Figures that were not measured are null, never invented.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..targets.errors import SourceUnreadable, UsageError

SCHEMA = 1
NAME = "manifest.json"
MAX_BYTES = 64 << 20
FORMS: Mapping[str, type | tuple[type, ...]] = {
    "schema": int,
    "state": str,
    "command": list,
    "source": dict,
    "target": str,
    "quant": str,
    "scheme": dict,
    "runtime": str,
    "format": str,
    "artifact": str,
    "io": dict,
    "options": dict,
    "measured": dict,
    "files": list,
    "fidelity": (dict, type(None)),
    "audit": (dict, type(None)),
}
"""The keys that a reader relies on, and what stands there; a manifest without one of them is refused."""


def file_entries(folder: Path) -> list[dict[str, Any]]:
    """path, bytes and sha256 of every file below `folder`, sorted by path; the manifest itself left out."""
    entries = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name == NAME:
            continue
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        entries.append(
            {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": digest}
        )
    return entries


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest` with the entries of the files that stand in `folder` now."""
    (folder / NAME).write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """The manifest of an output folder; UsageError when there is none, SourceUnreadable when it is damaged."""
    path = folder / NAME
    if not path.is_file():
        raise UsageError(
            f"there is no {NAME}", where=str(folder), mend="Name a folder that `convert` published"
        )
    if path.stat().st_size > MAX_BYTES:
        raise SourceUnreadable(f"is larger than {MAX_BYTES} bytes", where=str(path))
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise SourceUnreadable(f"is not JSON: {error}", where=str(path)) from error
    if not isinstance(manifest, dict):
        raise SourceUnreadable("is not a JSON object", where=str(path))
    missing = [key for key in FORMS if key not in manifest]
    if missing:
        raise SourceUnreadable(f"the key is missing: {', '.join(missing)}", where=str(path))
    if manifest["schema"] != SCHEMA:
        raise SourceUnreadable(
            f"is {manifest['schema']!r}, and this version reads {SCHEMA}",
            where=f"{path}: schema",
            mend="Upgrade modelport",
        )
    _check_forms(manifest, path)
    return manifest


def _check_forms(manifest: Mapping[str, Any], path: Path) -> None:
    """Raise SourceUnreadable where a key holds something else than we write, or the artifact is not listed."""
    for key, kind in FORMS.items():
        if not isinstance(manifest[key], kind):
            raise SourceUnreadable(
                f"is {type(manifest[key]).__name__}, which we do not write", where=f"{path}: {key}"
            )
    for index, entry in enumerate(manifest["files"]):
        texts = [entry.get("path"), entry.get("sha256")] if isinstance(entry, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise SourceUnreadable("is no path with a sha256", where=f"{path}: files[{index}]")
    if not _holds(manifest["artifact"], [entry["path"] for entry in manifest["files"]]):
        raise SourceUnreadable(f"{manifest['artifact']!r} is not among the files", where=f"{path}: artifact")


def _holds(artifact: str, paths: Iterable[str]) -> bool:
    """Whether the artifact is one of these files, or a folder with some of them in it, as a .mlpackage is."""
    return any(path == artifact or (artifact and path.startswith(f"{artifact}/")) for path in paths)


def check_hashes(folder: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """One sentence per file that is missing, differs from its entry, or was put into the artifact's folder.

    Paths that lead outside are refused.
    """
    problems = []
    root = folder.resolve()
    for entry in manifest["files"]:
        path = (root / entry["path"]).resolve()
        if not path.is_relative_to(root):
            raise SourceUnreadable(
                f"{entry['path']!r} leads outside the folder", where=f"{folder / NAME}: files"
            )
        if not path.is_file():
            problems.append(f"{entry['path']} is missing")
            continue
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != entry["sha256"]:
            problems.append(f"{entry['path']} differs from its hash")
    return (*problems, *_added(folder, manifest))


def _added(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """One sentence per file in the artifact's folder that the manifest does not list: a runtime may read it."""
    artifact = folder / manifest["artifact"]
    if not artifact.is_dir() or not artifact.resolve().is_relative_to(folder.resolve()):
        return []
    known = {entry["path"] for entry in manifest["files"]}
    there = (path for path in artifact.rglob("*") if path.is_symlink() or not path.is_dir())
    names = sorted(path.relative_to(folder).as_posix() for path in there)
    return [f"{name} is not among the files of the manifest" for name in names if name not in known]
