"""A torch source as one module of tensors in, tensors out: where every exporter of a torch model starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...targets.errors import SourceUnreadable, Unsupported
from . import finite

if TYPE_CHECKING:
    import numpy as np
    import torch

Feeds = Mapping[str, "np.ndarray[Any, Any]"]
Reference = Callable[[Feeds], dict[str, "np.ndarray[Any, Any]"]]
"""Runs the source: arrays by source input name to arrays by source output name."""

DEFAULT_SEQUENCE = 128
TRAINING_FLAG = {"aten.dropout.default": 2, "aten.batch_norm.default": 5, "aten.feature_dropout.default": 2}
"""Position of the `training` argument in the operators that compute something else while training."""


@dataclass(frozen=True)
class TorchModel:
    """A torch model ready for an exporter, on the CPU, in inference mode.

    Checkpoints are loaded as float32, whatever they store; an ExportedProgram keeps its own dtypes.
    """

    module: torch.nn.Module
    """Takes positional tensors in the order of `input_names`, returns a tuple in that of `output_names`."""
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    example: tuple[torch.Tensor, ...]
    """One tensor an input: batch 1, and the sequence that was asked for (128) where that axis is free."""
    dynamic: Mapping[str, Mapping[int, str]]
    """Free axes: input name to {axis: symbol}, as in {"input_ids": {0: "batch", 1: "sequence"}}."""


def load(kind: str, path: Path, options: Mapping[str, Any]) -> TorchModel:
    """Load a source that passed its pre-flight validator: torch-exported, huggingface, onnx, keras, saved-model.

    `options["sequence"]` is the length of token inputs in the example (tokens, default 128). Raises
    SourceUnreadable for weights that are missing, of the wrong shape, NaN or Inf, and Unsupported for a
    model that is not a function of tensors.
    """
    if kind == "torch-exported":
        model = _exported(path, options)
    elif kind == "huggingface":
        from . import huggingface_model

        model = huggingface_model.load(path, options)
    elif kind == "onnx":
        from . import onnx_program

        return onnx_program.load(path, options)
    elif kind in ("keras", "saved-model"):
        from . import onnx_program, tensorflow_onnx

        graph, _ = tensorflow_onnx.load(kind, path, options)
        return onnx_program.build(graph, path, int(options.get("sequence") or DEFAULT_SEQUENCE))
    else:
        raise Unsupported(f"a source of kind {kind!r} is not a torch model", where=str(path))
    for name, tensor in model.module.state_dict().items():
        if tensor.is_floating_point():
            # NumPy has no bfloat16, and float64 may hold what float32 cannot.
            known = tensor if str(tensor.dtype) in ("torch.float32", "torch.float64") else tensor.float()
            finite.refuse_non_finite(known.numpy(), f"{path}: weight {name}")
    return model


def two(tensor: torch.Tensor, axes: Mapping[int, str]) -> torch.Tensor:
    """Two of an example along each free axis of length 1, since torch.export takes a size of 1 for a constant."""
    times = [2 if axis in axes and size == 1 else 1 for axis, size in enumerate(tensor.shape)]
    return tensor.repeat(times) if tensor.dim() else tensor


def load_reference(kind: str, path: Path, options: Mapping[str, Any]) -> Reference:
    """The torch source as a function on NumPy arrays, computed in float32 on `options["threads"]` (1) threads.

    It is what fidelity and speed are measured against. The number of threads is the process's.
    """
    import torch

    model = load(kind, path, options)
    torch.set_num_threads(int(options.get("threads") or 1))

    def run(feeds: Feeds) -> dict[str, np.ndarray[Any, Any]]:
        tensors = [
            torch.tensor(feeds[name]).to(example.dtype)
            for name, example in zip(model.input_names, model.example, strict=True)
        ]
        with torch.inference_mode():
            results = model.module(*tensors)
        return {name: value.numpy() for name, value in zip(model.output_names, results, strict=True)}

    return run


def _exported(path: Path, options: Mapping[str, Any]) -> TorchModel:
    import torch

    try:
        program = torch.export.load(str(path))
    except Exception as error:  # torch raises whatever its deserializer met
        raise SourceUnreadable(
            f"torch {torch.__version__} cannot load this program: {error}",
            where=str(path),
            mend="Export it again with torch.export.save of this torch version",
        ) from error
    _refuse_training_mode(program, path)
    signature = program.graph_signature
    constants = [
        spec.arg.value if hasattr(spec.arg, "value") else None
        for spec in signature.input_specs
        if spec.kind.name == "USER_INPUT"
    ]
    tensors = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    is_tensor = [
        isinstance(name, str) and hasattr(tensors.get(name), "shape") for name in signature.user_inputs
    ]
    names = tuple(name for name, keep in zip(signature.user_inputs, is_tensor, strict=True) if keep)
    symbols = {name: _free_axes(tensors[name]) for name in names}
    sequence = int(options.get("sequence") or DEFAULT_SEQUENCE)
    return TorchModel(
        module=_flattened(program, tuple(constants), tuple(is_tensor)),
        input_names=names,
        output_names=_output_names(program, path),
        example=tuple(_example(tensors[name], symbols[name], sequence, program) for name in names),
        dynamic={name: axes for name, axes in symbols.items() if axes},
    )


def _refuse_training_mode(program: torch.export.ExportedProgram, path: Path) -> None:
    for node in program.graph.nodes:
        position = TRAINING_FLAG.get(str(node.target))
        if position is not None and len(node.args) > position and node.args[position] is True:
            raise Unsupported(
                "the program was exported in training mode, so its outputs are not those of inference",
                where=f"{path}: operator {node.name}",
                mend="Call model.eval() before torch.export.export and save it again",
            )


def _free_axes(tensor: Any) -> dict[int, str]:
    """Symbol of each free axis: axis 0 is "batch", axis 1 of integer ids "sequence", others keep theirs."""
    ids = len(tensor.shape) == 2 and not tensor.is_floating_point()
    known = {0: "batch", **({1: "sequence"} if ids else {})}
    return {
        axis: known.get(axis, f"dim_{size}")
        for axis, size in enumerate(tensor.shape)
        if not isinstance(size, int)
    }


def _example(tensor: Any, free: Mapping[int, str], sequence: int, program: Any) -> torch.Tensor:
    import torch

    shape = []
    for axis, size in enumerate(tensor.shape):
        if axis not in free:
            shape.append(int(size))
            continue
        wanted = 1 if free[axis] == "batch" else sequence
        bounds = program.range_constraints.get(getattr(size.node, "expr", None))
        if bounds is not None:
            wanted = max(wanted, int(bounds.lower))
            wanted = min(wanted, int(bounds.upper)) if bounds.upper.is_Integer else wanted
        shape.append(wanted)
    return torch.ones(shape, dtype=tensor.dtype)


def _output_names(program: torch.export.ExportedProgram, path: Path) -> tuple[str, ...]:
    """The keys of a dictionary output, "output_0", "output_1"... for a tensor or a tuple."""
    specs = [spec for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    for spec in specs:
        if type(spec.arg).__name__ != "TensorArgument":
            raise Unsupported(
                f"an output is {type(spec.arg).__name__}, not a tensor",
                where=f"{path}: output {getattr(spec.arg, 'name', '')}",
                mend="Return tensors only",
            )
    out = program.call_spec.out_spec
    if out is not None and out.type is dict and len(out.context) == len(specs):
        return tuple(str(key) for key in out.context)
    return tuple(f"output_{index}" for index in range(len(specs)))


def _flattened(
    program: torch.export.ExportedProgram, constants: tuple[Any, ...], is_tensor: tuple[bool, ...]
) -> torch.nn.Module:
    """The program's module behind positional tensors, whatever nesting and keywords it was exported with."""
    import torch
    from torch.utils import _pytree as pytree

    in_spec = program.call_spec.in_spec

    class Flattened(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = program.module(check_guards=False)

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            given = iter(tensors)
            leaves = [
                next(given) if keep else value for keep, value in zip(is_tensor, constants, strict=True)
            ]
            args, kwargs = pytree.tree_unflatten(leaves, in_spec)
            return tuple(pytree.tree_leaves(self.program(*args, **kwargs)))

    module = Flattened()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module
