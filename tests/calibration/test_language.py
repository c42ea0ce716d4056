"""Windows of text: two sets that share no text, the same on each run, and clear words where text is short."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.calibration import language
from modelport.calibration.samples import SampleSet
from modelport.targets.errors import UsageError


def encode(text: str) -> list[int]:
    """A token a byte, so that tokens can be read again."""
    return list(text.encode())


def decode(windows: np.ndarray) -> str:
    return bytes(windows.ravel().astype(np.uint8)).decode("utf-8", "replace")


def sets(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(calibration, held out)."""
    kept, held = (SampleSet.open(folder / name).array("input_ids") for name in ("calibration", "held_out"))
    return np.array(kept), np.array(held)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    lines = [f"<{n}> chapter {n} says something of its own, and ends </{n}>\r\n" for n in range(2000)]
    path.write_bytes("".join(lines).encode())
    return path


def numbers(text: str) -> set[str]:
    """The lines that stand whole in a text."""
    return {part.split("</")[1] for part in text.split(">") if "</" in part}


def test_no_line_that_verifies_calibrates(book: Path, tmp_path: Path) -> None:
    made = language.prepare(str(book), encode, tmp_path / "out", window=128)
    kept, held = sets(tmp_path / "out")
    assert (made.samples, made.held_out, made.sequence) == (256, 16, 128)
    assert kept.shape == (256, 128)
    assert held.shape == (16, 128)
    assert kept.dtype == np.int64
    assert len(numbers(decode(held))) > 10
    assert not numbers(decode(held)) & numbers(decode(kept))


def test_windows_hold_the_text_as_it_stands(book: Path, tmp_path: Path) -> None:
    language.prepare(str(book), encode, tmp_path / "out", window=64, held_out=4, limit=20)
    kept, _ = sets(tmp_path / "out")
    text = book.read_bytes().decode()
    assert "\r\n" in decode(kept)
    # The parts of a set are joined: each piece between two joints is the book's own.
    runs = [decode(kept[n]) for n in range(len(kept))]
    assert sum(run in text for run in runs) > len(runs) * 2 // 3


def test_every_window_begins_with_the_token_that_the_model_wants(book: Path, tmp_path: Path) -> None:
    language.prepare(str(book), encode, tmp_path / "out", window=32, bos=999, held_out=3, limit=9)
    for windows in sets(tmp_path / "out"):
        assert (windows[:, 0] == 999).all()
        assert (windows[:, 1:] < 256).all()
        assert windows.shape[1] == 32


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(book: Path, tmp_path: Path) -> None:
    made = [
        language.prepare(str(book), encode, tmp_path / str(n), window=64, seed=seed)
        for n, seed in enumerate((1, 1, 2))
    ]
    assert made[0] == made[1]
    assert made[0].sha256 != made[2].sha256
    files = [(tmp_path / str(n) / "held_out" / "input_0.npy").read_bytes() for n in range(3)]
    assert files[0] == files[1] != files[2]


def test_without_text_english_that_ships_with_python_verifies_and_nothing_calibrates(tmp_path: Path) -> None:
    made = language.prepare(None, encode, tmp_path / "out", bos=1)
    kept, held = sets(tmp_path / "out")
    assert (made.samples, made.held_out) == (0, 16)
    assert kept.shape == (0, 256)
    assert " the " in decode(held[:, 1:])
    assert "Python's own documentation" in made.warnings[0]


def test_documents_of_a_jsonl_go_to_one_set_or_the_other_whole(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    lines = [{"text": f"<{n}>{'x' * (n % 50)}</{n}>"} for n in range(400)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    language.prepare("data.jsonl", encode, tmp_path / "out", window=32, root=tmp_path)
    kept, held = sets(tmp_path / "out")
    assert len(numbers(decode(kept))) > 100
    assert not numbers(decode(held)) & numbers(decode(kept))


def test_copies_do_not_stand_on_both_sides(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    lines = [{"text": f"<{n % 40}> the same again </{n % 40}>"} for n in range(800)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    language.prepare(str(path), encode, tmp_path / "out", window=32)
    kept, held = sets(tmp_path / "out")
    assert numbers(decode(held))
    assert not numbers(decode(held)) & numbers(decode(kept))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("short.txt", b"hello world\n" * 3, r"the text gives 36 tokens in 1 parts; more than 128"),
        ("empty.txt", b"\n\n", "holds no text"),
        ("latin.txt", b"caf\xe9 " * 3000, "not UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n{"text"\n', "line 2: not valid JSON"),
        ("other.jsonl", b'{"label": 1}\n', "line 1: no text among the fields label"),
        ("image.png", b"\x89PNG", r"\.png holds no text for a language model"),
    ],
)
def test_what_cannot_be_used_is_told_by_file_and_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        language.prepare(name, encode, tmp_path / "out", window=64, root=tmp_path)
    assert name in str(caught.value)


def test_wishes_that_cannot_be_met_name_their_option(book: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        language.prepare("none.txt", encode, tmp_path / "out", root=tmp_path)
    with pytest.raises(UsageError, match="more than the 512 that the model takes"):
        language.prepare(str(book), encode, tmp_path / "out", window=1024, longest=512)
    with pytest.raises(UsageError, match="fewer than 16"):
        language.prepare(str(book), encode, tmp_path / "out", window=8)
    with pytest.raises(UsageError, match="10 windows leave none to calibrate with beside 10"):
        language.prepare(str(book), encode, tmp_path / "out", limit=10, held_out=10)
    with pytest.raises(UsageError, match="Give more text"):
        language.prepare(None, encode, tmp_path / "out", held_out=100_000)


def test_a_short_text_verifies_on_a_fifth_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("".join(f"<{n}> a line of a short text </{n}>\n" for n in range(60)))
    made = language.prepare(str(path), encode, tmp_path / "out", window=32)
    assert 0 < made.held_out < 16
    assert made.samples > 3 * made.held_out


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=2, max_size=60),
    window=st.integers(16, 64),
    bos=st.sampled_from([None, 300]),
    seed=st.integers(0, 5),
)
def test_any_text_is_divided_cleanly_or_refused(tmp_path_factory, lengths, window, bos, seed) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / "any.jsonl"
    # Each document has a letter of its own.
    path.write_text("\n".join(json.dumps({"text": chr(0x4E00 + n) * size}) for n, size in enumerate(lengths)))
    numbered = lambda text: [ord(letter) for letter in text if letter >= "\u4e00"]  # noqa: E731
    try:
        made = language.prepare(str(path), numbered, folder / "out", window=window, bos=bos, seed=seed)
    except UsageError as error:
        assert "Give more text" in error.mend  # noqa: PT017
        assert sum(lengths) < 6 * window + max(lengths) * 6
        return
    kept, held = sets(folder / "out")
    assert len(kept) == made.samples > 0
    assert len(held) == made.held_out > 0
    cut = 0 if bos is None else 1
    assert not set(held[:, cut:].ravel()) & set(kept[:, cut:].ravel())
