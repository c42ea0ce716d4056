"""TensorFlow models through the Core ML exporter, and their packages in the evaluator against TensorFlow itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

from modelport.exporters.job import Job, Outcome
from modelport.exporters.ports import to_artifact, to_source
from modelport.exporters.runtimes import coreml
from modelport.exporters.runtimes.coreml import options, package
from modelport.exporters.runtimes.coreml import tensorflow as road
from modelport.mil.evaluate import Evaluator
from modelport.mil.package import open_package
from modelport.sources.loading.reference import load_reference
from modelport.sources.loading.tensorflow import TensorflowModel, load

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Made:
    """A package, what was said of it, and the largest error over its outputs, relative to each one's largest value."""

    outcome: Outcome
    error: float
    path: Path
    operators: tuple[str, ...]
    """Op types of the main function, in order, constants left out."""


def job(folder: Path, path: Path, quant: str = "fp32", **wanted: Any) -> Job:
    """A job for ios that writes under `folder`."""
    (folder / "staging").mkdir(parents=True)
    kind = "saved-model" if path.is_dir() else "keras"
    return Job(
        (), kind, str(path), "ios", "coreml", quant, str(folder / "staging"), str(folder), None, wanted
    )


def exported(folder: Path, path: Path, quant: str = "fp32", **wanted: Any) -> Made:
    """A Keras archive or SavedModel through the whole exporter; errors are against TensorFlow on random inputs."""
    work = job(folder, path, quant, **wanted)
    outcome = coreml.export(work, lambda stage, done, total: None)
    artifact = Path(work.staging) / outcome.files[0]
    model = load(work.source_kind, path, wanted)
    reference = load_reference(work.source_kind, path, wanted)
    feeds = random_feeds(model, open_shapes(artifact, outcome))
    return _made(outcome, artifact, reference(feeds), feeds)


def open_shapes(artifact: Path, outcome: Outcome) -> dict[str, tuple[int, ...]]:
    """Shape of each input of a package by the source's name, in the source's layout."""
    shapes = {feature.name: tuple(feature.shape or ()) for feature in open_package(artifact).inputs}
    return {
        port.source: np.transpose(np.empty(shapes[port.artifact]), np.argsort(port.permutation)).shape
        if port.permutation
        else shapes[port.artifact]
        for port in outcome.inputs
    }


def random_feeds(
    model: TensorflowModel, shapes: Mapping[str, tuple[int, ...]], seed: int = 0
) -> dict[str, Array]:
    """Normal values, or integers of 0 to 8, for each input of a model."""
    random = np.random.default_rng(seed)
    feeds = {}
    for name, own, dtype in zip(model.input_names, model.shapes, model.dtypes, strict=True):
        shape = shapes.get(name, tuple(size or 1 for size in own))
        real = dtype.startswith("float")
        feeds[name] = (random.normal(size=shape) if real else random.integers(0, 9, shape)).astype(dtype)
    return feeds


def function(
    folder: Path, call: Callable[..., Any], *shapes: tuple[int, ...], dtype: str = "float32"
) -> Made:
    """A function of TensorFlow tensors as a float32 package, without a file of its own."""
    import coremltools as ct
    import tensorflow as tf

    def flat(*tensors: Any) -> list[Any]:
        return list(tf.nest.flatten(call(*tensors)))

    names = tuple(f"x{index}" for index in range(len(shapes)))
    traced = tf.function(flat, autograph=False).get_concrete_function(
        *[tf.TensorSpec(s, dtype) for s in shapes]
    )
    outputs = tuple(f"y{index}" for index in range(len(traced.outputs)))
    model = TensorflowModel(flat, names, outputs, shapes, (dtype,) * len(shapes))
    wanted = options.read({}, "fp32")
    source = road.from_tensorflow(
        model, wanted, {n: (s,) for n, s in zip(names, shapes, strict=True)}, "model"
    )
    built, notes = source.build(ct.precision.FLOAT32)
    package.write(built, folder / "model.mlpackage", wanted, source)
    feeds = random_feeds(model, {})
    results = {n: v.numpy() for n, v in zip(outputs, traced(*map(tf.constant, feeds.values())), strict=True)}
    outcome = Outcome(("model.mlpackage",), source.inputs, source.outputs, notes)
    return _made(outcome, folder / "model.mlpackage", results, feeds)


def _made(outcome: Outcome, artifact: Path, wanted: Feeds, feeds: Feeds) -> Made:
    program = open_package(artifact).program
    given = Evaluator(program, rounding=True).run(to_artifact(feeds, outcome.inputs))
    found = to_source(given, outcome.outputs)
    assert found.keys() == wanted.keys()
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in wanted.items()}
    error = max(
        float(np.abs(found[n].astype(np.float64) - v).max() / max(np.abs(v.astype(np.float64)).max(), 1e-9))
        for n, v in wanted.items()
    )
    kinds = tuple(op.type for op in program.main.block.operations if op.type != "const")
    return Made(outcome, error, artifact, kinds)
