import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from modelport import sources
from modelport.sources.source import KINDS, Source
from modelport.targets.errors import ModelportError, SourceUnreadable


def refused(path: Path | str, words: str) -> SourceUnreadable:
    with pytest.raises(SourceUnreadable, match=words) as caught:
        sources.open_source(path)
    return caught.value


def test_every_format_has_the_same_verbs_and_a_kind_of_its_own() -> None:
    kinds = []
    for name in sources.FORMATS:
        module = sources._format(name)
        assert all(callable(getattr(module, verb)) for verb in ("recognises", "open", "inspect"))
        kinds.append(module.KIND)
    assert sorted(kinds) == sorted(KINDS)


def test_a_missing_path_says_so(tmp_path: Path) -> None:
    error = refused(tmp_path / "nothing", "there is no such file or folder")
    assert error.where.endswith("nothing")


def test_the_known_formats_are_listed(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    error = refused(tmp_path, r"no model is recognised in this folder \(readme.txt\)")
    assert all(words in error.mend for words in KINDS.values())
    refused(tmp_path / "readme.txt", "of no known format")


def torch_save() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.tflite", b"\x1c\x00\x00\x00TFL3", "a LiteRT model, which is a target"),
        ("m.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "without a config.json"),
        ("m.h5", b"\x89HDF\r\n\x1a\n", "Keras 2"),
        ("m.pkl", pickle.dumps({"a": 1}), "pickles are never executed"),
        ("m.pt", torch_save(), "a torch.save file is a pickle"),
        ("m.bin", b"", "the file is empty"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, words)


def test_pickled_checkpoints_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "save_pretrained" in refused(tmp_path, r"pickled \(pytorch_model.bin\)").mend


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", "without model.safetensors"),
        ("model.safetensors", "without config.json"),
        ("model-q4.gguf", r"it holds model-q4.gguf\. Name .*model-q4.gguf"),
    ],
)
def test_a_folder_that_lacks_a_part_says_which(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_text("{}")
    refused(tmp_path, words)


def test_a_link_in_a_circle_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refused(tmp_path / "a", "cannot be opened")


def test_an_unknown_kind_cannot_be_inspected(tmp_path: Path) -> None:
    with pytest.raises(ModelportError, match="unknown kind"):
        sources.inspect(Source("abacus", tmp_path, ()))


def test_asking_for_formats_imports_no_framework(tmp_path: Path) -> None:
    code = (
        "import sys, contextlib\nfrom modelport import sources\n"
        "with contextlib.suppress(Exception): sources.open_source(sys.argv[1])\n"
        "print([m for m in ('numpy', 'torch', 'tensorflow', 'onnx', 'h5py', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_folder_around_a_model_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(SourceUnreadable) as caught:
        sources.open_source(tmp_path)
    assert caught.value.mend == f"Name {tmp_path / 'net.onnx'}"
