"""The C++ that carries a model onto a board: the bytes, the operators, the arena, and a main that checks itself."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import operators
from .reference import Edge, Sample

NOTICE = "// Written by modelport with model.tflite. Do not edit: convert again."
C_TYPES = {
    "int8": "std::int8_t", "uint8": "std::uint8_t", "int16": "std::int16_t", "int32": "std::int32_t",
    "int64": "std::int64_t", "float32": "float", "bool": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class ArenaSize:
    """Bytes that the interpreter needs for this model."""

    bits32: int
    """On a board: pointers of 4 bytes."""
    bits64: int
    """On a computer: pointers of 8 bytes."""
    scratch: int
    """What optimised kernels (CMSIS-NN, ESP-NN) may take on top; an upper bound."""


def files(data: bytes, kinds: Iterable[str], arena: ArenaSize, sample: Sample) -> dict[str, str]:
    """Every source file by name, for the bytes of the model, its operators, its arena and one sample."""
    return {
        "model_data.h": _MODEL_H,
        "model_data.cc": _model_data(data),
        "op_resolver.h": _resolver(kinds),
        "arena.h": _arena(arena),
        "sample.h": _sample(sample),
        "main.cc": _main(sample),
    }


_MODEL_H = f"""{NOTICE}
// The bytes of model.tflite, aligned as TensorFlow Lite Micro wants them; const, so that they stay in flash.
#ifndef MODEL_DATA_H_
#define MODEL_DATA_H_

#include <cstddef>

extern const unsigned char g_model_data[];
extern const std::size_t g_model_data_size;

#endif  // MODEL_DATA_H_
"""


def _model_data(data: bytes) -> str:
    lines = [
        "    " + " ".join(f"0x{byte:02x}," for byte in data[start : start + 16])
        for start in range(0, len(data), 16)
    ]
    rows = "\n".join(lines)
    return f"""{NOTICE}
#include "model_data.h"

alignas(16) const unsigned char g_model_data[] = {{
{rows}
}};
const std::size_t g_model_data_size = sizeof(g_model_data);
"""


def _resolver(kinds: Iterable[str]) -> str:
    methods = operators.methods(kinds)
    added = "\n".join(f"  if (resolver.{method}() != kTfLiteOk) return kTfLiteError;" for method in methods)
    return f"""{NOTICE}
// Exactly the operators that the model uses: every further one would take flash for nothing.
#ifndef OP_RESOLVER_H_
#define OP_RESOLVER_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

using OpResolver = tflite::MicroMutableOpResolver<{len(methods)}>;

inline TfLiteStatus RegisterOperators(OpResolver& resolver) {{
{added}
  return kTfLiteOk;
}}

#endif  // OP_RESOLVER_H_
"""


def _arena(arena: ArenaSize) -> str:
    version = operators.registered().version
    return f"""{NOTICE}
// Computed from the model for {version}.
#ifndef ARENA_H_
#define ARENA_H_

#include <cstddef>

// What the reference kernels need: pointers of 4 bytes on a board, of 8 on a computer.
inline constexpr std::size_t kReferenceArenaSize = sizeof(void*) == 4 ? {arena.bits32} : {arena.bits64};

// Optimised kernels unpack a window of inputs into a buffer of their own: at most this much more (an estimate).
#if defined(CMSIS_NN) || defined(ESP_NN)
inline constexpr std::size_t kTensorArenaSize = kReferenceArenaSize + {arena.scratch};
#else
inline constexpr std::size_t kTensorArenaSize = kReferenceArenaSize;
#endif

#endif  // ARENA_H_
"""


def _sample(sample: Sample) -> str:
    arrays = [_array(f"kInput{i}", edge, "input") for i, edge in enumerate(sample.inputs)]
    arrays += [_array(f"kOutput{i}", edge, "output") for i, edge in enumerate(sample.outputs)]
    body = "\n\n".join(arrays)
    return f"""{NOTICE}
// One held-out sample as the model takes it, and what LiteRT's reference kernels make of it.
#ifndef SAMPLE_H_
#define SAMPLE_H_

#include <cstdint>

{body}

#endif  // SAMPLE_H_
"""


def _array(name: str, edge: Edge, side: str) -> str:
    shape = " x ".join(map(str, edge.shape)) or "one value"
    said = f"// {side} {_plain(edge.name)}: {shape}"
    if edge.scale:
        said += f"; value = (integer - {edge.zero_point}) * {edge.scale!r}".replace("- -", "+ ")
    values = ", ".join(_literal(value) for value in edge.values.reshape(-1).tolist())
    rows = textwrap.fill(values, 100, initial_indent="    ", subsequent_indent="    ")
    return f"{said}\ninline constexpr {C_TYPES[edge.dtype]} {name}[] = {{\n{rows},\n}};"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value!r}f" if isinstance(value, float) else str(value)


def _plain(text: str) -> str:
    """A model's own name on one line of a comment: nothing in it ends the line or continues it."""
    return "".join(c if c.isascii() and c.isprintable() and c != "\\" else "_" for c in text)


def _main(sample: Sample) -> str:
    feeds = "\n".join(
        f'  if (!Feed(interpreter, {index}, kInput{index})) return Fail("input {index} has another size");'
        for index in range(len(sample.inputs))
    )
    compares = "\n".join(
        f"  wrong += Compare(interpreter, {index}, kOutput{index});" for index in range(len(sample.outputs))
    )
    return f"""{NOTICE}
// Runs the model once on a sample that no conversion step has seen, and compares every integer of its outputs.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "arena.h"
#include "model_data.h"
#include "op_resolver.h"
#include "sample.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {{

alignas(16) std::uint8_t tensor_arena[kTensorArenaSize];

int Fail(const char* what) {{
  std::printf("FAILED: %s\\n", what);
  return 1;
}}

template <typename T, std::size_t N>
bool Feed(tflite::MicroInterpreter& interpreter, std::size_t index, const T (&values)[N]) {{
  TfLiteTensor* tensor = interpreter.input(index);
  if (tensor == nullptr || tensor->bytes != sizeof(values)) return false;
  std::memcpy(tensor->data.raw, values, sizeof(values));
  return true;
}}

template <typename T, std::size_t N>
std::size_t Compare(tflite::MicroInterpreter& interpreter, std::size_t index, const T (&expected)[N]) {{
  const TfLiteTensor* tensor = interpreter.output(index);
  if (tensor == nullptr || tensor->bytes != sizeof(expected)) return N;
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < N; ++i) {{
    T value;
    std::memcpy(&value, tensor->data.raw + i * sizeof(T), sizeof(T));
    if (value != expected[i]) ++wrong;
  }}
  return wrong;
}}

}}  // namespace

int main() {{
  tflite::InitializeTarget();
  const tflite::Model* model = tflite::GetModel(g_model_data);
  if (model->version() != TFLITE_SCHEMA_VERSION) return Fail("another version of the schema");
  OpResolver resolver;
  if (RegisterOperators(resolver) != kTfLiteOk) return Fail("an operator could not be registered");
  tflite::MicroInterpreter interpreter(model, resolver, tensor_arena, kTensorArenaSize);
  if (interpreter.AllocateTensors() != kTfLiteOk) return Fail("the arena is too small");
{feeds}
  if (interpreter.Invoke() != kTfLiteOk) return Fail("an operator failed");
  std::size_t wrong = 0;
{compares}
  std::printf("arena: %lu of %lu bytes\\n", static_cast<unsigned long>(interpreter.arena_used_bytes()),
              static_cast<unsigned long>(kTensorArenaSize));
  if (wrong != 0) return Fail("the outputs differ from the reference kernels'");
  std::printf("OK: every output is equal to the reference kernels'\\n");
  return 0;
}}
"""
