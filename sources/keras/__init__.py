"""Keras 3 archives (`.keras`): recognised, config and weights checked before Keras sees them, inspected."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from ...targets.errors import SourceUnreadable
from ...targets.facts import ModelFacts
from ..files import jsonfile, zipguard
from ..source import Source
from . import weights
from .check import check_config

KIND = "keras"

MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
"""The members that every archive has; `assets/` may stand beside them."""

MAX_CONFIG = 64 << 20
"""Largest config.json, in bytes: MobileNetV2's has 0.2 MB."""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_AGAIN = "Save it again with model.save('model.keras') of Keras 3"


def recognises(path: Path) -> bool:
    """Whether the file is a Keras archive, or Keras's older HDF5 form (which is then refused by name)."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            if stream.read(8) == _HDF5:
                return True
        with zipfile.ZipFile(path) as archive:
            return {"metadata.json", "config.json"} <= set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return path.suffix == ".keras"


def open(path: Path) -> Source:
    """The archive at `path`, checked: the zip, Keras's version, every class that the config names, the weights.

    Raises `SourceUnreadable` naming the member and the layer, and `MissingExtra` where h5py is not installed.
    """
    path = path.resolve()
    with path.open("rb") as stream:
        if stream.read(8) == _HDF5:
            raise SourceUnreadable("an HDF5 file of Keras 2 is not supported", where=path.name, mend=_AGAIN)
    archive = zipguard.check(path)
    for name in MEMBERS:
        if name not in archive.members:
            raise SourceUnreadable(f"the archive has no {name}", where=path.name, mend=_AGAIN)
    metadata = _object(archive, "metadata.json", 1 << 16)
    version = metadata.get("keras_version")
    if not isinstance(version, str) or not version.startswith("3."):
        fact = f"it was written by Keras {version!r}, and Keras 3 is needed"
        raise SourceUnreadable(fact, where=f"{path.name}: metadata.json: keras_version", mend=_AGAIN)
    config = _config(archive)
    check_config(config, f"{path.name}: config.json")
    tensors = weights.check(archive)
    _check_count(config, weights.model_weights(tensors), path.name)
    return Source(KIND, path, (path,))


def inspect(source: Source, *, sequence: int = 128) -> ModelFacts:
    """Weights from the HDF5 headers, inputs, outputs and operators from the config's layers and shapes."""
    from .facts import facts_of

    archive = zipguard.check(source.path)
    return facts_of(_config(archive), weights.check(archive), source.name, sequence)


def _config(archive: zipguard.Archive) -> dict[str, Any]:
    return _object(archive, "config.json", MAX_CONFIG)


def _object(archive: zipguard.Archive, name: str, limit: int) -> dict[str, Any]:
    where = f"{archive.path.name}: {name}"
    value = jsonfile.parse(archive.read(name, limit), where)
    if not isinstance(value, dict):
        raise SourceUnreadable("not a JSON object", where=where, mend=_AGAIN)
    return value


def _check_count(config: dict[str, Any], tensors: weights.Tensors, file: str) -> None:
    """Where every layer is known, the config's weights and the stored ones must be equally many."""
    from .facts import expected_weights

    expected = expected_weights(config)
    stored = sum(tensor.elements for tensor in tensors)
    if expected is not None and expected != stored:
        fact = f"{stored:,} weights are stored, and the layers of config.json have {expected:,}"
        raise SourceUnreadable(fact, where=f"{file}: model.weights.h5", mend=_AGAIN)
