"""A device as data: memory, bandwidth and peak rates, each with its source or marked an estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UsageError
from .facts import DTYPE_BITS
from .tables import Table, check_name, did_you_mean, read_toml

FIGURES = (
    "memory_bytes",
    "usable_fraction",
    "app_memory",
    "bandwidth",
    "link_bandwidth",
    "sustained",
    "flash_bytes",
    "clock_hz",
    "launch_us",
)
"""Keys that carry a figure, beside `peak.DTYPE` and `engines.ENGINE.DTYPE`; each may be listed in `estimates`."""

WIDER = {"float16": "float32", "bfloat16": "float32"}
"""A dtype without a rate of its own is computed in this one, as runtimes do without half arithmetic."""


@dataclass(frozen=True)
class Rate:
    """Operations per second in one dtype that long runs keep up: the peak times `Device.sustained`."""

    ops: float
    dtype: str
    """The dtype whose rate this is: another one than asked for where the device has to widen."""
    estimate: bool


@dataclass(frozen=True)
class Device:
    """One machine that a model runs on. A figure that is not published is None or missing, never invented."""

    name: str
    title: str
    device_class: str
    aliases: tuple[str, ...] = ()
    memory_bytes: int | None = None
    """RAM, or the accelerator's own memory; None where the host decides."""
    usable_fraction: float = 1.0
    """Share (0..1] of the memory that one program can have; a planning assumption always."""
    bandwidth: float | None = None
    """Bytes per second between that memory and the compute units."""
    link_bandwidth: float | None = None
    """Bytes per second that one device sends to its neighbours, one way; vendors often print both ways together."""
    peak: Mapping[str, float] | None = None
    """Dense operations per second by dtype (a multiply-add is 2 operations)."""
    engines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The same apart for each engine of a device that has several, the preferred first; `peak` is the best of them."""
    app_memory: Mapping[str, int] = field(default_factory=dict)
    """Bytes that one app may have, by the version of the system that this begins with; empty: not published."""
    sustained: float = 1.0
    """Share (0..1] of those rates that long runs of good kernels keep up; a planning assumption always."""
    flash_bytes: int | None = None
    """Flash that holds program and weights, on devices that run weights in place."""
    clock_hz: float | None = None
    """Cycles per second of one core, on devices whose latency is counted in cycles."""
    core: str = ""
    """The core's name in `targets/cycles/`, as in "cortex-m4"; "" where latency is not counted in cycles."""
    launch_us: float | None = None
    """Microseconds between two operators: dispatch, kernel launch."""
    threads: int | None = None
    """CPU threads that the rates count; None when it is no matter of threads."""
    sources: tuple[str, ...] = ()
    """Where the figures come from."""
    estimates: frozenset[str] = frozenset()
    """Keys of figures that are not published by a source: computed, assumed or from memory."""
    note: str = ""
    path: str = ""
    """The file that this was read from."""

    @property
    def usable_bytes(self) -> int | None:
        """Memory that one program can have; None when the memory is not known.

        Where the system's own limits are known, the least of them: an app meets every version.
        """
        if self.app_memory:
            return min(self.app_memory.values())
        return None if self.memory_bytes is None else int(self.memory_bytes * self.usable_fraction)

    def is_estimate(self, key: str) -> bool:
        """True when the figure `key` (as in "bandwidth" or "peak.int8") is an estimate."""
        parts = key.split(".")
        if key in ("usable_fraction", "sustained"):
            return True
        if any(".".join(parts[: end + 1]) in self.estimates for end in range(len(parts))):
            return True
        # The best rate is that of the first engine which has one.
        first = next((name for name, rates in self.engines.items() if parts[-1] in rates), None)
        return parts[0] == "peak" and first is not None and self.is_estimate(f"engines.{first}.{parts[-1]}")

    def engine_rate(self, engine: str, dtype: str) -> Rate | None:
        """Sustained rate of one engine, in the next wider dtype where it has none of its own for `dtype`."""
        rates = self.engines.get(engine, {})
        wanted: str | None = dtype
        while wanted is not None and wanted not in rates:
            wanted = {"int8": "float16", **WIDER}.get(wanted)
        if wanted is None:
            return None
        estimate = wanted != dtype or self.is_estimate(f"engines.{engine}.{wanted}")
        return Rate(rates[wanted] * self.sustained, wanted, estimate)

    def rate(self, dtype: str) -> Rate | None:
        """Sustained rate for computing in `dtype`, widened as `WIDER` says; None when it is not known."""
        peak = self.peak or {}
        if dtype in peak:
            return Rate(peak[dtype] * self.sustained, dtype, self.is_estimate(f"peak.{dtype}"))
        wider = WIDER.get(dtype)
        return (
            Rate(peak[wider] * self.sustained, wider, True) if wider in peak and wider is not None else None
        )


def read_devices(path: Path | str) -> tuple[Device, ...]:
    """Every device of one TOML file, one table each.

    Raises:
        UsageError: the file cannot be read, or a key is missing, unknown or has a wrong value; `where`
            names file and key, as in "my-board.toml: my-board.bandwidth".
    """
    file = str(path)
    root = Table(read_toml(Path(path)), file)
    names = root.keys()
    if not names:
        raise UsageError("there is no device", where=file, mend="Add a table [NAME] with its figures")
    return tuple(_read_device(check_name(name, f"{file}: {name}"), root.table(name), file) for name in names)


def _read_device(name: str, table: Table, file: str) -> Device:
    engines = table.table("engines")
    rates = {engine: _read_peak(engines.table(engine)) for engine in engines.keys()}  # noqa: SIM118
    if rates and "peak" in table.keys():  # noqa: SIM118
        raise table.fail("peak", "stands beside `engines`, whose best rate it is", "Remove it")
    device = Device(
        name=name,
        title=table.text("title"),
        device_class=table.name("class"),
        aliases=tuple(check_name(alias, table.where("aliases")) for alias in table.texts("aliases", ())),
        memory_bytes=table.count("memory_bytes", None),
        usable_fraction=table.number("usable_fraction", 1.0, high=1),
        bandwidth=table.number("bandwidth", None),
        link_bandwidth=table.number("link_bandwidth", None),
        peak=_best(rates) if rates else _read_peak(table.table("peak")),
        engines=rates,
        app_memory=_read_app_memory(table.table("app_memory")),
        sustained=table.number("sustained", 1.0, high=1),
        flash_bytes=table.count("flash_bytes", None),
        clock_hz=table.number("clock_hz", None),
        core=table.text("core", ""),
        launch_us=table.number("launch_us", None),
        threads=table.count("threads", None),
        sources=table.texts("sources", ()),
        estimates=frozenset(table.texts("estimates", ())),
        note=table.text("note", ""),
        path=file,
    )
    table.done()
    if name in device.aliases:
        raise table.fail("aliases", f"repeats the name '{name}'", "Remove it")
    _check_estimates(device, table)
    return device


def _read_peak(table: Table) -> dict[str, float]:
    peak = {}
    for dtype in table.keys():  # noqa: SIM118
        if dtype not in DTYPE_BITS:
            hint = did_you_mean(dtype, DTYPE_BITS)
            raise table.fail(dtype, "is not a dtype", f"{hint}The dtypes are {', '.join(DTYPE_BITS)}")
        peak[dtype] = table.number(dtype)
    return peak


def _best(engines: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The rate of the first engine that has one, by dtype."""
    best: dict[str, float] = {}
    for rates in engines.values():
        best = {**rates, **best}
    return best


def _read_app_memory(table: Table) -> dict[str, int]:
    return {version: table.count(version) for version in table.keys()}  # noqa: SIM118


def _check_estimates(device: Device, table: Table) -> None:
    """Every estimate names a figure that is there, and a figure that is no estimate has a source."""
    given = {key for key in FIGURES if key in table.keys()}  # noqa: SIM118
    if device.engines:
        given |= {f"engines.{name}.{dtype}" for name, rates in device.engines.items() for dtype in rates}
    else:
        given |= {f"peak.{dtype}" for dtype in device.peak or {}}
    groups = {key.rpartition(".")[0] or key for key in given} | {key.partition(".")[0] for key in given}
    for key in sorted(device.estimates):
        if key not in given | groups:
            hint = did_you_mean(key, given | groups)
            raise table.fail(
                "estimates", f"'{key}' is no figure of this device", f"{hint}Figures: {sorted(given)}"
            )
    published = [key for key in sorted(given) if not device.is_estimate(key)]
    if published and not device.sources:
        raise table.fail(
            "sources",
            f"nothing says where {', '.join(published)} come from",
            "Name a source, or list them in `estimates`",
        )
