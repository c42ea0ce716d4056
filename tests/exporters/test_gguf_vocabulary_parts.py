"""The parts of the vocabulary's code by themselves: test lines, packing, SentencePiece's own fields."""

from __future__ import annotations

import contextlib
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.exporters.runtimes.gguf.vocabulary import (
    bpe,
    entries,
    gate,
    lines,
    llama_vocabulary,
)
from modelport.exporters.runtimes.gguf.vocabulary.unigram import Proto, read_proto

gguf: Any = pytest.importorskip("gguf")
tokenizers: Any = pytest.importorskip("tokenizers")

LETTERS = tuple(bpe.byte_of())


def test_the_parity_lines_cover_scripts_code_and_whitespace() -> None:
    first, others = lines.fixed()
    every = [*first, *others]
    assert len(every) >= 300
    assert len(set(every)) == len(every)
    text = "".join(every)
    scripts = (
        "LATIN SMALL LETTER E WITH ACUTE", "CYRILLIC", "GREEK", "CJK UNIFIED", "HIRAGANA", "HANGUL", "ARABIC",
        "HEBREW", "DEVANAGARI", "THAI", "COMBINING ACUTE", "ZERO WIDTH JOINER",
    )  # fmt: skip
    for script in scripts:
        assert any(unicodedata.name(c, "").startswith(script) for c in text), script
    assert {"\n", "\t", "\r\n", "    "} <= set(every)
    assert any(line.endswith("  ") for line in every)
    assert not any("\\u{" in line for line in every)


def test_lines_are_made_of_tokens_that_cross_what_pre_tokenizers_cut() -> None:
    letters = {byte: letter for letter, byte in bpe.byte_of().items()}
    tokens = ["the", " getElement", "1234", "don't", "\n\n\n", "你好", "é"]
    coded = ["".join(letters[byte] for byte in token.encode()) for token in tokens]
    half = letters["é".encode()[0]]
    made = entries.Vocabulary("gpt2", [*coded, half, "<|end|>"], [entries.NORMAL] * 8 + [entries.CONTROL])
    found = lines.from_tokens(made)
    assert {" getElement", "x1234", "don't", "\n\n\n", "你好"} <= set(found)
    assert "".join(tokens) in found  # the sample, glued by nothing
    assert " ".join(tokens) in found
    assert not any("\ufffd" in line or "<|end|>" in line for line in found)
    assert {"<|end|>", "a<|end|>b"} <= set(lines.with_tokens(made))


@given(
    st.text(alphabet="abcde <|>", max_size=40),
    st.lists(st.text(alphabet="abcde", min_size=2, max_size=3), max_size=8),
)
def test_a_vocabulary_cut_down_to_its_texts_gives_the_same_ids(text, words) -> None:
    base = {letter: number for number, letter in enumerate(LETTERS)}
    pairs: list[tuple[str, str]] = []
    for word in words:
        for cut in range(1, len(word)):
            left, right = word[:cut], word[cut:]
            if left in base and right in base and (left, right) not in pairs:
                base.setdefault(left + right, len(base))
                pairs.append((left, right))
    whole = entries.Vocabulary(
        "gpt2", list(base), [entries.NORMAL] * len(base), None, [" ".join(p) for p in pairs]
    )
    small, ids = gate.reduced(whole, [text])
    assert len(small.tokens) == len(ids) == len(set(ids))

    def encode(made: entries.Vocabulary) -> list[int]:
        numbers = {token: number for number, token in enumerate(made.tokens)}
        merges = [tuple(merge.split(" ")) for merge in made.merges]
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(numbers, merges))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        return list(tokenizer.encode(text).ids)

    assert [ids[number] for number in encode(small)] == encode(whole)


@given(
    st.dictionaries(
        st.text(max_size=8).map("tokenizer.{}".format),
        st.one_of(
            st.integers(0, 2**31), st.booleans(), st.text(max_size=9), st.floats(width=32, allow_nan=False),
            st.lists(st.text(max_size=5), min_size=1, max_size=5), st.lists(st.booleans(), min_size=1, max_size=5),
            st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5), st.binary(min_size=1, max_size=9),
            st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_entries_are_packed_as_the_gguf_package_packs_them(tmp_path_factory, values) -> None:
    path = tmp_path_factory.mktemp("packed") / "file.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    add = {int: writer.add_uint32, bool: writer.add_bool, str: writer.add_string, float: writer.add_float32}
    for key, value in values.items():
        add.get(type(value), writer.add_array)(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    ours = llama_vocabulary.pack(llama_vocabulary.vocabulary_entries(writer))
    # llama.cpp's own reader wants the header's counts, which are the same; only this part is compared.
    assert ours.rstrip(b"\0") == path.read_bytes().rstrip(b"\0")


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    parts = []
    for number, value in fields:
        if isinstance(value, bytes):
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
        else:
            parts.append(varint(number << 3) + varint(value))
    return b"".join(parts)


@given(
    st.lists(st.binary(max_size=200), max_size=20), st.sampled_from((1, 2)), st.binary(max_size=300), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_sentencepieces_own_fields_are_read_behind_its_pieces(pieces, kind, charsmap, prefix, spaces) -> None:
    trainer = message((1, b"input.txt"), (3, kind), (4, 32000))
    normalizer = message((1, b"identity"), (2, charsmap), (3, int(prefix)), (4, int(spaces)))
    data = message(*((1, piece) for piece in pieces), (2, trainer), (3, normalizer))
    assert read_proto(data) == Proto(kind, charsmap, prefix, spaces)


@given(st.binary(max_size=100))
def test_bytes_that_are_no_message_are_refused(data) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(read_proto(data), Proto)


def test_byte_letters_are_a_bijection_with_printable_ones_for_themselves() -> None:
    letters = bpe.byte_of()
    assert sorted(letters.values()) == list(range(256))
    assert all(letters[chr(byte)] == byte for byte in range(0x21, 0x7F))
    assert letters["Ġ"] == 0x20
    assert letters["Ċ"] == 0x0A
