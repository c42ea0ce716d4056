"""CPU seconds for 10^9 weights: ggml's quantizer against the lanes, at every level that this processor has.

Each figure is the smallest of several interleaved runs on one thread. ggml gets float32; the lanes get bfloat16 and
convert it on the way. The last column says whether every level gave ggml's bytes.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from modelport.exporters.runtimes.gguf import lanes, library

TYPES = {
    "q4_K": 12,
    "q5_K": 13,
    "q6_K": 14,
    "q3_K": 11,
    "q2_K": 10,
    "q8_0": 8,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "f16": 1,
    "bf16": 30,
}
WITHOUT_IMPORTANCE = ("q8_0", "f16", "bf16")


def measure(kind: int, weighed: bool, rows: int, runs: int, quantizers: list[lanes.Quantizer]) -> list[float]:
    """Seconds for 10^9 weights of ggml and of each quantizer, and 1.0 where all bytes agree."""
    rng = np.random.default_rng(0)
    drawn = (rng.standard_normal((rows, 2048)) * 0.02).astype(np.float32)
    short = (drawn.view(np.uint32) >> 16).astype(np.uint16)
    wide = (short.astype(np.uint32) << 16).view(np.float32)
    importance = rng.random(2048).astype(np.float32)
    address = importance.ctypes.data if weighed else None
    block, size = lanes.BLOCKS[kind]
    outs = [np.empty(wide.size // block * size, np.uint8) for _ in range(len(quantizers) + 1)]
    best = [float("inf")] * len(outs)
    ggml = library.ggml()
    for _ in range(runs):
        for at, out in enumerate(outs):
            began = time.process_time()
            if at == 0:
                ggml.ggml_quantize_chunk(kind, wide.ctypes.data, out.ctypes.data, 0, rows, 2048, address)
            else:
                quantizers[at - 1].quantize(
                    kind, "bfloat16", short.ctypes.data, out.ctypes.data, rows, 2048, address
                )
            best[at] = min(best[at], time.process_time() - began)
    agree = all(np.array_equal(out, outs[0]) for out in outs[1:])
    return [seconds / wide.size * 1e9 for seconds in best] + [float(agree)]


def main() -> None:
    """Print the table; exit 1 where a byte differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=256, help="rows of 2048 weights")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("types", nargs="*", help=f"of {', '.join(TYPES)}; all where none is named")
    options = parser.parse_args()
    ggml = library.ggml()
    began = time.process_time()
    found = {q.name: q for q in (lanes.load(ggml, level) for level in ("avx512", "avx2", "plain"))}
    quantizers = list(found.values())
    print(f"gates of {len(found)} levels: {1000 * (time.process_time() - began):.0f} ms of CPU")
    print(f"{'':17}" + "".join(f"{name:>16}" for name in ("ggml", *found)) + "  same bytes")
    same = True
    for name in options.types or TYPES:
        for weighed in (False,) if name in WITHOUT_IMPORTANCE else (False, True):
            *seconds, agree = measure(TYPES[name], weighed, options.rows, options.runs, quantizers)
            told = "".join(f"{s:8.2f} ({seconds[0] / s:4.1f}x)" for s in seconds[1:])
            print(f"{name + (' importance' if weighed else ''):17}{seconds[0]:16.2f}{told}  {bool(agree)}")
            same = same and bool(agree)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
