"""The model's own tokenizer of a language model's folder: what text becomes before the model reads it."""

from __future__ import annotations

from .reference import Reference, load_reference, reference_of

__all__ = ["Reference", "load_reference", "reference_of"]
