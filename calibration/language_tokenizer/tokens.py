"""The tokens of a byte-level BPE model from its files: its own, the added ones, those that are special, and merges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...targets.errors import SourceUnreadable
from .files import MOST_TOKENS, Files, added_tokens, content, is_id, listed_tokens

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass
class Added:
    """A token that the text is searched for before anything else."""

    id: int
    special: bool
    normalized: bool


def source(files: Files) -> str:
    """The file that the tokens come from."""
    return "tokenizer.json" if files.tokenizer else "vocab.json"


def base_tokens(files: Files) -> dict[str, int]:
    """The model's own tokens and their ids, without added tokens. Refuses an id that two tokens have."""
    if files.tokenizer:
        raw, field = files.part("model").get("vocab"), "model.vocab"
    else:
        raw, field = files.json("vocab.json"), ""
    where = files.place(source(files), field)
    if not isinstance(raw, dict) or not raw:
        raise SourceUnreadable("has no tokens", where=where)
    numbers = raw.values()
    if not all(map(is_id, numbers)) or min(numbers) < 0:
        wrong = next(text for text, number in raw.items() if not is_id(number) or number < 0)
        raise SourceUnreadable(f"{wrong!r} has no id: {raw[wrong]!r}", where=where)
    if max(numbers) >= MOST_TOKENS:
        raise SourceUnreadable(
            f"has the id {max(numbers)}: no more than {MOST_TOKENS} are written", where=where
        )
    if len(set(numbers)) < len(raw):
        seen: dict[int, str] = {}
        for text, number in raw.items():
            if number in seen:
                raise SourceUnreadable(
                    f"{seen[number]!r} and {text!r} both have the id {number}", where=where
                )
            seen[number] = text
    return raw


def added_vocabulary(files: Files, base: dict[str, int]) -> dict[str, Added]:
    """The added tokens as transformers has them after loading, by text.

    tokenizer.json lists them; tokenizer_config.json's added_tokens_decoder overrides their flags; the tokens
    that the config names (bos_token, extra_special_tokens...) are special, and are added where there is none.
    Refuses a token whose id is another in the file than the tokenizers library gives it.
    """
    found: dict[str, Added] = {}
    following = len(base)

    def add(text: str, special: bool, normalized: bool) -> int:
        nonlocal following
        number = base.get(text, found[text].id if text in found else following)
        following = max(following, number + 1)
        found[text] = Added(number, special, normalized)
        return number

    for text, number, raw in added_tokens(files):
        special = bool(raw.get("special"))
        given = add(text, special, bool(raw.get("normalized", not special)))
        if given != number:
            raise SourceUnreadable(
                f"{text!r} has the id {number}, but the tokenizers library gives it {given}",
                where=files.place("tokenizer.json", "added_tokens"),
                mend="Save the tokenizer again with transformers",
            )
    listed = [(number, text, raw) for text, number, raw in listed_tokens(files)]
    for number, text, raw in sorted(listed, key=lambda each: each[0]):
        special = bool(raw.get("special"))
        given = add(text, special, bool(raw.get("normalized", not special)))
        if given != number:
            raise SourceUnreadable(
                f"{text!r} has the id {number}, but in {source(files)} it is {given}",
                where=files.place("tokenizer_config.json", "added_tokens_decoder"),
            )
    for text in special_texts(files):
        add(text, True, found[text].normalized if text in found else False)
    return found


def special_texts(files: Files) -> Iterator[str]:
    """The texts that tokenizer_config.json (and, in older folders, special_tokens_map.json) names as special."""
    settings = files.settings
    if "added_tokens_decoder" not in settings:
        settings = {**settings, **files.json("special_tokens_map.json")}
    for key in NAMED:
        if text := content(settings.get(key)):
            yield text
    # A multimodal model's own: image_token, video_token...
    for key, value in settings.items():
        if key not in NAMED and key.endswith("_token") and isinstance(value, str):
            yield value
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    for value in extra.values() if isinstance(extra, dict) else extra if isinstance(extra, list) else []:
        if text := content(value):
            yield text


def merges(files: Files) -> list[str]:
    """The merges in the form "left right"; spaces within a part become "Ġ", as the converter writes them."""
    raw = files.part("model").get("merges") if files.tokenizer else None
    if raw is None or raw == []:
        raw = _merges_file(files)
    where = files.place("tokenizer.json", "model.merges")
    if not isinstance(raw, list) or not raw:
        raise SourceUnreadable("has no merges: not a byte-level BPE tokenizer", where=where)
    if all(isinstance(merge, str) for merge in raw):
        return raw
    try:
        if any(" " in left or " " in right for left, right in raw):
            return [f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}" for left, right in raw]
        return [f"{left} {right}" for left, right in raw]
    except (AttributeError, TypeError, ValueError) as error:
        raise SourceUnreadable("is not a list of pairs of texts", where=where) from error


def _merges_file(files: Files) -> list[str]:
    if not files.has("merges.txt"):
        return []
    lines = files.text("merges.txt").split("\n")
    if lines and lines[0].startswith("#"):
        del lines[0]
    pairs = [line.split() for line in lines if line.strip()]
    return [" ".join(pair) for pair in pairs if len(pair) == 2]
