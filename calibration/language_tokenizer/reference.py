"""A language model's own tokenizer, run by the tokenizers or the sentencepiece package."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ...targets.errors import MissingExtra, SourceUnreadable, Unsupported
from .files import Files, added_tokens, content, is_id, listed_tokens
from .sentencepiece_model import MODEL, processor
from .tokens import added_vocabulary, base_tokens, merges, special_texts

BYTE_LEVEL_CLASSES = ("GPT2Tokenizer", "Qwen2Tokenizer")
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


class Reference(ABC):
    """A tokenizer. `vocab` is the number of ids (the highest and one), `bos` the id that texts begin with."""

    bos: int | None
    vocab: int

    def encode(self, text: str, special: bool) -> list[int]:
        """The ids of a text, nothing added around it.

        `special` says whether the names of special tokens in the text become these tokens (as in a chat
        prompt) or are read as plain text. Added tokens that are not special are always found.
        """
        return self.encode_lines([text], special)[0]

    @abstractmethod
    def encode_lines(self, lines: Sequence[str], special: bool) -> list[list[int]]:
        """`encode` of each line."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens by their names."""

    @abstractmethod
    def framed(self, text: str) -> list[int] | None:
        """The ids with what the model's own tokenizer adds around a text; None where its files do not say."""

    def normalized(self, text: str) -> str:
        """The text as the tokenizer's normalizer leaves it, where that is a Unicode normalization; else itself."""
        return text

    @abstractmethod
    def mark_special(self, texts: Collection[str]) -> None:
        """Take these added tokens for special ones: llama.cpp's converter marks some that the model's files do not."""


def load_reference(folder: Path) -> Reference:
    """The tokenizer of a model folder: tokenizer.json, or tokenizer.model, or vocab.json with merges.txt.

    Raises SourceUnreadable for damaged files, Unsupported for a folder without a tokenizer that is known.
    """
    return reference_of(Files(folder))


def reference_of(files: Files) -> Reference:
    """`load_reference` over files that are read already."""
    files.require_tokenizer()
    if files.has(MODEL) and not files.has("tokenizer.json"):
        return PieceReference(files)
    return JsonReference(files)


class JsonReference(Reference):
    """A tokenizer of the tokenizers package, with the added tokens that transformers would add."""

    def __init__(self, files: Files) -> None:
        try:
            import tokenizers
        except ModuleNotFoundError as error:
            raise MissingExtra("tokenizers is not installed", mend="pip install tokenizers") from error
        self._added = tokenizers.AddedToken
        self._tokenizer = _from_json(files) if files.has("tokenizer.json") else _from_merges(files)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if files.algorithm != "Unigram":
            self._add(files)
        self.vocab = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self.bos = _bos(files, self._tokenizer.token_to_id)
        unicode = re.compile('"(NFC|NFD|NFKC|NFKD|Precompiled)"')
        normalizer = files.tokenizer.get("normalizer")
        self._unicode = bool(unicode.search(str(normalizer).replace("'", '"')))

    def _add(self, files: Files) -> None:
        """Tokens that only the configs name, and those that the configs call special."""
        known = {text for text, _, _ in added_tokens(files)}
        named = set(special_texts(files))
        for text, token in added_vocabulary(files, base_tokens(files)).items():
            if text in known and not (token.special and text in named):
                continue
            made = self._added(text, special=token.special, normalized=token.normalized)
            (self._tokenizer.add_special_tokens if token.special else self._tokenizer.add_tokens)([made])

    def encode_lines(self, lines: Sequence[str], special: bool) -> list[list[int]]:
        """`encode` of each line, in parallel."""
        self._tokenizer.encode_special_tokens = not special
        return [each.ids for each in self._tokenizer.encode_batch(list(lines), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens by their names."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def framed(self, text: str) -> list[int] | None:
        """The ids with what the post-processor adds."""
        self._tokenizer.encode_special_tokens = False
        return list(self._tokenizer.encode(text, add_special_tokens=True).ids)

    def normalized(self, text: str) -> str:
        """The text after a Unicode normalizer."""
        return str(self._tokenizer.normalizer.normalize_str(text)) if self._unicode else text

    def mark_special(self, texts: Collection[str]) -> None:
        """Take these added tokens for special ones."""
        tokens = self._tokenizer.get_added_tokens_decoder().values()
        plain = [token for token in tokens if token.content in texts and not token.special]
        self._tokenizer.add_special_tokens([_as_special(self._added, token) for token in plain])


class PieceReference(Reference):
    """A SentencePiece model without tokenizer.json: its added tokens are cut out first, as transformers did."""

    def __init__(self, files: Files) -> None:
        self._model = processor(files)
        count = self._model.vocab_size()
        ids: dict[str, int] = {}
        self._special: set[str] = set()
        for number in range(count):
            if self._model.IsControl(number) or self._model.IsUnknown(number):
                ids[self._model.IdToPiece(number)] = number
                self._special.add(self._model.IdToPiece(number))
        for text, number in files.json("added_tokens.json").items():
            if is_id(number):
                ids[text] = number
        for text, number, raw in listed_tokens(files):
            ids[text] = number
            if raw.get("special"):
                self._special.add(text)
        self._ids = ids
        self._texts = {number: text for text, number in ids.items()}
        self.vocab = max([count, *(number + 1 for number in ids.values())])
        self.bos = _bos(files, lambda text: ids.get(text, self._model.PieceToId(text)))
        self._around = tuple(files.settings.get(f"add_{kind}_token") for kind in ("bos", "eos"))
        self._eos = self._model.eos_id()

    def encode_lines(self, lines: Sequence[str], special: bool) -> list[list[int]]:
        """`encode` of each line, cut at the added tokens."""
        wanted = [text for text in self._ids if special or text not in self._special]
        if not wanted:
            return [list(self._model.EncodeAsIds(line)) for line in lines]
        longest = sorted(wanted, key=len, reverse=True)
        cut = re.compile("(" + "|".join(map(re.escape, longest)) + ")")
        return [
            [number for part in cut.split(line) if part for number in self._part(part, wanted)]
            for line in lines
        ]

    def _part(self, part: str, wanted: Collection[str]) -> list[int]:
        return (
            [self._ids[part]] if part in self._ids and part in wanted else list(self._model.EncodeAsIds(part))
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens by their names."""
        parts: list[str] = []
        plain: list[int] = []
        for number in [*ids, -1]:
            if number in self._texts or number < 0:
                parts.append(self._model.DecodeIds(plain) if plain else "")
                parts.append(self._texts.get(number, ""))
                plain = []
            else:
                plain.append(number)
        return "".join(parts)

    def framed(self, text: str) -> list[int] | None:
        """The ids with BOS and EOS as tokenizer_config.json says."""
        if any(flag is None for flag in self._around):
            return None
        before = [self.bos] if self._around[0] and self.bos is not None else []
        return [*before, *self.encode(text, True), *([self._eos] if self._around[1] else [])]

    def mark_special(self, texts: Collection[str]) -> None:
        """Take these added tokens for special ones."""
        self._special.update(text for text in texts if text in self._ids)


def _from_json(files: Files) -> Any:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(files.read("tokenizer.json").decode("utf-8"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # Rust panics arrive as one
        fact = f"the tokenizers library cannot read it: {error}"
        raise SourceUnreadable(fact, where=files.place("tokenizer.json")) from error


def _from_merges(files: Files) -> Any:
    """GPT-2's and Qwen2's tokenizers as they were before tokenizer.json: vocab.json, merges.txt, a known class."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    kind = str(files.settings.get("tokenizer_class") or "").removesuffix("Fast")
    if not kind:
        kind = {"gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer"}.get(
            str(files.config.get("model_type")), ""
        )
    if kind not in BYTE_LEVEL_CLASSES:
        raise Unsupported(
            f"how a {kind or 'tokenizer'} splits words is not in the folder: tokenizer.json is missing",
            where=str(files.folder),
            mend="Load it with transformers and save it again",
        )
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges(files))]
    try:
        made = Tokenizer(models.BPE(vocab=base_tokens(files), merges=pairs))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise SourceUnreadable(
            f"does not fit vocab.json: {error}", where=files.place("merges.txt")
        ) from error
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "Qwen2Tokenizer":
        made.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    made.decoder = decoders.ByteLevel()
    return made


def _as_special(kind: Any, token: Any) -> Any:
    flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized")}
    return kind(token.content, special=True, **flags)


def _bos(files: Files, number_of: Any) -> int | None:
    text = content(files.settings.get("bos_token"))
    number = number_of(text) if text else None
    if number is None:
        number = files.model.get("bos_token_id")
    return number if is_id(number) and number >= 0 else None
