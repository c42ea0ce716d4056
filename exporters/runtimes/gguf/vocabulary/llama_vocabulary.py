"""A vocabulary-only GGUF, as bytes from a writer's entries and loaded in llama.cpp."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .....sources.gguf import header
from .....targets.errors import ConversionFailed
from .. import library, packing

if TYPE_CHECKING:
    from gguf import GGUFWriter


BY_NAME = (
    "llama.cpp looks for tokens that some models have by the model's name (in one called phi-3 or phi3:"
    " <|endoftext|>), and this one lacks them: rename the folder"
)


def pack(entries: Iterable[header.Entry]) -> bytes:
    """A GGUF file of these entries, without tensors."""
    return header.encode(entries, ())


def vocabulary_entries(writer: GGUFWriter) -> tuple[header.Entry, ...]:
    """What llama.cpp reads for a vocabulary: general.* and tokenizer.*, in the writer's order."""
    return tuple(
        entry for entry in packing.entries_of(writer) if entry.key.startswith(("general.", "tokenizer."))
    )


class LlamaVocabulary:
    """llama.cpp's tokenizer over a vocabulary-only file, which lives in a temporary folder while it loads.

    A context manager; raises ConversionFailed with llama.cpp's own words where it does not load.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __enter__(self) -> LlamaVocabulary:
        self._library: Any = library.llama()
        parameters = self._library.llama_model_default_params()
        parameters.vocab_only = True
        said: list[str] = []
        with tempfile.TemporaryDirectory() as folder, library.log(lambda level, text: said.append(text)):
            path = Path(folder) / "vocabulary.gguf"
            path.write_bytes(self._content)
            self._model = self._library.llama_model_load_from_file(bytes(path), parameters)
        if not self._model:
            lines = "".join(said).splitlines()
            reason = next(
                (line for line in lines if "error" in line), lines[-1] if lines else "no reason given"
            )
            raise ConversionFailed(
                f"llama.cpp does not load the vocabulary: {reason.strip()}",
                mend=BY_NAME if "unordered_map" in reason else "",
            )
        self._vocabulary = self._library.llama_model_get_vocab(self._model)
        return self

    def __exit__(self, *error: object) -> None:
        self._library.llama_model_free(self._model)

    def encode(self, text: str, special: bool, *, framed: bool = False) -> list[int]:
        """The ids of a text; `special` as in `Reference.encode`, `framed` with what llama.cpp adds around it."""
        raw = text.encode("utf-8")
        room = len(raw) + 16
        buffer = (ctypes.c_int32 * room)()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), buffer, room, framed, special)
        if count < 0:
            buffer = (ctypes.c_int32 * -count)()
            count = self._library.llama_tokenize(
                self._vocabulary, raw, len(raw), buffer, -count, framed, special
            )
        return list(buffer[:count])

    def encode_lines(self, lines: Sequence[str], special: bool) -> list[list[int]]:
        """`encode` of each line."""
        return [self.encode(line, special) for line in lines]

    def is_control(self, number: int) -> bool:
        """Whether llama.cpp takes a token for a control token: by its type, or by its name."""
        return bool(self._library.llama_vocab_is_control(self._vocabulary, number))

    def frames(self) -> bool:
        """Whether ids can be put around a text: llama.cpp aborts where it is to add a token that there is not."""
        pairs = (("add_bos", "bos"), ("add_eos", "eos"))
        get = self._library
        return all(
            getattr(get, f"llama_vocab_{token}")(self._vocabulary) >= 0
            for flag, token in pairs
            if getattr(get, f"llama_vocab_get_{flag}")(self._vocabulary)
        )
