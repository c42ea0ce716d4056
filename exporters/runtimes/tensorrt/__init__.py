"""TensorRT: the engine-ready ONNX graph, and the engine itself where TensorRT and a GPU are at hand."""

from __future__ import annotations

from pathlib import Path

from ....sources.loading import tensorflow_onnx
from ....targets.errors import MissingExtra, Unsupported
from ...job import Job, Outcome, Port, Progress

REQUIRES = ("onnx", "onnxruntime")
"""What every conversion of this runtime imports; torch sources need torch and onnxscript as well.

TensorRT is not among them: without it a bundle is written, and `finish` asks for it.
"""

REQUIRES_FOR = tensorflow_onnx.REQUIRES_FOR

ARTIFACT = "model.onnx"
ENGINE = "model.engine"


def export(job: Job, progress: Progress) -> Outcome:
    """Write model.onnx and build.toml, and build model.engine where that can be done here.

    Options read: "opset" (21; torch sources), "sequence", "observer" (8-bit schemes), "shapes", "workspace",
    "timing_cache", "version_compatible", "hardware_compatible", "builder_level". Raises what `graphs.make` and
    `options.read` raise; without TensorRT or a GPU, the state is "awaiting tensorrt".
    """
    from ...onnx import files, source
    from . import build_file, engine, graphs, options

    asked = options.read(job.options, job.quant)
    progress("make the float graph", 0, 1)
    model, route = source.float_model(job)
    inputs, outputs = files.io_names(model)
    wanted = engine.with_profiles(asked, model, job.options, Path(job.source_path))
    progress("make the float graph", 1, 1)
    progress(f"write the graph in {job.quant}", 0, 1)
    model, notes = graphs.make(job, model, progress)
    written = files.save(model, job.staging, ARTIFACT)
    (Path(job.staging) / build_file.NAME).write_text(build_file.to_toml(wanted), encoding="utf-8")
    progress(f"write the graph in {job.quant}", 1, 1)
    line = build_file.trtexec(wanted, ARTIFACT, ENGINE)
    ports = {
        "inputs": tuple(Port(name, name) for name in inputs),
        "outputs": tuple(Port(name, name) for name in outputs),
    }
    missing = engine.missing()
    if missing:
        return Outcome(
            files=(*written, build_file.NAME),
            **ports,
            notes=(route, *notes, f"The engine is not built here: {missing}."),
            data={
                "state": "awaiting tensorrt",
                "run": [("modelport, on the GPU host", "modelport finish ."), ("trtexec", line)],
                "beside": [build_file.NAME],
            },
        )
    label = engine.build(
        Path(job.staging), wanted, progress, Path(str(job.options.get("folder") or job.work))
    )
    return Outcome(
        files=(ENGINE, *written, build_file.NAME),
        **ports,
        notes=(route, *notes),
        data={"run": [("trtexec", line)], "beside": [*written, build_file.NAME], "portability": label},
    )


def finish(job: Job, progress: Progress) -> Outcome:
    """Build model.engine from the bundle in `job.staging`, on this machine's GPU.

    Needs numpy and TensorRT alone. Raises MissingExtra without TensorRT, Unsupported without a GPU, and
    ConversionFailed with TensorRT's own words where the graph cannot be built.
    """
    from . import build_file, engine

    if not engine.installed():
        raise MissingExtra(
            "building a TensorRT engine needs tensorrt, not installed here",
            mend="pip install 'modelport[server-gpu]', on the machine with the GPU",
        )
    missing = engine.missing()
    if missing:
        raise Unsupported(f"the engine cannot be built here: {missing}", mend="Finish it on the GPU host")
    folder = Path(job.staging)
    wanted = build_file.from_toml(folder / build_file.NAME)
    label = engine.build(folder, wanted, progress, Path(str(job.options.get("folder") or job.work)))
    return Outcome(
        files=(ENGINE,),
        notes=(f"Built on {label['gpu']} with TensorRT {label['tensorrt']}.",),
        data={"portability": label},
    )
