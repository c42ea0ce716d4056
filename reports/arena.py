"""What a microcontroller has to give for the written model, counted from the file: the manifest's `arena`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..targets.device import Device
from . import figures


def entry(device: Device, counted: Mapping[str, Any] | None, file_bytes: int) -> dict[str, Any] | None:
    """The manifest's `arena`: what the exporter counted beside what the device has; None without either.

    `headroom_bytes` is what the arena leaves of the RAM that one program can have, `flash_headroom_bytes` what
    model and code leave of the flash; negative where they do not fit.
    """
    if counted is None or device.flash_bytes is None:
        return None
    flash = file_bytes + int(counted["code"])
    usable = device.usable_bytes
    return {
        **counted,
        "ram_bytes": usable,
        "headroom_bytes": None if usable is None else usable - int(counted["bytes"]),
        "flash": flash,
        "flash_bytes": device.flash_bytes,
        "flash_headroom_bytes": device.flash_bytes - flash,
    }


def missed(found: Mapping[str, Any] | None, device: Device) -> tuple[str, ...]:
    """In sentences what of the device is too small for the written model; empty where it fits."""
    if not found:
        return ()
    said = []
    peak = found["peak"]
    if found["headroom_bytes"] is not None and found["headroom_bytes"] < 0:
        said.append(
            f"the arena takes {figures.exact_size(found['bytes'])}, and {device.name} has"
            f" {figures.exact_size(found['ram_bytes'])} to give; the peak is in {peak['operator']}, while"
            f" {peak['tensor']} takes {figures.exact_size(peak['tensor_bytes'])}"
        )
    if found["flash_headroom_bytes"] < 0:
        said.append(
            f"model and code take {figures.size(found['flash'])}, and the flash of {device.name} is"
            f" {figures.size(found['flash_bytes'])}"
        )
    return tuple(said)


def rungs(found: Mapping[str, Any]) -> tuple[str, ...]:
    """What would help, as sentences: those that were not applied and save anything."""
    return tuple(
        f"{rung['name']}: an arena of about {figures.size(rung['arena_bytes'])},"
        f" {figures.size(rung['saves_bytes'])} less; costs {rung['costs']}"
        for rung in found["rungs"]
        if not rung["applied"] and rung["saves_bytes"]
    )


def lines(manifest: Mapping[str, Any]) -> list[str]:
    """Sentences for the report and the terminal; empty for a target without an arena."""
    found = manifest.get("arena")
    if not found:
        return []
    peak = found["peak"]
    spare = found["bytes"] - found["used"]
    # Below 16 bytes it is the arena's alignment.
    planning = f", {figures.exact_size(spare)} more while it plans" if spare >= 16 else ""
    said = [
        f"arena {figures.exact_size(found['bytes'])} ({figures.exact_size(found['head'])} of tensors,"
        f" {figures.exact_size(found['tail'])} of structures{planning}): {_left(found['headroom_bytes'])} of the RAM of"
        f" {manifest['device']}",
        f"its peak is in {peak['operator']}, while {peak['tensor']} takes"
        f" {figures.exact_size(peak['tensor_bytes'])}",
        f"flash about {figures.size(found['flash'])} with {figures.size(found['code'])} of code:"
        f" {_left(found['flash_headroom_bytes'])} of {figures.size(found['flash_bytes'])}",
    ]
    return [*said, *rungs(found)]


def _left(headroom: int | None) -> str:
    if headroom is None:
        return "an unknown share is left"
    return f"{figures.size(abs(headroom))} {'left' if headroom >= 0 else 'too much'}"
