"""A language model's artifact in llama.cpp: against its 16-bit self, against torch, and from what was kept."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_llms
from llama_oracle import Conversion, Quantization, run_conversions, run_quantizations
from modelport.calibration import language as windows
from modelport.exporters.job import Job
from modelport.exporters.runtimes.gguf.session import Context, Model
from modelport.targets.errors import ConversionFailed
from modelport.verification import bandwidth, decode_bytes, language, runners
from modelport.verification.runners import gguf as gguf_runner

pytestmark = pytest.mark.slow


def quiet(*_: object) -> None: ...


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with the checkpoint (tiny), base.gguf, q8_0.gguf, q4_k_m.gguf and q2_k.gguf; and gpt2.gguf."""
    work = tmp_path_factory.mktemp("language")
    folder = tiny_llms.make("llama", work / "tiny", context=256)
    short = tiny_llms.make("gpt2", work / "short", context=64)
    run_conversions(
        [
            Conversion(folder, work / "base.gguf", "bf16"),
            Conversion(short, work / "gpt2.gguf", "bf16", tiny_llms.pre_of("gpt2")),
        ]
    )
    schemes = ("q8_0", "q4_k_m", "q2_k")
    run_quantizations([Quantization(work / "base.gguf", work / f"{name}.gguf", name) for name in schemes])
    with Model(work / "base.gguf", vocab_only=True) as model:
        encode = lambda text: model.tokenize(text, begin=False, special=False)  # noqa: E731
        windows.prepare(None, encode, work / "samples", window=64, bos=model.bos, held_out=6)
    return work


def job(made: Path, work: Path, artifact: str = "q4_k_m.gguf", **options: Any) -> Job:
    given = {
        "artifact": str(made / artifact),
        "base": str(made / "base.gguf"),
        "format": "gguf",
        "reference": str(work / "reference.npz"),
        "threads": 1,
        "parameters": 2_000_000,
    }
    return Job(
        (), "causal-lm", str(made / "tiny"), "local-llm", "gguf", "q4_k_m", str(made), str(work),
        str(made / "samples"), {**given, **options},
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(made: Path, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """(the work folder, everything that a comparison gives) with source, base, plain and a prompt."""
    work = tmp_path_factory.mktemp("done")
    asked = job(made, work, plain=str(made / "q2_k.gguf"), prompt="The function")
    told = language.source(asked, quiet)
    assert told.data["why"] is None
    assert told.data["windows"] == 6
    data = language.compare(asked, quiet).data
    return work, json.loads(json.dumps(data))


def test_the_artifact_is_near_its_16_bit_self(done) -> None:
    found = done[1]["fidelity"]
    assert (found["samples"], found["tokens"]) == (6, 6 * 31)
    assert found["against"] == "bfloat16 in llama.cpp"
    logits = found["outputs"]["logits"]
    assert 0.9 < logits["cosine"] < 0.99999
    assert logits["cosine_min"] <= logits["cosine"]
    assert logits["top1_agreement"] > 0.6
    assert logits["non_finite"] == 0
    assert 1e-4 < found["kl"]["mean"] < 0.3
    assert found["kl"]["p99"] > found["kl"]["mean"] > found["kl"]["stderr"] > 0


def test_the_16_bit_model_is_the_one_in_torch(done) -> None:
    source = done[1]["fidelity"]["source"]
    assert done[1]["fidelity"]["why"] is None
    assert source["reference"]["cosine"] > 0.9995
    assert source["reference"]["kl"]["mean"] < 1e-3
    assert source["artifact"]["kl"]["mean"] > 2 * source["reference"]["kl"]["mean"]
    perplexity = done[1]["fidelity"]["perplexity"]
    assert perplexity["reference"]["value"] == pytest.approx(source["perplexity"]["value"], rel=0.01)
    assert source["perplexity"] == perplexity["source"]
    assert perplexity["artifact"]["stderr"] > 0


def test_figures_tell_schemes_apart(made: Path, done, tmp_path: Path) -> None:
    fine = language.compare(job(made, tmp_path, "q8_0.gguf"), quiet).data["fidelity"]
    coarse = done[1]["without_importance"]
    assert fine["kl"]["mean"] < done[1]["fidelity"]["kl"]["mean"] / 3
    assert coarse["kl"]["mean"] > 3 * done[1]["fidelity"]["kl"]["mean"]
    assert coarse["top1_agreement"] < fine["outputs"]["logits"]["top1_agreement"]
    assert fine["outputs"]["logits"]["cosine"] > 0.999


def test_the_16_bit_model_against_itself_is_exact(made: Path, tmp_path: Path) -> None:
    found = language.compare(job(made, tmp_path, "base.gguf"), quiet).data["fidelity"]
    assert found["outputs"]["logits"]["exact"] is True
    assert found["perplexity"]["artifact"] == found["perplexity"]["reference"]


def test_a_model_with_broken_weights_is_seen(made: Path, tmp_path: Path) -> None:
    from modelport.sources import gguf

    broken = tmp_path / "broken.gguf"
    raw = bytearray((made / "q8_0.gguf").read_bytes())
    places = gguf.places(made / "q8_0.gguf")
    one, two = places["blk.0.attn_q.weight"], places["blk.1.attn_q.weight"]
    # Two layers' queries are exchanged: everything loads, and every value is one of the model's own.
    first, second = raw[one.begin : one.begin + one.nbytes], raw[two.begin : two.begin + two.nbytes]
    raw[one.begin : one.begin + one.nbytes], raw[two.begin : two.begin + two.nbytes] = second, first
    broken.write_bytes(raw)
    asked = job(made, tmp_path, artifact=str(broken))
    found = language.compare(asked, quiet).data["fidelity"]
    assert found["outputs"]["logits"]["cosine"] < 0.99
    assert found["kl"]["mean"] > 0.02


def test_what_was_kept_gives_the_same_figures_without_the_16_bit_model(
    made: Path, done, tmp_path: Path
) -> None:
    kept = tmp_path / "reference.npz"
    shutil.copyfile(done[0] / "reference.npz", kept)
    again = language.compare(job(made, tmp_path, base=None), quiet).data["fidelity"]
    assert again["kl"] == pytest.approx(done[1]["fidelity"]["kl"], rel=1e-3)
    assert again["perplexity"]["reference"] == done[1]["fidelity"]["perplexity"]["reference"]
    assert again["source"] is None


def test_without_a_16_bit_model_the_source_in_torch_is_the_reference(
    made: Path, done, tmp_path: Path
) -> None:
    shutil.copyfile(done[0] / language.SOURCE, tmp_path / language.SOURCE)
    found = language.compare(job(made, tmp_path, base=False), quiet).data["fidelity"]
    assert found["against"] == "the source in torch"
    assert found["outputs"]["logits"] == pytest.approx(
        {k: v for k, v in done[1]["fidelity"]["source"]["artifact"].items() if k != "kl"}, rel=1e-3
    )
    assert (tmp_path / "reference.npz").is_file()


def test_with_nothing_to_compare_with_only_perplexity_is_told(made: Path, done, tmp_path: Path) -> None:
    found = language.compare(job(made, tmp_path, base=None), quiet).data["fidelity"]
    assert (found["outputs"], found["kl"], found["against"]) == ({}, None, None)
    assert found["perplexity"]["artifact"] == done[1]["fidelity"]["perplexity"]["artifact"]


def test_speeds_memory_and_a_sentence(done) -> None:
    data = done[1]
    speed = data["speed"]
    assert data["latency_ms"]["p90"] >= data["latency_ms"]["p50"] > 0
    assert speed["decode_tokens_per_second"] == pytest.approx(1e3 / data["latency_ms"]["p50"])
    assert speed["prefill_tokens_per_second"] > 0
    assert speed["predicted_decode_tokens_per_second"] == pytest.approx(
        speed["bandwidth"] / speed["bytes_per_token"]
    )
    assert data["peak_memory_bytes"] is None or data["peak_memory_bytes"] > 100_000
    assert data["sample"]["prompt"] == "The function"
    assert isinstance(data["sample"]["text"], str)
    assert data["audit"]["file_bytes"] > 0


def test_the_source_is_left_out_where_it_does_not_fit(made: Path, tmp_path: Path) -> None:
    told = language.source(job(made, tmp_path, memory_limit=1 << 28), quiet)
    assert "in float32, and 268 MB can be had" in told.data["why"]
    assert told.notes
    found = language.compare(job(made, tmp_path), quiet).data["fidelity"]
    assert found["source"] is None
    assert found["why"] == told.data["why"]
    other = dataclasses.replace(job(made, tmp_path), source_kind="gguf")
    assert "in llama.cpp alone" in language.source(other, quiet).data["why"]


def test_a_file_that_does_not_load_says_so_by_name(made: Path, tmp_path: Path) -> None:
    broken = tmp_path / "short.gguf"
    broken.write_bytes((made / "q8_0.gguf").read_bytes()[:-50_000])
    with pytest.raises(ConversionFailed, match=r"does not load in llama\.cpp") as caught:
        language.compare(job(made, tmp_path, str(broken), format="none"), quiet)
    assert caught.value.where == "short.gguf"


def test_bytes_of_a_token_are_all_but_the_table_and_the_keys_and_values(made: Path) -> None:
    from modelport.sources import gguf

    path = made / "q8_0.gguf"
    places = gguf.places(path)
    weights = sum(place.nbytes for name, place in places.items() if name != "token_embd.weight")
    row = 256 // 32 * 34
    with Model(path) as model:
        assert decode_bytes.of_token(path, model, 0, "f16") == weights + row
        cache = 2 * 2 * 256 * 100 * 2  # two layers, all heads' 256 values, 100 tokens, 2 bytes
        assert decode_bytes.of_token(path, model, 100, "f16") == weights + row + cache
        assert decode_bytes.kv_bytes(model, 100, "q8_0") == cache * 8.5 / 16


def test_a_runner_by_format_gives_the_logits_of_its_tokens(made: Path) -> None:
    runner = runners.load(made / "base.gguf", "gguf", threads=2)
    assert runner is not None
    ids = np.arange(5, 25)[None]
    found = runner.run({"input_ids": ids})["logits"]
    assert found.shape == (1, 20, 768)
    runner.invoke()
    with Model(made / "base.gguf") as model, Context(model, tokens=32, threads=1) as context:
        for position, token in enumerate(ids[0]):
            context.decode([int(token)], position)
        np.testing.assert_allclose(context.logits()[0], found[0, -1], atol=0.05)


def test_nothing_is_run_beyond_the_positions_that_a_model_has_learned(made: Path) -> None:
    """llama.cpp ends the process where a table of positions ends."""
    runner = gguf_runner.LlamaRunner(made / "gpt2.gguf", 1)
    assert runner.model.context == 64
    speed = runner.speed(np.arange(5, 69))
    assert 0 < speed.tokens < 64
    assert speed.decode > 0
    text, cut = runner.continued("a long text, longer than what the model takes " * 20)
    assert isinstance(text, str)
    assert cut > 0
    assert runner.continued("short")[1] == 0
    runner.close()


def test_a_prompt_that_is_cut_is_told(made: Path, tmp_path: Path) -> None:
    long = language.compare(
        job(made, tmp_path, str(made / "gpt2.gguf"), base=None, prompt="word " * 200), quiet
    )
    assert long.data["sample"]["cut_tokens"] > 0
    assert any("first" in note and "left out" in note for note in long.notes)


def test_bandwidth_is_plausible_and_not_that_of_a_cache() -> None:
    found = bandwidth.read_bytes_per_second(1)
    assert found is None or 1e8 < found < 1e12
