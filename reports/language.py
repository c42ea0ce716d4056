"""What was found about a language model in words: perplexity, divergence, agreement and speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..verification.budget import rise_percent
from .figures import UNKNOWN, percent, rate

SHOWN = 600
"""Characters of a prompt that stand before what the model wrote: its end."""


def fidelity_lines(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what against what, sentence) for each comparison that was made; empty for graphs."""
    found = manifest["fidelity"]
    if not found or "perplexity" not in found:
        return []
    lines = []
    if found["against"]:
        lines.append((f"against {found['against']}", _loss(found["kl"], found["perplexity"])))
    else:
        lines.append(("alone", _loss(None, found["perplexity"])))
    without = manifest.get("without_importance")
    if without:
        before = {"artifact": without["perplexity"], "reference": found["perplexity"]["reference"]}
        lines.append(("the same without importance matrix", _loss(without["kl"], before)))
    if found["why"]:
        lines.append(("the source in torch", f"not compared: {found['why']}"))
    elif found["source"] and found["source"]["reference"]:
        source = found["source"]
        lines.append(("before quantizing, against the source in torch", _distance(source["reference"])))
        lines.append(("against the source in torch", _distance(source["artifact"])))
    return lines


def _loss(divergence: Mapping[str, Any] | None, perplexity: Mapping[str, Any]) -> str:
    parts = []
    if divergence is not None:
        parts.append(
            f"KL divergence {divergence['mean']:.4g} ± {divergence['stderr']:.2g} nats a token"
            f" (99 % below {divergence['p99']:.3g})"
        )
    rise = rise_percent(perplexity)
    sentence = f"perplexity {_value(perplexity['artifact'])}"
    if rise is not None:
        sentence += f", {_value(perplexity['reference'])} before ({rise:+.2f} %)"
    return ", ".join([*parts, sentence])


def _value(perplexity: Mapping[str, Any]) -> str:
    return UNKNOWN if perplexity["value"] is None else f"{perplexity['value']:.4g}"


def _distance(figures: Mapping[str, Any]) -> str:
    return (
        f"cosine {figures['cosine']:.5f}, top-1 agrees {percent(figures['top1_agreement'])},"
        f" KL divergence {figures['kl']['mean']:.3g}"
    )


def speed_lines(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, sentence) for prompt and generation; empty where nothing was measured."""
    speed = manifest["measured"].get("speed")
    if not speed:
        return []
    expected = speed["predicted_decode_tokens_per_second"]
    generation = f"{rate(speed['decode_tokens_per_second'])} tokens/s"
    if expected:
        ratio = speed["decode_tokens_per_second"] / expected
        generation += (
            f"; {rate(expected)} expected from {speed['bandwidth'] / 1e9:.3g} GB/s measured here"
            f" ({100 * (ratio - 1):+.0f} %)"
        )
    on = threads(manifest["measured"]["threads"])
    return [
        ("prompt", f"{rate(speed['prefill_tokens_per_second'])} tokens/s on {on}"),
        ("generation", generation),
    ]


def sample(manifest: Mapping[str, Any]) -> str:
    """The prompt and how the artifact continued it; "" where none was asked for."""
    made = manifest.get("sample")
    if not made:
        return ""
    prompt, text = str(made["prompt"]), str(made["text"])
    return ("… " + prompt[-SHOWN:] if len(prompt) > SHOWN else prompt) + text


def tokens_per_second(milliseconds_each: float | None) -> str:
    """Tokens a second from the time of one."""
    return UNKNOWN if not milliseconds_each else f"{rate(1e3 / milliseconds_each)} tok/s"


def threads(count: int) -> str:
    """How many threads, in words."""
    return f"{count} thread{'' if count == 1 else 's'}"
