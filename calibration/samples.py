"""Samples on disk: what `dataset.prepare` writes once and calibration, verification and the report all read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

SETS = ("calibration", "held_out")
"""The two disjoint sets that a samples folder holds, one sub-folder each."""


class Rows(Protocol):
    """Samples of one input that can be read one at a time: an array, or rows that lie in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, ...)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the elements."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class SampleSet:
    """One set of samples, in the source's own input names, dtypes and layout.

    On disk: one `.npy` per input with the sample axis first, `lengths.npy` where samples were padded along
    the sequence axis (axis 1), `labels.npy` where the data names the right class, and `set.json`.
    """

    folder: Path
    inputs: Mapping[str, str]
    """Input name to file name, in the model's input order."""
    count: int

    @classmethod
    def open(cls, folder: Path) -> SampleSet:
        """The set that `write_set` left in `folder`."""
        raw = json.loads((folder / "set.json").read_text())
        return cls(folder, raw["inputs"], raw["count"])

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """All samples of one input, memory-mapped: shape (count, ...)."""
        import numpy as np

        mapped: np.ndarray[Any, Any] = np.load(
            self.folder / self.inputs[name], mmap_mode="r", allow_pickle=False
        )
        return mapped

    def _optional(self, file: str) -> np.ndarray[Any, Any] | None:
        import numpy as np

        path = self.folder / file
        return np.load(path, allow_pickle=False) if path.exists() else None

    @property
    def lengths(self) -> np.ndarray[Any, Any] | None:
        """Unpadded length of each sample in tokens, int64 of shape (count,), or None."""
        return self._optional("lengths.npy")

    @property
    def labels(self) -> np.ndarray[Any, Any] | None:
        """Right class of each sample, int64 of shape (count,), or None when the data does not say."""
        return self._optional("labels.npy")

    def feeds(
        self, *, trim: bool = False, limit: int | None = None
    ) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        """One feed per sample: input name to array with a batch axis of 1.

        With `trim`, padded samples are cut to their own length (for models whose sequence axis is free).
        """
        arrays = {name: self.array(name) for name in self.inputs}
        lengths = self.lengths if trim else None
        for index in range(min(self.count, limit if limit is not None else self.count)):
            feed = {name: array[index : index + 1] for name, array in arrays.items()}
            if lengths is not None:
                feed = {name: array[:, : int(lengths[index])] for name, array in feed.items()}
            yield feed

    def copy_head(self, folder: Path, count: int) -> SampleSet:
        """A new set in `folder` of the first `count` samples."""
        lengths, labels = self.lengths, self.labels
        return write_set(
            folder,
            {name: self.array(name)[:count] for name in self.inputs},
            lengths=None if lengths is None else lengths[:count],
            labels=None if labels is None else labels[:count],
        )


def write_set(
    folder: Path,
    arrays: Mapping[str, Rows],
    *,
    lengths: np.ndarray[Any, Any] | None = None,
    labels: np.ndarray[Any, Any] | None = None,
) -> SampleSet:
    """Write one set; every array has the sample axis first and the same length along it."""
    import numpy as np

    folder.mkdir(parents=True)
    inputs = {name: f"input_{index}.npy" for index, name in enumerate(arrays)}
    count = len(next(iter(arrays.values())))
    for name, array in arrays.items():
        _save(folder / inputs[name], array)
    if lengths is not None:
        np.save(folder / "lengths.npy", lengths, allow_pickle=False)
    if labels is not None:
        np.save(folder / "labels.npy", labels, allow_pickle=False)
    (folder / "set.json").write_text(json.dumps({"inputs": inputs, "count": count}))
    return SampleSet(folder, inputs, count)


def _save(path: Path, rows: Rows) -> None:
    """The bytes that `numpy.save` would write, with one sample in memory at a time."""
    import numpy as np

    header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": rows.shape}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for index in range(len(rows)):
            stream.write(np.ascontiguousarray(rows[index]).tobytes())
