"""One pass against llama.cpp's two steps on a 1.1B bf16 Llama: CPU, wall time, memory, bytes written; interleaved."""

from __future__ import annotations

import filecmp
import statistics
import tempfile
from pathlib import Path

from bar import close
from llm_passes import Pass, llama, one_pass, two_step

LAYERS = 22
ROUNDS = 2
SCHEMES = ("q4_k_m", "q8_0", "q4_0")
CPU_BARS = {
    ("q4_k_m", "avx512"): 0.13,
    ("q4_k_m", "avx2"): 0.19,
    ("q8_0", "avx512"): 0.35,
    ("q4_0", "avx512"): 0.35,
}
WALL_BARS = {"avx512": 0.12, "avx2": 0.16}


def levels() -> tuple[str, ...]:
    """The SIMD levels of this CPU that have a bar."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return tuple(level for level, flag in (("avx512", "avx512bw"), ("avx2", "avx2")) if flag in flags)


def measure(folder: Path, work: Path, scheme: str, levels: tuple[str, ...]) -> dict[str, list[Pass]]:
    """Every way in turn, `ROUNDS` times over; the files must be the same."""
    found: dict[str, list[Pass]] = {way: [] for way in ("two-step", *levels)}
    for _ in range(ROUNDS):
        found["two-step"].append(two_step(folder, scheme, work))
        for level in levels:
            found[level].append(one_pass(folder, scheme, work, level))
            if not filecmp.cmp(found[level][-1].file, found["two-step"][-1].file, shallow=False):
                raise SystemExit(f"{scheme} by {level} differs from llama.cpp's own file")
    return found


def main() -> None:
    """Print every way's figures, and the ratios beside their bars."""
    checks: list[tuple[str, float, str, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = llama(work / "llama-1b", LAYERS)
        print("scheme   way       CPU s   wall s  peak MB  written MB  CPU     wall")
        for scheme in SCHEMES:
            passes = measure(folder, work, scheme, levels() if scheme == "q4_k_m" else levels()[:1])
            cpu = {way: statistics.median(p.cpu for p in found) for way, found in passes.items()}
            wall = {way: statistics.median(p.wall for p in found) for way, found in passes.items()}
            for way, found in passes.items():
                peak, written = max(p.peak_bytes for p in found), max(p.written_bytes for p in found)
                print(
                    f"{scheme:8} {way:8} {cpu[way]:6.2f} {wall[way]:8.2f} {peak / 1e6:8.1f} {written / 1e6:11.1f}"
                    f"  {cpu[way] / cpu['two-step']:.3f}x  {wall[way] / wall['two-step']:.3f}x",
                    flush=True,
                )
                if way == "two-step":
                    continue
                if (scheme, way) in CPU_BARS:
                    checks.append(
                        (f"{scheme} {way} CPU", cpu[way] / cpu["two-step"], "<=", CPU_BARS[scheme, way])
                    )
                if scheme == "q4_k_m":
                    checks.append((f"{way} wall", wall[way] / wall["two-step"], "<=", WALL_BARS[way]))
                checks.append((f"{scheme} {way} peak MB", peak / 1e6, "<=", 120))
                checks.append((f"{scheme} {way} written", written / found[0].file.stat().st_size, "<=", 1.01))
    close("gguf-speed", checks)


if __name__ == "__main__":
    main()
