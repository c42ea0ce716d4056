"""Export a torch program to an ONNX file of operator set 18, which every ONNX Runtime Web reads."""

from pathlib import Path

from modelport.exporters.job import Job, Outcome, Port, Progress

REQUIRES = ("torch", "onnx", "onnxscript")


def export(job: Job, progress: Progress) -> Outcome:
    """Write model.onnx; inputs and outputs keep the program's names."""
    import torch

    progress("export for the browser", 0, 1)
    program = torch.export.load(job.source_path)
    exported = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
    exported.save(str(Path(job.staging) / "model.onnx"), external_data=False)
    graph = exported.model.graph
    inputs = tuple(Port(str(value.name), str(value.name)) for value in graph.inputs)
    outputs = tuple(Port(f"output_{index}", str(value.name)) for index, value in enumerate(graph.outputs))
    state = "awaiting a browser" if job.quant == "bundle" else "done"
    return Outcome(("model.onnx",), inputs, outputs, ("written by a plug-in",), {"state": state})


def finish(job: Job, progress: Progress) -> Outcome:
    """Compile what the bundle holds: here, the graph as ONNX Runtime optimises it on this machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(Path(job.staging) / "optimized.onnx")
    onnxruntime.InferenceSession(job.options["artifact"], options, providers=["CPUExecutionProvider"])
    return Outcome(files=("optimized.onnx",), notes=("finished by a plug-in",))
