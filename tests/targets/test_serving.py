"""What fits on the GPUs of a server: the longest context, the largest batch, and what the terminal says of it."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import modelport
from llm_facts import write_headers
from modelport import cli
from modelport.targets import registry
from modelport.targets.card import read_card
from modelport.targets.device import Device
from modelport.targets.errors import UsageError
from modelport.targets.verdict import Size
from serving_cases import GB, SERVED, VLLM, plan, terms, verdict

# What fits


@pytest.mark.parametrize("device", ["a100-80gb", "h100"])
def test_llama_3_70b_in_16_bits_needs_two_cards_of_80_gb(device):
    found = {gpus: plan("llama-3-70b", device, tensor_parallel=gpus) for gpus in (1, 2, 4, 8)}
    assert [found[gpus].verdict for gpus in found] == ["does not fit", "fits", "fits", "fits"]
    assert {each.fewest_gpus for each in found.values()} == {2}
    assert found[1].weight_bytes == pytest.approx(141.1 * GB, rel=1e-3)
    assert (found[1].longest_context, found[1].largest_batch, found[1].max_model_len) == (0, 0, None)


def test_a_size_that_the_exporter_counted_is_shared_out_like_the_weights():
    counted = {"bf16": Size(15_000_000_000, 14_900_000_000)}
    one, four = (plan("llama-2-7b", tensor_parallel=gpus, sizes=counted) for gpus in (1, 4))
    assert one.weight_bytes == 14_900_000_000
    guessed = plan("llama-2-7b", tensor_parallel=4).weight_bytes / plan("llama-2-7b").weight_bytes
    assert four.weight_bytes / one.weight_bytes == pytest.approx(guessed)
    assert four.longest_context > plan("llama-2-7b", tensor_parallel=2, sizes=counted).longest_context


def test_activations_are_reserved_for_what_goes_through_at_once_in_16_bits():
    most = VLLM.server.batched_tokens
    width = 2 * 4096 + 3 * 32 * 128 + 2 * 11008
    few, many = (plan("llama-2-7b", "b200", batch=batch, context=1024) for batch in (1, 16))
    assert few.activation_bytes == 1024 * width * 2 + 32000 * 4
    assert many.activation_bytes == most * width * 2 + 16 * 32000 * 4
    # A W8A8 model has 8-bit products, and 16 bits between them.
    assert plan("llama-2-7b", "b200", "w8a8-int8", context=1024).activation_bytes == few.activation_bytes
    half = plan("llama-2-7b", "b200", context=1024, tensor_parallel=2)
    assert half.activation_bytes == 1024 * (2 * 4096 + (width - 2 * 4096) // 2) * 2 + 32000 * 4


def test_more_gpus_are_among_the_alternatives():
    changes = {other.change: other for other in verdict("llama-3-70b").alternatives}
    other = changes["--tensor-parallel 2"]
    again = verdict("llama-3-70b", tensor_parallel=2)
    assert (other.tensor_parallel, other.memory_bytes) == (2, again.predicted.peak_memory_bytes)
    assert again.verdict == "fits"


def test_on_four_a100_llama_3_70b_holds_8192_tokens_of_four_sequences():
    found = plan("llama-3-70b", batch=4, context=8192, tensor_parallel=4)
    assert found.verdict == "fits"
    assert found.kv_bytes == 2 * 80 * 2 * 128 * 4 * 8192 * 2
    assert found.usable_bytes == int(85899345920 * 0.9)
    assert found.max_model_len == 8192


@settings(max_examples=60, deadline=None)
@given(SERVED)
def test_the_longest_context_fits_and_one_block_more_does_not(asked):
    found = plan(**asked)
    assert found.longest_context % 16 == 0
    if found.longest_context:
        assert verdict(**{**asked, "context": found.longest_context}).verdict == "fits"
    assert verdict(**{**asked, "context": found.longest_context + 16}).verdict == "does not fit"
    assert (found.verdict == "fits") == (asked["context"] < found.longest_context + 16)


@settings(max_examples=60, deadline=None)
@given(SERVED)
def test_the_largest_batch_fits_and_one_sequence_more_does_not(asked):
    found = plan(**asked)
    if found.largest_batch:
        assert verdict(**{**asked, "batch": found.largest_batch}).verdict == "fits"
    assert verdict(**{**asked, "batch": found.largest_batch + 1}).verdict == "does not fit"
    assert (found.verdict == "fits") == (asked["batch"] <= found.largest_batch)


@settings(max_examples=60, deadline=None)
@given(SERVED, st.integers(1, 500), st.integers(1, 8))
def test_longer_contexts_and_larger_batches_need_more_and_leave_less(asked, longer, more):
    base = plan(**asked)
    long = plan(**{**asked, "context": asked["context"] + longer})
    wide = plan(**{**asked, "batch": asked["batch"] + more})
    for grown in (long, wide):
        assert grown.kv_bytes > base.kv_bytes
        assert grown.activation_bytes >= base.activation_bytes
        assert grown.decode_ms > base.decode_ms
    assert long.largest_batch <= base.largest_batch
    assert wide.longest_context <= base.longest_context


@settings(max_examples=40, deadline=None)
@given(SERVED)
def test_twice_the_gpus_hold_less_each_and_never_less_context(asked):
    one, two = (plan(**{**asked, "tensor_parallel": gpus}) for gpus in (1, 2))
    assert two.weight_bytes < one.weight_bytes
    assert 2 * two.weight_bytes >= one.weight_bytes
    assert two.kv_bytes * 2 == one.kv_bytes
    assert two.longest_context >= one.longest_context
    assert two.largest_batch >= one.largest_batch


def test_the_context_that_the_server_is_told():
    assert plan("llama-2-7b").max_model_len == 4096, "the model's own"
    assert plan("llama-2-7b", "t4", "fp16").max_model_len is None, "13.5 GB and 2.1 GB of runtime do not fit"
    tight = plan("llama-3.1-405b", "h100", "w8a8-fp8", batch=8, tensor_parallel=8)
    assert tight.max_model_len == tight.longest_context < 131072
    assert plan("llama-2-7b", context=2000).max_model_len == 2000, "what was asked for"
    assert plan("llama-2-7b", context=9000).max_model_len == 4096, "not more than the model was made for"


def test_on_cards_of_unknown_memory_or_link_only_what_is_known_is_told():
    blind = plan("llama-2-7b", Device("blind", "Blind", "gpu", bandwidth=1e12, peak={"bfloat16": 1e14}))
    assert blind.verdict == "unknown"
    assert (blind.usable_bytes, blind.longest_context, blind.largest_batch) == (None, None, None)
    assert blind.decode_ms is not None
    alone = Device("alone", "Alone", "gpu", memory_bytes=80 * GB, bandwidth=1e12, peak={"bfloat16": 1e14})
    found = plan("llama-2-7b", alone, tensor_parallel=2)
    assert found.verdict == "fits"
    assert (found.prefill_ms, found.decode_ms, found.tokens_per_second) == (None, None, None)
    formula = terms("llama-2-7b", alone, tensor_parallel=2)["decode"].formula
    assert "link bandwidth of alone" in formula


# The card


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("memory_share = 1.5\nbatched_tokens = 1", "server.memory_share"),
        ("memory_share = 0.9", "server.batched_tokens"),
        ("memory_share = 0.9\nbatched_tokens = 8.5", "server.batched_tokens"),
        ("memory_share = 0.9\nbatched_tokens = 8\nblocks = 2", "server.blocks"),
    ],
)
def test_a_wrong_server_names_file_and_key(tmp_path: Path, line: str, key: str):
    text = Path(VLLM.path).read_text()
    before, _, after = text.partition("[server]")
    card = tmp_path / "card.toml"
    card.write_text(f"{before}[server]\n{line}\n\n[overhead]{after.partition('[overhead]')[2]}")
    with pytest.raises(UsageError) as caught:
        read_card(card)
    assert caught.value.where == f"{card}: {key}"


# From the terminal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_headers(tmp_path_factory.mktemp("models") / "qwen2.5-0.5b", "qwen2.5-0.5b")


def check(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.modelport, ["check", *arguments], env={"COLUMNS": "80"})
    return done.exit_code, done.output


def test_the_json_has_a_plan_for_every_card_and_what_crosses_to_the_exporter_is_the_first(folder: Path):
    code, printed = check(str(folder), "-t", "vllm", "--device", "l4", "--tensor-parallel", "2", "--json")
    found = json.loads(printed)
    assert code == 0
    assert next(iter(found["serving"])) == "l4"
    assert set(found["serving"]) == {device.name for device in registry.devices_for(VLLM)}
    assert found["serving"]["l4"]["tensor_parallel"] == 2
    assert found["serving"]["l4"]["max_model_len"] == 32768
    checked = modelport.check(folder, target="vllm", device="l4", tensor_parallel=2)
    assert dataclasses.asdict(checked.serving["l4"]) == found["serving"]["l4"]
    assert all(math.isfinite(value) for value in found["serving"]["l4"].values() if isinstance(value, float))


def test_the_table_goes_into_eighty_columns_without_cutting_a_figure(folder: Path):
    code, printed = check(str(folder), "-t", "vllm", "--tensor-parallel", "2", "--batch", "8")
    table = printed[printed.index("Serving with") :]
    assert code == 0
    assert "tensor parallel 2, batch 8, context 4096; --max-model-len 32768" in table
    assert "…" not in table
    assert len([line for line in table.splitlines() if line.strip().startswith("a100-")]) == 2


def test_a_wrong_split_is_one_clear_line(folder: Path):
    code, printed = check(str(folder), "-t", "vllm", "--tensor-parallel", "4")
    assert code == 2
    assert printed.splitlines() == [
        "error: --tensor-parallel: 14 attention heads cannot be split evenly over 4 GPUs",
        "  It can be split over 1, 2",
    ]
    code, printed = check(str(folder), "-t", "local-llm", "--tensor-parallel", "2")
    assert (code, "local-llm does not read it" in printed) == (2, True)
    code, printed = check(str(folder), "-t", "vllm", "--tensor-parallel", "0")
    assert (code, "not above zero" in printed) == (2, True)
