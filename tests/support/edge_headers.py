"""The least of TensorFlow Lite Micro that emitted C++ names, declared so that a compiler can check it."""

from __future__ import annotations

import subprocess
from pathlib import Path

RESOLVER = """#pragma once
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
namespace tflite {
template <unsigned int tOpCount>
class MicroMutableOpResolver {
 public:
  static_assert(tOpCount > 0, "no operator");
%s
};
}  // namespace tflite
"""
INTERPRETER = """#pragma once
#include <cstddef>
#include <cstdint>
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
union TfLitePtrUnion { char* raw; };
struct TfLiteTensor { TfLitePtrUnion data; std::size_t bytes; };
namespace tflite {
class Model { public: std::uint32_t version() const; };
class MicroInterpreter {
 public:
  template <typename Resolver>
  MicroInterpreter(const Model*, const Resolver&, std::uint8_t*, std::size_t) {}
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteTensor* input(std::size_t);
  TfLiteTensor* output(std::size_t);
  std::size_t arena_used_bytes() const;
};
}  // namespace tflite
"""
SCHEMA = """#pragma once
#include "tensorflow/lite/micro/micro_interpreter.h"
#define TFLITE_SCHEMA_VERSION (3)
namespace tflite { const Model* GetModel(const void*); }
"""
SETUP = "#pragma once\nnamespace tflite { void InitializeTarget(); }\n"
FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only")


def write(folder: Path, methods: list[str]) -> None:
    """The headers under `folder`; the resolver has these methods only."""
    micro = folder / "tensorflow" / "lite" / "micro"
    micro.mkdir(parents=True)
    (micro.parent / "schema").mkdir()
    declared = "\n".join(f"  TfLiteStatus {method}() {{ return kTfLiteOk; }}" for method in methods)
    (micro / "micro_mutable_op_resolver.h").write_text(RESOLVER % declared)
    (micro / "micro_interpreter.h").write_text(INTERPRETER)
    (micro / "system_setup.h").write_text(SETUP)
    (micro.parent / "schema" / "schema_generated.h").write_text(SCHEMA)


def compile_all(sources: Path, headers: Path) -> str:
    """What g++ says of every .cc file in `sources`; "" where all compile without a warning."""
    said = []
    for path in sorted(sources.glob("*.cc")):
        done = subprocess.run(
            ["g++", *FLAGS, f"-I{sources}", f"-I{headers}", str(path)], capture_output=True, text=True
        )
        said.append(done.stderr if done.returncode == 0 else done.stderr or "failed without a word")
    return "".join(said)


def array_bytes(text: str) -> bytes:
    """The bytes of the array in model_data.cc."""
    body = text.split("= {", 1)[1].split("};", 1)[0]
    return bytes(int(part, 16) for part in body.replace(",", " ").split())
