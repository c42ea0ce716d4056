"""Targets, devices and exporters by name, alias, path or entry point."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .card import Target, read_card
from .device import Device, read_devices
from .errors import ModelportError, Unsupported, UsageError
from .host import this_host
from .tables import did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

HERE = Path(__file__).parent
TARGETS_GROUP = "modelport.targets"
"""Entry points of this group load to the path of a card, several paths, or a function that returns them."""
EXPORTERS_GROUP = "modelport.exporters"
"""Entry points of this group: the name is a runtime, the value the module with REQUIRES and export."""
RUNTIMES = f"{__package__.rpartition('.')[0]}.exporters.runtimes"

Named = TypeVar("Named", bound=Target | Device)
PathLike = str | os.PathLike[str]


def targets(extra: Iterable[PathLike] = ()) -> tuple[Target, ...]:
    """Every target: the built-in ones, those of plug-ins, and the cards at the paths in `extra`.

    Raises:
        UsageError: a card is wrong, a plug-in cannot be loaded, or two cards share a name or an alias.
    """
    found = [*_builtin_targets(), *_plugin_targets(), *(read_card(os.fspath(path)) for path in extra)]
    _index(found)
    return tuple(found)


def devices(extra: Iterable[PathLike] = ()) -> tuple[Device, ...]:
    """Every device: this host, the built-in catalogue, and the files at the paths in `extra`."""
    found = [this_host(), *_builtin_devices()]
    for path in extra:
        found.extend(read_devices(os.fspath(path)))
    _index(found)
    return tuple(found)


def devices_for(target: Target) -> tuple[Device, ...]:
    """The devices of the catalogue that a target runs on."""
    return tuple(device for device in devices() if device.device_class in target.device_classes)


def find_target(name_or_path: PathLike) -> Target:
    """The target with this name or alias, or the one whose TOML card lies at this path.

    Raises:
        UsageError: there is none (with the closest names), or the card is wrong.
    """
    text = os.fspath(name_or_path)
    if _is_path(text):
        return read_card(text)
    builtin = _index(_builtin_targets())
    if text in builtin:
        return builtin[text]
    # Plug-ins come second: looking for them takes longer than everything else here.
    known = _index(targets())
    if text in known:
        return known[text]
    names = dict.fromkeys(target.name for target in known.values())
    raise UsageError(
        f"there is no target '{text}'",
        where="--target",
        mend=f"{did_you_mean(text, known)}The targets are {', '.join(names)}: `modelport targets` tells more",
    )


def find_device(name_or_path: PathLike | None, target: Target | None = None) -> Device:
    """The device with this name or alias, or of the TOML file at this path.

    A file with several devices wants one of them named: `boards.toml#my-board`. None means the default
    device of `target`. With a target, the device must be of one of its classes.

    Raises:
        UsageError: there is none (with the closest names), the file is wrong, or the target does not run
            on such a device.
    """
    text = os.fspath(name_or_path) if name_or_path is not None else (target.default_device if target else "")
    device = _device_of_file(text) if _is_path(text) else _device_of_catalogue(text)
    if target is not None and device.device_class not in target.device_classes:
        fitting = [fits.name for fits in devices_for(target)]
        raise UsageError(
            f"'{device.name}' is of class '{device.device_class}', and target '{target.name}' runs on"
            f" {' or '.join(target.device_classes)}",
            where="--device",
            mend=f"Its devices are {', '.join(fitting) or 'not in the catalogue: give a file'}",
        )
    return device


def exporter_available(target: Target) -> bool:
    """True when this installation has an exporter file for the target's runtime. Imports none."""
    return _runtime_module(target.runtime) is not None


def runtime_module(runtime: str) -> str:
    """The dotted module of a runtime's exporter, built-in or of a plug-in; it is not imported.

    Raises:
        Unsupported: no exporter of that name is in this version or among the plug-ins.
    """
    module = _runtime_module(runtime)
    if module is None:
        ready = [target.name for target in _builtin_targets() if exporter_available(target)]
        raise Unsupported(
            f"this version has no exporter for the runtime '{runtime}'",
            mend=f"`modelport check` works all the same. Conversion works for {', '.join(ready) or 'none'};"
            f" a plug-in adds an exporter by an entry point in {EXPORTERS_GROUP}",
        )
    return module


def _runtime_module(runtime: str) -> str | None:
    builtin = f"{RUNTIMES}.{runtime}"
    if runtime.isidentifier() and importlib.util.find_spec(builtin) is not None:
        return builtin
    for entry in _entry_points(EXPORTERS_GROUP):
        if entry.name == runtime:
            return str(entry.module)
    return None


@cache
def _builtin_targets() -> tuple[Target, ...]:
    return tuple(read_card(path) for path in sorted((HERE / "catalog").glob("*.toml")))


@cache
def _builtin_devices() -> tuple[Device, ...]:
    files = sorted((HERE / "devices").glob("*.toml"))
    return tuple(device for path in files for device in read_devices(path))


def _plugin_targets() -> Iterator[Target]:
    for entry in _entry_points(TARGETS_GROUP):
        try:
            loaded = entry.load()
            paths = loaded() if callable(loaded) else loaded
            cards = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
            for path in cards:
                yield read_card(os.fspath(path))
        except ModelportError:
            raise
        except Exception as error:
            # Foreign code: whatever it raises becomes one clear error that names the plug-in.
            raise UsageError(
                f"the plug-in cannot be loaded: {type(error).__name__}: {error}",
                where=f"entry point {entry.name} = {entry.value} in {TARGETS_GROUP}",
                mend="Mend or uninstall that package",
            ) from error


def _entry_points(group: str) -> Sequence[EntryPoint]:
    from importlib.metadata import entry_points

    return tuple(entry_points(group=group))


def _index(found: Iterable[Named]) -> dict[str, Named]:
    """Everything by name and alias; UsageError naming both files when two share one."""
    index: dict[str, Named] = {}
    for item in found:
        for name in (item.name, *item.aliases):
            if name in index:
                raise _clash(name, item, index[name])
            index[name] = item
    return index


def _clash(name: str, item: Target | Device, other: Target | Device) -> UsageError:
    key = "name" if name == item.name else "aliases"
    return UsageError(
        f"'{name}' is a name of '{other.name}' in {other.path or 'this host'} too",
        where=f"{item.path or 'this host'}: {key}",
        mend="Rename one of the two",
    )


def _device_of_catalogue(name: str) -> Device:
    known = _index(devices())
    if name in known:
        return known[name]
    raise UsageError(
        f"there is no device '{name}'",
        where="--device",
        mend=f"{did_you_mean(name, known)}`modelport devices` lists all; a TOML file by path works too",
    )


def _device_of_file(text: str) -> Device:
    path, _, wanted = text.partition("#")
    found = read_devices(path)
    if not wanted and len(found) == 1:
        return found[0]
    for device in found:
        if wanted in (device.name, *device.aliases):
            return device
    names = [device.name for device in found]
    fact = f"has no device '{wanted}'" if wanted else f"has {len(found)} devices"
    raise UsageError(fact, where=path, mend=f"Choose one, as in {path}#{names[0]}; it has {', '.join(names)}")


def _is_path(text: str) -> bool:
    return "/" in text or os.sep in text or text.partition("#")[0].endswith(".toml")
