"""Options that a target does not read are refused, and never ignored without a word."""

from __future__ import annotations

import pytest

from modelport.exporters.plan import refuse_unread
from modelport.targets.errors import UsageError
from modelport.targets.registry import find_target


@pytest.mark.parametrize(
    ("target", "quant", "option", "value"),
    [
        ("server-cpu", "int8", "layout", "nhwc"),
        ("android", "int8", "opset", 21),
        ("android", "fp16", "observer", "entropy"),
    ],
)
def test_an_option_that_would_change_nothing_is_named(
    target: str, quant: str, option: str, value: object
) -> None:
    card = find_target(target)
    with pytest.raises(UsageError) as caught:
        refuse_unread(card, card.scheme(quant), {option: value})
    assert caught.value.where == f"--{option}"


def test_options_that_are_read_pass() -> None:
    android, server = find_target("android"), find_target("server-cpu")
    refuse_unread(android, android.scheme("int8"), {"layout": "nhwc", "observer": "mse", "opset": None})
    refuse_unread(server, server.scheme("int8"), {"opset": 21, "observer": "mse", "layout": None})
