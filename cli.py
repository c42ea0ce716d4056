"""The command line: commands and exit codes. No logic: every command is one call of the Python API."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from . import __version__
from .cli_options import CHOICE, COMMON, CONVERSION, OF_RUNTIMES, taking
from .targets.errors import DoesNotFit, ModelportError

EPILOG = (
    "Exit codes: 0 done, 2 wrong usage, 3 does not fit, 4 source unreadable, 5 unsupported pair or operator, "
    "6 conversion failed, 7 fidelity below the budget, 130 interrupted."
)


@click.group(epilog=EPILOG)
@click.version_option(__version__, prog_name="modelport")
def modelport() -> None:
    """One trained model in, the artifact that a deployment target runs out: checked before, verified after."""


@modelport.command(epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@taking(*CHOICE, *CONVERSION, *OF_RUNTIMES, *COMMON)
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
@taking(*CHOICE, *COMMON)
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
@taking(*COMMON)
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
@taking(*COMMON)
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
@taking(*COMMON)
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
@taking(*COMMON)
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
@taking(*COMMON)
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
@taking(*COMMON)
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
