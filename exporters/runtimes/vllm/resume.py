"""What a layer-by-layer run leaves behind, so that a later one goes on where it was ended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....sources.huggingface import safetensors
from ....targets.errors import SourceUnreadable, UsageError

if TYPE_CHECKING:
    import torch

KEY, DONE = "key.json", "done.json"
OTHER = "Give an empty folder, or leave --resume out"


class Kept:
    """A folder of finished layers and of the activations behind the last one; or nothing at all.

    A layer counts once `done.json` says so, which is written last: a run that is killed in between does that layer
    again. The folder belongs to one source, recipe, text and set of versions, by the hashes in `key.json`.
    """

    def __init__(self, folder: Path | None, key: Mapping[str, str]) -> None:
        """Raises UsageError for a folder of another conversion, naming what differs, or of something else."""
        self.folder = folder
        self.done = 0
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open(folder, key)
        except OSError as error:
            raise UsageError(f"cannot be used: {error.strerror}", where=f"--resume {folder}") from error

    def _open(self, folder: Path, key: Mapping[str, str]) -> None:
        path = folder / KEY
        if not path.exists():
            if any(folder.iterdir()):
                raise UsageError("the folder holds other files", where=f"--resume {folder}", mend=OTHER)
            _put(path, json.dumps(dict(key), indent=2, sort_keys=True).encode())
            return
        found = _read(path)
        differing = [name for name in key if found.get(name) != key[name]]
        if differing:
            raise UsageError(
                f"the folder was made with another {', '.join(differing)}",
                where=f"--resume {folder}",
                mend=OTHER,
            )
        done = _read(folder / DONE).get("layers", 0) if (folder / DONE).exists() else 0
        self.done = done if isinstance(done, int) and done >= 0 else 0

    def layer(self, index: int, sizes: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Names and bytes of the tensors of a finished layer, each of the size that `sizes` tells.

        Raises SourceUnreadable for a damaged file.
        """
        assert self.folder is not None
        path = self.folder / f"layer-{index:05d}.safetensors"
        header = safetensors.read_header(path)
        with path.open("rb") as stream:
            for fact in header.tensors:
                if sizes.get(fact.name) != fact.nbytes:
                    raise SourceUnreadable(
                        f"{fact.nbytes:,} bytes of {fact.name}, which has {sizes.get(fact.name)}",
                        where=str(path),
                        mend=OTHER,
                    )
                stream.seek(header.begins[fact.name])
                yield fact.name, stream.read(fact.nbytes)

    def states(self, count: int, like: torch.Tensor) -> list[torch.Tensor]:
        """The activations that go into the first layer that is not finished, one of `like`'s shape a window."""
        import torch

        assert self.folder is not None
        path = self._states(self.done)
        nbytes = like.numel() * like.element_size()
        data = path.read_bytes() if path.is_file() else b""
        if len(data) != count * nbytes:
            raise UsageError(
                f"{len(data):,} bytes, and {count * nbytes:,} are expected", where=str(path), mend=OTHER
            )
        whole = torch.frombuffer(bytearray(data), dtype=like.dtype).reshape(count, *like.shape)
        return [whole[index].clone() for index in range(count)]

    def keep(
        self, index: int, tensors: Iterable[tuple[str, memoryview]], states: Iterable[torch.Tensor]
    ) -> None:
        """Remember a finished layer, and the activations behind it."""
        if self.folder is None:
            return
        _put(self.folder / f"layer-{index:05d}.safetensors", _file(tensors))
        _put(self._states(index + 1), b"".join(_bytes(state) for state in states))
        _put(self.folder / DONE, json.dumps({"layers": index + 1}).encode())
        self._states(index).unlink(missing_ok=True)
        self.done = index + 1

    def _states(self, layer: int) -> Path:
        assert self.folder is not None
        return self.folder / f"into-{layer:05d}.bin"


def _bytes(state: torch.Tensor) -> bytes:
    import torch

    data: bytes = state.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return data


def _file(tensors: Iterable[tuple[str, memoryview]]) -> bytes:
    """The tensors as plain bytes in a safetensors file: what they mean is the layout's business."""
    header: dict[str, object] = {}
    parts, offset = [], 0
    for name, data in tensors:
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    return b"".join((len(text).to_bytes(8, "little"), text, *parts))


def _put(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read: {error}", where=str(path), mend=OTHER) from error
    return found if isinstance(found, dict) else {}
