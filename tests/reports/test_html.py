"""The report is made from the manifest alone, escapes what it shows, and says what was not measured."""

from __future__ import annotations

from manifests import manifest
from modelport.reports import html


def test_it_shows_fidelity_shares_and_warnings() -> None:
    page = html.render(manifest())
    for words in (
        "SQNR 38.2 dB",
        "top-1 agreement 50 %",
        "int8 was asked for",
        "CONV_2D × 2",
        "1.50 ms",
        "90 %",
    ):
        assert words in page or words.replace("1.50", "1.5") in page


def test_what_comes_from_outside_is_escaped() -> None:
    page = html.render(manifest())
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_what_was_not_checked_is_said() -> None:
    assert "Not checked: no runner" in html.render(manifest(fidelity=None, audit=None))
    page = html.render(manifest(fidelity=None, not_checked="op fancy_op"))
    assert "Not checked: op fancy_op" in page
    assert "no runner" not in page


def test_what_the_check_proves_stands_beside_its_figures() -> None:
    page = html.render(manifest(proof="The graph that was written, not Apple's kernels."))
    assert "not Apple&#39;s kernels" in page


def test_what_leaves_the_engine_is_said_with_its_source() -> None:
    engine = {
        "name": "neural-engine", "title": "Apple's Neural Engine", "mac_share": 0.75, "dtypes": ["float16", "int8"],
        "dtypes_source": "https://example.org/dtypes (a page)",
        "leaves": [{"operator": "gather", "count": 3, "says": "a plan", "source": "https://example.org/plan"}],
    }  # fmt: skip
    page = html.render(manifest(engine=engine))
    assert "gather × 3 leaves Apple&#39;s Neural Engine (a plan)" in page
    assert 'href="https://example.org/plan"' in page
    assert "25 % of the multiply-accumulates leave it" in page
    assert "No operator is known" in html.render(manifest(engine={**engine, "leaves": [], "mac_share": 1.0}))
    assert "Where it runs" not in html.render(manifest(engine=None))


def test_this_host_is_predicted_once() -> None:
    assert html.render(manifest()).count('<th class="n">predicted') == 2
    assert html.render(manifest(device="this-host")).count('<th class="n">predicted') == 1


def test_the_command_can_be_run_again() -> None:
    page = html.render(manifest(command=["convert", "--prompt", "two words", "it's"]))
    assert "convert --prompt &#39;two words&#39;" in page
