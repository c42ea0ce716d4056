"""The captured program as one serialized function of weights and inputs, for TPUs and CPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from ....targets.errors import UsageError
from . import interpret, mesh
from .capture import Captured, Shape
from .operators.dtypes import INTEGERS, is_float
from .options import Mesh
from .weights import Weights

PLATFORMS = ("tpu", "cpu")


@dataclass(frozen=True)
class Signature:
    """Names of inputs and outputs in the source's order, as the artifact has them."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def serialized(
    captured: Captured, weights: Weights, signature: Signature, *, narrow: bool, grid: Mesh | None, path: str
) -> bytes:
    """The function (weights by name, inputs by name) -> outputs by name, as `jax.export` serializes it.

    Float inputs and outputs are float32 whatever is computed in, integers int32 (booleans boolean). Nothing of
    this machine is in the bytes: operators keep their place in the model, and lose their place in our source.
    """
    names = dict(zip(captured.inputs, signature.inputs, strict=True))

    def model(weights_: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        arrays = {place: weights_[name] for place, name in weights.by_placeholder.items()}
        for place, name in names.items():
            value = inputs[name]
            arrays[place] = value.astype(jnp.bfloat16) if narrow and is_float(value) else value
        results = interpret.evaluate(captured.program, arrays, narrow=narrow, path=path)
        kept = _user_outputs(captured, results)
        return {
            name: value.astype(jnp.float32) if is_float(value) else value
            for name, value in zip(signature.outputs, kept, strict=True)
        }

    with _settings():
        stored = {
            name: jax.ShapeDtypeStruct(tuple(t.shape), _dtype(t.dtype)) for name, t in weights.tensors.items()
        }
        given = _specifications(captured, names, grid)
        shardings = _shardings(stored, given, grid)
        return bytes(
            export.export(jax.jit(model, **shardings), platforms=PLATFORMS)(stored, given).serialize()
        )


@contextmanager
def _settings() -> Iterator[None]:
    """No places in our source in the program, and numbers of 32 bits whatever JAX_ENABLE_X64 says."""
    limit = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        with jax.enable_x64(False):
            yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def _dtype(dtype: Any) -> Any:
    """A torch dtype as weights are stored in it."""
    return {"torch.float32": jnp.float32, "torch.bfloat16": jnp.bfloat16}.get(str(dtype)) or INTEGERS[dtype]


def _user_outputs(captured: Captured, results: tuple[Any, ...]) -> list[Any]:
    """What the model returns, without the buffers that it changes."""
    specs = captured.program.graph_signature.output_specs
    return [
        jnp.asarray(value)
        for spec, value in zip(specs, results, strict=True)
        if spec.kind.name == "USER_OUTPUT"
    ]


def _specifications(
    captured: Captured, names: Mapping[str, str], grid: Mesh | None
) -> dict[str, jax.ShapeDtypeStruct]:
    scope = export.SymbolicScope([_batches(limit, grid) for limit in captured.limits])
    nodes = {node.name: node for node in captured.program.graph.nodes if node.op == "placeholder"}
    found = {}
    for place, shape in captured.inputs.items():
        dtype = nodes[place].meta["val"].dtype
        kind = jnp.float32 if dtype.is_floating_point else INTEGERS[dtype]
        found[names[place]] = jax.ShapeDtypeStruct(_symbolic(shape, scope, grid), kind)
    return found


def _symbolic(shape: Shape, scope: export.SymbolicScope, grid: Mesh | None) -> tuple[Any, ...]:
    """A shape as JAX has it; over a mesh, batches come in multiples of its data axis."""
    data = 1 if grid is None else grid.data
    if shape and data > 1 and isinstance(shape[0], int) and shape[0] % data:
        raise UsageError(
            f"the model's batch is fixed at {shape[0]}, which does not divide over {data} devices",
            where="--mesh",
            mend="Export the model with a free batch axis, or ask for data=1",
        )
    texts = [_batches(str(size), grid) for size in shape]
    try:
        return tuple(export.symbolic_shape(",".join(texts), scope=scope)) if texts else ()
    except ValueError as error:
        raise interpret.InconclusiveShape(f"a length of {', '.join(texts)}") from error


def _batches(text: str, grid: Mesh | None) -> str:
    """An expression with the batch in multiples of the mesh's data axis."""
    return text if grid is None or grid.data == 1 else re.sub(r"\bbatch\b", f"{grid.data}*batch", text)


def _shardings(
    stored: Mapping[str, jax.ShapeDtypeStruct], given: Mapping[str, jax.ShapeDtypeStruct], grid: Mesh | None
) -> dict[str, Any]:
    if grid is None:
        return {}
    return {
        "in_shardings": (
            {name: mesh.of_weight(grid, spec.shape) for name, spec in stored.items()},
            {name: mesh.of_input(grid, len(spec.shape)) for name, spec in given.items()},
        )
    }
