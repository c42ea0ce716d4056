"""Tries pre-tokenizers in a process of its own: some make llama.cpp abort on text that they are not meant for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .....sources.gguf.values import ARRAY, STRING
from ..packing import packed
from .entries import Vocabulary
from .llama_vocabulary import LlamaVocabulary, pack

SECONDS = 60
"""Time for all names; two seconds are usual."""


def agreeing(
    vocabulary: Vocabulary, texts: Sequence[str], expected: Sequence[Sequence[int]], names: Sequence[str]
) -> dict[str, int]:
    """How many texts get the expected ids under each pre-tokenizer: 0 for one with which llama.cpp aborts."""
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task.json"
        while left := [name for name in names if name not in found]:
            parts = (vocabulary.tokens, vocabulary.types, vocabulary.merges, texts, expected, left)
            task.write_text(json.dumps(parts), encoding="utf-8")
            before = len(found)
            for line in _run(task).splitlines():
                name, _, count = line.rpartition(" ")
                if name in left and count.isdigit():
                    found[name] = int(count)
            if len(found) - before < len(left):
                # It ended on the first name that it said nothing about.
                found[next(name for name in left if name not in found)] = 0
    return found


def _run(task: Path) -> str:
    # ggml calls a debugger where it aborts, unless told not to.
    variables = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    command = [sys.executable, "-P", "-m", f"{__package__}.trial", str(task)]
    try:
        done = subprocess.run(
            command, env=variables, cwd=task.parent, capture_output=True, timeout=SECONDS, check=False
        )
        return done.stdout.decode("utf-8", "replace")
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode("utf-8", "replace")


def main(task: Path) -> None:
    """Print each name with the number of texts that agree, as soon as it is known."""
    tokens, types, merges, texts, expected, names = json.loads(task.read_text(encoding="utf-8"))
    for name in names:
        entries = [
            packed("general.architecture", "llama", STRING),
            packed("tokenizer.ggml.model", "gpt2", STRING),
            packed("tokenizer.ggml.pre", name, STRING),
            packed("tokenizer.ggml.tokens", tokens, ARRAY),
            packed("tokenizer.ggml.token_type", types, ARRAY),
            packed("tokenizer.ggml.merges", merges or ["a b"], ARRAY),
        ]
        with LlamaVocabulary(pack(entries)) as llama:
            got = llama.encode_lines(texts, False)
        print(name, sum(a == b for a, b in zip(got, expected, strict=True)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
