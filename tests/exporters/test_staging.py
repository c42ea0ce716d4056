"""The output folder is whole or absent: on errors, full disks, kill -9, and with several runs at once."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.exporters import disk, isolate, staging
from modelport.exporters.job import Job
from modelport.exporters.staging import Staging
from modelport.targets.errors import ConversionFailed, UsageError, WorkerDied

HERE = Path(__file__).parent
FILES = {"a", "b", "c", "d", "manifest.json"}


def publish(out: Path, text: str, *, overwrite: bool = False) -> Path:
    with Staging(out, overwrite=overwrite) as stage:
        (stage.content / "model.bin").write_text(text)
        (stage.content / "manifest.json").write_text(json.dumps({"schema": 1, "modelport": "0.1.0"}))
        return stage.publish()


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def start_parent(out: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "isolate_parent.py"), str(out), json.dumps(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_output_appears_with_publish_and_nothing_else_is_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Staging(out) as stage:
        (stage.content / "model.bin").write_text("x")
        (stage.work / "scratch").write_text("y")
        assert stage.folder.stat().st_mode & 0o777 == 0o700
        assert stage.folder.parent == tmp_path
        assert not out.exists()
        assert stage.publish() == out
        assert names(out) == {"model.bin"}
    assert names(tmp_path) == {"out"}


def test_published_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = os.umask(0o027)
    try:
        with Staging(out) as stage:
            (stage.content / "inner").mkdir(mode=0o700)
            for name, mode in (("model.bin", 0o600), ("run.sh", 0o700)):
                (stage.content / "inner" / name).write_text("x")
                (stage.content / "inner" / name).chmod(mode)
            stage.publish()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (out, *out.rglob("*"))}
    assert modes == {"out": 0o750, "inner": 0o750, "model.bin": 0o640, "run.sh": 0o750}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_without_publish_everything_vanishes(tmp_path: Path, error: type[BaseException]) -> None:
    def run() -> None:
        with Staging(tmp_path / "out") as stage:
            locked = stage.work / "no" / "access"
            locked.mkdir(parents=True)
            locked.parent.chmod(0)
            raise error

    with pytest.raises(error):
        run()
    assert names(tmp_path) == set()


def test_existing_output_is_kept_unless_overwrite(tmp_path: Path) -> None:
    out = publish(tmp_path / "out", "first")
    with pytest.raises(UsageError, match="exists already"):
        publish(out, "second")
    assert (out / "model.bin").read_text() == "first"
    publish(out, "second", overwrite=True)
    assert (out / "model.bin").read_text() == "second"
    assert names(tmp_path) == {"out"}


def test_overwrite_takes_the_place_of_the_folder_itself_where_no_exchange_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = publish(tmp_path / "out", "first")
    monkeypatch.setattr(staging, "exchange", lambda one, other: False)
    publish(out, "second", overwrite=True)
    assert (out / "model.bin").read_text() == "second"
    assert names(tmp_path) == {"out"}


def test_output_moved_aside_by_a_killed_run_is_put_back(tmp_path: Path) -> None:
    stale = tmp_path / f".out{staging.MARK}0123456789abcdef"
    publish(tmp_path / "first", "first").rename(tmp_path / "old")
    stale.mkdir()
    (tmp_path / "old").rename(stale / "old")
    with Staging(tmp_path / "other"):
        pass
    assert names(tmp_path) == {"out"}
    assert (tmp_path / "out" / "model.bin").read_text() == "first"


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_exchange_swaps_two_folders(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert disk.exchange(tmp_path / "one", tmp_path / "other")
    assert names(tmp_path / "one") == {"other"}
    with pytest.raises(FileNotFoundError):
        disk.exchange(tmp_path / "one", tmp_path / "missing")


def test_overwrite_takes_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    publish(tmp_path / "out", "x", overwrite=True)
    assert names(tmp_path / "out") == {"model.bin", "manifest.json"}


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        "",
        "[]",
        '{"name": "a browser extension", "manifest_version": 3}',
        '{"schema": 1}',
        "[" * 100_000,
    ],
)
def test_overwrite_never_touches_a_folder_that_is_not_ours(tmp_path: Path, manifest: str | None) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("years of work")
    if manifest is not None:
        (out / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match="holds other things"):
        publish(out, "x", overwrite=True)
    assert (out / "chapter1.tex").read_text() == "years of work"
    assert names(tmp_path) == {"thesis"}


def test_folder_that_fills_during_the_run_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with Staging(out, overwrite=True) as stage:
        (out / "precious").touch()
        with pytest.raises(UsageError, match="holds other things"):
            stage.publish()
    assert names(out) == {"precious"}


def test_output_that_appears_during_the_run_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Staging(out) as stage:
        publish(out, "the other run")
        with pytest.raises(UsageError, match="exists already"):
            stage.publish()
    assert (out / "model.bin").read_text() == "the other run"
    assert names(tmp_path) == {"out"}


def test_places_that_cannot_take_the_output_are_refused_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for out, words in {
        tmp_path / "file": "a file is in the way",
        tmp_path / "file" / "out": "does not exist",
        tmp_path / "missing" / "out": "does not exist",
        tmp_path / "loop": "leads nowhere",
        tmp_path / "nowhere": "leads nowhere",
        tmp_path / ("n" * 250): "longer than",
        Path(): "current folder",
        tmp_path: "current folder",
        Path("/proc"): "mount point",
    }.items():
        with pytest.raises(UsageError, match=words), Staging(out, overwrite=True):
            pass
    assert names(tmp_path) == {"file", "loop", "nowhere", "cwd"}


def test_parent_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "access", lambda path, mode: False
    )  # chmod does not stop root, who runs tests too
    with pytest.raises(UsageError, match="cannot be written to"), Staging(tmp_path / "out"):
        pass


def test_link_to_an_output_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real = publish(tmp_path / "disk" / "real", "first")
    (tmp_path / "latest").symlink_to(real)
    publish(tmp_path / "latest", "second", overwrite=True)
    assert (tmp_path / "latest").is_symlink()
    assert (real / "model.bin").read_text() == "second"
    assert names(tmp_path) == {"disk", "latest"}
    assert names(tmp_path / "disk") == {"real"}


def test_too_little_disk_is_told_before_the_work_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs 1024\.0 TiB of disk, and .* are free"):  # noqa: SIM117
        with Staging(tmp_path / "out", need_bytes=1 << 50):
            pytest.fail("started all the same")
    assert names(tmp_path) == set()


def test_stale_folders_are_swept_and_live_and_foreign_ones_kept(tmp_path: Path) -> None:
    stale = tmp_path / f".out{staging.MARK}0123456789abcdef"
    (stale / "work").mkdir(parents=True)
    foreign = tmp_path / f".out{staging.MARK}notes"
    foreign.mkdir()
    with Staging(tmp_path / "out") as live:
        assert not stale.exists()
        (live.content / "x").touch()
        with Staging(tmp_path / "out") as other:
            assert live.content.exists()
            assert other.folder != live.folder
        live.publish()
    assert names(tmp_path) == {"out", foreign.name}


def test_many_runs_into_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    wrong: list[BaseException] = []

    def run(number: int) -> None:
        try:
            for _ in range(10):
                with Staging(tmp_path / "out", overwrite=True) as stage:
                    for name in FILES - {"manifest.json"}:
                        (stage.content / name).write_text(str(number))
                    (stage.content / "manifest.json").write_text('{"schema": 1, "modelport": "0"}')
                    stage.publish()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out") == FILES
    assert len({(tmp_path / "out" / name).read_text() for name in "abcd"}) == 1


def test_of_two_processes_at_once_one_publishes_and_one_is_refused(tmp_path: Path) -> None:
    runs = [start_parent(tmp_path / "out", content=str(number), wait=0.3) for number in range(2)]
    errors = [process.communicate(timeout=30)[1] for process in runs]
    assert sorted(process.returncode for process in runs) == [0, 1], errors
    assert "UsageError" in "".join(errors)
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out") == FILES


@pytest.mark.parametrize("overwrite", [False, True])
def test_output_is_whole_or_absent_when_killed_at_any_moment(tmp_path: Path, overwrite: bool) -> None:
    out = tmp_path / "out"

    def run(content: str, *, kill_after: float) -> float:
        """Seconds from the first file to the end of the process, which is killed if it takes too long."""
        with start_parent(out, content=content, overwrite=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            started = time.monotonic()
            try:
                process.wait(timeout=kill_after)
            except subprocess.TimeoutExpired:
                process.kill()
        return time.monotonic() - started

    usual = run("whole", kill_after=60)
    for number in range(8):
        if not overwrite:
            shutil.rmtree(out, ignore_errors=True)
        run(f"{number}", kill_after=usual * number / 7)
        if overwrite or out.exists():
            assert names(out) == FILES
            texts = {(out / name).read_text() for name in "abcd"}
            assert texts == {json.loads((out / "manifest.json").read_text())["content"]}
    with Staging(tmp_path / "other"):
        pass
    assert names(tmp_path) <= {"out"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("wrapped", [False, True])
def test_full_disk_in_the_worker_is_named_and_leaves_nothing(small_disk: Path, wrapped: bool) -> None:
    with pytest.raises(WorkerDied, match=r"the disk is full; [\d.]+ .* left there") as caught:
        run_fill(small_disk / "out", wrapped=wrapped)
    assert str(small_disk) in caught.value.where
    assert names(small_disk) == set()


def test_full_disk_while_the_report_is_written_is_named_and_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(ConversionFailed, match="the disk is full"), Staging(small_disk / "out") as stage:
        (stage.content / "report.html").write_bytes(b"x" * (8 << 20))
    assert names(small_disk) == set()


def test_disk_that_is_full_before_the_worker_starts_is_named(small_disk: Path) -> None:
    with Staging(small_disk / "out") as stage:
        with pytest.raises(OSError, match="space"):
            (stage.work / "fill").write_bytes(b"x" * (8 << 20))
        job = Job((), "onnx", "", "android", "litert", "int8", str(stage.content), str(stage.work))
        with pytest.raises(ConversionFailed, match="the disk is full"):
            isolate.run(job)
    assert names(small_disk) == set()


def test_file_size_limit_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(WorkerDied, match="the file size limit is reached"):
            run_fill(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == set()


def run_fill(out: Path, **options: Any) -> None:
    with Staging(out) as stage:
        job = Job(
            ("isolate_steps:fill_disk",), "onnx", "", "android", "litert", "int8",
            str(stage.content), str(stage.work), options={"user_path": str(HERE), **options},
        )  # fmt: skip
        isolate.run(job)
        stage.publish()


@given(st.sampled_from(sorted(disk.DISK_FULL)), st.text(min_size=1))
def test_every_errno_of_a_full_disk_names_the_file(number: int, name: str) -> None:
    error = disk.disk_full(OSError(number, os.strerror(number), name), "/")
    assert error is not None
    assert error.where == name


def test_other_system_errors_are_left_alone() -> None:
    assert disk.disk_full(OSError(errno.EACCES, "no"), "/") is None


@given(st.integers(0, 1 << 60))
def test_sizes_keep_their_value_to_within_five_percent(nbytes: int) -> None:
    number, unit = disk.size_text(nbytes).split()
    scale = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert float(number) * scale == pytest.approx(nbytes, rel=0.05)
