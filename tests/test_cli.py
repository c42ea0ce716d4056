"""The commands as a user types them: exit codes, one clear line an error, JSON for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelport import cli
from wire import field, number


@pytest.fixture
def minimal_onnx(tmp_path: Path) -> Path:
    """An ONNX file of one MatMul, written byte by byte."""
    shape = field(1, number(1, 1)) + field(1, number(1, 3))
    given = field(1, "x") + field(2, field(1, number(1, 1) + field(2, shape)))
    made = field(1, "y") + field(2, field(1, number(1, 1) + field(2, shape)))
    weight = number(1, 3) + number(1, 3) + number(2, 1) + field(8, "w") + field(9, bytes(36))
    node = field(1, "x") + field(1, "w") + field(2, "y") + field(3, "product") + field(4, "MatMul")
    graph = field(1, node) + field(2, "g") + field(5, weight) + field(11, given) + field(12, made)
    path = tmp_path / "m.onnx"
    path.write_bytes(number(1, 10) + field(8, number(2, 21)) + field(7, graph))
    return path


def run(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `modelport WORDS`."""
    done = CliRunner().invoke(cli.modelport, list(words))
    return done.exit_code, done.stdout, done.stderr


def test_help_documents_every_exit_code() -> None:
    code, out, _ = run("convert", "--help")
    assert code == 0
    text = " ".join(out.split())
    for listed in (
        "0 done",
        "2 wrong usage",
        "3 does not fit",
        "4 source",
        "5 unsupported",
        "6 conversion",
        "7 fid",
    ):
        assert listed in text


def test_a_typo_in_the_target_offers_the_closest(tmp_path: Path) -> None:
    code, out, err = run("convert", str(tmp_path), "--target", "andriod")
    assert (code, out) == (2, "")
    assert "android" in err
    assert "Traceback" not in err


def test_a_typo_in_the_scheme_offers_the_closest(tmp_path: Path) -> None:
    code, _, err = run("check", str(tmp_path), "--target", "android", "--quant", "int-8")
    assert code == 2
    assert "int8" in err


def test_a_missing_model_is_a_source_error_that_names_it(tmp_path: Path) -> None:
    code, _, err = run("convert", str(tmp_path / "nothing.pt2"), "--target", "android")
    assert code == 4
    assert "nothing.pt2" in err


def test_a_file_of_no_known_kind_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"not a model" * 100)
    code, _, err = run("inspect", str(path))
    assert code == 4
    assert "ONNX" in err
    assert "Keras" in err


def test_errors_are_json_too(tmp_path: Path) -> None:
    code, out, _ = run("check", str(tmp_path / "nothing"), "--target", "android", "--json")
    event = json.loads(out)
    assert code == event["exit_code"] == 4
    assert event["event"] == "error"


@pytest.mark.parametrize(
    ("option", "value"),
    [("--batch", "0"), ("--samples", "-1"), ("--memory-limit", "lots"), ("--layout", "chw")],
)
def test_a_wrong_value_names_its_option(tmp_path: Path, option: str, value: str) -> None:
    code, _, err = run("convert", str(tmp_path), "--target", "android", option, value)
    assert code == 2
    assert option in err


def test_a_wrong_budget_is_said_before_any_work(minimal_onnx: Path) -> None:
    code, _, err = run(
        "convert", str(minimal_onnx), "--target", "server-cpu", "--quant", "fp32", "--budget", "x=1"
    )
    assert (code, "--budget" in err) == (2, True)
    assert list(minimal_onnx.parent.iterdir()) == [minimal_onnx]


def test_names_with_brackets_are_shown_as_they_are(minimal_onnx: Path) -> None:
    named = minimal_onnx.rename(minimal_onnx.with_name("a[red]b.onnx"))
    for words in (("inspect", str(named)), ("check", str(named), "--target", "server-cpu")):
        code, out, _ = run(*words)
        assert code == 0
        assert "a[red]b" in out


def test_targets_and_devices_are_listed() -> None:
    code, out, _ = run("targets", "--json")
    assert code == 0
    assert {"android", "server-cpu", "local-llm"} <= {target["name"] for target in json.loads(out)}
    code, out, _ = run("devices", "pixel8", "--json")
    assert code == 0
    assert json.loads(out)[0]["memory_bytes"] == 8 << 30


def test_the_matrix_gives_a_reason_for_every_refusal() -> None:
    code, out, _ = run("targets", "--matrix")
    assert code == 0
    assert "gguf → android:" in out


def test_doctor_names_the_command_for_each_missing_part() -> None:
    code, out, _ = run("doctor")
    assert code == 0
    for part in ("android", "server-cpu", "local-llm"):
        assert part in out


def test_verify_of_a_folder_without_manifest_says_so(tmp_path: Path) -> None:
    code, _, err = run("verify", str(tmp_path))
    assert code == 2
    assert "manifest.json" in err


def test_the_installed_commands_start() -> None:
    for name in ("convert", "modelport"):
        command = Path(sys.executable).with_name(name)
        done = subprocess.run([str(command), "--help"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"Usage: {name}")


def test_escape_sequences_in_names_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    cli._print_error(4, {"fact": "bad \x1b[2J name\n", "where": "", "mend": ""}, False)
    shown = capsys.readouterr().err
    assert "\x1b[2J" not in shown
    assert "\\x1b[2J" in shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written_is_said() -> None:
    command = Path(sys.executable).with_name("modelport")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([str(command), "targets"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "cannot write the output" in done.stderr
    assert "bug" not in done.stderr


@pytest.mark.parametrize(("target", "option"), [("local-llm", "--imatrix"), ("ios", "--labels")])
def test_a_file_that_is_not_there_is_said_before_the_model_is_opened(target: str, option: str) -> None:
    code, _, err = run("convert", "nowhere", "--target", target, option, "missing.file")
    assert code == 2
    assert f"{option} missing.file" in err
