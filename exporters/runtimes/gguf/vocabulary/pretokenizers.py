"""Names of llama.cpp's pre-tokenizers: which are likely for a tokenizer.json, and which the library knows at all."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .....calibration.language_tokenizer.files import Files
from .....sources.gguf import header
from .....sources.gguf.values import ARRAY, STRING
from .. import library
from ..packing import packed

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35_SPLIT = QWEN2_SPLIT.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(
    r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"
)
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+END"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*END"
    r"|NUMBER| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_SPLIT = CASED.replace("END", "").replace("NUMBER", r"\p{N}")
GPT4O_SPLIT = CASED.replace("END", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?").replace("NUMBER", r"\p{N}{1,3}")

BY_STEPS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("ByteLevel",): ("gpt-2",),
    ("Digits", "ByteLevel"): ("smollm", "starcoder", "refact"),
    (LLAMA3_SPLIT,): ("llama-bpe", "dbrx", "smaug-bpe"),
    (QWEN2_SPLIT,): ("qwen2", "stablelm2"),
    (QWEN35_SPLIT,): ("qwen35",),
    (TEKKEN_SPLIT,): ("tekken",),
    (GPT4O_SPLIT,): ("gpt-4o", "llama4"),
}
"""Names by what tokenizer.json's pre_tokenizer does: its splits' patterns, and the kinds of its other steps.

Several names mean the same words in llama.cpp, and differ in what else they switch on: merges that are passed
over for whole words (llama-bpe), spaces cleaned up in the output (gpt-2).
"""

BY_ARCHITECTURE: dict[str, tuple[str, ...]] = {
    "GPT2LMHeadModel": ("gpt-2",),
    "LlamaForCausalLM": ("llama-bpe", "smollm", "deepseek-llm", "deepseek-coder"),
    "MistralForCausalLM": ("tekken",),
    "OlmoForCausalLM": ("olmo",),
    "Olmo2ForCausalLM": ("dbrx",),
    "Phi3ForCausalLM": ("dbrx", "gpt-4o"),
    "PhiForCausalLM": ("phi-2",),
    "Qwen2ForCausalLM": ("qwen2", "deepseek-r1-qwen"),
    "Qwen3ForCausalLM": ("qwen2",),
    "StableLmForCausalLM": ("stablelm2",),
    "Starcoder2ForCausalLM": ("starcoder",),
}
"""Names that checkpoints of an architecture have; what it shares with BY_STEPS comes first of all."""

USUAL = ("llama-bpe", "gpt-2", "qwen2", "smollm", "default")
WORD = re.compile(rb"[a-z0-9][a-z0-9._-]{1,31}")


def hints(files: Files) -> tuple[str, ...]:
    """Names to be tried first, the likeliest first. Never empty."""
    steps = BY_STEPS.get(pattern(files), ())
    own = BY_ARCHITECTURE.get(files.architecture, ())
    shared = tuple(name for name in own if name in steps)
    return tuple(dict.fromkeys((*shared, *steps, *own, *USUAL)))


def recognised(files: Files) -> bool:
    """Whether llama.cpp's pre-tokenizers are known by what this tokenizer does; else only trying them can tell."""
    return pattern(files) in BY_STEPS


def pattern(files: Files) -> tuple[str, ...]:
    """What tokenizer.json's pre_tokenizer does, step by step: patterns of splits, kinds of other steps."""
    if not files.tokenizer:  # vocab.json and merges.txt
        qwen = str(files.config.get("model_type", "")).startswith("qwen")
        return (QWEN2_SPLIT,) if qwen else ("ByteLevel",)
    found: list[str] = []
    for step in _steps(files.part("pre_tokenizer")):
        kind = str(step.get("type"))
        if kind == "Split":
            regex = step.get("pattern")
            found.append(str(regex.get("Regex", regex)) if isinstance(regex, dict) else str(regex))
        elif kind != "ByteLevel" or step.get("use_regex", True):
            found.append(kind)
    return tuple(found)


def _steps(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    listed = raw.get("pretokenizers") if raw.get("type") == "Sequence" else [raw]
    for step in listed if isinstance(listed, list) else []:
        if isinstance(step, dict) and step:
            yield step


@functools.cache
def known() -> tuple[str, ...]:
    """Every name that the installed llama.cpp accepts, sorted: found in the library's own strings.

    A string literal may be the tail of a longer one in the file, so tails are asked about as well. Asking is a
    load of a vocabulary of two tokens: 60 microseconds each, some ten thousand of them.
    """
    words: set[bytes] = set()
    for text in Path(library.llama()._lib._name).read_bytes().split(b"\0"):
        if WORD.fullmatch(text):
            words.update(text[cut:] for cut in range(len(text) - 2) if WORD.match(text, cut))
    with _Probe() as probe:
        return tuple(word for word in sorted(map(bytes.decode, words)) if probe.accepts(word))


class _Probe:
    """Asks llama.cpp whether it accepts a name, by a vocabulary-only file of two tokens."""

    def __enter__(self) -> _Probe:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "probe.gguf"
        self._file = self._path.open("wb", buffering=0)
        self._log = library.log(lambda level, text: None)
        self._log.__enter__()
        self._parameters = library.llama().llama_model_default_params()
        self._parameters.vocab_only = True
        return self

    def __exit__(self, *error: object) -> None:
        self._log.__exit__(None, None, None)
        self._file.close()
        self._folder.cleanup()

    def accepts(self, name: str) -> bool:
        """Whether a vocabulary with this pre-tokenizer loads."""
        before = (
            packed("general.architecture", "llama", STRING),
            packed("tokenizer.ggml.model", "gpt2", STRING),
        )
        after = (
            packed("tokenizer.ggml.tokens", ["a", "b"], ARRAY),
            packed("tokenizer.ggml.merges", ["a b"], ARRAY),
        )
        # Written over in place: to truncate a file and write it anew takes 5 ms on some file systems. What is
        # left of a longer name stands behind the last entry, where nothing is read.
        self._file.seek(0)
        self._file.write(header.encode((*before, packed("tokenizer.ggml.pre", name, STRING), *after), ()))
        model = library.llama().llama_model_load_from_file(bytes(self._path), self._parameters)
        if model:
            library.llama().llama_model_free(model)
        return bool(model)
