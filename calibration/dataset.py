"""From the user's `--calibration` to two sets of samples on disk: read, examined, split, written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..targets.errors import SourceUnreadable, UsageError
from ..targets.facts import IoFact
from . import arrays, doctor, generated, images, preprocessor_config, text
from .model_files import config, whole
from .preprocess import Preprocessing
from .reading import Reading, Wanted, is_tokens, settle
from .samples import Rows, SampleSet, write_set
from .split import HELD_OUT, split
from .store import Store

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

CALIBRATION = 256
"""Samples that calibrate where the data has enough."""
KINDS = (".npz", ".npy", "a folder of images", ".jsonl", ".txt", "module:function", "random")
"""What `--calibration` takes, in the words of its error."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Prepared:
    """What was written, as the manifest's `calibration` wants it; every field is a JSON value."""

    kind: str
    """"arrays", "images", "text", "function" or "random"."""
    samples: int
    """Samples that calibrate."""
    held_out: int
    """Samples that verify; none of them calibrates."""
    sha256: str
    """Over both sets: names, dtypes, shapes and bytes of their arrays, in order."""
    seed: int
    warnings: tuple[str, ...]
    preprocessing: Mapping[str, Any] | None
    """What was applied to images."""
    random: bool
    """True for random data, on which no figure should be believed."""
    sequence: int | None
    """Tokens per sample, padding included; None for inputs without tokens."""
    labels: bool
    """Whether every sample has its right class."""


def prepare(
    data: str,
    inputs: tuple[IoFact, ...],
    folder: Path,
    *,
    model_dir: Path | None = None,
    root: Path | None = None,
    seed: int = 0,
    held_out: int | None = None,
    limit: int | None = None,
    sequence: int | None = None,
    assumed_sequence: int | None = None,
) -> Prepared:
    """Write `folder`/calibration and `folder`/held_out (see `samples.SampleSet`) from the user's data.

    The same data, options and seed give the same bytes. Memory stays bounded: samples pass one by one.

    Args:
        data: `--calibration`: an .npz or .npy, a folder of images, a .jsonl or .txt, `module:function` of the
            user's, or "random".
        inputs: the model's inputs; their first axis is the batch.
        model_dir: the folder with tokenizer, preprocessing and config.json, if the model has them.
        root: where relative paths and `module:function` are looked for; the current folder by default.
        held_out: samples kept for verification; by default a fifth of the distinct ones, at most 64.
        limit: most samples to use, held-out ones included; by default 256 and the held-out ones.
        sequence: tokens per sample, for inputs whose sequence axis is free.
        assumed_sequence: the same where the user did not say it; arrays of another length are taken as they are.

    Raises:
        UsageError: data that cannot be read or does not fit, naming file and key, line or sample.
        SourceUnreadable: a damaged tokenizer or preprocessor_config.json of the model.
        MissingExtra: text without the `tokenizers` package.
        Unsupported: an input that samples cannot be fed to one by one.
    """
    if sequence is None and not _brings_shapes(data, root):
        sequence = assumed_sequence
    settled = settle(inputs, sequence)
    most = limit if limit is not None else CALIBRATION + (held_out if held_out is not None else HELD_OUT)
    wanted = Wanted(settled, model_dir, root if root is not None else Path.cwd(), seed, most, sequence)
    reading = _read(data, wanted)
    store = Store(folder / ".reading", settled)
    try:
        with closing(reading.samples):
            for sample in reading.samples:
                store.add(sample)
        kept, held = split(store.digests, held_out, seed, data)
        findings = [*reading.findings, *store.findings, *_examine(store, wanted, reading, len(kept))]
        doctor.stop(findings, data)
        sets = [
            _write(folder / name, store, indices)
            for name, indices in (("calibration", kept), ("held_out", held))
        ]
        sha256 = _sha256(store.select(kept), store.select(held))
    finally:
        store.remove()
    found = dict.fromkeys(str(finding) for finding in findings)
    return Prepared(
        kind=reading.kind,
        samples=len(kept),
        held_out=len(held),
        sha256=sha256,
        seed=seed,
        warnings=(*reading.warnings, *found),
        preprocessing=reading.preprocessing.to_dict() if reading.preprocessing is not None else None,
        random=reading.random,
        sequence=_sequence(sets[0], settled),
        labels=sets[0].labels is not None,
    )


def _read(data: str, wanted: Wanted) -> Reading:
    """The reader that knows this kind of data."""
    if data == "random":
        return generated.read_random(wanted)
    path = wanted.root / Path(data).expanduser()
    if path.is_dir():
        return images.read(path, wanted)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in (".npz", ".npy"):
            if images.toml_beside(path).is_file():
                raise UsageError(
                    "arrays are fed to the model as they are; preprocessing is for images",
                    where=images.toml_beside(path).name,
                    mend="Prepare the arrays, and remove this file",
                )
            return arrays.read(path, wanted)
        if suffix in (".jsonl", ".ndjson", ".txt"):
            return text.read(path, wanted)
        raise UsageError(f"{suffix or 'a file without suffix'} is not read", where=data, mend=_known())
    if _FUNCTION.fullmatch(data):
        return generated.read_function(data, wanted)
    raise UsageError("there is no such file or folder", where=f"--calibration {data}", mend=_known())


def _brings_shapes(data: str, root: Path | None) -> bool:
    """Whether the data are arrays, with a length of their own: no text and no noise to be made."""
    path = (root if root is not None else Path.cwd()) / Path(data).expanduser()
    return path.suffix.lower() in (".npz", ".npy") or (not path.exists() and bool(_FUNCTION.fullmatch(data)))


def _known() -> str:
    return f"Give {', '.join(KINDS)}"


def _examine(store: Store, wanted: Wanted, reading: Reading, calibration: int) -> tuple[doctor.Finding, ...]:
    if reading.random:
        return ()
    model = config(wanted.model_dir)
    return doctor.examine(
        store.rows,
        wanted.inputs,
        expects=reading.preprocessing if reading.preprocessing is not None else _expected(wanted),
        order_known=reading.kind == "images",
        calibration=calibration,
        vocabulary=whole(model, "vocab_size"),
        token_types=whole(model, "type_vocab_size"),
        digests=store.digests,
    )


def _expected(wanted: Wanted) -> Preprocessing | None:
    """The model's own recipe, to hold prepared arrays against; a recipe that is not offered says nothing."""
    try:
        return preprocessor_config.find(wanted.model_dir)
    except SourceUnreadable:
        return None


def _write(folder: Path, store: Store, indices: list[int]) -> SampleSet:
    import numpy as np

    optional: dict[str, Array | None] = {}
    for name, values in (("labels", store.labels), ("lengths", store.lengths)):
        known = [value for value in values if value is not None]
        complete = len(known) == len(values)
        optional[name] = np.asarray(known, np.int64)[indices] if complete else None
    return write_set(folder, store.select(indices), lengths=optional["lengths"], labels=optional["labels"])


def _sha256(*sets: Mapping[str, Rows]) -> str:
    import numpy as np

    total = hashlib.sha256()
    for each in sets:
        for name, rows in each.items():
            total.update(f"{name} {rows.dtype} {rows.shape}\n".encode())
            for index in range(len(rows)):
                total.update(np.ascontiguousarray(rows[index]).tobytes())
    return total.hexdigest()


def _sequence(written: SampleSet, inputs: tuple[IoFact, ...]) -> int | None:
    tokens = next((io for io in inputs if is_tokens(io)), None)
    return int(written.array(tokens.name).shape[1]) if tokens is not None else None
