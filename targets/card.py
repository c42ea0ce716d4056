"""A deployment target as data: read one TOML card, check every value, reject unknown keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import Unsupported, UsageError
from .facts import DTYPE_BITS
from .tables import Table, check_name, did_you_mean, read_toml

CALIBRATION = ("none", "optional", "required")
"""Whether a scheme can, may or must look at the user's data."""

VERIFY = ("arrays", "language")
"""How an artifact is compared: its outputs on samples, or its log-probabilities on windows of text."""


@dataclass(frozen=True)
class QuantScheme:
    """One way to store and compute a model on a target."""

    name: str
    title: str
    weights: str
    """Dtype of the stored weight matrices, a key of `facts.DTYPE_BITS`."""
    weight_bits: float
    """Effective bits per weight of a matrix in the file, scales and zero points included."""
    activations: str
    """Dtype of the values between operators."""
    compute: str
    """Dtype that the kernels with weights multiply in: which of a device's peak rates counts."""
    calibration: str
    """One of `CALIBRATION`."""
    instead: str | None = None
    """Dtype that a language model's products fall back to on a device without a rate for `compute`."""
    min_cosine: float | None = None
    """Default floor for the cosine between the source's and the artifact's outputs; None: no floor."""
    resident_bits: float | None = None
    """Bits per matrix weight in memory while it runs, where the runtime expands it; None: as in the file."""
    embedding_bits: float | None = None
    """Bits per weight of embedding tables and language-model heads, where they are kept apart."""
    conv_bits: float | None = None
    """Bits per weight of convolutions (rank 3 and more), where the scheme leaves them out."""
    vector_bits: float = 32.0
    """Bits per element of biases, norms and other rank-1 weights."""
    kv: str = "float16"
    """Dtype of the KV cache of a language model."""
    group: int | None = None
    """Weights in a row that share a scale; None: a whole row or more."""
    aliases: tuple[str, ...] = ()
    """Other names of this scheme."""


@dataclass(frozen=True)
class Refusal:
    """Why a kind of source cannot go to a target, and the nearest pair that works."""

    reason: str
    nearest: str


@dataclass(frozen=True)
class Limits:
    """What the format or runtime itself can bear, whatever the device. Bytes; None: no such limit."""

    max_file_bytes: int | None = None
    max_memory_bytes: int | None = None
    file_limit_of: str = ""
    """Whose limit `max_file_bytes` is, for people; "": the format's."""
    prompt_bytes: int | None = None
    """Above this the store asks before it downloads over a mobile network; nothing is refused for it."""


@dataclass(frozen=True)
class Overhead:
    """What the runtime takes beyond weights and activations. All of it planning estimates."""

    memory_bytes: int = 0
    """Code, session and bookkeeping."""
    memory_bytes_per_op: int = 0
    """Bookkeeping for each operator."""
    memory_bytes_per_channel: int = 0
    """What kernels keep for each output channel of a convolution."""
    code_bytes: int = 0
    """The runtime's code in flash, on devices that run from it."""
    weight_copies: float = 0.0
    """Further copies of the weights (as a share of them) that the loader or prepacking keeps."""
    file_bytes: int = 0
    """Graph and metadata in the file."""
    file_bytes_per_op: int = 0
    """Graph and metadata in the file for each operator."""
    convert_memory_bytes: int = 0
    """What the converting frameworks take before any model is loaded."""
    convert_weight_copies: float = 0.0
    """Copies of the float32 weights that are alive at once while converting."""


@dataclass(frozen=True)
class Server:
    """How a runtime serves a language model, on one device or split over several."""

    memory_share: float
    """Share (0..1] of a device's memory that it takes for weights, activations and KV cache together."""
    batched_tokens: int
    """Positions of all sequences together that go through the model at once."""
    block_tokens: int = 1
    """Tokens that the KV cache grows by."""
    kernels_per_layer: int = 0
    """Kernels that one pass launches in each layer, all-reduces apart. An estimate."""


@dataclass(frozen=True)
class Target:
    """One place that a model can be deployed to."""

    name: str
    title: str
    aliases: tuple[str, ...]
    runtime: str
    """File name (without .py) of the exporter in `exporters/runtimes/`, or the name of a plug-in's."""
    format: str
    """Format of the artifact: which runner and auditor open it."""
    artifact: str
    """Name of the artifact in the output folder."""
    extra: str
    """The part of modelport to install, as in modelport[android]; "" when none is needed."""
    default_quant: str
    default_device: str
    device_classes: tuple[str, ...]
    sources: tuple[str, ...]
    """Kinds of source (`sources.source.KINDS`) that it takes."""
    refused: Mapping[str, Refusal]
    schemes: Mapping[str, QuantScheme]
    limits: Limits = field(default_factory=Limits)
    overhead: Overhead = field(default_factory=Overhead)
    overhead_on: Mapping[str, Overhead] = field(default_factory=dict)
    """What holds instead of `overhead` on devices of a class, by class."""
    server: Server | None = None
    """None where the runtime serves nobody, or one user on one device."""
    lacks: tuple[str, ...] = ()
    """Parts of operators' names, in small letters, that the runtime has no kernel for in any of its schemes."""
    steps: tuple[str, ...] = ("export",)
    """Functions of the runtime that convert, in order, each in a worker of its own; the last one writes."""
    verify: str = "arrays"
    """One of `VERIFY`."""
    runner: str = ""
    """The module of `verification/runners/` that runs the artifact; "": the one called as the format."""
    sizes: str = ""
    """The runtime's function that tells exact file sizes before anything is converted; "": it has none."""
    path: str = ""
    """The card that this was read from."""

    def scheme(self, name: str) -> QuantScheme:
        """The scheme called `name`; UsageError with the closest names when there is none."""
        for scheme in self.schemes.values():
            if name in (scheme.name, *scheme.aliases):
                return scheme
        raise UsageError(
            f"target '{self.name}' has no scheme '{name}'",
            where="--quant",
            mend=f"{did_you_mean(name, self.schemes)}It has {', '.join(self.schemes)}",
        )

    def overhead_for(self, device_class: str) -> Overhead:
        """What the runtime takes on devices of a class."""
        return self.overhead_on.get(device_class, self.overhead)

    def refusal(self, kind: str) -> Refusal | None:
        """None when the target takes this kind of source; otherwise why not, and what works instead."""
        if kind in self.sources:
            return None
        return self.refused.get(kind) or Refusal(
            f"'{self.name}' has no road from this kind of source", f"it takes {', '.join(self.sources)}"
        )

    def require_source(self, kind: str) -> None:
        """Raise Unsupported, with the reason and the nearest pair that works, unless `kind` is taken."""
        refusal = self.refusal(kind)
        if refusal is not None:
            raise Unsupported(
                f"{kind} -> {self.name} is not supported: {refusal.reason}",
                mend=f"Nearest: {refusal.nearest}",
            )


def read_card(path: Path | str) -> Target:
    """The target that the TOML card at `path` describes.

    Raises:
        UsageError: the file cannot be read, or a key is missing, unknown or has a wrong value; `where`
            names file and key.
    """
    file = str(path)
    table = Table(read_toml(Path(path)), file)
    target = Target(
        name=table.name("name"),
        title=table.text("title"),
        aliases=tuple(check_name(alias, table.where("aliases")) for alias in table.texts("aliases", ())),
        runtime=_module(table, "runtime"),
        format=table.name("format"),
        artifact=_file_name(table),
        extra=table.text("extra", ""),
        default_quant=table.text("default_quant"),
        default_device=table.text("default_device"),
        device_classes=table.texts("device_classes"),
        sources=table.texts("sources"),
        refused=_read_refused(table.table("refused")),
        schemes=_read_schemes(table.table("quant")),
        limits=_read_limits(table.table("limits")),
        overhead=_read_overhead(table.table("overhead")),
        overhead_on=_read_overheads(table.table("overhead_on")),
        server=_read_server(table.table("server")) if "server" in table.keys() else None,  # noqa: SIM118
        lacks=table.texts("lacks", ()),
        steps=_steps(table),
        verify=table.text("verify", "arrays", choices=VERIFY),
        runner=_module(table, "runner", ""),
        sizes=table.text("sizes", ""),
        path=file,
    )
    table.done()
    _check(target, table)
    return target


def _module(table: Table, key: str, default: str | None = None) -> str:
    # The name becomes part of a module path, so it must be one plain identifier.
    name = table.text(key) if default is None else table.text(key, default)
    if name != default and not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise table.fail(key, f"{name!r} is not a module name", 'Write it like "litert"')
    return name


def _steps(table: Table) -> tuple[str, ...]:
    names = table.texts("steps", ("export",))
    if not names or not all(name.isidentifier() for name in names):
        raise table.fail("steps", f"{list(names)!r} are not function names", 'Write it like ["export"]')
    return names


def _file_name(table: Table) -> str:
    name = table.text("artifact")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise table.fail("artifact", f"{name!r} is not a plain file name", 'Write it like "model.onnx"')
    return name


def _read_scheme(name: str, table: Table) -> QuantScheme:
    scheme = QuantScheme(
        name=check_name(name, table.where("")[:-1]),
        title=table.text("title"),
        weights=table.text("weights", choices=DTYPE_BITS),
        weight_bits=table.number("weight_bits", high=64),
        activations=table.text("activations", choices=DTYPE_BITS),
        compute=table.text("compute", choices=DTYPE_BITS),
        calibration=table.text("calibration", choices=CALIBRATION),
        min_cosine=table.number("min_cosine", None, high=1),
        resident_bits=table.number("resident_bits", None, high=128),
        embedding_bits=table.number("embedding_bits", None, high=64),
        conv_bits=table.number("conv_bits", None, high=64),
        vector_bits=table.number("vector_bits", 32.0, high=64),
        kv=table.text("kv", "float16", choices=DTYPE_BITS),
        group=table.count("group", None),
        instead=table.text("instead", choices=DTYPE_BITS) if "instead" in table.keys() else None,  # noqa: SIM118
        aliases=tuple(check_name(alias, table.where("aliases")) for alias in table.texts("aliases", ())),
    )
    table.done()
    return scheme


def _read_schemes(table: Table) -> dict[str, QuantScheme]:
    return {name: _read_scheme(name, table.table(name)) for name in table.keys()}  # noqa: SIM118


def _read_refused(table: Table) -> dict[str, Refusal]:
    refused = {}
    for kind in table.keys():  # noqa: SIM118
        entry = table.table(kind)
        refused[kind] = Refusal(entry.text("reason"), entry.text("nearest"))
        entry.done()
    return refused


def _read_limits(table: Table) -> Limits:
    limits = Limits(
        table.count("max_file_bytes", None),
        table.count("max_memory_bytes", None),
        table.text("file_limit_of", ""),
        table.count("prompt_bytes", None),
    )
    table.done()
    return limits


def _read_overhead(table: Table) -> Overhead:
    overhead = Overhead(
        memory_bytes=table.count("memory_bytes", 0),
        memory_bytes_per_op=table.count("memory_bytes_per_op", 0),
        memory_bytes_per_channel=table.count("memory_bytes_per_channel", 0),
        code_bytes=table.count("code_bytes", 0),
        weight_copies=table.number("weight_copies", 0.0),
        file_bytes=table.count("file_bytes", 0),
        file_bytes_per_op=table.count("file_bytes_per_op", 0),
        convert_memory_bytes=table.count("convert_memory_bytes", 0),
        convert_weight_copies=table.number("convert_weight_copies", 0.0),
    )
    table.done()
    return overhead


def _read_overheads(table: Table) -> dict[str, Overhead]:
    return {name: _read_overhead(table.table(name)) for name in table.keys()}  # noqa: SIM118


def _read_server(table: Table) -> Server:
    server = Server(
        memory_share=table.number("memory_share", high=1),
        batched_tokens=table.count("batched_tokens"),
        block_tokens=table.count("block_tokens", 1),
        kernels_per_layer=table.count("kernels_per_layer", 0),
    )
    table.done()
    return server


def _check(target: Target, table: Table) -> None:
    """What no single key can tell: the defaults exist, and nothing is both taken and refused."""
    if not target.schemes:
        raise table.fail("quant", "there is no scheme", "Add a table [quant.NAME]")
    if target.default_quant not in target.schemes:
        known = ", ".join(target.schemes)
        raise table.fail(
            "default_quant", f"is '{target.default_quant}', which is no scheme", f"Schemes: {known}"
        )
    if not target.sources:
        raise table.fail("sources", "is empty", "Name at least one kind of source")
    if not target.device_classes:
        raise table.fail("device_classes", "is empty", "Name at least one class of device")
    for kind in target.sources:
        if kind in target.refused:
            raise table.fail(f"refused.{kind}", "the kind is in `sources` too", "Remove one of the two")
    names = [name for scheme in target.schemes.values() for name in (scheme.name, *scheme.aliases)]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise table.fail("quant", f"two schemes are called '{twice}'", "Rename one of the two")
    if target.name in target.aliases:
        raise table.fail("aliases", f"repeats the name '{target.name}'", "Remove it")
