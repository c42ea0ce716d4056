"""The weights that a program reads, by name and in the scheme's dtype, as one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ....targets.errors import Unsupported

if TYPE_CHECKING:
    from torch.export import ExportedProgram

NAME = "weights.safetensors"
WRAPPERS = ("backbone.", "program.", "inner.")
"""Names of the modules that the loaders put around a model."""


@dataclass(frozen=True)
class Weights:
    """Tensors as they are stored, and which of them each placeholder reads."""

    tensors: dict[str, torch.Tensor]
    by_placeholder: dict[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def collect(program: ExportedProgram, *, narrow: bool, path: str) -> Weights:
    """The weights that the program reads, each once; with `narrow`, in bfloat16.

    Stored statistics and tables of one axis that are no parameters (a batch norm's mean, rotary frequencies)
    stay float32. Raises Unsupported for integers beyond 32 bits and for other kinds of numbers.
    """
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    tensors: dict[str, torch.Tensor] = {}
    named: dict[str, str] = {}
    stored: dict[tuple[Any, ...], str] = {}
    for placeholder, name, tensor, parameter in _found(program):
        if placeholder not in read:
            continue
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)
        if tensor.numel() and key in stored:
            named[placeholder] = stored[key]
            continue
        label = _label(name, tensors)
        tensors[label] = _stored(tensor, narrow and (parameter or tensor.dim() > 1), f"{path}: weight {name}")
        named[placeholder] = stored[key] = label
    return Weights(tensors, named)


def _found(program: ExportedProgram) -> list[tuple[str, str, torch.Tensor, bool]]:
    """Placeholder, name, tensor and whether it is a parameter, of everything that is no input."""
    signature, found = program.graph_signature, []
    for placeholder, name in signature.inputs_to_parameters.items():
        found.append((placeholder, name, program.state_dict[name], True))
    for placeholder, name in signature.inputs_to_buffers.items():
        tensor = program.state_dict[name] if name in program.state_dict else program.constants[name]
        found.append((placeholder, name, tensor, False))
    for placeholder, name in signature.inputs_to_lifted_tensor_constants.items():
        found.append((placeholder, name, program.constants[name], False))
    return found


def _label(name: str, taken: dict[str, torch.Tensor]) -> str:
    short = name
    for wrapper in WRAPPERS:
        short = short.removeprefix(wrapper)
    return name if short in taken or not short else short


def _stored(tensor: torch.Tensor, narrow: bool, where: str) -> torch.Tensor:
    tensor = tensor.detach().contiguous()
    if tensor.is_floating_point():
        return tensor.to(torch.bfloat16 if narrow else torch.float32)
    if tensor.dtype == torch.int64:
        if tensor.numel() and (int(tensor.max()) > 2**31 - 1 or int(tensor.min()) < -(2**31)):
            raise Unsupported("holds integers beyond 32 bits, which a TPU does not compute with", where=where)
        return tensor.to(torch.int32)
    if tensor.is_complex() or tensor.is_quantized:
        raise Unsupported(f"holds {tensor.dtype}", where=where, mend="Export the model in float32")
    return tensor


def write(weights: Weights, folder: Path, mesh: str = "") -> str:
    """Write the file into `folder`; the same tensors give the same bytes. Gives its name.

    `mesh`, as in "data=4,model=2", stands in its metadata: the program tells only how many devices it takes.
    """
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in weights.tensors.items()},
        folder / NAME,
        metadata={"format": "pt", **({"mesh": mesh} if mesh else {})},
    )
    return NAME
