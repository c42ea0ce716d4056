"""The registry: by name, alias, path and entry point; closest names; clashes; exporters by runtime."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelport.targets import registry
from modelport.targets.errors import Unsupported, UsageError

CATALOG = Path(registry.__file__).parent / "catalog"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package as pip would leave it: a module, a card and a dist-info folder with entry points."""
    site = tmp_path / "site"
    package = site / "toaster_port"
    package.mkdir(parents=True)
    card = (CATALOG / "server-cpu.toml").read_text()
    card = (
        card.replace('"server-cpu"', '"toaster"', 1)
        .replace('"onnxruntime", "cpu"', '"bread"')
        .replace('"onnx", ', "")
    )
    card = card.replace('runtime = "onnxruntime"', 'runtime = "toaster"')
    assert 'aliases = ["bread"]' in card
    (package / "toaster.toml").write_text(card)
    (package / "exporter.py").write_text('raise RuntimeError("must not be imported to be found")\n')
    (package / "__init__.py").write_text(
        "from pathlib import Path\n"
        'CARD = Path(__file__).with_name("toaster.toml")\n'
        "def cards():\n    return [CARD]\n"
        "def broken():\n    raise RuntimeError('no bread')\n"
    )
    info = site / "toaster_port-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toaster-port\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    yield lambda points: (info / "entry_points.txt").write_text(points)
    sys.modules.pop("toaster_port", None)


TARGET_BY_PATH = "[modelport.targets]\ntoaster = toaster_port:CARD\n"
TARGET_BY_FUNCTION = "[modelport.targets]\ntoaster = toaster_port:cards\n"
EXPORTER = "[modelport.exporters]\ntoaster = toaster_port.exporter\n"


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("android", "android"), ("mobile", "android"), ("iphone", "ios"), ("mcu", "edge"), ("onnx", "server-cpu"),
        ("gguf", "local-llm"), ("llama.cpp", "local-llm"), ("tensorrt", "server-gpu"), ("vllm", "server-gpu-llm"),
        ("tpu", "cloud-tpu"),
    ],
)  # fmt: skip
def test_a_target_is_found_by_name_and_alias(alias, name):
    assert registry.find_target(alias).name == name


@pytest.mark.parametrize(
    ("alias", "name"),
    [("a100-80gb", "a100-80gb"), ("a100", "a100-80gb"), ("host", "this-host"), ("pixel8", "pixel8")],
)
def test_a_device_is_found_by_name_and_alias(alias, name):
    assert registry.find_device(alias).name == name


def test_a_typo_gets_the_closest_names():
    with pytest.raises(UsageError) as caught:
        registry.find_target("andriod")
    assert caught.value.fact == "there is no target 'andriod'"
    assert "Did you mean android?" in caught.value.mend
    assert "modelport targets" in caught.value.mend
    with pytest.raises(UsageError, match=r"no device 'pixle8'.*Did you mean pixel8"):
        registry.find_device("pixle8")


def test_a_word_unlike_any_name_gets_the_list():
    with pytest.raises(UsageError, match=r"The targets are android, .*server-cpu"):
        registry.find_target("zzzzzz")


def test_a_target_and_a_device_are_found_by_path(tmp_path, monkeypatch):
    shutil.copy(CATALOG / "android.toml", tmp_path / "mine.toml")
    (tmp_path / "boards.toml").write_text(
        '[one]\ntitle = "One"\nclass = "android"\n[two]\ntitle = "Two"\nclass = "android"\n'
    )
    monkeypatch.chdir(tmp_path)
    target = registry.find_target("./mine.toml")
    assert target.path == "./mine.toml"
    assert registry.find_target(tmp_path / "mine.toml").name == "android"
    assert registry.find_device("boards.toml#two", target).title == "Two"
    with pytest.raises(UsageError, match=r"has 2 devices.*boards.toml#one"):
        registry.find_device("boards.toml")
    with pytest.raises(UsageError, match="no device 'three'"):
        registry.find_device("boards.toml#three")


def test_a_device_of_a_class_that_the_target_does_not_run_on_is_refused():
    with pytest.raises(UsageError, match=r"class 'gpu'.*runs on android.*pixel8"):
        registry.find_device("a100", registry.find_target("android"))


def test_cards_given_by_path_are_listed_after_the_built_in_ones(tmp_path):
    path = tmp_path / "mine.toml"
    text = (CATALOG / "ios.toml").read_text()
    path.write_text(
        text.replace('name = "ios"', 'name = "watch"').replace('"iphone", "ipad", "coreml"', '"wrist"')
    )
    assert registry.targets([path])[-1].name == "watch"
    assert len(registry.targets([path])) == len(registry.targets()) + 1


def test_two_cards_with_one_name_or_alias_name_both_files(tmp_path):
    path = tmp_path / "mine.toml"
    shutil.copy(CATALOG / "android.toml", path)
    with pytest.raises(UsageError) as caught:
        registry.targets([path])
    assert caught.value.where == f"{path}: name"
    assert str(CATALOG / "android.toml") in caught.value.fact
    path.write_text((CATALOG / "android.toml").read_text().replace('name = "android"', 'name = "robot"'))
    with pytest.raises(UsageError) as caught:
        registry.targets([path])
    assert caught.value.where == f"{path}: aliases"


@pytest.mark.parametrize("points", [TARGET_BY_PATH, TARGET_BY_FUNCTION])
def test_a_plug_in_adds_a_target_without_touching_the_project(plugin, points):
    plugin(points)
    assert registry.find_target("toaster").runtime == "toaster"
    assert registry.find_target("bread").name == "toaster"
    assert "toaster" in [target.name for target in registry.targets()]


def test_a_plug_in_adds_an_exporter_that_is_found_without_being_imported(plugin):
    plugin(TARGET_BY_PATH)
    target = registry.find_target("toaster")
    assert not registry.exporter_available(target)
    plugin(TARGET_BY_PATH + EXPORTER)
    assert registry.exporter_available(target)
    assert registry.runtime_module("toaster") == "toaster_port.exporter"
    assert "toaster_port.exporter" not in sys.modules


def test_a_broken_plug_in_is_one_clear_error_that_names_it(plugin):
    plugin("[modelport.targets]\ntoaster = toaster_port:broken\n")
    with pytest.raises(UsageError, match="no bread") as caught:
        registry.targets()
    assert "toaster_port:broken" in caught.value.where


def test_a_broken_plug_in_does_not_keep_the_built_in_targets_from_being_found(plugin):
    plugin("[modelport.targets]\ntoaster = nowhere:CARD\n")
    assert registry.find_target("android").name == "android"


def test_an_unknown_runtime_is_unsupported_and_says_what_can_be_done():
    with pytest.raises(Unsupported, match=r"no exporter for the runtime 'abacus'.*modelport\.exporters"):
        registry.runtime_module("abacus")


def test_a_runtime_of_this_version_is_a_module_of_the_package(tmp_path, monkeypatch):
    import modelport.exporters.runtimes as runtimes

    (tmp_path / "abacus.py").write_text('raise RuntimeError("must not be imported to be found")\n')
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(tmp_path)])
    assert registry.runtime_module("abacus") == "modelport.exporters.runtimes.abacus"


def test_the_room_imports_the_standard_library_only(tmp_path):
    (tmp_path / "modelport").symlink_to(Path(registry.__file__).parents[1])
    code = (
        "import sys; from modelport.targets import registry, feasibility\n"
        "registry.find_target('android'); registry.devices()\n"
        "print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))"
    )
    # -S leaves site-packages out, so that anything but the standard library fails to import.
    command = [sys.executable, "-S", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) <= {"modelport", "__main__"}
