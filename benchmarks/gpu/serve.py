"""fp32, fp16 and int8 of one network side by side on this machine's GPU: one call builds, measures and prints a table.

    python benchmarks/gpu/serve.py [MODEL [CALIBRATION]]

TensorRT where it is installed; otherwise the engine-ready graph in ONNX Runtime's CUDA provider; otherwise the source
itself in torch, whose int8 row is then missing. Each row says which. Nothing is measured without a GPU.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import modelport
from modelport.calibration.samples import SampleSet
from modelport.exporters.runtimes.tensorrt import engine
from modelport.verification.fidelity import cosine

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits" / "artifacts" / "digits.pt2"
SCHEMES = ("fp32", "fp16", "int8")
WARM_UP, RUNS = 20, 200


def main() -> int:
    """The table; 1 where there is no GPU."""
    device = engine.find_gpu()
    if isinstance(device, str):
        print(f"nothing was measured: {device}")
        return 1
    print(f"{device.name}, compute capability {device.compute_capability}, driver {device.driver}")
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DIGITS
    data = sys.argv[2] if len(sys.argv) > 2 else "random"
    base: float | None = None
    with tempfile.TemporaryDirectory() as temporary:
        for quant in SCHEMES:
            try:
                out = Path(temporary) / quant
                done = modelport.convert(
                    source, target="server-gpu", quant=quant, calibration=data, out=out, budget="cosine=0"
                )
                where, figures = measured(out, dict(done.manifest), source, quant)
            except Exception as error:  # one row that fails must not take the others with it
                print(f"{quant:5s} not measured: {type(error).__name__}: {str(error)[:300]}", flush=True)
                continue
            base = base or figures["p50"]
            print(
                f"{quant:5s} {where:28s} p50 {figures['p50']:8.3f} ms, p90 {figures['p90']:8.3f} ms, "
                f"{base / figures['p50']:5.2f} x fp32, cosine {figures['cosine']:.5f}, "
                f"{done.manifest['measured']['file_bytes'] / 1e6:.2f} MB",
                flush=True,
            )
    return 0


def measured(out: Path, manifest: dict[str, Any], source: Path, quant: str) -> tuple[str, dict[str, float]]:
    """What ran, and latency at batch 1 with the cosine to the source; the first way that works here."""
    if manifest["state"] == "done":
        worst = min(found["cosine"] for found in manifest["fidelity"]["outputs"].values())
        return f"TensorRT {manifest['portability']['tensorrt']}", {
            **manifest["measured"]["latency_ms"], "cosine": worst
        }  # fmt: skip
    feeds = list(SampleSet.open(out / "verification" / "held_out").feeds(limit=16))
    with np.load(out / "verification" / "reference.npz", allow_pickle=False) as saved:
        names = [port["source"] for port in manifest["io"]["outputs"]]
        expected = [[saved[f"{index}|{name}"] for name in names] for index in range(len(feeds))]
    where, run = _onnxruntime(out / "model.onnx") or _torch(source, quant)
    worst = min(
        cosine(want, got)
        for feed, wanted in zip(feeds, expected, strict=True)
        for want, got in zip(wanted, run(feed), strict=True)
    )
    for _ in range(WARM_UP):
        run(feeds[0])
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run(feeds[0])
        times.append((time.perf_counter() - start) * 1e3)
    return where, {
        "p50": statistics.median(times), "p90": statistics.quantiles(times, n=10)[-1], "cosine": worst
    }  # fmt: skip


Run = Callable[[dict[str, Any]], list[Any]]


def _onnxruntime(path: Path) -> tuple[str, Run] | None:
    """The graph in ONNX Runtime's CUDA provider; None where that is not installed or falls back to the CPU."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CUDAExecutionProvider"])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        return None
    return "ONNX Runtime CUDA, no TensorRT", lambda feed: list(session.run(None, feed))


def _torch(source: Path, quant: str) -> tuple[str, Run]:
    """The source itself in torch on the GPU, in half where that is asked for; torch runs no Q/DQ graph."""
    import torch

    from modelport.sources import open_source
    from modelport.sources.loading import torch_model

    if quant == "int8" or not torch.cuda.is_available():
        raise RuntimeError("neither TensorRT nor ONNX Runtime's CUDA provider is here")
    loaded = torch_model.load(open_source(source).kind, source, {})
    # An exported program's module has no train or eval; .to moves it all the same.
    module = loaded.module.to("cuda")
    dtype = torch.float16 if quant == "fp16" else torch.float32

    def run(feed: dict[str, Any]) -> list[Any]:
        given = [torch.from_numpy(np.ascontiguousarray(feed[name])).to("cuda") for name in loaded.input_names]
        with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=quant == "fp16"):
            return [made.float().cpu().numpy() for made in module(*given)]

    return "torch, no TensorRT", run


if __name__ == "__main__":
    sys.exit(main())
