"""What a written file must keep to beyond its format: one module a target's rules, each rule a short function."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One place where a file breaks a rule."""

    rule: str
    """The rule's name."""
    node: str
    """The node, by operator and name, as in "Conv 'stem'"; "" where the whole file is meant."""
    fact: str

    def __str__(self) -> str:
        return f"{self.rule}: {f'{self.node}: ' if self.node else ''}{self.fact}"
