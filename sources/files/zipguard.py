"""Checks a zip archive's directory before anything in it is inflated, and reads members up to a limit."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from ...targets.errors import SourceUnreadable

MAX_ENTRIES = 100_000
MAX_RATIO = 200
"""Inflated size per byte of the file: real weights compress to no less than a half."""
FREE_BYTES = 16 << 20
"""Inflated bytes that are never held against the ratio: small archives of zeros are harmless."""

_EOCD = struct.Struct("<4s4H2LH")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_AGAIN = "The file is damaged or was made to mislead; save or download it again"


@dataclass(frozen=True)
class Member:
    """One file of an archive: sizes in bytes, and where its stored bytes begin in the archive."""

    name: str
    size: int
    compressed: int
    offset: int
    stored: bool
    """True when the bytes lie in the archive as they are, not deflated."""


@dataclass(frozen=True)
class Archive:
    """A zip archive whose directory was checked; nothing is inflated until `read`."""

    path: Path
    """The file; for an archive inside another one, a path that names its place in errors."""
    members: Mapping[str, Member]
    """Files by name, in the order of the directory; folders are left out."""
    content: bytes | None = field(default=None, repr=False)
    """The archive's bytes when they were read out of another archive."""

    def read(self, name: str, limit: int) -> bytes:
        """The content of one member, at most `limit` bytes; its checksum is verified.

        Raises SourceUnreadable when it is missing, larger than `limit`, or damaged.
        """
        member = self.members.get(name)
        where = f"{self.path.name}: {name}"
        if member is None:
            raise SourceUnreadable("the archive has no such member", where=where, mend=_AGAIN)
        if member.size > limit:
            raise SourceUnreadable(f"{member.size:,} bytes are more than the {limit:,} allowed", where=where)
        try:
            with (
                _stream(self.path, self.content) as file,
                zipfile.ZipFile(file) as archive,
                archive.open(name) as stream,
            ):
                content = stream.read(limit + 1)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
            raise SourceUnreadable(f"the member is damaged: {error}", where=where, mend=_AGAIN) from None
        if len(content) != member.size:
            raise SourceUnreadable(
                f"{len(content):,} bytes where {member.size:,} are declared", where=where, mend=_AGAIN
            )
        return content


def _stream(path: Path, content: bytes | None) -> BinaryIO:
    return path.open("rb") if content is None else BytesIO(content)


def is_zip(path: Path) -> bool:
    """Whether the file begins as a zip archive does."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def check(
    path: Path,
    *,
    content: bytes | None = None,
    max_entries: int = MAX_ENTRIES,
    max_ratio: int = MAX_RATIO,
) -> Archive:
    """The archive's members, after its directory was checked against the file (or against `content`).

    Refused with SourceUnreadable: a directory or members outside the file, bytes before or after the
    archive (two programs could see two archives), more than `max_entries` members, names that are absolute,
    climb, repeat or hold a backslash, links, encryption, methods other than stored and deflate, members
    that overlap or whose local header differs from the directory, and an inflated size above `max_ratio`
    times the file.
    """
    where = path.name
    try:
        size = path.stat().st_size if content is None else len(content)
        with (
            _stream(path, content) as stream,
            zipfile.ZipFile(_checked_end(stream, path, size, max_entries)) as archive,
        ):
            infos, directory = archive.infolist(), archive.start_dir
            if archive.comment:
                raise SourceUnreadable("the archive has a trailing comment", where=where, mend=_AGAIN)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise SourceUnreadable(f"not a readable zip archive: {error}", where=where, mend=_AGAIN) from None
    if len(infos) > max_entries:
        raise SourceUnreadable(f"{len(infos):,} members, over {max_entries:,}", where=where)
    inflated = sum(info.file_size for info in infos)
    if inflated > max(FREE_BYTES, max_ratio * size):
        raise SourceUnreadable(
            f"inflates to {inflated:,} bytes from {size:,}: over {max_ratio} times", where=where, mend=_AGAIN
        )
    seen: set[str] = set()
    for info in infos:
        _check_entry(path, info, seen)
    with _stream(path, content) as stream:
        return Archive(path, _members(stream, path, infos, directory), content)


def _checked_end(stream: BinaryIO, path: Path, size: int, max_entries: int) -> BinaryIO:
    """`stream`, whose end record must close the file, with a directory right before it of a sane size."""
    where = f"{path.name}: end of central directory"
    stream.seek(max(0, size - _EOCD.size - _LOCATOR64.size))
    tail = stream.read()
    if len(tail) < _EOCD.size or tail[-_EOCD.size : -_EOCD.size + 4] != b"PK\x05\x06":
        raise SourceUnreadable("the archive does not end where the file ends", where=where, mend=_AGAIN)
    _, _, _, _, entries, length, offset, _ = _EOCD.unpack(tail[-_EOCD.size :])
    end = size - _EOCD.size
    if tail[: -_EOCD.size].startswith(b"PK\x06\x07"):
        _, _, record, _ = _LOCATOR64.unpack(tail[: -_EOCD.size])
        if record > end - _LOCATOR64.size - _EOCD64.size:
            raise SourceUnreadable("the zip64 record lies outside the file", where=where, mend=_AGAIN)
        stream.seek(record)
        head = _EOCD64.unpack(stream.read(_EOCD64.size))
        entries, length, offset, end = head[7], head[8], head[9], record
    if entries > max_entries:
        raise SourceUnreadable(f"{entries:,} members, over {max_entries:,}", where=where)
    if offset + length != end or length > max(1 << 16, entries * 1024):
        raise SourceUnreadable(
            f"a directory of {length:,} bytes at {offset:,} does not fit the file", where=where, mend=_AGAIN
        )
    return stream


def _check_entry(path: Path, info: zipfile.ZipInfo, seen: set[str]) -> None:
    where = f"{path.name}: {info.filename!r}"
    # ZipInfo cuts the name at a NUL and swaps separators; other readers may see the original.
    windows = PureWindowsPath(info.orig_filename)
    names = PurePosixPath(info.filename)
    unsafe = "\\" in info.orig_filename or "\0" in info.orig_filename or windows.drive or names.is_absolute()
    if unsafe or not info.filename or ".." in names.parts:
        raise SourceUnreadable("the member's name leads out of the archive", where=where, mend=_AGAIN)
    if info.filename in seen:
        raise SourceUnreadable("two members have this name", where=where, mend=_AGAIN)
    seen.add(info.filename)
    if info.flag_bits & _ENCRYPTED:
        raise SourceUnreadable("the member is encrypted", where=where, mend="Save it without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SourceUnreadable(f"unknown compression method {info.compress_type}", where=where)
    if stat.S_ISLNK(info.external_attr >> 16):
        raise SourceUnreadable("the member is a symbolic link", where=where)
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        raise SourceUnreadable(
            f"stored in {info.compress_size:,} bytes, declared as {info.file_size:,}",
            where=where,
            mend=_AGAIN,
        )


def _members(stream: BinaryIO, path: Path, infos: list[zipfile.ZipInfo], directory: int) -> dict[str, Member]:
    """Members with their data's place, after each local header was compared with the directory."""
    begins: dict[str, int] = {}
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        where = f"{path.name}: {info.filename!r}"
        if info.header_offset < end:
            raise SourceUnreadable("the member overlaps the one before it", where=where, mend=_AGAIN)
        if end == 0 and info.header_offset != 0:
            raise SourceUnreadable("bytes stand before the first member", where=where, mend=_AGAIN)
        stream.seek(info.header_offset)
        raw = stream.read(_LOCAL.size)
        if len(raw) < _LOCAL.size or raw[:4] != b"PK\x03\x04":
            raise SourceUnreadable("the member's header is missing", where=where, mend=_AGAIN)
        head = _LOCAL.unpack(raw)
        name, start = stream.read(head[9]), info.header_offset + _LOCAL.size + head[9] + head[10]
        end = start + info.compress_size
        if end > directory:
            raise SourceUnreadable("the member reaches beyond its end", where=where, mend=_AGAIN)
        _check_local(info, head, name, where)
        begins[info.filename] = start
    return {
        info.filename: Member(
            info.filename,
            info.file_size,
            info.compress_size,
            begins[info.filename],
            info.compress_type == zipfile.ZIP_STORED,
        )
        for info in infos
        if not info.is_dir()
    }


def _check_local(info: zipfile.ZipInfo, head: tuple[int, ...], name: bytes, where: str) -> None:
    """A local header must say what the directory says; sizes may follow the data (flag 8) or be zip64."""
    encoded = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
    sizes_known = not head[2] & 0x8 and 0xFFFFFFFF not in (head[7], head[8])
    differs = head[3] != info.compress_type or name != encoded
    if differs or (sizes_known and (head[7], head[8]) != (info.compress_size, info.file_size)):
        raise SourceUnreadable("the member's header differs from the directory", where=where, mend=_AGAIN)
