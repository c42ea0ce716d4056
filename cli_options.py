"""The options of the command line, by what reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

COMMON = (
    click.option("--json", "as_json", is_flag=True, help="Print JSON for programs."),
    click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors."),
    click.option("--debug", is_flag=True, help="Show tracebacks and the worker's log."),
)
CHOICE = (
    click.option(
        "--target", "-t", required=True, metavar="T", help="Where it shall run: a name or a TOML card."
    ),
    click.option("--quant", metavar="Q", help="Quantization scheme of the target, as in int8 or fp16."),
    click.option("--device", metavar="D", help="The device to judge for: a name or a TOML file."),
    click.option("--batch", type=int, default=1, show_default=True, help="Inferences at once."),
    click.option("--context", type=int, help="Tokens of context of a language model."),
    click.option(
        "--tensor-parallel", type=int, metavar="N", help="GPUs that a served language model is split over."
    ),
    click.option("--sequence", type=int, help="Tokens per sample where the artifact has a fixed length."),
    click.option("--signature", metavar="NAME", help="Signature of a SavedModel that has several."),
    click.option("--kv-type", metavar="K", help="KV cache of a language model: f16, q8_0 or q4_0."),
    click.option(
        "--compute-units", metavar="U", help="Core ML: all, cpuAndNeuralEngine, cpuAndGPU or cpuOnly."
    ),
)


GGUF = (
    click.option(
        "--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="An importance matrix made before."
    ),
    click.option("--via", metavar="T", help="f16: round bfloat16 weights to float16 before quantizing."),
    click.option("--two-step", is_flag=True, help="Write a 16-bit file first and let llama.cpp quantize it."),
    click.option(
        "--requantize", is_flag=True, help="Quantize a GGUF again whose weights are low-bit already."
    ),
    click.option("--prompt", metavar="TEXT", help="A text for the finished language model to continue."),
)
COREML = (
    click.option(
        "--deployment-target", metavar="OS", help="Oldest iOS of a Core ML package: iOS15 to iOS18."
    ),
    click.option(
        "--shapes",
        metavar="S",
        help="Free shapes: ids=1x1..512 or image=1x3x224x224|1x3x256x256 (Core ML), "
        "ids=1x1..1x128..8x512 (TensorRT: least, tuned for, greatest).",
    ),
    click.option("--image-input", metavar="P", help="Core ML: take an image, as in scale=0.0039,bias=0:0:0."),
    click.option(
        "--labels", type=click.Path(path_type=Path), metavar="FILE", help="Class labels, one a line."
    ),
    click.option("--metadata", multiple=True, metavar="K=V", help="author, description, licence or version."),
)
TENSORRT = (
    click.option("--workspace", metavar="SIZE", help="TensorRT: most scratch memory of a layer, as in 2G."),
    click.option("--timing-cache", metavar="FILE", help="TensorRT: keep measured kernels between builds."),
    click.option("--version-compatible", is_flag=True, help="TensorRT: an engine for later versions too."),
    click.option(
        "--hardware-compatible", metavar="L", help="TensorRT: same-compute-capability or ampere-plus."
    ),
    click.option(
        "--builder-level", metavar="N", type=int, help="TensorRT: 0 builds fastest, 5 searches most."
    ),
)
LANGUAGE = (
    click.option(
        "--chat-template",
        is_flag=True,
        help='Calibrate on "messages" of a .jsonl in the model\'s own chat format.',
    ),
    click.option(
        "--resume",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="vLLM: keep finished layers here, and go on from them after a kill.",
    ),
)
CONVERSION = (
    click.option(
        "--calibration",
        metavar="DATA",
        help=".npz, .npy, image folder, .jsonl, .txt, module:function, random.",
    ),
    click.option("--out", "-o", type=click.Path(path_type=Path), metavar="DIR", help="Output folder."),
    click.option(
        "--layout", type=click.Choice(["nchw", "nhwc"]), help="Axis order of images; default: the source's."
    ),
    click.option("--observer", metavar="O", help="Activation ranges: minmax, percentile, entropy or mse."),
    click.option("--opset", type=int, help="ONNX operator set."),
    click.option("--samples", type=int, help="Most samples to use: 320, or 80 windows of text."),
    click.option("--held-out", type=int, help="Samples kept for verification; default: a fifth."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of the split."),
    click.option(
        "--threads", type=int, help="Threads to measure with: 1, and every CPU for a language model."
    ),
    click.option(
        "--budget", metavar="B", help="Loss allowed: cosine=0.99,sqnr=20,top1=0.5 (points),kl=0.05,ppl=2 (%)."
    ),
    click.option("--memory-limit", metavar="SIZE", help="Most memory of a worker process, as in 8G."),
    click.option("--timeout", type=float, metavar="SECONDS", help="Most time of a worker process."),
    click.option("--overwrite", is_flag=True, help="Replace an output folder that modelport made."),
    click.option("--force", is_flag=True, help="Convert although it does not fit."),
    click.option("--keep", is_flag=True, help="Publish although the fidelity is below the budget."),
    click.option("--no-samples", is_flag=True, help="Publish no held-out samples beside the artifact."),
)
STABLEHLO = (
    click.option("--mesh", metavar="M", help="StableHLO: devices to split over, as in data=4,model=2."),
)
MICRO = (
    click.option(
        "--offline-plan", is_flag=True, help="Microcontrollers: write the arena's plan into the model."
    ),
    click.option("--fit", is_flag=True, help="Microcontrollers: look for what makes it fit, step by step."),
)
OF_RUNTIMES = (*GGUF, *LANGUAGE, *COREML, *TENSORRT, *STABLEHLO, *MICRO)
"""What only some runtimes read (`exporters.plan.READ_BY`)."""


def taking(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """A decorator that gives a command these options, in this order."""

    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply
