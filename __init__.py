"""modelport: one trained model in, the artifact that a deployment target runs out.

Checked before (`check`), verified after (`verify`); `convert` does both. Importing this package imports no
framework, and neither does `check`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .targets.errors import ModelportError

if TYPE_CHECKING:
    from .pipeline import Check, Conversion, OnProgress
    from .targets.facts import ModelFacts

__all__ = ["ModelportError", "__version__", "check", "convert", "inspect", "verify"]
__version__ = "0.1.0"


def convert(
    model: str | Path,
    *,
    target: str,
    quant: str | None = None,
    device: str | None = None,
    calibration: str | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> Conversion:
    """Convert `model` to the artifact that `target` runs; the `convert` command as a function.

    Args:
        model: path of a .pt2, .onnx or .keras file, a SavedModel or a Hugging Face directory.
        target: name, alias or path of a target card, as in "android".
        quant: quantization scheme of the target, as in "int8"; None takes the target's default.
        device: name or path of the device that must bear it; None takes the target's default.
        calibration: .npz, .npy, folder of images, .jsonl, .txt, "module:function" or "random". Arrays have the
            sample axis first and otherwise the shape of the model's input.
        out: output folder; None makes one here, named after model, target and scheme.
        on_progress: called as `on_progress(stage, done, total)`.
        options: any other field of `request.Request`, as in budget="cosine=0.99", memory_limit=8 << 30 (bytes),
            timeout=600 (seconds), layout="nhwc", overwrite=True.

    Returns:
        The output folder, its manifest (docs/manifest.md; times in milliseconds, sizes in bytes) and the check.

    Raises:
        UsageError, DoesNotFit, SourceUnreadable, Unsupported, ConversionFailed or FidelityBelowBudget of
        `modelport.targets.errors`; nothing is left on disk then.
    """
    from . import pipeline
    from .request import Request

    request = Request(
        model=Path(model),
        target=target,
        quant=quant,
        device=device,
        calibration=calibration,
        out=None if out is None else Path(out),
        command=options.pop("command", ("modelport.convert", str(model))),
        **options,
    )
    return pipeline.convert(request, on_progress)


def check(
    model: str | Path,
    *,
    target: str,
    quant: str | None = None,
    device: str | None = None,
    batch: int = 1,
    context: int | None = None,
    tensor_parallel: int | None = None,
    sequence: int | None = None,
    signature: str | None = None,
    kv_type: str | None = None,
    compute_units: str | None = None,
) -> Check:
    """Tell whether `model` fits `device` and how fast it will be, from headers alone.

    `context` is in tokens, `kv_type` one of f16, q8_0 and q4_0 and `tensor_parallel` the GPUs that a served
    model is split over (language models), `sequence` the tokens per sample of a token model, `compute_units`
    where Core ML may run. The verdict's terms carry value, unit and formula. Raises UsageError,
    SourceUnreadable or Unsupported; a model that does not fit is a verdict, not an error.
    """
    from . import pipeline
    from .request import Request

    return pipeline.check(
        Request(
            model=Path(model),
            target=target,
            quant=quant,
            device=device,
            batch=batch,
            context=context,
            tensor_parallel=tensor_parallel,
            sequence=sequence,
            signature=signature,
            kv_type=kv_type,
            compute_units=compute_units,
        )
    )


def inspect(model: str | Path, *, sequence: int | None = None, signature: str | None = None) -> ModelFacts:
    """What `model` is: inputs, outputs, weights by dtype (bytes), operators with FLOPs at batch 1.

    `sequence` (tokens) is assumed for a free sequence axis: 128, or as many as the model takes.
    `signature` names one of a SavedModel's. Raises SourceUnreadable, naming file and field.
    """
    from . import pipeline, sources

    source = sources.open_source(Path(model))
    length = sequence or pipeline.default_sequence(source)
    return sources.inspect(source, sequence=length, signature=signature)


def verify(
    folder: str | Path, *, source: str | Path | None = None, budget: str | None = None
) -> dict[str, Any]:
    """Check the hashes of a published folder and run its artifact again on the samples kept in it.

    With `source`, the source runs again too. Returns the manifest with fidelity and latency (ms) measured
    anew. Raises SourceUnreadable for damaged files and FidelityBelowBudget where it no longer holds.
    """
    from . import recheck

    return recheck.verify(Path(folder), source=None if source is None else Path(source), budget=budget)
