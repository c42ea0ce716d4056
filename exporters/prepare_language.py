"""The worker step that cuts text into windows of tokens, with the language model's own tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..calibration import chat_template, language
from ..calibration.language_tokenizer import load_reference
from ..targets.errors import UsageError
from .job import Job, Outcome, Progress


@dataclass(frozen=True)
class _Tokenizer:
    """What windows need to know of a tokenizer."""

    encode: Callable[[str], list[int]]
    bos: int | None
    context: int | None
    """The most tokens that the model takes, where the tokenizer's own file says so."""


def run(job: Job, progress: Progress) -> Outcome:
    """Write `job.samples` from options["calibration"] (None: text that ships with Python).

    Other options: sequence (tokens of a window), context, held_out, samples, seed, folder (where relative
    paths start), chat_template (whether the text is conversations, for the model's own template). The outcome's
    data is the manifest's `calibration`.
    """
    progress("cut text into windows", 0, 1)
    options = job.options
    assert job.samples is not None, "a job with this step names the samples folder"
    with _tokenizer(job) as tokenizer:
        longest = [n for n in (options.get("context"), tokenizer.context) if n]
        prepared = language.prepare(
            options.get("calibration"),
            tokenizer.encode,
            Path(job.samples),
            window=options.get("sequence") or min([language.WINDOW, *longest]),
            longest=min(longest, default=None),
            bos=tokenizer.bos,
            seed=options["seed"],
            held_out=options["held_out"],
            limit=options["samples"],
            root=Path(options["folder"]),
            chat=_chat(job),
        )
    progress("cut text into windows", 1, 1)
    return Outcome(data=dataclasses.asdict(prepared), notes=tuple(prepared.warnings))


def _chat(job: Job) -> chat_template.Render | None:
    if not job.options.get("chat_template"):
        return None
    path = Path(job.source_path)
    if not path.is_dir():
        raise UsageError(
            "conversations are formatted from a model folder only",
            where="--chat-template",
            mend="Give the Hugging Face directory",
        )
    return chat_template.load(path)


@contextmanager
def _tokenizer(job: Job) -> Iterator[_Tokenizer]:
    path = Path(job.source_path)
    if path.is_dir():
        own = load_reference(path)
        special = bool(job.options.get("chat_template"))
        yield _Tokenizer(lambda text: own.encode(text, special), own.bos, None)
        return
    from .runtimes.gguf.session import Model

    with Model(path, vocab_only=True) as model:
        context = model.number("{arch}.context_length")
        yield _Tokenizer(lambda text: model.tokenize(text, begin=False, special=False), model.bos, context)
