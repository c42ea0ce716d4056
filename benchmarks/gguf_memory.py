"""Peak memory of the streaming pass on Llamas of 0.3, 0.6 and 1.1 billion parameters: it must not grow with layers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bar import close
from llm_passes import llama, one_pass

LAYERS = (4, 11, 22)


def main() -> None:
    """One q4_k_m conversion of each; the highest resident set of any worker."""
    peaks = {}
    with tempfile.TemporaryDirectory() as temporary:
        for layers in LAYERS:
            work = Path(temporary) / str(layers)
            work.mkdir()
            folder = llama(work / "llama", layers)
            nbytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            peaks[layers] = one_pass(folder, "q4_k_m", work).peak_bytes / 1e6
            print(
                f"{layers:2} layers, {nbytes / 2e9:.2f}B parameters: peak {peaks[layers]:.1f} MB", flush=True
            )
            for path in folder.glob("*.safetensors"):
                path.unlink()
    close(
        "gguf-memory",
        [
            ("peak MB", max(peaks.values()), "<=", 120),
            ("growth", peaks[LAYERS[-1]] / peaks[LAYERS[0]], "<=", 1.05),
        ],
    )


if __name__ == "__main__":
    main()
