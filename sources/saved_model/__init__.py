"""TensorFlow SavedModel folders: recognised, checked operator by operator before TensorFlow sees them, inspected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...targets.errors import SourceUnreadable, UsageError
from ...targets.facts import IoFact, ModelFacts
from ..files.containment import contained
from ..files.protobuf import Message, open_message
from ..source import Source
from .check import AGAIN, FILE, check_program, check_variables
from .graph import CALLS, Program, Signature, read_program
from .variables import Entry, read_index

KIND = "saved-model"
DEFAULT_SIGNATURE = "serving_default"


def recognises(path: Path) -> bool:
    """Whether the folder holds a SavedModel (`saved_model.pb`, or one of the forms that is then refused)."""
    names = (FILE, "saved_model.pbtxt", "saved_model.cpb")
    return path.is_dir() and any((path / name).is_file() for name in names)


def open(path: Path) -> Source:
    """The SavedModel in the folder `path`, checked.

    Every operator of every graph and function is on the list of allowed ones, files are read and written by
    the saver alone, constants and stored variables have the bytes that they declare, and asset files lie
    inside. Raises `SourceUnreadable` naming the file and the operator, node or key.
    """
    path = path.resolve()
    for other in ("saved_model.cpb", "saved_model.pbtxt"):
        if (path / other).exists():
            raise SourceUnreadable(
                f"the model is stored as {other}",
                where=f"{path.name}: {other}",
                mend=f"Save it as {FILE}: TensorFlow would read the other file instead",
            )
    files = [contained(path, FILE, where=f"{path.name}: {FILE}")]
    entries: dict[str, Entry] = {}
    if (path / "variables/variables.index").exists():
        entries, stored = read_index(path)
        files.extend(stored)
    with open_message(files[0]) as model:
        if model.integer(1) != 1:
            fact = f"schema version {model.integer(1)} is not known"
            raise SourceUnreadable(fact, where=f"{FILE}: saved_model_schema_version", mend=AGAIN)
        programs = [read_program(meta) for meta in _meta_graphs(model)]
        for program in programs:
            check_program(program)
            for signature in served_signatures(program.signatures).values():
                check_variables(program, signature, entries)
            for name in program.assets:
                files.append(contained(path / "assets", name, where=f"{FILE}: asset_file_def {name!r}"))
        served = served_signatures(_serving(programs).signatures)
        if not served:
            raise _no_signature()
    extra = [file for file in ("fingerprint.pb", "keras_metadata.pb") if (path / file).is_file()]
    files.extend(contained(path, name, where=f"{path.name}: {name}") for name in extra)
    return Source(KIND, path, tuple(sorted(set(files))))


def inspect(source: Source, *, sequence: int = 128, signature: str | None = None) -> ModelFacts:
    """Weights, inputs, outputs and operators of one signature (the default's), from the graph alone.

    Weights are the variables and constants that the signature reaches: optimizer state and the copies that
    some exporters store twice do not count.
    """
    from .facts import facts_of

    entries: dict[str, Entry] = {}
    if (source.path / "variables/variables.index").exists():
        entries, _ = read_index(source.path)
    with open_message(source.path / FILE) as model:
        program = _serving([read_program(meta) for meta in _meta_graphs(model)])
        name = choose_signature(program.signatures, signature)
        ordered = _in_call_order(program, program.signatures[name])
        return facts_of(program, ordered, name, source.name, entries, sequence)


def signatures(source: Source) -> Mapping[str, tuple[tuple[IoFact, ...], tuple[IoFact, ...]]]:
    """Every signature that can be served: name to (inputs, outputs), in the model's own argument order."""
    with open_message(source.path / FILE) as model:
        program = _serving([read_program(meta) for meta in _meta_graphs(model)])
        ordered = {
            name: _in_call_order(program, found)
            for name, found in served_signatures(program.signatures).items()
        }
        return {name: (found.inputs, found.outputs) for name, found in ordered.items()}


def choose_signature(found: Mapping[str, Signature], asked: str | None = None) -> str:
    """The signature that is converted: the one asked for, `serving_default`, or the only one.

    Raises `UsageError` where that one is not there or there is no telling which, `SourceUnreadable` where
    there is none at all.
    """
    served = served_signatures(found)
    if not served:
        raise _no_signature()
    known = ", ".join(sorted(served))
    if asked is not None and asked not in served:
        raise UsageError(f"there is no signature {asked!r}", where="--signature", mend=f"Known: {known}")
    if asked is not None:
        return asked
    if DEFAULT_SIGNATURE in served:
        return DEFAULT_SIGNATURE
    if len(served) == 1:
        return next(iter(served))
    raise UsageError(
        f"it has {len(served)} signatures and none is called {DEFAULT_SIGNATURE!r}",
        where=f"{FILE}: signature_def",
        mend=f"Choose one with --signature: {known}",
    )


def _no_signature() -> SourceUnreadable:
    return SourceUnreadable(
        "there is no signature",
        where=f"{FILE}: signature_def",
        mend="Save with signatures={'serving_default': function}",
    )


def served_signatures(found: Mapping[str, Signature]) -> dict[str, Signature]:
    """Signatures that compute something: without the loader's own (initialisation, training)."""
    return {name: item for name, item in found.items() if not name.startswith("__") and item.outputs}


def _meta_graphs(model: Message) -> list[Message]:
    graphs = model.messages(2, "meta_graphs")
    if not graphs:
        raise SourceUnreadable("there is no graph", where=f"{FILE}: meta_graphs", mend=AGAIN)
    return graphs


def _serving(programs: list[Program]) -> Program:
    """The graph tagged "serve", or the only one."""
    tagged = [program for program in programs if set(program.tags) == {"serve"}]
    if not tagged and len(programs) > 1:
        tags = [list(program.tags) for program in programs]
        raise SourceUnreadable(f"no graph has the tag 'serve'; there are {tags}", where=f"{FILE}: tags")
    return (tagged or programs)[0]


def _in_call_order(program: Program, signature: Signature) -> Signature:
    """The signature with its inputs in the order in which the model's function takes them."""
    called = {ref.node for ref in signature.output_refs}
    place: dict[str, int] = {}
    for node in program.nodes:
        if node.name in called and node.op in CALLS:
            for at, ref in enumerate(node.inputs):
                place.setdefault(ref.node, at)
    if not all(ref.node in place for ref in signature.input_refs):
        return signature
    pairs = sorted(
        zip(signature.inputs, signature.input_refs, strict=True), key=lambda pair: place[pair[1].node]
    )
    return replace(signature, inputs=tuple(io for io, _ in pairs), input_refs=tuple(ref for _, ref in pairs))
