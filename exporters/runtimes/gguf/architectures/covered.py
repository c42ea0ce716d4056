"""Which architectures can become GGUF here; read before anything else is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .....targets.errors import Unsupported


@dataclass(frozen=True)
class Covered:
    """Where an architecture is described, and whose weights it has."""

    module: str
    """A module of this room, which describes the architecture in its `FAMILIES`."""
    model_type: str
    """What config.json's model_type must say: the weights are checked by it."""


COVERED: Mapping[str, Covered] = {
    "LlamaForCausalLM": Covered("llama", "llama"),
    "MistralForCausalLM": Covered("llama", "mistral"),
    "SmolLM3ForCausalLM": Covered("llama", "smollm3"),
    "MixtralForCausalLM": Covered("llama", "mixtral"),
    "Olmo2ForCausalLM": Covered("olmo", "olmo2"),
    "Qwen2ForCausalLM": Covered("qwen", "qwen2"),
    "Qwen3ForCausalLM": Covered("qwen", "qwen3"),
    "Qwen3MoeForCausalLM": Covered("qwen", "qwen3_moe"),
    "GemmaForCausalLM": Covered("gemma", "gemma"),
    "Gemma2ForCausalLM": Covered("gemma", "gemma2"),
    "Gemma3ForCausalLM": Covered("gemma", "gemma3_text"),
    "Phi3ForCausalLM": Covered("phi3", "phi3"),
    "GPT2LMHeadModel": Covered("gpt2", "gpt2"),
}
"""The architectures that are covered, by the class name in config.json's architectures."""


def require_covered(architecture: str) -> Covered:
    """Where the architecture is described; Unsupported, naming it and all that are covered, when nowhere."""
    if architecture not in COVERED:
        raise Unsupported(
            f"the architecture {architecture[:80]!r} cannot be written as GGUF",
            where="config.json: architectures",
            mend=f"Covered: {', '.join(COVERED)}",
        )
    return COVERED[architecture]
