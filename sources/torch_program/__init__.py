"""PyTorch ExportedProgram files (.pt2): checked and read without torch.

The archive (torch.export.save, torch 2.9 and later, schema 8) is a zip with one JSON graph in
`models/model.json`, weights as raw bytes in `data/weights/weight_N` with their metadata in a JSON file,
constants likewise, and the example inputs as a small torch.save file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...targets.errors import ModelportError, SourceUnreadable
from ...targets.facts import ModelFacts, TensorFact
from ..files import jsonfile, zipguard
from ..files.zipguard import Archive
from ..source import Source
from . import safety
from .graph import SCALAR_TYPES, Graph, scalar_type

KIND = "torch-exported"

SCHEMA_MAJOR = 8
"""torch._export.serde.schema.SCHEMA_VERSION's major number of torch 2.9 to 2.13."""
PROGRAM_LIMIT = 128 << 20
SAMPLES_LIMIT = 1 << 30

_MEMBERS = re.compile(
    r"(data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|version"
    r"|\.data/(version|serialization_id)|\.format_version|\.storage_alignment|extra/.+)"
)
_CODE = {
    "data/aotinductor/": "compiled machine code",
    "data/constants/custom_obj_": "a custom object, which loads by running code",
    "data/constants/opaque_obj_": "an opaque object, which loads by running code",
    "data/executorch/": "an ExecuTorch program",
}
_MEND = "Save the program again with torch.export.save"


def recognises(path: Path) -> bool:
    """Whether `path` is a zip archive with the members of torch.export.save, or one cut short."""
    if not path.is_file() or not zipguard.is_zip(path):
        return False
    try:
        names = zipguard.check(path).members
    except SourceUnreadable:
        with path.open("rb") as stream:
            return b"/data/weights/" in stream.read(512) or path.suffix == ".pt2"
    legacy = "serialized_exported_program.json" in names
    return legacy or any(name.partition("/")[2] in ("archive_format", "models/model.json") for name in names)


def open(path: Path) -> Source:
    """The validated program at `path`; reads the archive's directory and its JSON, no weight.

    Raises SourceUnreadable for a damaged archive, weights whose bytes do not match their metadata, members
    or strings that torch would execute, another schema, and a graph that does not fit its weights.
    """
    path = path.resolve()
    archive, root = _open_archive(path)
    program = _program(archive, root)
    with _formed(path.name, "models/model.json"):
        weights = _payloads(archive, root)
        _check_signature(path.name, program, weights)
        _inspect(Source(KIND, path, (path,)), program, weights, 1)
    if (samples := f"{root}/data/sample_inputs/model.pt") in archive.members:
        safety.check_sample_inputs(archive.read(samples, SAMPLES_LIMIT), path, "data/sample_inputs/model.pt")
    return Source(KIND, path, (path,))


def inspect(source: Source, *, sequence: int = 128) -> ModelFacts:
    """Weights, inputs, outputs and operators, free dimensions at batch 1 and `sequence` tokens."""
    archive, root = _open_archive(source.path)
    program = _program(archive, root)
    with _formed(source.path.name, "models/model.json"):
        return _inspect(source, program, _payloads(archive, root), sequence)


def _inspect(
    source: Source, program: Mapping[str, Any], weights: Mapping[str, Mapping[str, Any]], sequence: int
) -> ModelFacts:
    graph = Graph(program, sequence)
    stored = {name for name, _, _ in _stored(program)}
    ops, most, peak = graph.operators(stored)
    version = program.get("torch_version", "")
    return ModelFacts(
        kind=KIND,
        name=source.name,
        architecture=f"pytorch {version}" if version else "pytorch",
        tensors=_tensor_facts(weights),
        inputs=graph.inputs(),
        outputs=graph.outputs(),
        ops=ops,
        peak_activations=most,
        peak=peak,
        assumed={graph.names[symbol]: value for symbol, value in graph.values.items()},
        notes=tuple(_notes(program, graph)),
    )


def _notes(program: Mapping[str, Any], graph: Graph) -> Iterator[str]:
    for symbol, limits in graph.ranges.items():
        if symbol in graph.names:
            high = limits.get("max_val")
            upper = f"to {high}" if high is not None else "upwards"
            yield f"The size {graph.names[symbol]} may be from {limits.get('min_val')} {upper}."
    for node in program["graph_module"]["graph"]["nodes"]:
        training = [i["arg"].get("as_bool") for i in node["inputs"] if i["name"] in ("training", "train")]
        if training == [True]:
            yield f"{node.get('name')} runs in training mode: call eval() before the export."
            return


@contextmanager
def _formed(file: str, member: str) -> Iterator[None]:
    """Turn what a wrongly formed JSON document makes Python raise into one error that names the file."""
    try:
        yield
    except ModelportError:
        raise
    except (
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        ValueError,
        ArithmeticError,
        RecursionError,
    ) as error:
        fact = f"not of the form that schema {SCHEMA_MAJOR} has ({type(error).__name__}: {str(error)[:120]})"
        raise SourceUnreadable(fact, where=f"{file}: {member}", mend=_MEND) from None


def _open_archive(path: Path) -> tuple[Archive, str]:
    """The archive and the folder that all its members lie in."""
    archive = zipguard.check(path)
    names = list(archive.members)
    if "serialized_exported_program.json" in names:
        fact = "the archive has the form of torch 2.8 and before, which pickles its weights"
        raise SourceUnreadable(fact, where=path.name, mend=_MEND + " of torch 2.9 or later")
    root = names[0].partition("/")[0] if names else ""
    folded: set[str] = set()
    for name in names:
        inside = name.removeprefix(f"{root}/")
        where = f"{path.name}: {inside}"
        code = next((what for start, what in _CODE.items() if inside.startswith(start)), "")
        if code:
            raise SourceUnreadable(f"the archive holds {code}", where=where, mend=_MEND)
        if not name.startswith(f"{root}/") or not _MEMBERS.fullmatch(inside):
            raise SourceUnreadable("an unknown member in the archive", where=where, mend=_MEND)
        if name.casefold() in folded:
            raise SourceUnreadable("two members differ in case only", where=where, mend=_MEND)
        folded.add(name.casefold())
    for member, due in (("archive_format", b"pt2"), ("archive_version", b"0"), ("byteorder", b"little")):
        found = archive.read(f"{root}/{member}", 64).strip()
        if found != due:
            fact = f"{found[:20]!r} is not known, only {due!r}"
            raise SourceUnreadable(fact, where=f"{path.name}: {member}", mend=_MEND)
    return archive, root


def _json(archive: Archive, name: str) -> dict[str, Any]:
    where = f"{archive.path.name}: {name.partition('/')[2]}"
    value = jsonfile.parse(archive.read(name, PROGRAM_LIMIT), where)
    if not isinstance(value, dict):
        raise SourceUnreadable("a JSON object is expected", where=where, mend=_MEND)
    return value


def _program(archive: Archive, root: str) -> dict[str, Any]:
    """The serialized program, of a known schema and with nothing in it that would run."""
    file = archive.path.name
    program = _json(archive, f"{root}/models/model.json")
    version = program.get("schema_version")
    major = version.get("major") if isinstance(version, dict) else None
    if major != SCHEMA_MAJOR:
        fact = f"schema {str(major)[:20]} is not known, only {SCHEMA_MAJOR}"
        raise SourceUnreadable(fact, where=f"{file}: models/model.json: schema_version", mend=_MEND)
    safety.check_program(program, f"{file}: models/model.json")
    return program


def _payloads(archive: Archive, root: str) -> dict[str, dict[str, Any]]:
    """Metadata of every weight and constant, each checked against the bytes that are there.

    Keys are "weights/<name>" and "constants/<name>"; "path" in each value is the record that holds it.
    """
    found: dict[str, dict[str, Any]] = {}
    dtypes: dict[str, int] = {}
    for folder, prefix in (("weights", "weight_"), ("constants", "tensor_")):
        config = _json(archive, f"{root}/data/{folder}/model_{folder}_config.json")["config"]
        for name, entry in config.items():
            where = f"{archive.path.name}: data/{folder}: {name[:200]}"
            if entry["use_pickle"] is not False or not re.fullmatch(prefix + r"\d+", entry["path_name"]):
                fact = "pickled, and pickles are never executed"
                raise SourceUnreadable(fact, where=where, mend="Export a model of plain tensors")
            path = f"{root}/data/{folder}/{entry['path_name']}"
            meta = entry["tensor_meta"]
            _check_extent(archive, path, meta, where)
            if dtypes.setdefault(path, meta["dtype"]) != meta["dtype"]:
                raise SourceUnreadable(
                    "shares its bytes with a weight of another dtype", where=where, mend=_MEND
                )
            found[f"{folder}/{name}"] = {**meta, "path": path}
    return found


def _check_extent(archive: Archive, path: str, meta: Mapping[str, Any], where: str) -> None:
    """A tensor's elements, by its sizes, strides and offset, must lie within its record.

    torch fills an empty record with zeros and reads a short one as far as it goes.
    """
    if meta["dtype"] not in SCALAR_TYPES:
        raise SourceUnreadable(f"unknown dtype {meta['dtype']!r}", where=f"{where}.dtype", mend=_MEND)
    if meta["layout"] != 7:
        raise SourceUnreadable("only strided tensors are known", where=f"{where}.layout", mend=_MEND)
    sizes, strides = _ints(meta["sizes"], where), _ints(meta["strides"], where)
    (offset,) = _ints([meta["storage_offset"]], where)
    if len(sizes) != len(strides):
        raise SourceUnreadable("one stride per size is expected", where=f"{where}.strides", mend=_MEND)
    member = archive.members.get(path)
    if member is None:
        raise SourceUnreadable(f"its bytes ({path.rpartition('/')[2]}) are missing", where=where, mend=_MEND)
    elements = 0 if 0 in sizes else 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    needed = (offset + elements) * scalar_type(meta)[1] if elements else 0
    if needed > member.size:
        fact = f"shape {sizes} takes {needed:,} bytes, and {member.size:,} are there"
        raise SourceUnreadable(fact, where=where, mend=_MEND)


def _ints(items: list[Mapping[str, Any]], where: str) -> list[int]:
    values = [item.get("as_int") for item in items]
    if not all(type(value) is int and 0 <= value <= jsonfile.MAX_INTEGER for value in values):
        raise SourceUnreadable("sizes of a weight are plain numbers", where=where, mend=_MEND)
    return [value for value in values if value is not None]


def _stored(program: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(value in the graph, folder, name) of each parameter, buffer and constant."""
    for spec in program["graph_module"]["signature"]["input_specs"]:
        if "parameter" in spec:
            yield spec["parameter"]["arg"]["name"], "weights", spec["parameter"]["parameter_name"]
        elif "buffer" in spec:
            folder = "weights" if spec["buffer"]["persistent"] else "constants"
            yield spec["buffer"]["arg"]["name"], folder, spec["buffer"]["buffer_name"]
        elif "tensor_constant" in spec:
            yield (
                spec["tensor_constant"]["arg"]["name"],
                "constants",
                spec["tensor_constant"]["tensor_constant_name"],
            )


def _check_signature(file: str, program: Mapping[str, Any], weights: Mapping[str, Mapping[str, Any]]) -> None:
    """Every weight that the graph reads must be stored, with the graph's dtype and shape."""
    values = program["graph_module"]["graph"]["tensor_values"]
    for value, folder, name in _stored(program):
        where = f"{file}: data/{folder}: {name[:200]}"
        meta = weights.get(f"{folder}/{name}")
        if meta is None:
            raise SourceUnreadable(
                "the graph reads this weight, and it is not stored", where=where, mend=_MEND
            )
        if (meta["dtype"], meta["sizes"]) != (values[value]["dtype"], values[value]["sizes"]):
            raise SourceUnreadable("dtype or shape differs from the graph's", where=where, mend=_MEND)


def _tensor_facts(weights: Mapping[str, Mapping[str, Any]]) -> tuple[TensorFact, ...]:
    """Weights as facts; two names of the same bytes (tied weights) count once."""
    facts, seen = [], set()
    for key, meta in weights.items():
        shape = tuple(int(size["as_int"]) for size in meta["sizes"])
        place = (meta["path"], meta["storage_offset"]["as_int"], shape)
        if place in seen:
            continue
        seen.add(place)
        dtype, width = scalar_type(meta)
        elements = 1
        for size in shape:
            elements *= size
        facts.append(TensorFact(key.partition("/")[2], dtype, shape, elements * width))
    return tuple(facts)
