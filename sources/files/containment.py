"""Keeps every file that a model names inside the model's own folder."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from ...targets.errors import SourceUnreadable

_MEND = "Put the file into the model's own folder and name it relative to that folder"


def contained(root: Path, name: object, *, where: str) -> Path:
    """The regular file `name` inside the folder `root`, as an absolute path with its symbolic links kept.

    The file that the links lead to must lie inside `root` as well. One exception: a Hugging Face cache
    keeps the files of `models--*/snapshots/<revision>/` as links into its own `models--*/blobs/`.

    Raises SourceUnreadable, with `where` ("file: field") as the place that named the file, when the name is
    absolute, climbs with `..`, leads outside through a link, or is no regular file.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise SourceUnreadable(f"{name!r} is not a file name", where=where)
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise SourceUnreadable(f"{name!r} leads out of the model's folder", where=where, mend=_MEND)
    root = root.resolve()
    path = root / posix
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except FileNotFoundError:
        raise SourceUnreadable(
            f"{name!r} is missing", where=where, mend="Download the model again, with all its files"
        ) from None
    except (OSError, RuntimeError) as error:
        raise SourceUnreadable(f"{name!r} cannot be reached: {error}", where=where) from None
    if not any(real.is_relative_to(allowed) for allowed in (root, *_own_blobs(root))):
        raise SourceUnreadable(f"{name!r} leads out of the model's folder by a link", where=where, mend=_MEND)
    if not stat.S_ISREG(mode):
        raise SourceUnreadable(f"{name!r} is not a regular file", where=where)
    return path


def _own_blobs(root: Path) -> tuple[Path, ...]:
    """The `blobs` folder of the Hugging Face cache entry that `root` is a snapshot of, if it is one."""
    for folder in (root, *root.parents):
        entry = folder.parent.parent
        if folder.parent.name == "snapshots" and entry.name.startswith(("models--", "datasets--")):
            return ((entry / "blobs").resolve(),)
    return ()
