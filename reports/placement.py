"""What of the written program leaves the device's accelerator, by public documentation: the manifest's `engine`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..targets.device import Device
from ..targets.engines import find_engine
from ..verification.audit import Audit
from . import figures

KEYS = ("weight_bytes", "macs", "operators", "float_ops", "file_bytes")


def entry(device: Device, audited: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The manifest's `engine`: operators of the file that the device's first engine is known to leave to others.

    None for a device without engines, for one whose engine has no table, and for a file that was not counted.
    """
    engine = find_engine(next(iter(device.engines), ""))
    if engine is None or audited is None:
        return None
    counted = Audit(**{key: audited[key] for key in KEYS})
    found = engine.left_by(counted.operators)
    return {
        "name": engine.name,
        "title": engine.title,
        "leaves": [
            {"operator": kind, "count": counted.operators[kind], "says": leave.title, "source": leave.source}
            for kind, leave in sorted(found.items())
        ],
        "mac_share": counted.mac_share(engine.dtypes),
        "dtypes": list(engine.dtypes),
        "dtypes_source": engine.dtypes_source,
    }


def lines(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(sentence, page that says so) on where the program runs; empty where nothing is known."""
    engine = manifest.get("engine")
    if not engine:
        return []
    said = []
    for leave in engine["leaves"]:
        times = f" × {leave['count']}" if leave["count"] > 1 else ""
        said.append(
            (f"{leave['operator']}{times} leaves {engine['title']} ({leave['says']})", leave["source"])
        )
    share = engine["mac_share"]
    if share is not None and share < 1:
        computes = " and ".join(engine["dtypes"])
        said.append(
            (
                f"{figures.percent(1 - share)} of the multiply-accumulates leave it: it computes in {computes}",
                engine["dtypes_source"],
            )
        )
    return said or [(f"No operator is known to leave {engine['title']}; Core ML decides on the device", "")]
