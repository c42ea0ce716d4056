"""A .pt2 whose weights, members or graph do not hold together gives one error that names the place."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from modelport import sources
from modelport.targets.errors import SourceUnreadable
from program_archive import BATCH, PROGRAM, Edit, build, meta, refused

BYTES: dict[str, tuple[Edit, str]] = {
    "short record": (lambda w: w["w"].update(tensor_meta=meta([4, 5])), "weights: w: shape .* takes 80 bytes, and 60"),
    "offset": (lambda w: w["w"].update(tensor_meta=meta([3, 5], offset=1)), "takes 64 bytes, and 60"),
    "stride": (lambda w: w["w"].update(tensor_meta=meta([3, 5], [100, 1])), "and 60 are there"),
    "huge": (lambda w: w["w"].update(tensor_meta=meta([1 << 40, 1 << 40])), "w: shape"),
    "negative stride": (lambda w: w["w"].update(tensor_meta=meta([3, 5], [-5, 1])), "plain numbers"),
    "symbolic": (lambda w: w["w"].update(tensor_meta=meta([BATCH, 5])), "plain numbers"),
    "dtype": (lambda w: w["w"]["tensor_meta"].update(dtype=99), "w.dtype: unknown dtype 99"),
    "layout": (lambda w: w["w"]["tensor_meta"].update(layout=2), "w.layout: only strided"),
    "pickled": (lambda w: w["w"].update(use_pickle=True), "w: pickled"),
    "path": (lambda w: w["w"].update(path_name="../../etc/passwd"), "w: pickled"),
    "no record": (lambda w: w["w"].update(path_name="weight_7"), r"its bytes \(weight_7\) are missing"),
    "missing": (lambda w: w.pop("b"), "data/weights: b: the graph reads this weight"),
    "other shape": (lambda w: w["w"].update(tensor_meta=meta([5, 3])), "w: dtype or shape differs"),
    "two dtypes": (lambda w: w["b"].update(path_name="weight_0", tensor_meta=meta([3], dtype=4)), "another dtype"),
    "wrong type": (lambda w: w.update(w=3), "not of the form"),
    "no sizes": (lambda w: w["w"]["tensor_meta"].pop("sizes"), "not of the form that schema 8 has"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "words"), BYTES.values(), ids=BYTES.keys())
def test_weights_must_match_their_bytes(tmp_path: Path, edit: Edit, words: str) -> None:
    refused(build(tmp_path / "m.pt2", weights=edit), words)


SCHEMA = '{"schema_version": {"major": %d}}'
MEMBERS: dict[str, tuple[Edit, str]] = {
    "compiled code": (lambda f: f.update({"data/aotinductor/model/x.so": b""}), "holds compiled machine code"),
    "custom object": (lambda f: f.update({"data/constants/custom_obj_0": b""}), "holds a custom object"),
    "second model": (lambda f: f.update({"models/other.json": "{}"}), "models/other.json: an unknown member"),
    "pickled weights": (lambda f: f.update({"data/weights/model.pt": b""}), "unknown member"),
    "outside the root": (lambda f: f.update({"/other/x": b""}), "unknown member"),
    "case": (lambda f: f.update({"extra/a": b"", "extra/A": b""}), "differ in case"),
    "format": (lambda f: f.update(archive_format="pt3"), "archive_format: b'pt3' is not known"),
    "version": (lambda f: f.update(archive_version="1"), "archive_version: b'1' is not known"),
    "big endian": (lambda f: f.update(byteorder="big"), "byteorder"),
    "no graph": (lambda f: f.pop("models/model.json"), "models/model.json: the archive has no such member"),
    "graph is text": (lambda f: f.update({"models/model.json": "{"}), "models/model.json: not valid JSON"),
    "graph is a list": (lambda f: f.update({"models/model.json": "[]"}), "model.json: a JSON object"),
    "schema": (lambda f: f.update({"models/model.json": SCHEMA % 9}), "schema_version: schema 9"),
    "empty graph": (lambda f: f.update({"models/model.json": SCHEMA % 8}), "models/model.json: not of the form"),
    "empty record": (lambda f: f.update({"data/weights/weight_0": b""}), "takes 60 bytes, and 0 are there"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "words"), MEMBERS.values(), ids=MEMBERS.keys())
def test_archives_of_another_form_are_refused(tmp_path: Path, edit: Edit, words: str) -> None:
    refused(build(tmp_path / "m.pt2", members=edit), words)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.99])
def test_a_truncated_archive_is_one_clear_error(tmp_path: Path, share: float) -> None:
    path = build(tmp_path / "m.pt2")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, "does not end where the file ends")


def test_the_old_form_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("version", "8.1")
    refused(tmp_path / "m.pt2", "torch 2.8 and before")


def test_any_field_of_another_type_is_one_clear_error(tmp_path: Path) -> None:
    """Each value of the graph in turn becomes something else; nothing but SourceUnreadable may come out."""
    places: list[tuple[Any, ...]] = []

    def walk(value: Any, at: tuple[Any, ...]) -> None:
        places.append(at)
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, item in items:
            walk(item, (*at, key))

    walk(PROGRAM["graph_module"], ("graph_module",))
    for at in places:
        other: object
        for other in (None, 7, []):

            def edit(program: Any, at: tuple[Any, ...] = at, other: Any = other) -> None:
                for key in at[:-1]:
                    program = program[key]
                program[at[-1]] = other

            path = build(tmp_path / "m.pt2", program=edit)
            try:
                sources.inspect(sources.open_source(path))
            except SourceUnreadable as error:
                assert "m.pt2" in error.where  # noqa: PT017
