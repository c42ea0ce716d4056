"""What was found about a language model in words: perplexity, divergence, agreement and speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .figures import UNKNOWN, percent


def fidelity_lines(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what against what, sentence) for each comparison that was made; empty for graphs."""
    found = manifest["fidelity"]
    if not found or "perplexity" not in found:
        return []
    lines = [(f"against {found['against']}", _loss(found["kl"], found["perplexity"]))]
    without = manifest.get("without_importance")
    if without:
        lines.append(("the same without importance matrix", _loss(without["kl"], without["perplexity"])))
    return [*lines, ("the source in torch", _source(found["source"]))]


def _loss(divergence: Mapping[str, Any] | None, perplexity: Mapping[str, Any]) -> str:
    parts = []
    if divergence is not None:
        parts.append(
            f"KL divergence {divergence['mean']:.4g} ± {divergence['stderr']:.2g} nats a token"
            f" (99 % below {divergence['p99']:.3g})"
        )
    ours, theirs = perplexity["artifact"], perplexity.get("reference")
    sentence = f"perplexity {ours:.4g}"
    if theirs:
        sentence += f", {theirs:.4g} before ({100 * (ours / theirs - 1):+.2f} %)"
    return ", ".join([*parts, sentence])


def _source(source: Mapping[str, Any]) -> str:
    if source.get("why"):
        return f"not compared: {source['why']}"
    return (
        f"cosine {source['cosine']:.5f}, top-1 agrees {percent(source['top1_agreement'])},"
        f" KL {source['kl']['mean']:.3g}"
    )


def speed_lines(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, sentence) for prompt and generation; empty where nothing was measured."""
    speed = manifest["measured"].get("speed")
    if not speed:
        return []
    expected = speed.get("predicted_decode_tokens_per_second")
    generation = f"{speed['decode_tokens_per_second']:.4g} tokens/s"
    if expected:
        ratio = speed["decode_tokens_per_second"] / expected
        generation += (
            f"; {expected:.4g} expected from {speed['bandwidth'] / 1e9:.3g} GB/s measured here"
            f" ({100 * (ratio - 1):+.0f} %)"
        )
    threads = manifest["measured"]["threads"]
    return [
        ("prompt", f"{speed['prefill_tokens_per_second']:.4g} tokens/s on {threads} threads"),
        ("generation", generation),
    ]


def sample(manifest: Mapping[str, Any]) -> str:
    """The prompt and how the artifact continued it; "" where none was asked for."""
    made = manifest.get("sample")
    return f"{made['prompt']}{made['text']}" if made else ""


def tokens_per_second(milliseconds_each: float | None) -> str:
    """Tokens a second from the time of one."""
    return UNKNOWN if not milliseconds_each else f"{1e3 / milliseconds_each:.3g} tok/s"
