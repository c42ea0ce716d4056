"""The command line: options and exit codes. No logic: every command is one call of the Python API."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from . import __version__
from .targets.errors import DoesNotFit, ModelportError

EPILOG = (
    "Exit codes: 0 done, 2 wrong usage, 3 does not fit, 4 source unreadable, 5 unsupported pair or operator, "
    "6 conversion failed, 7 fidelity below the budget, 130 interrupted."
)
Command = TypeVar("Command", bound=Callable[..., Any])

_COMMON = (
    click.option("--json", "as_json", is_flag=True, help="Print JSON for programs."),
    click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors."),
    click.option("--debug", is_flag=True, help="Show tracebacks and the worker's log."),
)
_CHOICE = (
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


_GGUF = (
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
_COREML = (
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
    click.option("--mesh", metavar="M", help="StableHLO: devices to split over, as in data=4,model=2."),
)
_TENSORRT = (
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
_LANGUAGE = (
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


def _options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


@click.group(epilog=EPILOG)
@click.version_option(__version__, prog_name="modelport")
def modelport() -> None:
    """One trained model in, the artifact that a deployment target runs out: checked before, verified after."""


@modelport.command(epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@_options(*_CHOICE)
@click.option(
    "--calibration", metavar="DATA", help=".npz, .npy, image folder, .jsonl, .txt, module:function, random."
)
@click.option("--out", "-o", type=click.Path(path_type=Path), metavar="DIR", help="Output folder.")
@click.option(
    "--layout", type=click.Choice(["nchw", "nhwc"]), help="Axis order of images; default: the source's."
)
@click.option("--observer", metavar="O", help="Activation ranges: minmax, percentile, entropy or mse.")
@click.option("--opset", type=int, help="ONNX operator set.")
@click.option("--samples", type=int, help="Most samples to use: 320, or 80 windows of text.")
@click.option("--held-out", type=int, help="Samples kept for verification; default: a fifth.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the split.")
@click.option("--threads", type=int, help="Threads to measure with: 1, and every CPU for a language model.")
@click.option(
    "--budget", metavar="B", help="Loss allowed: cosine=0.99,sqnr=20,top1=0.5 (points),kl=0.05,ppl=2 (%)."
)
@click.option("--memory-limit", metavar="SIZE", help="Most memory of a worker process, as in 8G.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Most time of a worker process.")
@click.option("--overwrite", is_flag=True, help="Replace an output folder that modelport made.")
@click.option("--force", is_flag=True, help="Convert although it does not fit.")
@click.option("--offline-plan", is_flag=True, help="Microcontrollers: write the arena's plan into the model.")
@click.option("--fit", is_flag=True, help="Microcontrollers: look for what makes it fit, step by step.")
@click.option("--keep", is_flag=True, help="Publish although the fidelity is below the budget.")
@click.option("--no-samples", is_flag=True, help="Publish no held-out samples beside the artifact.")
@_options(*_GGUF, *_LANGUAGE, *_COREML, *_TENSORRT, *_COMMON)
def convert(
    *,
    as_json: bool,
    quiet: bool,
    debug: bool,
    memory_limit: str | None,
    workspace: str | None,
    no_samples: bool,
    **options: Any,
) -> None:
    """Convert MODEL to the artifact that a target runs, check it before and verify it after."""

    def work() -> None:
        from . import pipeline
        from .request import Request, parse_size

        limit = parse_size(memory_limit) if memory_limit else None
        if workspace:
            options["workspace"] = parse_size(workspace, "--workspace")
        command = ("convert", *sys.argv[1 + (sys.argv[1:2] == ["convert"]) :])
        request = Request(memory_limit=limit, keep_samples=not no_samples, command=command, **options)
        if as_json or quiet:
            done = pipeline.convert(request, _print_event if as_json else None)
            if as_json:
                _print_json({"event": "done", "out": str(done.out), "manifest": done.manifest})
            return
        from .reports import terminal

        with terminal.Bars(terminal.errors()) as bars:
            done = pipeline.convert(request, bars)
        terminal.summary(terminal.output(), done.manifest, str(done.out))

    _guard(work, as_json=as_json, debug=debug)


@modelport.command(epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@_options(*_CHOICE, *_COMMON)
def check(*, as_json: bool, quiet: bool, debug: bool, **options: Any) -> None:
    """Tell whether MODEL fits a device and how fast it will be, from its headers alone."""

    def work() -> int:
        from . import pipeline
        from .reports import listings
        from .request import Request

        checked = pipeline.check(Request(**options))
        if as_json:
            _print_json(listings.check_json(checked))
        elif not quiet:
            listings.check(checked)
        return 3 if checked.verdict.verdict == "does not fit" else 0

    _guard(work, as_json=as_json, debug=debug)


@modelport.command(epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--sequence", type=int, help="Tokens per sample to assume.")
@click.option("--signature", metavar="NAME", help="Signature of a SavedModel that has several.")
@_options(*_COMMON)
def inspect(
    model: Path, sequence: int | None, signature: str | None, *, as_json: bool, quiet: bool, debug: bool
) -> None:
    """Show what MODEL is: inputs, outputs, weights by dtype, operators and their operations."""

    def work() -> None:
        from . import inspect as inspected
        from .reports import listings

        facts = inspected(model, sequence=sequence, signature=signature)
        if as_json:
            _print_json(listings.facts_json(facts))
        elif not quiet:
            listings.facts(facts)

    _guard(work, as_json=as_json, debug=debug)


@modelport.command(epilog=EPILOG)
@click.argument("name", required=False)
@click.option("--matrix", is_flag=True, help="Show which source goes to which target.")
@_options(*_COMMON)
def targets(name: str | None, matrix: bool, *, as_json: bool, quiet: bool, debug: bool) -> None:
    """List the targets, plug-ins' included, or the schemes of the one called NAME."""

    def work() -> None:
        from .reports import listings
        from .targets import registry

        found = (registry.find_target(name),) if name else registry.targets()
        if as_json:
            _print_json([listings.target_json(target) for target in found])
        elif quiet:
            pass
        elif matrix:
            listings.matrix(found)
        elif name:
            listings.target(found[0])
        else:
            listings.targets(found)

    _guard(work, as_json=as_json, debug=debug)


@modelport.command(epilog=EPILOG)
@click.argument("name", required=False)
@_options(*_COMMON)
def devices(name: str | None, *, as_json: bool, quiet: bool, debug: bool) -> None:
    """List the devices of the catalogue, or every figure of the one called NAME."""

    def work() -> None:
        from .reports import listings
        from .targets import registry

        found = (registry.find_device(name),) if name else registry.devices()
        if as_json:
            _print_json([listings.device_json(device) for device in found])
        elif quiet:
            pass
        elif name:
            listings.device(found[0])
        else:
            listings.devices(found)

    _guard(work, as_json=as_json, debug=debug)


@modelport.command(epilog=EPILOG)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--source", type=click.Path(path_type=Path), help="Run this source again too.")
@click.option("--budget", metavar="B", help="Loss allowed, as in cosine=0.99.")
@_options(*_COMMON)
def verify(
    folder: Path, source: Path | None, budget: str | None, *, as_json: bool, quiet: bool, debug: bool
) -> None:
    """Check the hashes of a published FOLDER and run its artifact again on the samples kept in it."""

    def work() -> None:
        from . import recheck
        from .reports import terminal

        bars = None if as_json or quiet else terminal.Bars(terminal.errors())
        if bars is None:
            done = recheck.verify(folder, source=source, budget=budget)
        else:
            with bars:
                done = recheck.verify(folder, source=source, budget=budget, on_progress=bars)
        if as_json:
            _print_json(done)
        elif not quiet:
            terminal.verified(terminal.output(), done)

    _guard(work, as_json=as_json, debug=debug)


@modelport.command(epilog=EPILOG)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--rebuild", is_flag=True, help="Build anew what was finished before, from what was kept.")
@_options(*_COMMON)
def finish(bundle: Path, rebuild: bool, *, as_json: bool, quiet: bool, debug: bool) -> None:
    """Complete a BUNDLE on the machine that its manifest waits for."""

    def work() -> None:
        from . import recheck

        done = recheck.finish(bundle, rebuild=rebuild)
        if as_json:
            _print_json(done)
        elif not quiet:
            click.echo(f"{bundle} is {done['state']}: {done['artifact']}")

    _guard(work, as_json=as_json, debug=debug)


@modelport.command(epilog=EPILOG)
@click.argument("engine", required=False, type=click.Path(path_type=Path))
@_options(*_COMMON)
def doctor(engine: Path | None, *, as_json: bool, quiet: bool, debug: bool) -> None:
    """Show this machine and which parts of modelport are installed, or whether a TensorRT ENGINE loads here.

    An engine that does not load gives exit code 5.
    """

    def work() -> int:
        if engine is not None:
            return _diagnose(engine, as_json=as_json, quiet=quiet)
        from .reports import machine

        found = machine.examine()
        if as_json:
            _print_json(found)
        elif not quiet:
            machine.show(found)
        return 0

    _guard(work, as_json=as_json, debug=debug)


def _diagnose(path: Path, *, as_json: bool, quiet: bool) -> int:
    from .reports import engine

    found = engine.examine(path)
    if as_json:
        _print_json(found)
    elif not quiet:
        engine.show(found)
    return 5 if found["loads"] == "no" else 0


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, allow_nan=False))


def _print_event(stage: str, done: int, total: int) -> None:
    _print_json({"event": "progress", "stage": stage, "done": done, "total": total})


def _guard(work: Callable[[], int | None], *, as_json: bool, debug: bool) -> None:
    """Run `work`; an error of ours becomes its message and exit code, and no traceback without --debug."""
    try:
        sys.exit(work() or 0)
    except ModelportError as error:
        if isinstance(error, DoesNotFit) and error.check is not None and not as_json:
            from .reports import listings

            listings.check(error.check)
        _print_error(error.exit_code, {"fact": error.fact, "where": error.where, "mend": error.mend}, as_json)
        if debug:
            click.echo(getattr(error, "log", ""), err=True)
            raise
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _print_error(130, {"fact": "interrupted; nothing was published", "where": "", "mend": ""}, as_json)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            _report_bug(error, as_json=as_json, debug=debug)
        # The reader of our output has gone, or its disk is full; what was published stays.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _print_error(
            2, {"fact": f"cannot write the output: {error.strerror}", "where": "", "mend": ""}, False
        )
        sys.exit(2)
    except Exception as error:
        _report_bug(error, as_json=as_json, debug=debug)


def _report_bug(error: Exception, *, as_json: bool, debug: bool) -> NoReturn:
    if debug:
        raise error
    fact = f"a bug of modelport: {type(error).__name__}: {error}"
    _print_error(6, {"fact": fact, "where": "", "mend": "Run it again with --debug and report it"}, as_json)
    sys.exit(6)


def _print_error(code: int, parts: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        _print_json({"event": "error", "exit_code": code, **parts})
        return
    # Names out of a model may hold escape sequences, which a terminal would obey.
    parts = {
        key: "".join(c if c.isprintable() else repr(c)[1:-1] for c in part) for key, part in parts.items()
    }
    first = f"{parts['where']}: {parts['fact']}" if parts["where"] else parts["fact"]
    click.echo(click.style("error: ", fg="red", bold=True) + first, err=True)
    if parts["mend"]:
        click.echo(f"  {parts['mend']}", err=True)


def main() -> None:
    """The `modelport` command."""
    modelport(prog_name="modelport")


def convert_main() -> None:
    """The `convert` command: `modelport convert` by itself."""
    convert(prog_name="convert")
