"""Writing a package: metadata, and the same bytes for the same input, options and versions."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from ....targets.errors import ConversionFailed
from .convertible import Convertible
from .options import Wanted

_SPACE = uuid.UUID("6f1b2f3e-6d0a-5a7c-9c39-5f2a6e6b7f10")
"""Namespace of the identifiers in Manifest.json, which coremltools draws by chance."""
_AUTHOR = "com.apple.CoreML"
_MODEL, _WEIGHTS = f"{_AUTHOR}/model.mlmodel", f"{_AUTHOR}/weights"
_DATE = "com.github.apple.coremltools.conversion_date"


def write(model: Any, path: Path, wanted: Wanted, source: Convertible) -> None:
    """Write an MLModel as the folder `path`, with the metadata that was asked for.

    coremltools' own `save` puts today's date and random identifiers into it, and a map of debugging handles
    beside it. Raises ConversionFailed where the package lacks a port of the source.
    """
    spec = model.get_spec()
    _check_ports(spec, path, source)
    _describe(spec, wanted)
    data = path / "Data"
    (data / _AUTHOR).mkdir(parents=True)
    (data / _MODEL).write_bytes(spec.SerializeToString(deterministic=True))
    items = {_MODEL: "CoreML Model Specification"}
    if model.weights_dir is not None and any(Path(model.weights_dir).iterdir()):
        shutil.copytree(model.weights_dir, data / _WEIGHTS)
        items[_WEIGHTS] = "CoreML Model Weights"
    (path / "Manifest.json").write_text(_manifest(items))


def _check_ports(spec: Any, path: Path, source: Convertible) -> None:
    for side, ports in ((spec.description.input, source.inputs), (spec.description.output, source.outputs)):
        there = {feature.name for feature in side}
        missing = [port.artifact for port in ports if port.artifact not in there]
        if missing:
            raise ConversionFailed(
                f"coremltools named {', '.join(sorted(there))}, and not {', '.join(missing)}", where=path.name
            )


def _describe(spec: Any, wanted: Wanted) -> None:
    """Put the user's words in, and take the date of the conversion out."""
    about = spec.description.metadata
    about.author = wanted.metadata.get("author", about.author)
    about.shortDescription = wanted.metadata.get("description", about.shortDescription)
    about.license = wanted.metadata.get("licence", about.license)
    about.versionString = wanted.metadata.get("version", about.versionString)
    about.userDefined.pop(_DATE, None)
    if spec.WhichOneof("Type") == "mlProgram" and "buildInfo" in spec.mlProgram.attributes:
        pairs = spec.mlProgram.attributes["buildInfo"].immediateValue.dictionary.values
        kept = [pair for pair in pairs if _key(pair) != _DATE]
        kept.sort(key=_key)
        copies = [type(pair).FromString(pair.SerializeToString()) for pair in kept]
        del pairs[:]
        pairs.extend(copies)


def _key(pair: Any) -> str:
    return str(pair.key.immediateValue.tensor.strings.values[0])


def _manifest(items: dict[str, str]) -> str:
    entries = {
        str(uuid.uuid5(_SPACE, path)).upper(): {
            "author": _AUTHOR, "description": description, "name": path.rpartition("/")[2], "path": path,
        }
        for path, description in items.items()
    }  # fmt: skip
    root = next(key for key, entry in entries.items() if entry["path"] == _MODEL)
    document = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": root}
    return json.dumps(document, indent=4, sort_keys=True) + "\n"
