"""A private folder beside the output, published by one rename: the output appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
from pathlib import Path
from types import TracebackType

from ..targets.errors import UsageError
from . import interrupts
from .disk import disk_full, exchange, remove, settle, size_text, sync

MARK = ".modelport-"
_STALE = re.compile(rf"\.(?P<out>.+){re.escape(MARK)}[0-9a-f]{{16}}")
_LONGEST_NAME = 200
"""Bytes of the output's name, so that the private folder's name stays under the usual limit of 255."""

_MANIFEST_LIMIT = 64 << 20


class Staging:
    """`with Staging(out) as staging:` a private folder whose `content` becomes `out` by `publish()`.

    `content` is what will be published, `work` is scratch; both lie on the file system of `out`, readable by
    the owner alone, and vanish at the end of the block unless published, whatever ends it. What a kill -9
    leaves is removed by the next run into the same parent folder: a live run holds a lock on its own.

    Raises `UsageError` on entering when `out` is in the way or cannot be written, or when the disk has less
    than `need_bytes` free; `ConversionFailed` on leaving when the disk was full.
    """

    def __init__(self, out: Path, *, overwrite: bool = False, need_bytes: int = 0) -> None:
        """`overwrite` allows to replace `out` if it is empty or one of our own outputs, and nothing else."""
        self.requested = out
        self.overwrite = overwrite
        self.need_bytes = need_bytes
        self.out = out
        """The folder that `publish` makes: absolute, links resolved; set on entering."""
        self.folder = out
        self._lock = -1
        self._stack = contextlib.ExitStack()

    @property
    def content(self) -> Path:
        """The folder whose content will be published."""
        return self.folder / "publish"

    @property
    def work(self) -> Path:
        """Scratch folder, never published."""
        return self.folder / "work"

    def __enter__(self) -> Staging:
        self._stack.enter_context(interrupts.raising())
        try:
            self.out = _resolve(self.requested)
            _check_parent(self.out.parent, self.need_bytes)
            self._check_out()
            _sweep(self.out.parent)
            self._create()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        full = disk_full(error, self.out.parent) if isinstance(error, OSError) else None
        try:
            with interrupts.deferred():
                if self._lock >= 0:
                    remove(self.folder)
                    os.close(self._lock)
                    self._lock = -1
        finally:
            self._stack.close()
        if full is not None:
            raise full from error

    def _create(self) -> None:
        while self._lock < 0:
            folder = self.out.parent / f".{self.out.name}{MARK}{os.urandom(8).hex()}"
            with interrupts.deferred():
                folder.mkdir(mode=0o700)
                # Until we hold its lock, another run may take the folder for a stale one: then make another.
                with contextlib.suppress(FileNotFoundError):
                    self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                    self.folder = folder
            if self._lock >= 0 and not self._furnish():
                os.close(self._lock)
                self._lock = -1

    def _furnish(self) -> bool:
        """Lock the new folder and fill it; False when another run is sweeping it away."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks: there nothing is ever swept either
        try:
            self.content.mkdir(mode=0o700)
            self.work.mkdir(mode=0o700)
        except FileNotFoundError:
            return False
        return True

    def _check_out(self) -> None:
        """Refuse to publish over anything that we may not replace."""
        if not os.path.lexists(self.out):
            return
        if not self.out.is_dir():
            raise UsageError("a file is in the way", where=str(self.out), mend="Choose another --out.")
        if not self.overwrite:
            raise UsageError(
                "the output folder exists already",
                where=str(self.out),
                mend="Choose another --out, or add --overwrite.",
            )
        if os.path.ismount(self.out) or Path.cwd().is_relative_to(self.out):
            raise UsageError(
                "a mount point or the current folder cannot be replaced",
                where=str(self.out),
                mend="Choose an --out inside it.",
            )
        if any(self.out.iterdir()) and not _is_output(self.out):
            raise UsageError(
                "the folder holds other things than an earlier output (there is no manifest.json of ours)",
                where=str(self.out),
                mend="--overwrite replaces only an empty folder or an earlier output: choose another --out.",
            )

    def publish(self) -> Path:
        """Write everything through to the disk, then make `content` the output folder by one rename.

        Returns `out`. Raises `UsageError` when something else has appeared there in the meantime.
        """
        settle(self.content)
        self._check_out()
        with interrupts.deferred():
            try:
                if self.overwrite and self.out.exists():
                    self._replace()
                else:
                    os.rename(self.content, self.out)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                raise UsageError(
                    "something else appeared there during the conversion",
                    where=str(self.out),
                    mend="Choose another --out, and give each run its own.",
                ) from error
            # The rename is done and seen; a file system that cannot sync a folder does not undo it.
            with contextlib.suppress(OSError):
                sync(self.out.parent)
        return self.out

    def _replace(self) -> None:
        """Exchange the old output for the new in one step, or in two where the system has no exchange."""
        if not exchange(self.content, self.out):
            old = self.folder / "old"  # `_sweep` puts it back if we are killed right here
            os.rename(self.out, old)
            try:
                os.rename(self.content, self.out)
            except OSError:
                os.rename(old, self.out)
                raise


def _resolve(out: Path) -> Path:
    """`out` absolute with its links followed: a link to a folder stays, and what it points to is replaced."""
    try:
        resolved = Path(os.path.realpath(out))
        if out.is_symlink() and not out.exists():
            raise UsageError(
                "a link that leads nowhere", where=str(out), mend="Remove it, or choose another --out."
            )
    except OSError as error:
        raise UsageError(
            f"the output path cannot be followed ({error.strerror})",
            where=str(out),
            mend="Choose another --out.",
        ) from error
    if len(os.fsencode(resolved.name)) > _LONGEST_NAME:
        raise UsageError(
            f"the name is longer than {_LONGEST_NAME} bytes", where=str(out), mend="Choose a shorter one."
        )
    return resolved


def _check_parent(parent: Path, need_bytes: int) -> None:
    if not parent.is_dir():
        raise UsageError(
            "this folder does not exist", where=str(parent), mend="Make it, or choose another --out."
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError("this folder cannot be written to", where=str(parent), mend="Choose another --out.")
    free = shutil.disk_usage(parent).free
    if free < need_bytes:
        raise UsageError(
            f"the conversion needs {size_text(need_bytes)} of disk, and {size_text(free)} are free",
            where=str(parent),
            mend="Free some space, or choose an --out on another disk.",
        )


def _is_output(folder: Path) -> bool:
    """True when the folder carries a manifest that we wrote."""
    manifest = folder / "manifest.json"
    try:
        status = manifest.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MANIFEST_LIMIT:
            return False
        raw = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and "schema" in raw and isinstance(raw.get("modelport"), str)


def _sweep(parent: Path) -> None:
    """Remove what killed runs left in `parent`: private folders of ours that no process holds locked."""
    try:
        entries = list(os.scandir(parent))
    except OSError:
        return  # a folder that may be written to but not listed
    for entry in entries:
        match = _STALE.fullmatch(entry.name)
        if match is None or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                old, out = Path(entry.path, "old"), parent / match["out"]
                if old.is_dir() and not os.path.lexists(out):
                    os.rename(old, out)
                remove(Path(entry.path))
        except OSError:
            pass  # locked by a live run, or gone in the meantime
        finally:
            os.close(descriptor)
