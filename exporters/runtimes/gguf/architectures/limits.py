"""What llama.cpp computes otherwise than the model's own code, and only for some texts: sentences for the report."""

from __future__ import annotations

from .family import Model

WINDOW_ALWAYS = ("MistralForCausalLM", "MixtralForCausalLM", "Phi3ForCausalLM")
"""Architectures whose every layer has the window that config.json names."""
WINDOW_SWITCHED = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "SmolLM3ForCausalLM")
"""Those whose layers have it where `use_sliding_window` is true."""


def notes(model: Model) -> tuple[str, ...]:
    """A sentence for each limit that the model meets.

    llama.cpp gives a sliding window to Gemma's layers alone, of what is covered: it reads no key for it in
    Llama's and Qwen's graphs, and switches Phi-3's off (src/models/phi3.cpp).
    """
    config, name = model.config, model.architecture
    switched = name in WINDOW_SWITCHED and config.flag("use_sliding_window", False)
    window = config.values.get("sliding_window")
    if not (switched or name in WINDOW_ALWAYS) or isinstance(window, bool) or not isinstance(window, int):
        return ()
    if not 0 < window < model.facts.context:
        return ()
    return (
        f"The model attends to its last {window:,} tokens; llama.cpp attends to all of them for {name}. Texts of"
        f" more than {window:,} tokens get other results than in transformers.",
    )
