"""What a model is: headers, graphs and configs only, each format behind its pre-flight validator."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from ..targets.errors import ModelportError, SourceUnreadable, UsageError
from ..targets.facts import ModelFacts
from .source import KINDS, Source

FORMATS = ("huggingface.causal_lm", "huggingface", "torch_program", "onnx", "saved_model", "keras", "gguf")
"""The formats, each a module or folder here, in the order in which they are asked. Each has the same verbs:

`KIND`, `recognises(path)` by content, `open(path)` with its validator, and `inspect(source, sequence=...)`.
"""


def open_source(path: str | Path) -> Source:
    """The validated model at `path`, a file or a folder, recognised by its content.

    Raises SourceUnreadable when there is nothing, when no format recognises it (what was seen and what is
    known stand in the error), and when its format's validator refuses it. Nothing of the model is executed.
    """
    path = Path(path)
    try:
        resolved = path.resolve(strict=True)
    except FileNotFoundError:
        raise SourceUnreadable("there is no such file or folder", where=str(path)) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceUnreadable(f"cannot be opened: {error}", where=str(path)) from None
    for name in FORMATS:
        module = _format(name)
        if module.recognises(resolved):
            source: Source = module.open(resolved)
            return source
    raise _unknown(resolved)


def inspect(source: Source, *, sequence: int = 128, signature: str | None = None) -> ModelFacts:
    """What is known about the model without its framework or its weights.

    Free dimensions are taken as 1 (batch) and `sequence` (tokens); `ModelFacts.assumed` says so.
    `signature` names one of a SavedModel's; UsageError for one that is not there, or another kind of source.
    """
    named = {"signature": signature} if signature is not None else {}
    if named and source.kind != "saved-model":
        raise UsageError(
            f"a source of kind {source.kind} has no signatures", where="--signature", mend="Leave it out"
        )
    for name in FORMATS:
        module = _format(name)
        if source.kind == module.KIND:
            facts: ModelFacts = module.inspect(source, sequence=sequence, **named)
            _refuse_control_characters(facts, source)
            return facts
    raise SourceUnreadable(f"unknown kind of source {source.kind!r}", where=str(source.path))


def _refuse_control_characters(facts: ModelFacts, source: Source) -> None:
    """Names are printed, and a terminal obeys the escape sequences in them."""
    for name in (*(port.name for port in (*facts.inputs, *facts.outputs)), *(op.kind for op in facts.ops)):
        if not name.isprintable():
            raise SourceUnreadable(
                f"the name {name!r} holds control characters", where=str(source.path), mend="Rename it"
            )


def _format(name: str) -> ModuleType:
    return importlib.import_module(f".{name}", __name__)


def _unknown(path: Path) -> ModelportError:
    """The error for a path that no format recognises: what was seen, and what to do."""
    known = "Known: " + "; ".join(KINDS.values())
    fact, mend = _seen_in_folder(path) if path.is_dir() else _seen_in_file(path)
    return SourceUnreadable(fact, where=str(path), mend=mend or known)


def _seen_in_folder(path: Path) -> tuple[str, str]:
    names = sorted(entry.name for entry in path.iterdir())
    pickles = [n for n in names if n.startswith("pytorch_model") and n.endswith((".bin", ".bin.index.json"))]
    if pickles:
        return f"the weights are pickled ({pickles[0]}), and pickles are never executed", (
            "Save them as safetensors: in a place where you trust the file, "
            "AutoModel.from_pretrained(folder).save_pretrained(other_folder)"
        )
    weights, ggufs = _held(names, ".safetensors"), _held(names, ".gguf")
    if ggufs and not weights:
        return _name_one(path, ggufs)
    if "config.json" in names and weights:
        fact = f"weights stand here ({weights[0]}) without model.safetensors or model.safetensors.index.json"
        return fact, "Download the model again, with all its files"
    if "config.json" in names:
        return "config.json stands here without model.safetensors", "Download the weights as well"
    if weights:
        return "weights stand here without config.json", "Put the model's config.json beside them"
    inside = _held(names, ".pt2", ".onnx", ".keras")
    if inside:
        return _name_one(path, inside)
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"no model is recognised in this folder ({shown or 'it is empty'})", ""


def _held(names: list[str], *endings: str) -> list[str]:
    return [name for name in names if name.endswith(endings)]


def _name_one(folder: Path, inside: list[str]) -> tuple[str, str]:
    return f"the folder is no model by itself; it holds {', '.join(inside[:5])}", f"Name {folder / inside[0]}"


def _seen_in_file(path: Path) -> tuple[str, str]:
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        return f"cannot be read: {error.strerror}", ""
    folder = "Name the folder that holds it and its config.json"
    looks = (
        (not head, "the file is empty", ""),
        (head[4:8] == b"TFL3", "a LiteRT model, which is a target and no source", ""),
        (head[8:9] == b"{", "safetensors weights alone, without a config.json", folder),
        (head[:4] == b"\x89HDF", "an HDF5 file, as Keras 2 wrote", "Save it again as .keras with Keras 3"),
        (head[:1] == b"\x80", "a pickle, and pickles are never executed", "Save it with torch.export.save"),
        (
            head[:4] == b"PK\x03\x04",
            "a zip archive that is no .pt2 and no .keras (a torch.save file is a pickle inside)",
            "Save the model with torch.export.save",
        ),
    )
    for applies, fact, mend in looks:
        if applies:
            return fact, mend
    return f"its content is of no known format (it begins {head[:8]!r})", ""
