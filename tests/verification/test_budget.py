"""The fidelity budget: what it takes, and when it is missed."""

from __future__ import annotations

from typing import Any

import pytest

from modelport.targets.errors import UsageError
from modelport.verification.budget import Budget, parse


def figures(**changes: Any) -> dict[str, dict[str, Any]]:
    base = {"cosine": 0.995, "sqnr_db": 25.0, "exact": False, "top1_agreement": 0.99, "non_finite": 0}
    return {"outputs": {"logits": {**base, **changes}}}


def language(kl: float = 0.02, artifact: float = 10.3, source: float = 0.9999) -> dict[str, Any]:
    """What is found of a language model."""
    return {
        **figures(),
        "kl": {"mean": kl, "stderr": 0.001, "p99": 0.1},
        "perplexity": {"artifact": {"value": artifact}, "reference": {"value": 10.0}},
        "source": {"reference": {"cosine": source}},
    }


def test_bounds_are_read() -> None:
    assert parse("cosine=0.99, sqnr=20,top1=0.5", None) == Budget(0.99, 20, 0.5)


def test_the_scheme_has_the_say_where_the_user_says_nothing() -> None:
    assert parse(None, 0.95) == Budget(cosine=0.95)
    assert parse("sqnr=10", 0.95) == Budget(sqnr_db=10)


@pytest.mark.parametrize("text", ["cosine", "loss=1", "cosine=high", "cosine=nan", "sqnr=inf", "cosine=1.1"])
def test_what_is_no_bound_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text, None)


@pytest.mark.parametrize(
    ("budget", "changes", "word"),
    [
        (Budget(cosine=0.999), {}, "cosine 0.9950"),
        (Budget(sqnr_db=30), {}, "25.0 dB"),
        (Budget(sqnr_db=30), {"sqnr_db": None}, "no finite SQNR"),
        (Budget(top1_points=0.5), {}, "1.00 %"),
        (Budget(), {"non_finite": 2}, "NaN"),
    ],
)
def test_a_missed_bound_says_by_how_much(budget: Budget, changes: dict[str, Any], word: str) -> None:
    (sentence,) = budget.missed(figures(**changes))
    assert word in sentence


def test_what_holds_says_nothing() -> None:
    assert Budget(cosine=0.99, sqnr_db=20, top1_points=1.01).missed(figures()) == ()
    assert Budget(sqnr_db=99).missed(figures(exact=True, sqnr_db=None)) == ()


@pytest.mark.parametrize(
    ("budget", "found", "word"),
    [
        (Budget(kl=0.01), language(kl=0.02), "0.02 nats"),
        (Budget(ppl_percent=2), language(artifact=10.3), "3.00 %"),
        (Budget(), language(source=0.7), "the conversion itself is wrong"),
        (Budget(kl=0.01), figures(), "could not be measured"),
        (Budget(ppl_percent=1), figures(), "could not be measured"),
    ],
)
def test_a_language_model_that_lost_too_much_is_told_by_its_own_figures(budget, found, word) -> None:
    (sentence,) = budget.missed(found)
    assert word in sentence


def test_a_language_model_within_its_bounds_says_nothing() -> None:
    assert parse("kl=0.05, ppl=4%", None) == Budget(kl=0.05, ppl_percent=4)
    assert Budget(kl=0.05, ppl_percent=4).missed(language()) == ()
    unchecked = {**language(), "source": None, "why": "torch is not installed"}
    assert Budget().missed(unchecked) == ()
