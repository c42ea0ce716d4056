"""Devices: the catalogue loads, each figure has a source or is an estimate, mistakes name file and key."""

import os
from pathlib import Path

import pytest

from modelport.targets import host, registry
from modelport.targets.device import Device, read_devices
from modelport.targets.errors import UsageError

DEVICES = sorted((Path(registry.__file__).parent / "devices").glob("*.toml"))

BOARD = """
[my-board]
title = "My board"
class = "android"
memory_bytes = 1000
usable_fraction = 0.5
bandwidth = 1e9
peak = { float32 = 1e10 }
sources = ["its data sheet"]
estimates = ["bandwidth"]
"""


def board(tmp_path: Path, text: str = BOARD) -> str:
    path = tmp_path / "boards.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("path", DEVICES, ids=lambda path: path.stem)
def test_every_device_file_loads_with_sane_figures(path):
    for device in read_devices(path):
        assert device.usable_bytes is None or 0 < device.usable_bytes <= device.memory_bytes
        assert device.bandwidth is None or 1e8 <= device.bandwidth <= 1e14
        assert all(1e7 <= rate <= 1e17 for rate in device.peak.values())
        # Narrower integers are never slower than float32 on any device there is.
        assert device.peak.get("int8", 1e99) >= device.peak.get("float32", 0)


def test_the_catalogue_covers_every_class_that_a_target_names():
    known = {device.device_class for device in registry.devices()}
    for target in registry.targets():
        assert set(target.device_classes) <= known, target.name


def test_the_default_phone_has_rates_so_that_its_latency_can_be_predicted():
    pixel = registry.find_device("pixel8")
    assert pixel.rate("float32").estimate
    assert pixel.rate("int8").ops == pytest.approx(4 * pixel.rate("float32").ops, rel=0.01)
    assert "X3 2.91 GHz" in pixel.note


def test_a_device_of_ones_own_is_read_whole(tmp_path):
    device = read_devices(board(tmp_path))[0]
    assert (device.name, device.usable_bytes, device.bandwidth) == ("my-board", 500, 1e9)
    assert device.is_estimate("bandwidth")
    assert device.is_estimate("usable_fraction")
    assert not device.is_estimate("peak.float32")


def test_half_precision_without_a_rate_is_computed_in_float32_and_int8_is_not_known(tmp_path):
    device = read_devices(board(tmp_path))[0]
    assert device.rate("float16").dtype == "float32"
    assert device.rate("float16").estimate
    assert device.rate("int8") is None


def test_a_whole_group_of_rates_can_be_an_estimate():
    device = Device("d", "D", "c", peak={"int8": 1.0}, estimates=frozenset({"peak"}))
    assert device.is_estimate("peak.int8")


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("bandwidth = 1e9", "bandwidth = 0", "my-board.bandwidth", "above 0"),
        ("bandwidth = 1e9", 'bandwidth = "1 GB/s"', "my-board.bandwidth", "without a unit"),
        ("bandwidth = 1e9", "bandwith = 1e9", "my-board.bandwith", "Did you mean bandwidth"),
        ("memory_bytes = 1000", "memory_bytes = inf", "my-board.memory_bytes", "finite"),
        ("memory_bytes = 1000", "memory_bytes = 10.5", "my-board.memory_bytes", "whole"),
        ("usable_fraction = 0.5", "usable_fraction = 1.2", "my-board.usable_fraction", "at most 1"),
        ("float32 = 1e10", "fp32 = 1e10", "my-board.peak.fp32", "not a dtype"),
        ("float32 = 1e10", "float32 = -1", "my-board.peak.float32", "above 0"),
        ("peak = { float32 = 1e10 }", "peak = 3", "my-board.peak", "not a table"),
        ('estimates = ["bandwidth"]', 'estimates = ["flash_bytes"]', "my-board.estimates", "no figure"),
        ('sources = ["its data sheet"]', "", "my-board.sources", "memory_bytes, peak.float32"),
        ('class = "android"', "", "my-board.class", "missing"),
        ("[my-board]", "[My-Board]", "My-Board", "not a name"),
        ('title = "My board"', 'title = "My board"\naliases = ["my-board"]', "my-board.aliases", "repeats"),
    ],
)
def test_a_mistake_in_a_device_file_names_file_and_key(tmp_path, old, new, key, words):
    assert old in BOARD
    path = board(tmp_path, BOARD.replace(old, new, 1))
    # `bandwith` leaves an estimate of a figure that is not there; only the unknown key is of interest.
    with pytest.raises(UsageError) as caught:
        read_devices(path)
    assert caught.value.where == f"{path}: {key}"
    assert words in str(caught.value)


def test_a_file_without_a_device_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="there is no device"):
        read_devices(board(tmp_path, ""))


def test_a_key_outside_of_any_device_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="not a table"):
        read_devices(board(tmp_path, 'title = "x"\n' + BOARD))


def test_this_host_has_memory_and_only_estimated_rates():
    here = host.this_host()
    assert here.memory_bytes > 1 << 28
    assert here.device_class == "host"
    assert here.is_estimate("peak.float32")
    assert here.is_estimate("bandwidth")
    assert here.rate("float32").ops > 1e9


def test_this_host_counts_the_threads_that_are_asked_for_and_there():
    one, all_of_them = host.this_host(1), host.this_host(10_000)
    allowed = len(os.sched_getaffinity(0))
    assert all_of_them.threads == allowed
    assert all_of_them.bandwidth == allowed * one.bandwidth
    assert all_of_them.peak["float32"] == pytest.approx(allowed * one.peak["float32"], rel=0.5)


@pytest.mark.parametrize(
    ("flags", "vendor", "family", "float32", "int8"),
    [
        ("avx512f avx512_vnni fma", "GenuineIntel", "6", 64, 256),
        ("avx512f avx512_vnni fma", "AuthenticAMD", "25", 32, 128),
        ("avx512f avx512_vnni fma", "AuthenticAMD", "26", 64, 256),
        ("avx2 fma", "GenuineIntel", "6", 32, 64),
        ("avx2 fma avx_vnni", "GenuineIntel", "6", 32, 128),
        ("asimd asimddp", "", "", 16, 64),
        ("sse2", "GenuineIntel", "6", 8, 16),
    ],
)
def test_operations_per_cycle_follow_the_instruction_set(flags, vendor, family, float32, int8):
    rates = host.operations_per_cycle(frozenset(flags.split()), vendor, family)
    assert (rates["float32"], rates["int8"]) == (float32, int8)
