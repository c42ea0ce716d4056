"""Engines: what leaves the Neural Engine is known by every name, and rates follow where an operator runs."""

from pathlib import Path

import pytest

from modelport.targets import engines, latency, registry
from modelport.targets.device import read_devices
from modelport.targets.engines import find_engine, plain
from modelport.targets.errors import UsageError
from modelport.targets.facts import OpFact
from modelport.targets.feasibility import judge
from modelport.targets.placement import place

NEURAL = find_engine("neural-engine")
PHONE = registry.find_device("iphone15pro")
IOS = registry.find_target("ios")


def op(kind: str, op_class: str = "elementwise", flops: int = 1_000_000) -> OpFact:
    return OpFact("x", kind, op_class, flops, 100, 100)


@pytest.mark.parametrize(
    "kind",
    ["lstm", "LSTM", "aten.lstm.input", "GRU", "GatherV2", "aten.embedding.default", "aten.index_put_.default",
     "ScatterND", "OneHot", "ReduceProd", "aten.prod.dim_int", "logical_and", "LogicalAnd", "And", "aten.tril.default"],
)  # fmt: skip
def test_what_leaves_the_neural_engine_is_known_by_every_name(kind):
    leave = NEURAL.leaving(kind)
    assert leave is not None
    assert leave.source.startswith("https://")


@pytest.mark.parametrize(
    "kind", ["conv", "Conv", "aten.convolution.default", "where", "layer_norm", "MatMul", "relu"]
)
def test_what_runs_there_is_not_in_the_table(kind):
    assert NEURAL.leaving(kind) is None


def test_an_engine_without_a_table_leaves_nothing():
    assert find_engine("gpu") is None
    assert plain("aten.add_.Tensor") == "add"


def test_float16_runs_on_the_neural_engine_and_float32_on_the_gpu():
    assert place(op("Conv", "conv"), "float16", PHONE).engine == "neural-engine"
    assert place(op("Conv", "conv"), "float32", PHONE).engine == "gpu"
    assert place(op("Conv", "conv"), "float32", PHONE, engines.UNITS["cpuAndNeuralEngine"]).engine == "cpu"
    assert place(op("Conv", "conv"), "int8", PHONE, engines.UNITS["cpuOnly"]).rate.dtype == "float16"


def test_a_recurrent_layer_leaves_it_whatever_the_source_calls_it():
    where = place(op("MyLayer", "recurrent"), "float16", PHONE)
    assert (where.engine, where.left.operator) == ("gpu", "lstm")


def test_a_device_without_engines_is_not_placed():
    pixel = registry.find_device("pixel8")
    time = latency.graph_time([op("Conv", "conv")], IOS.scheme("fp16"), pixel, 1)
    assert time.placed is None


def test_the_rest_of_an_int8_program_computes_in_float16():
    time = latency.graph_time([op("Conv", "conv"), op("relu")], IOS.scheme("int8"), PHONE, 1)
    assert dict(time.placed.operators) == {"neural-engine": 2}
    assert time.dtypes == ("float16", "int8")


def test_compute_units_change_the_predicted_latency():
    big = [op("Conv", "conv", 10**10)]
    fast, slow = (
        latency.graph_time(big, IOS.scheme("fp16"), PHONE, 1, engines.UNITS[units]).roofline
        for units in ("all", "cpuOnly")
    )
    assert slow > 10 * fast


def test_the_verdict_lists_what_leaves_and_who_says_so(facts_with):
    verdict = judge(facts_with([op("Conv", "conv"), op("LSTM", "recurrent")]), IOS, PHONE, IOS.scheme("fp16"))
    (term,) = [term for term in verdict.terms if term.name == "leave the Neural Engine"]
    assert (term.value, term.unit) == (1, "operators")
    assert term.formula == "LSTM: hollance's notes"


def test_one_app_has_the_least_of_what_system_versions_give():
    ipad = registry.find_device("ipad-pro-m4")
    assert ipad.usable_bytes == 3 << 30
    assert ipad.is_estimate("app_memory")


def test_each_version_of_the_system_is_a_term(facts_with):
    verdict = judge(facts_with([op("Conv")]), IOS, registry.find_device("ipad-pro-m4"), IOS.scheme("fp16"))
    found = [term for term in verdict.terms if term.name == "usable memory"]
    assert ["iPadOS 26.0" in found[0].formula, "the least counts" in found[1].formula] == [True, True]


def test_a_package_above_the_store_limit_does_not_fit(facts_with):
    verdict = judge(facts_with([op("Conv")], weights=1_100_000_000), IOS, PHONE, IOS.scheme("fp32"))
    assert verdict.verdict == "does not fit"
    assert "App Store app" in verdict.reason


def test_above_200_megabytes_the_store_asks_first(facts_with):
    def said(weights):
        verdict = judge(facts_with([op("Conv")], weights=weights), IOS, PHONE, IOS.scheme("fp16"))
        return any("the store asks" in line for line in verdict.basis)

    assert not said(90_000_000)
    assert said(110_000_000)


DEVICE = """
[my-phone]
title = "My phone"
class = "ios"
memory_bytes = 1000
app_memory = { "OS 2" = 400, "OS 3" = 300 }
bandwidth = 1e9
sources = ["its data sheet"]
[my-phone.engines]
neural-engine = { float16 = 4e12 }
cpu = { float32 = 1e10 }
"""


def test_engines_of_ones_own_device_are_read(tmp_path: Path):
    path = tmp_path / "phone.toml"
    path.write_text(DEVICE)
    phone = read_devices(path)[0]
    assert phone.peak == {"float16": 4e12, "float32": 1e10}
    assert phone.usable_bytes == 300
    assert phone.engine_rate("cpu", "int8").dtype == "float32"
    assert phone.engine_rate("neural-engine", "float32") is None


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("bandwidth = 1e9", "bandwidth = 1e9\npeak = { float32 = 1 }", "my-phone.peak", "beside `engines`"),
        ("float16 = 4e12", "half = 4e12", "my-phone.engines.neural-engine.half", "not a dtype"),
        ('"OS 2" = 400', '"OS 2" = 0', "my-phone.app_memory.OS 2", "above 0"),
        ('sources = ["its data sheet"]', 'estimates = ["engines.gpu"]', "my-phone.estimates", "no figure"),
        (
            'sources = ["its data sheet"]',
            'estimates = ["engines.cpu"]',
            "my-phone.sources",
            "neural-engine.float16",
        ),
    ],
)
def test_a_mistake_in_them_names_file_and_key(tmp_path, old, new, key, words):
    assert old in DEVICE
    path = tmp_path / "phone.toml"
    path.write_text(DEVICE.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        read_devices(path)
    assert caught.value.where == f"{path}: {key}"
    assert words in str(caught.value)


def test_a_scheme_answers_to_its_old_name():
    assert IOS.scheme("palettized").name == "palette4"


@pytest.fixture
def facts_with():
    from modelport.targets.facts import ModelFacts, TensorFact

    def make(ops, weights=1000):
        tensor = TensorFact("w", "float32", (weights, 1), 4 * weights)
        return ModelFacts("onnx", "net", "Net", (tensor,), (), (), tuple(ops), peak_activations=100)

    return make
