"""The worker step that cuts text into windows: the same for a checkpoint and for the GGUF file made from it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_corpus
import tiny_llms
from llama_oracle import convert
from modelport.calibration.language_tokenizer import load_reference
from modelport.calibration.samples import SampleSet
from modelport.exporters import prepare_language
from modelport.exporters.job import Job
from modelport.targets.errors import UsageError

pytestmark = pytest.mark.slow


def quiet(*_: object) -> None: ...


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    work = tmp_path_factory.mktemp("windows")
    folder = tiny_llms.make("llama3", work / "tiny", context=512)
    return folder, convert(folder, work / "tiny.gguf", "bf16", tiny_llms.pre_of("llama3"))


def prepared(model: Path, work: Path, **options: Any) -> tuple[dict[str, Any], np.ndarray]:
    given = {
        "calibration": None, "sequence": None, "context": None, "held_out": None, "samples": 320, "seed": 0,
        "folder": str(work),
    }  # fmt: skip
    job = Job(
        (), "causal-lm" if model.is_dir() else "gguf", str(model), "local-llm", "gguf", "q4_k_m", str(work),
        str(work), str(work / "samples"), {**given, **options},
    )  # fmt: skip
    done = prepare_language.run(job, quiet)
    data = json.loads(done.to_json())["data"]
    return data, np.array(SampleSet.open(work / "samples" / "held_out").array("input_ids"))


def test_a_checkpoint_and_its_gguf_give_the_same_windows(models, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(tiny_corpus.prose()[:120_000], encoding="utf-8")
    found = []
    for number, model in enumerate(models):
        work = tmp_path / str(number)
        work.mkdir()
        found.append(prepared(model, work, calibration=str(text), samples=40))
    (one, first), (two, second) = found
    assert one == two
    assert (one["kind"], one["sequence"], one["samples"], one["held_out"]) == ("text", 256, 32, 8)
    np.testing.assert_array_equal(first, second)
    bos = json.loads((models[0] / "config.json").read_text())["bos_token_id"]
    assert (first[:, 0] == bos).all()
    assert not (first[:, 1:] == bos).any()


def test_windows_are_as_long_as_asked_and_no_longer_than_the_model_takes(models, tmp_path: Path) -> None:
    for number, (model, options, expected) in enumerate(
        [(models[0], {"sequence": 64}, 64), (models[0], {"context": 100}, 100), (models[1], {}, 256)]
    ):
        work = tmp_path / str(number)
        work.mkdir()
        data, windows = prepared(model, work, **options)
        assert windows.shape == (16, expected)
        assert "Python's own documentation" in data["warnings"][0]
    with pytest.raises(UsageError, match="more than the 512 that the model takes"):
        prepared(models[1], tmp_path, sequence=1024)


def test_conversations_become_the_models_own_special_tokens(models, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models[0], tmp_path / "model"))
    template = (
        "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|eot_id|>{{ m['content'] }}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(template)
    talks = [{"messages": [{"role": "user", "content": f"question {n} " * 30}]} for n in range(40)]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)))
    given = {
        "calibration": str(tmp_path / "talks.jsonl"),
        "sequence": 64,
        "samples": 20,
        "chat_template": True,
    }
    _, held = prepared(folder, tmp_path / "work", **given)
    own = load_reference(folder)
    (end,) = own.encode("<|eot_id|>", True)
    assert (held == end).sum() >= 2
    with pytest.raises(UsageError, match="from a model folder only"):
        prepared(models[1], tmp_path / "other", **given)
