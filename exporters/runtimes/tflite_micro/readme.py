"""README.md beside the model: what the files are, what a board needs, and how to build them."""

from __future__ import annotations

from ....targets.figures import size
from . import operators
from .ladder import Climb
from .reference import Edge, Sample


def text(climbed: Climb, sample: Sample, device: str) -> str:
    """The whole file."""
    plan = climbed.plan
    edges = "\n".join(
        [_edge("input", each) for each in sample.inputs] + [_edge("output", each) for each in sample.outputs]
    )
    used = ", ".join(climbed.kinds)
    return f"""# model.tflite for TensorFlow Lite Micro

| file | what it is |
|---|---|
| `model.tflite` | the model, for tools and for boards with Linux |
| `model_data.h`, `model_data.cc` | the same bytes as a constant array, aligned to 16 |
| `op_resolver.h` | exactly the operators that it uses: {used} |
| `arena.h` | how large the tensor arena has to be |
| `sample.h`, `main.cc` | one held-out sample and its expected output; `main` runs and compares it |

## What it needs

- RAM: an arena of {climbed.size.bits32:,} bytes ({size(climbed.size.bits32)}) on a 32-bit board: {plan.head:,} of \
tensors and {plan.tail:,} of structures. The peak is in {plan.peak_operator}, while {climbed.peak_tensor} \
takes {plan.peak_tensor_bytes:,}. Stack and your program come on top.
- With CMSIS-NN or ESP-NN up to {climbed.size.scratch:,} bytes more for their scratch buffer (an estimate): `arena.h` \
adds them where `CMSIS_NN` or `ESP_NN` is defined.
- Flash: the model, and about {size(climbed.flash_code)} of code for the interpreter and these kernels (an estimate).

The arena is that of {operators.registered().version} with its reference kernels. A much newer one may need a little
more: `main.cc` prints what was used.

## Values

{edges}

A real number x is the integer round(x / scale) + zero point. Inputs and outputs are these integers.

## Build

Add the `.cc` and `.h` files to a project that has TensorFlow Lite Micro, and compile as C++17:

- **Its own Makefile**: put this folder at `tensorflow/lite/micro/examples/model/` with a `Makefile.inc` of the usual
  form, then `make -f tensorflow/lite/micro/tools/make/Makefile TARGET=cortex_m_generic TARGET_ARCH=cortex-m4+fp
  OPTIMIZED_KERNEL_DIR=cmsis_nn model` (leave `OPTIMIZED_KERNEL_DIR` out for reference kernels).
- **STM32, nRF, RP2040**: generate the library's sources with
  `tensorflow/lite/micro/tools/project_generation/create_tflm_tree.py`, add them to your project, and define
  `TF_LITE_STATIC_MEMORY`, and `CMSIS_NN` where its kernels are built in.
- **ESP32**: the component `espressif/esp-tflite-micro`; define `ESP_NN` where its kernels are built in.
- **Arduino**: a TensorFlow Lite Micro library of your board; call what `main` does from `setup()`.

Prepared for {device}. On a computer `main.cc` runs too: the arena is larger there, since pointers are.
"""


def _edge(side: str, edge: Edge) -> str:
    shape = " x ".join(map(str, edge.shape)) or "one value"
    line = f"- {side} {_code(edge.name)}: {edge.dtype}, {shape}"
    return f"{line}, scale {edge.scale!r}, zero point {edge.zero_point}" if edge.scale else line


def _code(name: str) -> str:
    """A model's own name as code: nothing in it ends the code or the line."""
    return "`" + "".join(c if c.isprintable() and c != "`" else "_" for c in name) + "`"
