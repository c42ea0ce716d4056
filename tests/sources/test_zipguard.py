import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelport.sources.files import zipguard
from modelport.targets.errors import SourceUnreadable


def make(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refused(path: Path, words: str) -> str:
    with pytest.raises(SourceUnreadable, match=words) as caught:
        zipguard.check(path)
    assert path.name in caught.value.where
    return caught.value.where


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return make(tmp_path / "good.zip", {"a/x": b"first" * 100, "a/y": b"second"})


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_sound_archive_are_listed_and_read(tmp_path: Path, method: int) -> None:
    archive = zipguard.check(make(tmp_path / "a.zip", {"x": b"0" * 500, "d/y": b"abc"}, method))
    assert {name: m.size for name, m in archive.members.items()} == {"x": 500, "d/y": 3}
    assert archive.read("d/y", 3) == b"abc"


def test_a_stored_members_bytes_lie_at_its_offset(good: Path) -> None:
    member = zipguard.check(good).members["a/x"]
    assert good.read_bytes()[member.offset : member.offset + member.size] == b"first" * 100


def test_an_archive_inside_another_is_checked_from_its_bytes(good: Path) -> None:
    archive = zipguard.check(Path("inner"), content=good.read_bytes())
    assert archive.read("a/y", 10) == b"second"


def test_reading_stops_at_the_limit(good: Path) -> None:
    with pytest.raises(SourceUnreadable, match="500 bytes are more than the 499"):
        zipguard.check(good).read("a/x", 499)


def test_a_missing_member_is_named(good: Path) -> None:
    with pytest.raises(SourceUnreadable, match=r"good.zip: nope: the archive has no such member"):
        zipguard.check(good).read("nope", 10)


def test_a_damaged_member_fails_its_checksum(good: Path) -> None:
    content = bytearray(good.read_bytes())
    content[zipguard.check(good).members["a/y"].offset] ^= 1
    good.write_bytes(content)
    with pytest.raises(SourceUnreadable, match="a/y: the member is damaged"):
        zipguard.check(good).read("a/y", 10)


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_truncated_archive_is_refused(good: Path, keep: int) -> None:
    good.write_bytes(good.read_bytes()[:keep])
    refused(good, "does not end where the file ends")


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    bomb = make(tmp_path / "bomb.zip", {"x": bytes(64 << 20)}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    refused(bomb, "inflates to 67,108,864 bytes")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\\b", "C:/x"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    refused(make(tmp_path / "a.zip", {name: b""}), "leads out of the archive")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"1")
        archive.writestr("x", b"2")
    refused(path, "two members have this name")


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    refused(path, "symbolic link")


def test_an_encrypted_member_is_refused(good: Path) -> None:
    content = bytearray(good.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    good.write_bytes(content)
    refused(good, "encrypted")


def test_a_member_that_lies_in_another_is_refused(good: Path) -> None:
    content = bytearray(good.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[second + 42 : second + 46] = struct.pack("<L", 20)
    good.write_bytes(content)
    refused(good, "overlaps")


def test_bytes_before_the_archive_are_refused(good: Path) -> None:
    good.write_bytes(b"#!/bin/sh\n" + good.read_bytes())
    refused(good, "does not fit the file")


def test_a_local_header_that_tells_another_story_is_refused(good: Path) -> None:
    content = bytearray(good.read_bytes())
    content[30:33] = b"b/x"
    good.write_bytes(content)
    refused(good, "differs from the directory")


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", {str(n): b"" for n in range(20)})
    with pytest.raises(SourceUnreadable, match="20 members, over 10"):
        zipguard.check(path, max_entries=10)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_archives_raise_nothing_else(good: Path, data: st.DataObject) -> None:
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        archive = zipguard.check(Path("mutated"), content=bytes(content))
        for name in archive.members:
            archive.read(name, 1000)
    except SourceUnreadable:
        pass
