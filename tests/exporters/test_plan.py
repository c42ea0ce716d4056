"""What is refused before any work, from facts alone, and what a plan tells."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modelport import pipeline
from modelport.exporters import plan
from modelport.request import Request
from modelport.targets import registry
from modelport.targets.errors import ModelportError, Unsupported, UsageError
from modelport.targets.facts import IoFact, ModelFacts, OpFact


def facts(**weights: int) -> ModelFacts:
    """A model with one operator of each class named, reading that many weights."""
    ops = tuple(OpFact(kind, kind, kind, 2 * count, weights=count) for kind, count in weights.items())
    return ModelFacts("onnx", "net", "Net", (), (), (), ops)


@pytest.mark.parametrize(("target", "quant"), [("server-cpu", "int4-weight"), ("server-cpu", "int8-dynamic")])
def test_a_scheme_that_reaches_less_than_half_the_weights_is_refused(target: str, quant: str) -> None:
    card = registry.find_target(target)
    with pytest.raises(Unsupported, match=r"60%.*convolutions.*int8"):
        plan.refuse_scheme(facts(conv=60, gemm=40), card.scheme(quant), card)
    plan.refuse_scheme(facts(conv=40, gemm=60), card.scheme(quant), card)


def test_a_scheme_that_reaches_convolutions_and_a_model_of_unknown_operators_pass() -> None:
    card = registry.find_target("server-cpu")
    plan.refuse_scheme(facts(conv=100), card.scheme("int8"), card)
    plan.refuse_scheme(facts(), card.scheme("int4-weight"), card)


@pytest.mark.parametrize("target", ["android", "server-cpu", "ios"])
def test_text_is_refused_by_the_name_of_the_input_or_of_the_operator(target: str) -> None:
    card = registry.find_target(target)
    plain = facts(gemm=100)
    taken = dataclasses.replace(plain, inputs=(IoFact("words", "string", (1,)),))
    with pytest.raises(Unsupported, match="input words holds text"):
        plan.refuse_operators(taken, card)
    made = dataclasses.replace(plain, ops=(*plain.ops, OpFact("trim", "StringStrip", "unknown", None)))
    with pytest.raises(Unsupported, match=r"operator StringStrip \(in trim\)"):
        plan.refuse_operators(made, card)
    plan.refuse_operators(plain, card)


def test_a_plan_names_its_exporter_and_says_where_the_data_comes_from() -> None:
    card = registry.find_target("android")
    made = plan.make_plan(card, card.scheme("int8"), calibrated=False)
    assert made.export == "modelport.exporters.runtimes.litert:export"
    assert "random" in made.stages[0].reason
    assert made.steps.index(plan.REFERENCE) < made.steps.index(made.export)


def test_a_language_model_has_its_tokenizer_checked_before_a_weight_is_read_and_runs_in_a_worker_of_its_own():
    card = registry.find_target("local-llm")
    made = plan.make_plan(card, card.scheme("q4_k_m"), calibrated=False)
    header, export = made.workers
    assert header[-1] == "modelport.exporters.runtimes.gguf:header"
    assert export[0] == made.export == "modelport.exporters.runtimes.gguf:export"
    assert made.verifiers[0] == (plan.LANGUAGE_REFERENCE,)
    assert made.verifiers[-1][0] == made.compare


@pytest.mark.parametrize(
    ("target", "quant", "given", "named"),
    [
        ("server-cpu", "int8", {"two_step": True}, "--two-step"),
        ("android", "int8", {"kv_type": "q8_0"}, "--kv-type"),
        ("android", "int8", {"image_input": ""}, "--image-input"),
        ("ios", "fp16", {"layout": "nhwc"}, "--layout"),
        ("local-llm", "q8_0", {"imatrix": "some.gguf"}, "--imatrix"),
        ("local-llm", "q4_k_m", {"observer": "mse"}, "--observer"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(target, quant, given, named):
    card = registry.find_target(target)
    with pytest.raises(UsageError) as caught:
        plan.refuse_unread(card, card.scheme(quant), given)
    assert caught.value.where == named


@pytest.mark.parametrize(
    ("quant", "given", "named"),
    [
        ("fp16", {"deployment_target": "iOS3"}, "--deployment-target"),
        ("int4-weight", {"deployment_target": "iOS16"}, "--deployment-target"),
        ("fp16", {"shapes": "image=1xbig"}, "--shapes: image"),
        ("fp16", {"image_input": "scale=0"}, "--image-input"),
        ("fp16", {"metadata": ("colour=red",)}, "--metadata"),
    ],
)
def test_a_value_that_the_runtime_will_not_take_is_refused_before_the_model_is_opened(quant, given, named):
    request = Request(Path("nowhere"), "ios", quant=quant, **given)
    with pytest.raises(ModelportError) as caught:
        pipeline.check(request)
    assert caught.value.where == named


def test_a_target_without_exporter_is_refused_by_name() -> None:
    card = dataclasses.replace(registry.find_target("android"), runtime="nowhere")
    with pytest.raises(Unsupported, match="nowhere"):
        plan.make_plan(card, card.scheme("int8"), calibrated=True)
