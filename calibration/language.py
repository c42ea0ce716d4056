"""From text to windows of tokens on disk, in two sets that share no text: for language models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..targets.errors import UsageError
from . import chat_template, text
from .dataset import Prepared
from .samples import write_set

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

WINDOW = 256
"""Tokens of a window, where the model takes as many."""
SHORTEST = 16
"""llama.cpp's importance matrix leaves out whatever has fewer rows."""
HELD_OUT = 16
"""Windows that verify, where there is text enough; never more than a fifth of it."""
CALIBRATION = 256
"""Windows that calibrate, where there is text enough."""
MAX_TEXT = 64 << 20
"""Characters of text that are read."""
REGION = 6
"""Characters of text for each token of a window: parts of a text are about a window long, or more."""
SUFFIXES = (".txt", ".text", ".md", ".jsonl", ".ndjson")

NO_TEXT = (
    "no text was given: Python's own documentation is used for verification; nothing was calibrated on it"
)
CUT = f"only the first {MAX_TEXT:,} characters of the text were read"

Encode = Callable[[str], list[int]]
"""Text to token ids, without a BOS or other special tokens around them."""


@dataclass(frozen=True)
class _Wanted:
    """How many windows, and of what."""

    window: int
    bos: int | None
    calibration: int
    held_out: int
    asked: bool
    """Whether the user named the number of windows that verify; otherwise it may be less."""
    whole: bool = False
    """Whether regions are whole texts, between which nothing is put."""

    @property
    def own(self) -> int:
        """Tokens of text in a window."""
        return self.window - (self.bos is not None)


def prepare(
    data: str | None,
    encode: Encode,
    folder: Path,
    *,
    window: int = WINDOW,
    longest: int | None = None,
    bos: int | None = None,
    seed: int = 0,
    held_out: int | None = None,
    limit: int | None = None,
    root: Path | None = None,
    chat: chat_template.Render | None = None,
) -> Prepared:
    """Write `folder`/calibration and `folder`/held_out: "input_ids", int64 (windows, window), from text.

    Text is divided into regions (a document of a .jsonl, or a part of a long one; about a window of a .txt) that
    go to one set or the other by their content and `seed`; a set's regions are joined in the order of the file
    and cut. The same text, options and seed give the same bytes.

    Args:
        data: a .txt or a .jsonl (a text a line, in one of `text.FIELDS`); None: English that ships with Python,
            for verification alone.
        longest: the most tokens that the model takes.
        bos: the token that every window begins with, if the model wants one.
        held_out: windows that verify; by default a fifth of what the text gives, at most `HELD_OUT`.
        limit: most windows, held-out ones included.
        chat: renders the conversations of a .jsonl ("messages"), each a region; `encode` then takes the names of
            special tokens for these tokens.

    Raises UsageError for a file that cannot be read, and for too little text.
    """
    most = window if longest is None else longest
    if not SHORTEST <= window <= most:
        bound = (
            f"fewer than {SHORTEST}" if window < SHORTEST else f"more than the {most} that the model takes"
        )
        raise UsageError(f"windows of {window} tokens: {bound}", where="--sequence")
    if data is None:
        if chat is not None:
            raise UsageError("there is no text to format", where="--chat-template", mend="Give --calibration")
        regions, warnings = _shipped(), [NO_TEXT]
    else:
        regions, warnings = _read(data, root if root is not None else Path.cwd(), window, chat)
    held = (
        held_out if held_out is not None else HELD_OUT if limit is None else max(1, min(HELD_OUT, limit // 5))
    )
    calibrating = CALIBRATION if limit is None else limit - held
    if data is not None and calibrating < 1:
        raise UsageError(
            f"{limit} windows leave none to calibrate with beside {held} held out", where="--samples"
        )
    wanted = _Wanted(
        window, bos, 0 if data is None else calibrating, held, held_out is not None, chat is not None
    )
    verifying, kept = _divide(regions, encode, wanted, seed, data)
    digest = hashlib.sha256()
    for name, windows in (("calibration", kept), ("held_out", verifying)):
        write_set(folder / name, {"input_ids": windows})
        digest.update(f"input_ids {windows.dtype} {windows.shape}\n".encode())
        digest.update(windows.tobytes())
    return Prepared(
        kind="text",
        samples=len(kept),
        held_out=len(verifying),
        sha256=digest.hexdigest(),
        seed=seed,
        warnings=tuple(warnings),
        preprocessing=None,
        random=False,
        sequence=window,
        labels=False,
    )


def _read(
    data: str, root: Path, window: int, chat: chat_template.Render | None
) -> tuple[list[str], list[str]]:
    """(regions, warnings) of the user's file."""
    path = root / Path(data).expanduser()
    if not path.is_file():
        raise UsageError("there is no such file", where=f"--calibration {data}", mend=_known())
    if path.suffix.lower() not in SUFFIXES:
        found = path.suffix or "a file without suffix"
        raise UsageError(f"{found} holds no text for a language model", where=data, mend=_known())
    lines = path.suffix.lower() in (".jsonl", ".ndjson")
    if chat is not None and not lines:
        raise UsageError(
            f"{path.name} holds no conversations",
            where="--chat-template",
            mend='Give a .jsonl with "messages"',
        )
    length = REGION * window
    regions, total, cut = [], 0, False
    read = _regions(path, length)
    if lines:
        read = _documents(path, length) if chat is None else _conversations(path, chat)
    for region in read:
        if total >= MAX_TEXT:
            cut = True
            break
        total += len(region)
        regions.append(region)
    if not regions:
        raise UsageError("the file holds no text", where=path.name)
    return regions, [CUT] if cut else []


def _known() -> str:
    return f"Give a file of text: {', '.join(SUFFIXES)}"


def _documents(path: Path, length: int) -> Iterator[str]:
    """The text of each line of a .jsonl (of a pair, both), long ones in parts of `length` characters."""
    for number, line in text.lines(path):
        found = text.record(line, f"{path.name}: line {number}", {})
        document = found.first if found.second is None else f"{found.first}\n{found.second}"
        if document.strip():
            yield from (document[begin : begin + length] for begin in range(0, len(document), length))


def _conversations(path: Path, chat: chat_template.Render) -> Iterator[str]:
    """Each line's conversation in the model's own format."""
    for number, line in text.lines(path):
        rendered = chat(chat_template.messages(line, f"{path.name}: line {number}"))
        if rendered.strip():
            yield rendered


def _regions(path: Path, length: int) -> Iterator[str]:
    """Whole lines of a text, `length` characters or a little more at a time; line ends and blanks as they are."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            region: list[str] = []
            size = 0
            # A line may be a whole book: it is taken in pieces.
            while line := stream.readline(length):
                region.append(line)
                size += len(line)
                if size >= length:
                    yield "".join(region)
                    region, size = [], 0
            if "".join(region).strip():
                yield "".join(region)
    except UnicodeDecodeError as error:
        raise UsageError(f"not UTF-8: {error.reason} at byte {error.start:,}", where=path.name) from None
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=path.name) from None


def _shipped() -> list[str]:
    """The language reference that Python brings along, a topic a region."""
    import pydoc_data.topics as shipped

    return [shipped.topics[name] for name in sorted(shipped.topics)]


def _divide(
    regions: list[str], encode: Encode, wanted: _Wanted, seed: int, data: str | None
) -> tuple[Array, Array]:
    """(held out, calibration) windows; which set a region goes to depends on its content and the seed alone."""
    drawn = _draw(regions, seed)
    most = wanted.held_out
    tokens: dict[int, list[int]] = {}
    total = 0
    for index in drawn:
        if total >= (most + wanted.calibration + 1) * wanted.own:
            break
        region = regions[index]
        tokens[index] = encode(region if wanted.whole or region.endswith("\n") else region + "\n\n")
        total += len(tokens[index])
    if not wanted.asked and wanted.calibration:
        most = max(1, min(most, total // wanted.own // 5))
    held: list[int] = []
    while sum(len(tokens[index]) for index in held) < most * wanted.own and len(held) < len(tokens):
        held.append(drawn[len(held)])
    kept = [index for index in drawn[len(held) :] if index in tokens]
    verifying, calibrating = (
        _cut([tokens[index] for index in sorted(part)], wanted, count)
        for part, count in ((held, most), (kept, wanted.calibration))
    )
    if len(verifying) < most or (wanted.calibration and not len(calibrating)):
        need = (most + bool(wanted.calibration)) * wanted.own
        raise UsageError(
            f"the text gives {total:,} tokens in {len(tokens)} parts; more than {need:,} are wanted, "
            f"for windows of {wanted.window}",
            where="--held-out" if data is None else data,
            mend="Give more text with --calibration, hold out fewer windows, or make them shorter with --sequence",
        )
    return verifying, calibrating


def _draw(regions: list[str], seed: int) -> list[int]:
    """Indices of the regions in an order drawn with `seed`; of those that are the same, the first."""
    salt = seed.to_bytes(16, "little", signed=True)
    first: dict[bytes, int] = {}
    for index, region in enumerate(regions):
        first.setdefault(hashlib.sha256(salt + region.encode("utf-8", "surrogatepass")).digest(), index)
    return [first[digest] for digest in sorted(first)]


def _cut(parts: list[list[int]], wanted: _Wanted, most: int) -> Array:
    """At most `most` windows of the joined parts: int64 (windows, window)."""
    import numpy as np

    joined = [token for part in parts for token in part]
    count = min(most, len(joined) // wanted.own)
    windows = np.asarray(joined[: count * wanted.own], np.int64).reshape(count, wanted.own)
    if wanted.bos is None:
        return windows
    return np.concatenate([np.full((count, 1), wanted.bos, np.int64), windows], axis=1)
