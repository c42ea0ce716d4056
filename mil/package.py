"""Opens an `.mlpackage` as it was written: manifest, interface, program and mapped weights, all validated.

Plain Python on the wire format; coremltools is not asked, so that the package is judged by another reader than the
one that wrote it. The messages: https://apple.github.io/coremltools/mlmodel/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..sources.files import jsonfile
from ..sources.files.containment import contained
from ..sources.files.protobuf import Message, open_message
from ..targets.errors import SourceUnreadable, Unsupported
from .blobs import Blobs
from .program import Program
from .reading import read_program

_ML_PROGRAM = 502
_ARRAY_DTYPES = {65568: "fp32", 65600: "fp64", 131104: "int32", 131080: "int8", 65552: "fp16"}
_COLOURS = {10: "grayscale", 20: "RGB", 30: "BGR", 40: "grayscale fp16"}
_KINDS = {
    1: "int64",
    2: "double",
    3: "string",
    4: "image",
    5: "array",
    6: "dictionary",
    7: "sequence",
    8: "state",
}
_METADATA = {1: "description", 2: "version", 3: "author", 4: "license"}


@dataclass(frozen=True)
class Feature:
    """An input, output or state as apps see it; sizes in elements, an image's `shape` is (height, width)."""

    name: str
    kind: str
    """array, image, state, int64, double, string, dictionary or sequence."""
    dtype: str = ""
    """MIL's name for an array; for an image its colours (RGB, BGR, grayscale)."""
    shape: tuple[int, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    """The enumerated shapes that are allowed beside `shape`, if it is flexible so."""
    ranges: tuple[tuple[int, int | None], ...] = ()
    """Lowest and highest size of each axis (None: no limit), if it is flexible so."""
    optional: bool = False
    description: str = ""


@dataclass(frozen=True)
class Package:
    """What a package holds; constants of `program` are read from the weight file when they are used."""

    path: Path
    version: int
    """The specification version: 6 for iOS15 to 9 for iOS18."""
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    states: tuple[Feature, ...]
    metadata: Mapping[str, str]
    """description, version, author, license, and the user-defined entries."""
    program: Program
    predicted_feature: str = ""
    probabilities: str = ""


def open_package(path: Path) -> Package:
    """Open the folder `path`; raises SourceUnreadable naming file and field where it is damaged.

    Unsupported when it holds another kind of model than an ML program (the older neural network, a pipeline).
    """
    model = root_model(path)
    with open_message(model) as message:
        description = message.message(2, "description")
        program = message.message(_ML_PROGRAM, "mlProgram")
        if program is None or description is None:
            raise Unsupported(
                "the package holds no ML program",
                where=model.name,
                mend="Convert it with convert_to='mlprogram'; other kinds of Core ML models are not evaluated.",
            )
        inputs, outputs, states, default = _interface(description)
        metadata = description.message(100, "metadata")
        return Package(
            path=path,
            version=message.integer(1),
            inputs=inputs,
            outputs=outputs,
            states=states,
            metadata={} if metadata is None else _metadata(metadata),
            program=read_program(program, Blobs(model.parent), default),
            predicted_feature=description.text(11),
            probabilities=description.text(12),
        )


def root_model(path: Path) -> Path:
    """The model file that `Manifest.json` names as the package's root, inside `Data/`."""
    if not path.is_dir():
        raise SourceUnreadable("an .mlpackage is a folder", where=str(path))
    manifest = contained(path, "Manifest.json", where=path.name)
    content = jsonfile.read_object(manifest)
    entries, root = content.get("itemInfoEntries"), content.get("rootModelIdentifier")
    entry = entries.get(root) if isinstance(entries, dict) and isinstance(root, str) else None
    if not isinstance(entry, dict):
        raise SourceUnreadable("no item is the root model", where="Manifest.json: rootModelIdentifier")
    return contained(path / "Data", entry.get("path"), where=f"Manifest.json: itemInfoEntries.{root}.path")


def _interface(
    message: Message,
) -> tuple[tuple[Feature, ...], tuple[Feature, ...], tuple[Feature, ...], str]:
    """Inputs, outputs, states and name of the function that runs by default."""
    default = message.text(21) or "main"
    for function in message.messages(20, "functions"):
        if function.text(1) == default:
            return _features(function, 2), _features(function, 3), _features(function, 6), default
    return _features(message, 1), _features(message, 10), _features(message, 13), default


def _features(message: Message, number: int) -> tuple[Feature, ...]:
    return tuple(_feature(part) for part in message.messages(number, "feature"))


def _feature(message: Message) -> Feature:
    name, description = message.text(1), message.text(2)
    kind = message.message(3, name)
    found = next((number for number in _KINDS if kind is not None and number in kind), None)
    if kind is None or found is None:
        raise message.error(f"the feature {name!r} has no type that is known", 3)
    optional = bool(kind.integer(1000))
    inner = kind.message(found, _KINDS[found])
    if inner is not None and found == 8:
        inner = inner.message(1, "arrayType")
    if inner is None or found not in (4, 5, 8):
        return Feature(name, _KINDS[found], optional=optional, description=description)
    shape: tuple[int, ...]
    if found == 4:
        sizes, ranges = _image_flexibility(inner)
        shape = (inner.integer(2), inner.integer(1))
        dtype = _COLOURS.get(inner.integer(3), "")
    else:
        sizes, ranges = _array_flexibility(inner)
        shape = tuple(inner.integers(1))
        dtype = _ARRAY_DTYPES.get(inner.integer(2), "")
    return Feature(name, _KINDS[found], dtype, shape, sizes, ranges, optional, description)


def _array_flexibility(
    message: Message,
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, int | None], ...]]:
    enumerated = message.message(21, "enumeratedShapes")
    ranged = message.message(31, "shapeRange")
    shapes = () if enumerated is None else enumerated.messages(1, "shapes")
    axes = () if ranged is None else ranged.messages(1, "sizeRanges")
    return tuple(tuple(shape.integers(1)) for shape in shapes), tuple(_range(axis) for axis in axes)


def _image_flexibility(
    message: Message,
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, int | None], ...]]:
    enumerated = message.message(21, "enumeratedSizes")
    ranged = message.message(31, "imageSizeRange")
    sizes = () if enumerated is None else enumerated.messages(1, "sizes")
    both = () if ranged is None else (ranged.message(2, "heightRange"), ranged.message(1, "widthRange"))
    return (
        tuple((size.integer(2), size.integer(1)) for size in sizes),
        tuple(_range(axis) for axis in both if axis is not None),
    )


def _range(message: Message) -> tuple[int, int | None]:
    high = message.integer(2)
    return message.integer(1), None if high < 0 else high


def _metadata(message: Message) -> dict[str, str]:
    known = {name: message.text(number) for number, name in _METADATA.items() if message.text(number)}
    return known | {entry.text(1): entry.text(2) for entry in message.messages(100, "userDefined")}
