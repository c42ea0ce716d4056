"""The manifest: read back whole, refused when damaged, and its hashes hold the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelport.reports import manifest
from modelport.targets.errors import SourceUnreadable, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    (tmp_path / "verification").mkdir()
    (tmp_path / "verification" / "reference.npz").write_bytes(b"outputs")
    empty = {key: kind() for key, kind in manifest.FORMS.items() if isinstance(kind, type)}
    given = {"schema": 1, "artifact": "model.onnx", "files": manifest.file_entries(tmp_path)}
    content = {**empty, "fidelity": None, "audit": None, **given}
    manifest.write(tmp_path, content)
    return tmp_path


def test_every_file_but_the_manifest_is_listed(folder: Path) -> None:
    found = manifest.read(folder)
    assert [entry["path"] for entry in found["files"]] == ["model.onnx", "verification/reference.npz"]
    assert manifest.check_hashes(folder, found) == ()


def test_a_changed_and_a_missing_file_are_named(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"Weights")
    (folder / "verification" / "reference.npz").unlink()
    problems = manifest.check_hashes(folder, manifest.read(folder))
    assert problems == ("model.onnx differs from its hash", "verification/reference.npz is missing")


def test_a_path_that_leads_outside_is_refused(folder: Path) -> None:
    found = manifest.read(folder)
    found["files"][0]["path"] = "../secret"
    with pytest.raises(SourceUnreadable, match="outside"):
        manifest.check_hashes(folder, found)


@pytest.mark.parametrize(
    ("text", "word"), [("{", "not JSON"), ("[]", "object"), ('{"schema": 1}', "missing")]
)
def test_a_damaged_manifest_is_named(folder: Path, text: str, word: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(SourceUnreadable, match=word):
        manifest.read(folder)


def test_another_schema_is_refused(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, "schema": 2}))
    with pytest.raises(SourceUnreadable, match="schema"):
        manifest.read(folder)


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("artifact", "../../etc/passwd", "artifact"),
        ("artifact", None, "artifact"),
        ("io", None, "io"),
        ("options", [], "options"),
        ("files", [{"path": 3, "sha256": ""}], "files[0]"),
        ("files", [{"path": "model.onnx"}], "files[0]"),
        ("files", ["model.onnx"], "files[0]"),
    ],
)
def test_what_we_do_not_write_is_named(folder: Path, key: str, value: object, where: str) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(SourceUnreadable) as caught:
        manifest.read(folder)
    assert caught.value.where.endswith(f"manifest.json: {where}")


@pytest.fixture
def package(tmp_path: Path, folder: Path) -> Path:
    """The folder whose artifact is a folder itself, as a .mlpackage is."""
    (tmp_path / "model.mlpackage" / "Data").mkdir(parents=True)
    (tmp_path / "model.mlpackage" / "Manifest.json").write_text("{}")
    (tmp_path / "model.mlpackage" / "Data" / "weight.bin").write_bytes(b"weights")
    content = json.loads((folder / "manifest.json").read_text())
    given = {"artifact": "model.mlpackage", "files": manifest.file_entries(tmp_path)}
    manifest.write(folder, {**content, **given})
    return folder


def test_an_artifact_may_be_a_folder_of_files(package: Path) -> None:
    found = manifest.read(package)
    assert "model.mlpackage/Data/weight.bin" in [entry["path"] for entry in found["files"]]
    assert manifest.check_hashes(package, found) == ()


def test_what_was_put_into_the_artifacts_folder_is_named(package: Path) -> None:
    (package / "model.mlpackage" / "Data" / "more.bin").write_bytes(b"")
    (package / "model.mlpackage" / "link").symlink_to("/etc")
    assert manifest.check_hashes(package, manifest.read(package)) == (
        "model.mlpackage/Data/more.bin is not among the files of the manifest",
        "model.mlpackage/link is not among the files of the manifest",
    )


@pytest.mark.parametrize("artifact", ["model.mlpack", "", "/", "model.mlpackage/../..", "."])
def test_a_folder_that_holds_none_of_the_files_is_no_artifact(package: Path, artifact: str) -> None:
    content = json.loads((package / "manifest.json").read_text())
    manifest.write(package, {**content, "artifact": artifact})
    with pytest.raises(SourceUnreadable, match="not among the files"):
        manifest.read(package)


def test_no_manifest_at_all_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"manifest\.json"):
        manifest.read(tmp_path)
