"""A Core ML package: in Core ML itself on a Mac, and in the MIL reference evaluator everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...mil.evaluate import Evaluator
from ...mil.package import Feature, Package, open_package
from ...mil.program import UnknownOperator
from . import NotChecked, Runner

Array = np.ndarray[Any, Any]

PROOF = (
    "Run by modelport's MIL reference evaluator: this proves the graph and the weights that were written, not Apple's "
    "kernels, and says nothing of speed. On a Mac, modelport verify uses Core ML itself."
)

DTYPES = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "int32": "int32", "int8": "int8"}
"""numpy's names of the dtypes that a package's arrays have."""


class _Described:
    """What a package says of itself, whatever runs it."""

    def __init__(self, package: Package) -> None:
        self._package = package

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the package's inputs."""
        return tuple(feature.name for feature in self._package.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the package's outputs."""
        return tuple(feature.name for feature in self._package.outputs)

    @property
    def free_sequence(self) -> bool:
        """True when axis 1 of every token input is free from one token on."""
        return free_sequence(self._package.inputs)


class EvaluatedPackage(_Described):
    """One package in the evaluator, rounding where the program says fp16; see `verification.runners.Runner`."""

    proof = PROOF

    def __init__(self, package: Package, threads: int) -> None:
        """Prepare the program; raises NotChecked naming the first operator that the evaluator does not know."""
        super().__init__(package)
        try:
            self._evaluator = Evaluator(package.program, rounding=True, threads=threads)
        except UnknownOperator as error:
            raise NotChecked(f"op {error.operator}") from error
        self._feeds: dict[str, Array] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference; an image input takes its pixel values as (batch, channel, height, width)."""
        self._feeds = {name: np.asarray(feeds[name]) for name in self.inputs}
        try:
            return self._evaluator.run(self._feeds)
        except UnknownOperator as error:
            raise NotChecked(f"op {error.operator}") from error

    def invoke(self) -> None:
        """Run once more on the last feeds."""
        self._evaluator.run(self._feeds)


class CoreMLPackage(_Described):
    """One package in Core ML, on a Mac; see `verification.runners.Runner`."""

    def __init__(self, path: Path, package: Package) -> None:
        """Load and compile it, for any compute unit."""
        import coremltools as ct

        super().__init__(package)
        self._model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.ALL)
        self._feeds: dict[str, Any] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference; pixel values of an image input are rounded to the 8 bits that an image has."""
        self._feeds = {
            feature.name: as_value(feature, np.asarray(feeds[feature.name]))
            for feature in self._package.inputs
        }
        return {name: as_array(value) for name, value in self._model.predict(self._feeds).items()}

    def invoke(self) -> None:
        """Run once more on the last feeds."""
        self._model.predict(self._feeds)


def free_sequence(inputs: Sequence[Feature]) -> bool:
    """Whether every token input (integers of rank 2) may have any length from 1 on."""
    tokens = [feature for feature in inputs if feature.dtype.startswith("int") and len(feature.shape) == 2]
    return bool(tokens) and all(
        len(feature.ranges) == 2 and feature.ranges[1][0] <= 1 and feature.ranges[1][1] != 1
        for feature in tokens
    )


def as_value(feature: Feature, array: Array) -> Any:
    """An array as Core ML takes it: of the feature's dtype, or a PIL image of one with 8 bits a channel."""
    if feature.kind != "image":
        return array.astype(DTYPES.get(feature.dtype, "float32"))
    from PIL import Image

    pixels = np.clip(np.rint(array[0]), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    if feature.dtype.startswith("grayscale"):
        return Image.fromarray(pixels[:, :, 0], "L")
    return Image.fromarray(pixels[:, :, ::-1] if feature.dtype == "BGR" else pixels, "RGB")


def as_array(value: Any) -> Array:
    """A result of Core ML as an array: floats as float32; a class label's text, and scores by label in their order."""
    if isinstance(value, Mapping):
        value = list(value.values())
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def load(path: Path, threads: int) -> Runner:
    """Load the package at `path`; NotChecked where the evaluator lacks an operator of it."""
    package = open_package(path)
    if sys.platform == "darwin":
        return CoreMLPackage(path, package)
    return EvaluatedPackage(package, threads)
