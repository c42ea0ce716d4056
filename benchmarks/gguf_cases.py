"""The tiny models on which GGUF files are compared: every architecture, and what checkpoints differ in."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import tiny_llms
from tiny_configs import FAMILIES, FURTHER


@dataclass(frozen=True)
class Case:
    """One folder: an architecture with the options of tiny_llms.make."""

    name: str
    architecture: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self, root: Path) -> Path:
        """Write it under `root`."""
        return tiny_llms.make(self.architecture, root / self.name, **self.options)


# Rows of 288 weights fit blocks of 32 and not of 256; rows of 80 fit neither; more layers change the mixture.
VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llama-rows-of-288", "llama", {"hidden": 288, "heads": 4, "kv_heads": 4, "head_dim": 72, "feed": 480}),
    ("llama3-rows-of-80", "llama3", {"hidden": 80, "feed": 144}),
    ("llama3-9-layers", "llama3", {"layers": 9, "shards": 3, "card": True}),
    ("qwen2-f16", "qwen2", {"dtype": "float16", "tied": False, "shards": 2}),
    ("qwen3-f32", "qwen3", {"dtype": "float32"}),
    ("gpt2-f32-288", "gpt2", {"dtype": "float32", "hidden": 288, "heads": 4}),
    ("gemma2-f32-9-layers", "gemma2", {"dtype": "float32", "layers": 9}),
    ("phi3-f16", "phi3", {"dtype": "float16", "layers": 5}),
)


def cases() -> list[Case]:
    """Every architecture, tied and untied where its checkpoints are, then the variants."""
    plain = [
        Case(f"{name}-{'tied' if tied else 'untied'}", name, {"tied": tied})
        for name, family in (FAMILIES | FURTHER).items()
        for tied in family.may_be
    ]
    return plain + [Case(*variant) for variant in VARIANTS]
