"""Class labels while a program is rewritten: coremltools reads its own `classify` back, and cannot write it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OPERATOR = "classify"


def without(model: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The MLModel without its `classify`, and the function that gives a rewritten one its `classify` back.

    Meanwhile the probabilities are an output like any other, so that passes keep its name and its float32.
    A model without labels comes back as it is.
    """
    spec = model.get_spec()
    block = _main(spec)
    found = [op for op in block.operations if op.type == OPERATOR]
    if not found:
        return model, lambda made: made
    classify, described = type(found[0])(), type(spec.description)()
    classify.CopyFrom(found[0])
    described.CopyFrom(spec.description)
    names = [output.name for output in classify.outputs]
    probabilities = classify.inputs["probabilities"].arguments[0].name
    block.operations.remove(found[0])
    _replace(block.outputs, names, [probabilities])
    _describe(spec.description, names, probabilities)

    def restored(made: Any) -> Any:
        back = made.get_spec()
        body = _main(back)
        body.operations.append(classify)
        _replace(body.outputs, [probabilities], names)
        back.description.CopyFrom(described)
        return _model(back, made)

    return _model(spec, model), restored


def _main(spec: Any) -> Any:
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def _replace(outputs: Any, old: list[str], new: list[str]) -> None:
    """`new` instead of `old` in a block's outputs, at the place of the first of them."""
    place = list(outputs).index(old[0])
    kept = [name for name in outputs if name not in old]
    outputs[:] = [*kept[:place], *new, *kept[place:]]


def _describe(description: Any, old: list[str], name: str) -> None:
    """One array of float32 instead of the label and its probabilities."""
    from coremltools.proto import FeatureTypes_pb2

    kept = [feature for feature in description.output if feature.name not in old]
    array = type(description.output[0])(name=name)
    array.type.multiArrayType.dataType = FeatureTypes_pb2.ArrayFeatureType.FLOAT32
    copies = [type(array).FromString(feature.SerializeToString()) for feature in [array, *kept]]
    del description.output[:]
    description.output.extend(copies)
    description.predictedFeatureName = description.predictedProbabilitiesName = ""


def _model(spec: Any, like: Any) -> Any:
    import coremltools as ct

    return ct.models.MLModel(
        spec, weights_dir=like.weights_dir, compute_units=like.compute_unit, skip_model_load=True
    )
