"""StableHLO programs against torch: executed from the written files on the CPU, in float32 and in bfloat16."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bar import close
from networks import DIGITS, MINILM, checkpoints, compared, converted, trained

SEQUENCE = 64
"""Tokens of the random inputs of BERT and MiniLM."""


def main() -> None:
    """Convert everything to fp32 and bf16, compare, and print the line with figures and bars."""
    errors, cosines = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mobilenet, data = trained(folder)
        sources = {
            "digits": DIGITS, "mobilenet-v2": mobilenet, "bert-small": checkpoints(folder)["bert-small"],
            "minilm": MINILM,
        }  # fmt: skip
        for name, source in sources.items():
            figures = {}
            for quant in ("fp32", "bf16"):
                out = folder / f"{name}-{quant}"
                images = data if source == mobilenet else None
                done = converted(source, "cloud-tpu", quant, out, images, sequence=SEQUENCE)
                worst, _ = compared(out, done.manifest)
                least = min(each["cosine_min"] for each in done.manifest["fidelity"]["outputs"].values())
                figures[quant] = (worst, float(least))
            size = done.manifest["measured"]["file_bytes"]
            print(
                f"{name:13s} fp32 relative error {figures['fp32'][0]:.2g}; bf16 cosine {figures['bf16'][1]:.6f}, "
                f"relative error {figures['bf16'][0]:.2g}, {size / 1e6:.2f} MB",
                flush=True,
            )
            errors.append(figures["fp32"][0])
            cosines.append(figures["bf16"][1])
    close(
        "stablehlo",
        [
            ("fp32 relative error", max(errors), "<=", 1e-4),
            ("bf16 cosine, the least of any sample", min(cosines), ">=", 0.999),
        ],
    )


if __name__ == "__main__":
    main()
