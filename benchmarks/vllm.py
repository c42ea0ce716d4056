"""vLLM checkpoints of a small trained Llama: perplexity on text it has not seen, in transformers on the CPU."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from bar import close

import modelport

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import trained_llm

WINDOWS, HELD_OUT, TOKENS = 64, 16, 256
"""Windows of text, those of them that verify, and tokens of each."""
CASES = (
    ("bf16", True),
    ("w4a16-gptq", True),
    ("w4a16-awq", True),
    ("w8a8-int8", True),
    ("w8a8-int8", False),
    ("w8a8-fp8", True),
)
"""Scheme, and whether it is given the text; int8 smooths and corrects by it, and rounds to nearest without."""


def convert(model: Path, text: Path, quant: str, given: bool, out: Path) -> dict[str, Any]:
    """The manifest of one conversion. One thread: several wait for each other by spinning on a busy machine."""
    done = modelport.convert(
        model,
        target="server-gpu-llm",
        quant=quant,
        calibration=str(text) if given else None,
        out=out,
        samples=WINDOWS,
        held_out=HELD_OUT,
        sequence=TOKENS,
        threads=1,
        budget="cosine=0",
        keep_samples=False,
    )
    return dict(done.manifest)


def main() -> None:
    """Convert in every scheme, print the table, and hold the rises of perplexity against the bars."""
    risen: dict[tuple[str, bool], float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = folder / "held_out.txt"
        text.write_text(trained_llm.held_out(300_000), encoding="utf-8")
        model = trained_llm.trained()
        print(
            f"{'scheme':12s} {'text':9s} {'MB':>6s} {'perplexity':>11s} {'rise':>8s} {'KL':>9s} {'top-1':>7s} {'s':>6s}"
        )
        for quant, given in CASES:
            manifest = convert(model, text, quant, given, folder / f"{quant}-{given}")
            fidelity, measured = manifest["fidelity"], manifest["measured"]
            found, before = (fidelity["perplexity"][side]["value"] for side in ("artifact", "reference"))
            risen[quant, given] = 100 * (found / before - 1)
            print(
                f"{quant:12s} {'its own' if given else 'none':9s} {measured['file_bytes'] / 1e6:6.2f} {found:11.3f} "
                f"{risen[quant, given]:+7.2f}% {fidelity['kl']['mean']:9.2e} "
                f"{fidelity['outputs']['logits']['top1_agreement']:7.2%} {measured['conversion_seconds']:6.1f}",
                flush=True,
            )
    int8 = max(risen["w8a8-int8", given] for given in (True, False))
    close(
        "vllm",
        [
            ("perplexity rises by percent: GPTQ W4A16", risen["w4a16-gptq", True], "<=", 5),
            ("AWQ W4A16", risen["w4a16-awq", True], "<=", 5),
            ("W8A8 int8 (with text or without)", int8, "<=", 1),
            ("W8A8 fp8", risen["w8a8-fp8", True], "<=", 1),
        ],
    )


if __name__ == "__main__":
    main()
