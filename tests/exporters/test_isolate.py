"""Workers die in every way that a converter can, for real: one clear error, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelport.exporters import isolate
from modelport.exporters.job import Job, Outcome, Port
from modelport.exporters.staging import Staging
from modelport.targets.errors import (
    BY_NAME,
    ConversionFailed,
    MissingExtra,
    Unsupported,
    UsageError,
    WorkerDied,
)

HERE = Path(__file__).parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl and /proc")

MakeJob = Callable[..., Job]


@pytest.fixture
def job(tmp_path: Path) -> MakeJob:
    (tmp_path / "publish").mkdir()
    (tmp_path / "work").mkdir()

    def make(*steps: str, **options: Any) -> Job:
        named = tuple(step if ":" in step else f"isolate_steps:{step}" for step in steps)
        return Job(
            named, "onnx", "", "server-cpu", "onnxruntime", "int8", str(tmp_path / "publish"), str(tmp_path / "work"),
            options={"user_path": str(HERE), "pids": str(tmp_path / "pids"), **options},
        )  # fmt: skip

    return make


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def assert_ended(pids_file: Path, *, within: float = 0.0) -> None:
    pids = [int(pid) for pid in pids_file.read_text().split()]
    assert len(pids) == 4
    deadline = time.monotonic() + within
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [pid for pid in pids if alive(pid)]


def test_steps_run_in_order_and_hand_back_outcomes_progress_and_figures(job: MakeJob) -> None:
    seen: list[tuple[str, int, int]] = []
    done = isolate.run(job("write_model", "count_files"), on_progress=lambda *event: seen.append(event))
    assert seen == [("writing", 0, 2), ("writing", 2, 2), ("counting", 1, 1)]
    assert list(done) == ["isolate_steps:write_model", "isolate_steps:count_files"]
    assert done["isolate_steps:write_model"] == Outcome(
        files=("model.bin",), inputs=(Port("x", "args_0", (0, 2, 3, 1)),), data={"n": 1}
    )
    assert done["isolate_steps:count_files"].data == {"files": ["model.bin"]}
    assert done.seconds > 0
    assert 4 << 20 < done.peak_bytes < 200 << 20


def test_worker_is_offline_private_quiet_and_reproducible(job: MakeJob, tmp_path: Path) -> None:
    told = isolate.run(job("tell_surroundings"))["isolate_steps:tell_surroundings"].data
    work = str(tmp_path / "work")
    assert told["cwd"] == work
    assert told["umask"] == 0o077
    assert told["stdin"] == ""
    assert told["session"] != os.getsid(0)
    for name, value in {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONHASHSEED": "0"}.items():
        assert told["env"][name] == value
    assert told["env"]["CUDA_VISIBLE_DEVICES"] == "-1"
    for name in ("TMPDIR", "HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCH_HOME", "KERAS_HOME"):
        assert told["env"][name].startswith(work)
    assert work not in told["path"]
    assert "" not in told["path"]
    assert told["path"][-1] == str(HERE)


def test_gpu_is_left_visible_when_asked_for(job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    told = isolate.run(job("tell_surroundings", gpu=True))["isolate_steps:tell_surroundings"].data
    assert told["env"]["CUDA_VISIBLE_DEVICES"] == "5"


def test_users_folder_is_out_of_reach_unless_named(job: MakeJob) -> None:
    with pytest.raises(Unsupported, match="no module isolate_steps"):
        isolate.run(job("write_model", user_path=None))


def test_output_of_a_framework_is_kept_at_its_end_only(job: MakeJob) -> None:
    log = isolate.run(job("talk")).log
    assert len(log) == isolate.LOG_BYTES
    assert log.endswith("line\nthe last words\n")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("SIGSEGV", "the converter crashed (SIGSEGV)"),
        ("SIGABRT", "the converter crashed (SIGABRT)"),
        ("SIGILL", "the converter crashed (SIGILL)"),
        ("SIGBUS", "the converter crashed (SIGBUS)"),
        ("SIGKILL", "the worker was killed from outside (SIGKILL)"),
        ("SIGTERM", "the worker was killed from outside (SIGTERM)"),
        ("exit", "the worker ended with exit code 3 and no result"),
    ],
)
def test_death_of_the_worker_is_one_error_with_cause_stage_and_log(
    job: MakeJob, how: str, words: str
) -> None:
    seen: list[str] = []
    with pytest.raises(WorkerDied) as caught:
        isolate.run(
            job("write_model", "die", how=how), on_progress=lambda stage, done, total: seen.append(stage)
        )
    assert caught.value.fact == words
    assert caught.value.where == "quantizing"
    assert "last words" in caught.value.log
    assert seen[-1] == "quantizing"


@linux
@pytest.mark.parametrize("in_child", [False, True])
def test_memory_limit_ends_the_worker_and_tells_both_figures(job: MakeJob, in_child: bool) -> None:
    with pytest.raises(WorkerDied, match=r"memory limit: [\d.]+ MiB reached, 100\.0 MiB allowed"):
        isolate.run(job("grow", in_child=in_child), memory_limit=100 << 20)


@linux
def test_mapped_files_do_not_count_against_the_memory_limit(job: MakeJob) -> None:
    done = isolate.run(job("map_file"), memory_limit=64 << 20)
    assert done["isolate_steps:map_file"].data["total"] == ord("x") * (96 << 20) // 4096


def test_hang_is_ended_at_the_timeout_with_all_that_it_started(job: MakeJob, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(WorkerDied, match=r"no result after 1 s") as caught:
        isolate.run(job("hang"), timeout=1)
    assert caught.value.where == "thinking"
    assert time.monotonic() - started < 5
    assert_ended(tmp_path / "pids")


@linux
def test_what_a_successful_step_leaves_running_is_ended(job: MakeJob, tmp_path: Path) -> None:
    isolate.run(job("leave_child"))
    assert_ended(tmp_path / "pids")


@linux
def test_killed_guardian_takes_the_worker_with_it(job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(WorkerDied, match="its guardian"):
        isolate.run(job("kill_guardian"))
    for pid in map(
        int, (tmp_path / "pids").read_text().split()[2:]
    ):  # in sessions of their own, where nobody but the guardian finds them
        os.kill(pid, signal.SIGKILL)
    assert_ended(tmp_path / "pids", within=5)


def test_framework_that_hangs_while_it_exits_does_not_hold_up_the_result(job: MakeJob) -> None:
    assert isolate.run(job("linger"), timeout=20).seconds < 10


def test_error_in_the_progress_callback_ends_the_worker(job: MakeJob, tmp_path: Path) -> None:
    def broken(stage: str, done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        isolate.run(job("hang"), on_progress=broken)
    assert_ended(tmp_path / "pids")


def test_run_works_in_a_thread(job: MakeJob) -> None:
    found: list[isolate.Finished] = []
    thread = threading.Thread(target=lambda: found.append(isolate.run(job("write_model"))))
    thread.start()
    thread.join()
    assert list(found[0]) == ["isolate_steps:write_model"]


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_errors_of_a_step_come_back_as_what_they_were(job: MakeJob, name: str) -> None:
    with pytest.raises(BY_NAME[name]) as caught:
        isolate.run(job("refuse", name=name))
    assert type(caught.value) is BY_NAME[name]
    assert str(caught.value) == "model.bin: field: the fact. Mend it."
    assert "isolate_steps.py" in caught.value.log


def test_unknown_exception_becomes_one_line_with_the_traceback_in_the_log(job: MakeJob) -> None:
    with pytest.raises(ConversionFailed) as caught:
        isolate.run(job("fail"))
    assert caught.value.fact.startswith("ValueError: cannot lower aten::thing xxx")
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert caught.value.where == "lowering"
    assert "in fail" in caught.value.log


def test_step_that_calls_exit_is_a_failed_conversion(job: MakeJob) -> None:
    with pytest.raises(ConversionFailed, match="SystemExit: no licence"):
        isolate.run(job("leave_by_exit"))


def test_missing_dependency_and_unknown_runtime_are_two_errors(job: MakeJob) -> None:
    with pytest.raises(
        MissingExtra, match=r"'surely_not_installed_anywhere' is not .*modelport\[server-cpu\]"
    ):
        isolate.run(job("need_missing_module"))
    with pytest.raises(Unsupported, match=r"there is no module modelport\.exporters\.runtimes\.nope"):
        isolate.run(job(".exporters.runtimes.nope:export"))


def parent(out: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "isolate_parent.py"), str(out), json.dumps(options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_ctrl_c_and_termination_leave_no_process_and_no_file(
    tmp_path: Path, number: int, code: int, bare: bool
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    with parent(folder / "out", step="isolate_steps:hang", pids=str(tmp_path / "pids"), bare=bare) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "thinking\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == code, errors
    assert_ended(tmp_path / "pids")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 143)])
def test_ctrl_c_and_termination_between_workers_leave_no_file(tmp_path: Path, number: int, code: int) -> None:
    with parent(tmp_path / "out", content="x", wait=60) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == code, errors
    assert list(tmp_path.iterdir()) == []


@linux
def test_worker_ends_even_when_parent_and_guardian_can_do_nothing(tmp_path: Path) -> None:
    with parent(tmp_path / "out", step="isolate_steps:hang", pids=str(tmp_path / "pids")) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        worker, _, *escaped = map(int, (tmp_path / "pids").read_text().split())
        guardian = int(Path(f"/proc/{worker}/stat").read_bytes().rpartition(b")")[2].split()[1])
        os.kill(guardian, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while alive(worker) and time.monotonic() < deadline:
            time.sleep(0.01)
        ended = not alive(worker)
        for pid in escaped:
            os.kill(pid, signal.SIGKILL)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=20)
    assert ended
    assert "its guardian with it" in errors
    assert_ended(tmp_path / "pids", within=5)


@linux
def test_killed_parent_takes_everything_with_it_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    with parent(folder / "out", step="isolate_steps:hang", pids=str(tmp_path / "pids")) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert_ended(tmp_path / "pids", within=5)
    assert len(list(folder.iterdir())) == 1
    with Staging(folder / "other"):
        pass
    assert list(folder.iterdir()) == []


@linux
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.04, 0.08])
def test_parent_killed_while_the_worker_starts_leaves_no_process(tmp_path: Path, delay: float) -> None:
    with parent(tmp_path / "out", step="isolate_steps:hang", pids=str(tmp_path / "pids")) as process:
        while not list(tmp_path.rglob("job.json")):
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
    work = str(next(tmp_path.glob(".out*/work")))
    deadline = time.monotonic() + 5
    while (left := _working_in(work)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def _working_in(folder: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "cwd") == folder:
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


@pytest.fixture
def cgroup() -> Iterator[Path]:
    folder = Path(f"/sys/fs/cgroup/memory/modelport-test-{os.getpid()}")
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(1 << 30))
    except OSError:
        pytest.skip("needs the right to make a memory cgroup (version 1)")
    yield folder
    folder.rmdir()


@linux
def test_kernels_out_of_memory_killer_is_named(job: MakeJob, cgroup: Path) -> None:
    with pytest.raises(WorkerDied, match=r"out-of-memory killer ended the worker \(peak [\d.]+ MiB\)"):
        isolate.run(job("out_of_memory", cgroup=str(cgroup)))


def test_memory_limit_is_refused_where_it_cannot_be_watched(
    job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match="Linux only"):
        isolate.run(job("write_model"), memory_limit=1 << 30)
