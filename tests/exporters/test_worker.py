"""The child's own rules: what a step may return, and what an exception of it is called for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.exporters import worker
from modelport.exporters.job import Job
from modelport.targets.errors import (
    ConversionFailed,
    MissingExtra,
    ModelportError,
    SourceUnreadable,
    Unsupported,
    WorkerDied,
)

HERE = Path(__file__).parent


def make_job(folder: Path = HERE, **options: Any) -> Job:
    return Job((), "onnx", "", "ios", "coreml", "int8", str(folder), str(folder), options=options)


def explain(error: BaseException) -> ModelportError:
    return worker.explain(error, make_job(), "a step")


def raised(outer: BaseException, cause: BaseException | None, *, handling: bool = False) -> BaseException:
    try:
        if cause is None:
            raise outer
        if handling:
            try:
                raise cause
            except BaseException:
                raise outer  # noqa: B904
        raise outer from cause
    except BaseException as error:
        return error


def no_progress(stage: str, done: int, total: int) -> None:
    pass


@pytest.fixture(autouse=True)
def steps_in_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


@pytest.mark.parametrize("handling", [False, True])
@pytest.mark.parametrize("outer", [RuntimeError("save failed"), ConversionFailed("x"), SourceUnreadable("x")])
def test_full_disk_is_found_under_any_wrapping(outer: BaseException, handling: bool) -> None:
    error = raised(outer, OSError(28, "No space left on device", "/tmp/model.bin"), handling=handling)
    found = explain(error)
    assert type(found) is WorkerDied
    assert found.fact.startswith("the disk is full")
    assert found.where == "/tmp/model.bin"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        raised(RuntimeError("conversion failed"), MemoryError()),
        raised(ConversionFailed("conversion failed"), MemoryError()),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_lack_of_memory_is_found_in_all_its_forms(error: BaseException) -> None:
    found = explain(error)
    assert type(found) is WorkerDied
    assert found.fact.startswith("out of memory")


def test_disk_words_of_a_native_library_count_too() -> None:
    assert explain(RuntimeError("write: No space left on device")).fact.startswith("the disk is full")


def test_what_a_step_says_on_purpose_is_kept_even_if_memory_ran_short_beneath() -> None:
    error = raised(SourceUnreadable("claims 2^60 elements", where="w.npy"), MemoryError())
    assert explain(error) is error


def test_missing_module_names_the_extra() -> None:
    found = explain(ModuleNotFoundError("No module named 'coremltools'", name="coremltools"))
    assert type(found) is MissingExtra
    assert "modelport[ios]" in found.mend
    assert "modelport[apple]" in worker.explain(
        ModuleNotFoundError(name="coremltools"), make_job(extra="apple"), ""
    ).mend  # fmt: skip


def says_more(text: str) -> bool:
    return any(word in text for word in (*worker._MEMORY_WORDS, *worker._DISK_WORDS))


@given(
    st.text().filter(lambda text: not says_more(text)),
    st.sampled_from([ValueError, RuntimeError, KeyError, ImportError]),
)
def test_any_message_becomes_one_line_of_bounded_length(text: str, kind: type[Exception]) -> None:
    fact = explain(kind(text)).fact
    assert len(fact.splitlines()) == 1
    assert fact.startswith(kind.__name__)
    assert len(fact) <= 410


def test_error_whose_own_text_fails_is_still_explained() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert explain(Broken()).fact == "Broken"


def test_circular_causes_end() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert explain(one).fact == "ValueError: one"


@pytest.mark.parametrize("file", ["missing.bin", "../isolate_steps.py/..", "/etc/passwd"])
def test_step_must_have_written_what_it_reports(tmp_path: Path, file: str) -> None:
    with pytest.raises(ConversionFailed, match="did not write"):
        worker.run_step("isolate_steps:promise_file", make_job(tmp_path, file=file), no_progress)


def test_link_out_of_the_staging_folder_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "model.bin").symlink_to("/etc/passwd")
    with pytest.raises(ConversionFailed, match="did not write"):
        worker.run_step("isolate_steps:promise_file", make_job(tmp_path, file="model.bin"), no_progress)


def test_step_must_return_an_outcome(tmp_path: Path) -> None:
    with pytest.raises(ConversionFailed, match="returned NoneType, not an Outcome"):
        worker.run_step("isolate_steps:return_nothing", make_job(tmp_path), no_progress)


def test_missing_function_and_missing_module_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="has no function 'nope'"):
        worker.load_step("isolate_steps:nope")
    with pytest.raises(Unsupported, match="no module nope"):
        worker.load_step("nope.deeper:step")


def test_import_error_inside_a_step_module_is_not_swallowed(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "needy.py").write_text("import surely_not_installed_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed_anywhere"):
        worker.load_step("needy:step")


def test_leading_dot_stands_for_the_package() -> None:
    from modelport.exporters import staging

    assert worker.load_step(".exporters.staging:Staging") is staging.Staging  # type: ignore[comparison-overlap]
