"""Special token ids, whether BOS and EOS are added, and the chat template: as llama.cpp's converter finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .....calibration.language_tokenizer.files import Files, added_tokens, content, is_id
from .....targets.errors import SourceUnreadable

if TYPE_CHECKING:
    from gguf import GGUFWriter

KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass
class Special:
    """The special tokens of a model, in the order in which their entries are written."""

    ids: dict[str, int] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)
    """Whether a token of this kind is put around a text: bos, eos, sep."""
    template: str | list[Any] | None = None
    normalizer: dict[str, bool] = field(default_factory=dict)
    """lowercase and strip_accents, where tokenizer.json's normalizer has them."""


def find(
    files: Files, size: int | None = None, kinds: Sequence[str] = KINDS, first: dict[str, int] | None = None
) -> Special:
    """Find the special tokens by tokenizer.json, tokenizer_config.json and config.json, in this order.

    `size` leaves out ids of config.json that the vocabulary does not have, with a note; without it they are
    an error. `first` are ids that stand where none of the files names one (a family's own).
    """
    search = _Search(files, size, list(kinds))
    search.by_files()
    for kind, number in (first or {}).items():
        search.keep(kind, number, "")
    return search.found


def write(special: Special, writer: GGUFWriter) -> None:
    """Add the entries: ids, add flags, chat template, normalizer."""
    for kind, number in special.ids.items():
        # Only those that have a key of their own in the format ("cls" has none).
        if add_id := getattr(writer, f"add_{kind}_token_id", None):
            add_id(number)
    for kind, value in special.add.items():
        if add_flag := getattr(writer, f"add_add_{kind}_token", None):
            add_flag(value)
    if special.template is not None:
        write_template(special.template, writer)
    for name, value in special.normalizer.items():
        writer.add_bool(f"tokenizer.ggml.normalizer.{name}", value)


def write_template(template: str | list[Any], writer: GGUFWriter) -> None:
    """Add one chat template, or several by name; the texts are copied, never rendered.

    The names are listed in the file's order (the converter lists them in a set's, which changes from run to run).
    """
    if isinstance(template, str):
        writer.add_chat_template(template)
        return
    names: list[str] = []
    default: str | None = None
    for choice in template:
        text = choice.get("template") if isinstance(choice, dict) else None
        if not isinstance(text, str):
            continue
        name = "".join(c if c.isascii() and c.isalnum() else "_" for c in str(choice.get("name", "")))
        if name == "default":
            default = text
        elif name:
            writer.add_string(f"tokenizer.chat_template.{name}", text)
            if name not in names:
                names.append(name)
    if names:
        writer.add_array("tokenizer.chat_templates", names)
    if default is not None:
        writer.add_chat_template(default)


class _Search:
    """What has been found so far, and the config as later rules see it."""

    def __init__(self, files: Files, size: int | None, kinds: list[str]) -> None:
        self.files = files
        self.size = size
        self.kinds = kinds
        self.found = Special()
        self.settings = dict(files.settings)
        # Without tokenizer_config.json nothing can be named by text, only taken from the template.
        self.named = bool(self.settings)

    def by_files(self) -> None:
        if self.files.tokenizer:
            self._normalizer(self.files.part("normalizer"))
            self._stand_in()
            self._post_processor(self.files.part("post_processor"))
        if self.named:
            self.found.template = self._template()
            ids: dict[str, int] = {}
            for text, number, _ in added_tokens(self.files):
                ids.setdefault(text, number)
            for kind in self.kinds:
                self._by_name(kind, ids)
        for kind in self.kinds:
            key = f"{kind}_token_id"
            named = self.files.config.get(key)
            self.keep(
                kind,
                self.files.model.get(key) if named is None else named,
                self.files.place("config.json", f"{kind}_token_id"),
            )

    def keep(self, kind: str, number: object, where: str) -> None:
        if kind in self.found.ids or not isinstance(number, int) or isinstance(number, bool):
            return
        if number == -1:
            return  # what old configs write for "none"
        if number < 0:
            raise SourceUnreadable(f"is {number}, not an id", where=where)
        if self.size is not None and number >= self.size:
            self.files.note(f"{kind}_token_id is {number}, outside the {self.size} ids, and was left out")
            return
        self.found.ids[kind] = number

    def _by_name(self, kind: str, ids: dict[str, int]) -> None:
        wanted = self.settings.get(f"add_{kind}_token")
        if isinstance(wanted, bool):
            # The post-processor of tokenizer.json is what runs, so it wins.
            self.found.add.setdefault(kind, wanted)
        text = content(self.settings.get(f"{kind}_token"))
        if text in ids:
            self.keep(kind, ids[text], self.files.place("tokenizer.json", "added_tokens"))

    def _normalizer(self, raw: dict[str, Any]) -> None:
        kind, flags = raw.get("type"), self.found.normalizer
        if kind == "Lowercase":
            flags["lowercase"] = True
        elif kind == "StripAccents":
            flags["strip_accents"] = True
        elif kind == "BertNormalizer":
            flags.update(
                {
                    name: raw[name]
                    for name in ("lowercase", "strip_accents")
                    if isinstance(raw.get(name), bool)
                }
            )
        elif kind == "Sequence":
            for inner in raw.get("normalizers") or []:
                self._normalizer(inner if isinstance(inner, dict) else {})
        # Written in this order whatever order they were found in.
        self.found.normalizer = {k: flags[k] for k in ("lowercase", "strip_accents") if k in flags}

    def _stand_in(self) -> None:
        """BERT's names for BOS and EOS, where the usual ones are missing."""
        for usual, other in (("bos", "cls"), ("eos", "sep")):
            if self.named and not self.settings.get(f"{usual}_token") and self.settings.get(f"{other}_token"):
                self.settings[f"{usual}_token"] = self.settings[f"{other}_token"]
        self.texts = {kind: self.settings.get(f"{kind}_token") for kind in ("bos", "cls", "eos", "sep")}

    def _rename(self, kind: str, text: object) -> None:
        self.texts[kind] = text
        if self.named:
            self.settings[f"{kind}_token"] = text

    def _post_processor(self, raw: dict[str, Any]) -> None:
        inner = raw.get("processors", [raw]) if raw else []
        for processor in inner if isinstance(inner, list) else []:
            kind = processor.get("type") if isinstance(processor, dict) else None
            if kind == "ByteLevel":
                self.found.add.setdefault("bos", False)
                self.found.add.setdefault("eos", False)
            elif kind == "RobertaProcessing":
                self.found.add.update({"bos": True, "eos": True, "sep": True})
                for name, stands_for in (("cls", "bos"), ("sep", "eos")):
                    if not self.texts[name] and self.named:
                        listed = processor.get(name) or [self.texts[stands_for]]
                        self._rename(name, listed[0])
            elif kind == "TemplateProcessing":
                self._template_processing(_steps(processor, "single"), _steps(processor, "pair"))

    def _template_processing(self, single: list[dict[str, Any]], pair: list[dict[str, Any]]) -> None:
        before = _special(single[0]) if len(single) > 1 else None
        after = _special(single[-1]) if len(single) > 1 else None
        if before:
            self._first(before)
        if after:
            self._last(after)
        if pair:
            self._between(pair, before, after)

    def _first(self, text: str) -> None:
        if not self.named:
            self.texts["bos"] = text
        elif text not in (self.texts["bos"], self.texts["cls"]):
            for kind in ("bos", "cls"):
                if not self.texts[kind]:
                    self._rename(kind, text)
        self.found.add["bos"] = text in (self.texts["bos"], self.texts["cls"])

    def _last(self, text: str) -> None:
        """A text that ends in another token than EOS: that one is EOS, and the configured one ends a turn."""
        if not self.named:
            self.texts["eos"] = text
        elif text != self.texts["eos"]:
            spare = next((kind for kind in ("eot", "eom") if kind not in self.kinds), None)
            if spare:
                self.kinds.append(spare)
                self.settings[f"{spare}_token"] = self.texts["eos"]
            self._rename("eos", text)
        self.found.add["eos"] = text == self.texts["eos"]

    def _between(self, pair: list[dict[str, Any]], before: str | None, after: str | None) -> None:
        """Whether a separator stands between two texts: [BOS] A SEP [SEP] B [EOS]."""
        start = 1 if before and _special(pair[0]) == before else 0
        stop = -1 if after and _special(pair[-1]) == after else None
        inner = pair[start:stop]
        if not inner or (_sequence(inner[0]), _sequence(inner[-1])) != ("A", "B") or len(inner) < 3:
            return
        middle = inner[1:-1]
        separators = (self.texts["sep"], self.texts["eos"])
        add = bool(_special(middle[0])) and _special(middle[0]) in separators and not after
        if len(middle) == 2 and _special(middle[1]) and _special(middle[1]) in separators:
            add = True
        self.found.add["sep"] = add
        if add and not self.texts["sep"] and self.named:
            self.settings["sep_token"] = self.texts["eos"]

    def _template(self) -> str | list[Any] | None:
        own = self.settings.get("chat_template", _Missing)
        if own is _Missing:
            own = self._template_file()
        return own if isinstance(own, str | list) else None

    def _template_file(self) -> str | list[Any] | None:
        files = self.files
        if files.has("chat_template.jinja"):
            text = files.text("chat_template.jinja")
            others = sorted((files.folder / "additional_chat_templates").glob("*.jinja"))
            if not others:
                return text
            named = [(path.stem, files.text(f"additional_chat_templates/{path.name}")) for path in others]
            return [{"name": name, "template": each} for name, each in [("default", text), *named]]
        template = files.json("chat_template.json").get("chat_template")
        return template if isinstance(template, str | list) else None


class _Missing:
    """A config without the key, told from one that says null."""


def _steps(processor: dict[str, Any], name: str) -> list[dict[str, Any]]:
    steps = processor.get(name) or []
    return [step if isinstance(step, dict) else {} for step in steps] if isinstance(steps, list) else []


def _special(step: dict[str, Any]) -> str | None:
    inner = step.get("SpecialToken")
    text = inner.get("id") if isinstance(inner, dict) else None
    return text if isinstance(text, str) else None


def _sequence(step: dict[str, Any]) -> str | None:
    inner = step.get("Sequence")
    text = inner.get("id") if isinstance(inner, dict) else None
    return text if isinstance(text, str) else None


def beyond(special: Special, size: int, files: Files) -> None:
    """Refuse special ids that the vocabulary does not have: llama.cpp would put its own defaults in their place."""
    for kind, number in special.ids.items():
        if not is_id(number) or number >= size:
            raise SourceUnreadable(
                f"is {number}, outside the vocabulary of {size} ids",
                where=files.place("config.json", f"{kind}_token_id"),
            )
