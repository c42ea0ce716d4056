"""load.py of the output folder: the few lines that load the program with its weights and run it."""

from __future__ import annotations

from pathlib import Path

from .options import AXES, Mesh

NAME = "load.py"

HEAD = '''"""Loads model.stablehlo with its weights. `model(name=array, ...)` gives the outputs by name.

    python load.py inputs.npz       runs it on the arrays of a file, by the names of the inputs
"""

import sys
from pathlib import Path

import jax
import numpy as np
from jax import export
from safetensors.flax import load_file

FOLDER = Path(__file__).resolve().parent
program = export.deserialize(bytearray((FOLDER / "model.stablehlo").read_bytes()))
weights = load_file(FOLDER / "weights.safetensors")
run = jax.jit(program.call)
'''

ONE = '''

def model(**inputs):
    """Outputs by name for arrays by the names of the inputs."""
    return run(weights, inputs)
'''

MANY = '''
# Batches are split over {first}, large matrices over {second}: {devices} devices.
mesh = jax.make_mesh({sizes}, {axes}, axis_types=(jax.sharding.AxisType.Auto,) * 2)
(weights_on, inputs_on), _ = jax.tree.unflatten(program.in_tree, program.in_shardings_jax(mesh))
weights = jax.device_put(weights, weights_on)


def model(**inputs):
    """Outputs by name for arrays by the names of the inputs; batches are multiples of {data}."""
    return run(weights, jax.device_put(inputs, inputs_on))
'''

TAIL = """

if __name__ == "__main__":
    with np.load(sys.argv[1], allow_pickle=False) as given:
        outputs = model(**given)
    for name, value in outputs.items():
        print(name, value.dtype, value.shape)
        print(value)
"""


def write(folder: Path, mesh: Mesh | None) -> str:
    """Write load.py into `folder`, for one device or for the mesh that was asked for. Gives its name."""
    body = ONE
    if mesh is not None:
        body = MANY.format(
            first=AXES[0], second=AXES[1], devices=mesh.devices, data=mesh.data, axes=AXES,
            sizes=(mesh.data, mesh.model),
        )  # fmt: skip
    (folder / NAME).write_text(HEAD + body + TAIL, encoding="utf-8")
    return NAME
