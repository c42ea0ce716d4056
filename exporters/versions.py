"""The last step of a worker: which libraries it had loaded, by version, for the manifest."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

from .job import Job, Outcome, Progress

DISTRIBUTIONS = {
    "PIL": "pillow",
    "ai_edge_litert": "ai-edge-litert",
    "ai_edge_quantizer": "ai-edge-quantizer",
    "compressed_tensors": "compressed-tensors",
    "coremltools": "coremltools",
    "gguf": "gguf",
    "jax": "jax",
    "keras": "keras",
    "litert_torch": "litert-torch",
    "llama_cpp": "llama-cpp-python",
    "llmcompressor": "llmcompressor",
    "ml_dtypes": "ml-dtypes",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "safetensors": "safetensors",
    "sentencepiece": "sentencepiece",
    "tensorflow": "tensorflow",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "transformers": "transformers",
}
"""Import name to distribution name of everything that can change an artifact's bytes or figures."""


def loaded(job: Job, progress: Progress) -> Outcome:
    """Data: versions, a mapping of distribution name to version of what this process has imported."""
    versions = {"python": platform.python_version()}
    for module, distribution in DISTRIBUTIONS.items():
        if module in sys.modules:
            try:
                versions[distribution] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                versions[distribution] = str(getattr(sys.modules[module], "__version__", "unknown"))
    return Outcome(data={"versions": versions})
