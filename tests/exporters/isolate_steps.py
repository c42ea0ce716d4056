"""Steps that the tests run in real workers: well-behaved ones, and one for every way to die."""

from __future__ import annotations

import atexit
import ctypes
import errno
import importlib
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from modelport.exporters.job import Job, Outcome, Port, Progress
from modelport.targets.errors import BY_NAME, ConversionFailed


def write_model(job: Job, progress: Progress) -> Outcome:
    progress("writing", 0, 2)
    Path(job.staging, "model.bin").write_bytes(b"weights")
    progress("writing", 2, 2)
    return Outcome(files=("model.bin",), inputs=(Port("x", "args_0", (0, 2, 3, 1)),), data={"n": 1})


def count_files(job: Job, progress: Progress) -> Outcome:
    progress("counting", 1, 1)
    return Outcome(data={"files": sorted(os.listdir(job.staging))})


def tell_surroundings(job: Job, progress: Progress) -> Outcome:
    mask = os.umask(0)
    os.umask(mask)
    return Outcome(
        data={
            "env": dict(os.environ), "cwd": os.getcwd(), "umask": mask, "path": sys.path,
            "session": os.getsid(0), "stdin": sys.stdin.read(),
        }
    )  # fmt: skip


def talk(job: Job, progress: Progress) -> Outcome:
    os.write(1, b"line\n" * 200_000)
    print("the last words")
    return Outcome()


def die(job: Job, progress: Progress) -> Outcome:
    progress("loading", 1, 3)
    progress("quantizing", 2, 3)
    os.write(2, b"last words\n")
    how = job.options["how"]
    if how == "SIGSEGV":
        ctypes.string_at(0)
    elif how == "SIGABRT":
        os.abort()
    elif how == "exit":
        os._exit(3)
    else:
        os.kill(os.getpid(), signal.Signals[how])
    return Outcome()


def kill_guardian(job: Job, progress: Progress) -> Outcome:
    leave_child(job, progress)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
    return Outcome()


def leave_child(job: Job, progress: Progress) -> Outcome:
    """Start three grandchildren: one ordinary, one in a session of its own, one whose parent is gone."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    pids = [os.getpid()]
    pids.append(subprocess.Popen(sleep).pid)
    pids.append(subprocess.Popen(sleep, start_new_session=True).pid)
    orphan = (
        f"import subprocess; p = subprocess.Popen({sleep}, start_new_session=True, stdout=-3); print(p.pid)"
    )
    pids.append(int(subprocess.check_output([sys.executable, "-c", orphan])))
    Path(job.options["pids"]).write_text(" ".join(map(str, pids)))
    return Outcome()


def hang(job: Job, progress: Progress) -> Outcome:
    leave_child(job, progress)
    progress("thinking", 1, 2)
    time.sleep(60)
    return Outcome()


def grow(job: Job, progress: Progress) -> Outcome:
    """Hold more and more memory, in a child of our own if asked to; but never more than 1 GiB."""
    if job.options.get("in_child"):
        code = "import time\nheld=[]\nwhile len(held)<64: held.append(b'x'*(1<<24)); time.sleep(0.005)"
        subprocess.run([sys.executable, "-c", code])
        return Outcome()
    progress("growing", 0, 1)
    held: list[bytes] = []
    while len(held) < 64:
        held.append(b"x" * (1 << 24))
        time.sleep(0.005)
    return Outcome()


def map_file(job: Job, progress: Progress) -> Outcome:
    """Read a large mapped file: resident, but the kernel can take it back at any time."""
    path = Path(job.work, "large")
    with path.open("wb") as writing:
        for _ in range(96):
            writing.write(b"x" * (1 << 20))
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        total = sum(mapped[i] for i in range(0, len(mapped), 4096))
        time.sleep(0.3)
    return Outcome(data={"total": total})


def out_of_memory(job: Job, progress: Progress) -> Outcome:
    limit, cgroup = 96 << 20, Path(job.options["cgroup"])
    (cgroup / "memory.limit_in_bytes").write_text(str(limit))
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    return grow(job, progress)


def linger(job: Job, progress: Progress) -> Outcome:
    """Be done, and then hang in an exit handler, as frameworks do."""
    atexit.register(time.sleep, 60)
    return Outcome()


def refuse(job: Job, progress: Progress) -> Outcome:
    raise BY_NAME[job.options["name"]]("the fact", where="model.bin: field", mend="Mend it.")


def fill_disk(job: Job, progress: Progress) -> Outcome:
    progress("writing", 0, 1)
    try:
        with open(Path(job.staging, "model.bin"), "wb") as stream:
            while stream.tell() < 8 << 20:
                stream.write(b"x" * 65536)
    except OSError as error:
        if job.options.get("wrapped"):
            raise ConversionFailed("the converter could not write its file") from error
        raise
    return Outcome(files=("model.bin",))


def fail(job: Job, progress: Progress) -> Outcome:
    progress("lowering", 1, 2)
    raise ValueError("cannot lower\n  aten::thing\n" + "x" * 10_000)


def leave_by_exit(job: Job, progress: Progress) -> Outcome:
    raise SystemExit("no licence")


def need_missing_module(job: Job, progress: Progress) -> Outcome:
    importlib.import_module("surely_not_installed_anywhere")
    return Outcome()


def promise_file(job: Job, progress: Progress) -> Outcome:
    return Outcome(files=(job.options["file"],))


def return_nothing(job: Job, progress: Progress) -> None:
    return None


def raise_full(job: Job, progress: Progress) -> Outcome:
    raise OSError(getattr(errno, job.options["errno"]), "x", "/somewhere/file")
