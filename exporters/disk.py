"""What staging needs of the file system: the words for a full disk, writing through, exchanging, deleting."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
from pathlib import Path

from ..targets.errors import ConversionFailed, ModelportError

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when a file cannot grow: no space, no quota, larger than the file size limit."""


def size_text(nbytes: float) -> str:
    """Bytes for people: "512 B", "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


def disk_full(
    error: OSError, folder: str | Path, kind: type[ModelportError] = ConversionFailed
) -> ModelportError | None:
    """The error to raise when `error` says that nothing more can be written near `folder`, or None."""
    if error.errno not in DISK_FULL:
        return None
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(folder)
    try:
        left = f"{size_text(shutil.disk_usage(folder).free)} are left there"
    except OSError:
        left = "what is left there is unknown"
    reason = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk is full (your quota is used up)"}
    fact = reason.get(error.errno or 0, "the disk is full for this file (the file size limit is reached)")
    return kind(f"{fact}; {left}", where=place, mend="Free some space, or choose an --out on another disk.")


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically (Linux's renameat2 with RENAME_EXCHANGE); False where that is missing."""
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    at_fdcwd, rename_exchange = -100, 2  # linux/fcntl.h, linux/fs.h
    if renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _umask() -> int:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
            return next(int(line.split()[1], 8) for line in stream if line.startswith("Umask:"))
    except (OSError, StopIteration):
        mask = os.umask(0o077)  # the portable way to read it is to set it
        os.umask(mask)
        return mask


def sync(path: Path) -> None:
    """Write a file or folder through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settle(folder: Path) -> None:
    """Give everything the permissions that the user's umask says, and write it through to the disk."""
    allowed = 0o777 & ~_umask()
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = Path(place, name)
            mode = file.lstat().st_mode
            if stat.S_ISREG(mode):
                file.chmod(allowed if mode & stat.S_IXUSR else allowed & 0o666)
                sync(file)
        os.chmod(place, allowed | stat.S_IRWXU)
        sync(Path(place))


def remove(folder: Path) -> None:
    """Delete a folder of ours, also one in which something took the permission to; what resists, stays."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for place, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):
                os.chmod(place, stat.S_IRWXU)
        shutil.rmtree(folder, ignore_errors=True)
