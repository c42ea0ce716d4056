"""Layout, shards, recipe and serve.sh: what is decided before a weight is read."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.exporters.runtimes.vllm import layout, produce, schemes, serve, shards, stream
from modelport.sources.huggingface import checkpoint
from modelport.targets.errors import ConversionFailed, SourceUnreadable, Unsupported, UsageError
from vllm_jobs import export, make_job, quiet, source

TENSORS = st.lists(
    st.builds(
        layout.Stored,
        st.text("abcdef.", min_size=1, max_size=8),
        st.sampled_from(sorted(shards.DTYPES.keys() & layout.ITEM_BYTES.keys())),
        st.lists(st.integers(1, 9), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda tensor: tensor.name,
)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source(tmp_path_factory.mktemp("qwen") / "model")


@given(TENSORS, st.integers(1, 2000))
def test_planned_files_read_back_as_they_were_planned(tensors: list[layout.Stored], most: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_and_read(Path(folder), tensors, most)


def write_and_read(folder: Path, tensors: list[layout.Stored], most: int) -> None:
    files = shards.plan(tensors, most)
    rng = np.random.default_rng(0)
    content = {tensor.name: rng.bytes(tensor.nbytes) for tensor in tensors}
    with shards.Writer(folder, files, tensors) as writer:
        for tensor in reversed(tensors):
            half = tensor.nbytes // 2
            writer.write(tensor.name, content[tensor.name][half:], half)
            writer.write(tensor.name, content[tensor.name][:half])
    assert sum(path.stat().st_size for path in folder.iterdir()) == files.nbytes
    places = checkpoint.places(folder)
    assert {name: (place.dtype, place.shape) for name, place in places.items()} == {
        tensor.name: (tensor.dtype, tensor.shape) for tensor in tensors
    }
    for name, place in places.items():
        assert place.file.read_bytes()[place.begin :][: place.nbytes] == content[name]
    sizes = [sum(places[t].nbytes for t in shard.begins) for shard in files.shards]
    assert all(
        size <= most or len(shard.begins) == 1 for size, shard in zip(sizes, files.shards, strict=True)
    )


def test_one_file_has_no_index_and_several_are_numbered() -> None:
    tensors = [layout.Stored(f"t{n}", "int8", (10,)) for n in range(3)]
    assert shards.plan(tensors).names == ("model.safetensors",)
    names = shards.plan(tensors, 20).names
    assert names == (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    )


def test_a_tensor_that_was_not_written_whole_is_an_error(tmp_path: Path) -> None:
    tensors = [layout.Stored("a", "int8", (4,)), layout.Stored("b", "int8", (4,))]

    def write() -> None:
        with shards.Writer(tmp_path, shards.plan(tensors), tensors) as writer:
            writer.write("a", b"1234")
            writer.write("b", b"12")

    with pytest.raises(ConversionFailed, match="1 tensors were not written whole, as b"):
        write()


@pytest.mark.parametrize("scheme", ["bf16", "fp16", "w8a8-int8", "w8a8-fp8"])
def test_the_size_that_was_foretold_is_the_size_of_the_folder(
    qwen: Path, tmp_path: Path, scheme: str
) -> None:
    folder, outcome = export(make_job(tmp_path, qwen, scheme))
    told = produce.foretell(make_job(tmp_path / "told", qwen, scheme, schemes=[scheme]), quiet).data
    assert told["file_bytes"] == {scheme: sum(file.stat().st_size for file in folder.iterdir())}
    assert outcome.data["bytes_written"] < told["file_bytes"][scheme]


def test_the_same_model_gives_the_same_bytes_twice_sharded_or_not(tmp_path: Path) -> None:
    whole, parts = source(tmp_path / "whole"), source(tmp_path / "parts", shards=3)
    made = [
        export(make_job(tmp_path / str(n), path, "w8a8-fp8"))[0]
        for n, path in enumerate((whole, whole, parts))
    ]
    first, second, third = ((folder / "model.safetensors").read_bytes() for folder in made)
    assert first == second
    # The tiny models' random numbers do not depend on the shards.
    assert first == third


def test_a_small_slab_changes_nothing(qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = export(make_job(tmp_path / "whole", qwen, "w8a8-int8"))
    monkeypatch.setattr(stream, "SLAB", 1000)
    parts, _ = export(make_job(tmp_path / "parts", qwen, "w8a8-int8"))
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()


def test_the_folder_holds_what_belongs_to_the_model_and_nothing_else(tmp_path: Path) -> None:
    model = source(tmp_path / "model", card=True)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "code.Model"}}))
    (model / "code.py").write_text("raise SystemExit")
    folder, outcome = export(make_job(tmp_path, model, "w8a8-fp8"))
    names = {file.name for file in folder.iterdir()}
    assert {
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    } <= names
    assert {"recipe.yaml", "config.json", "model.safetensors"} <= names
    assert not names & {"README.md", "code.py"}
    written = json.loads((folder / "config.json").read_text())
    assert "auto_map" not in written
    assert written["quantization_config"]["quant_method"] == "compressed-tensors"
    assert outcome.files == ("checkpoint", "serve.sh")


def test_a_16_bit_scheme_sets_the_dtype_and_no_quantization(qwen: Path, tmp_path: Path) -> None:
    folder, _ = export(make_job(tmp_path, qwen, "fp16"))
    config = json.loads((folder / "config.json").read_text())
    assert config["torch_dtype"] == "float16"
    assert "quantization_config" not in config
    assert {place.dtype for place in checkpoint.places(folder).values()} == {"float16"}
    assert not (folder / "recipe.yaml").exists()


def test_a_tied_head_is_not_written(tmp_path: Path) -> None:
    folder, _ = export(make_job(tmp_path, source(tmp_path / "tied", tied=True), "bf16"))
    other, _ = export(make_job(tmp_path / "b", source(tmp_path / "free", tied=False), "bf16"))
    assert "lm_head.weight" not in checkpoint.places(folder)
    assert "lm_head.weight" in checkpoint.places(other)


@pytest.mark.parametrize(("architecture", "matrices"), [("mixtral", 2 * (4 + 3 * 4)), ("phi3", 2 * 4)])
def test_experts_and_fused_matrices_are_quantized_and_routers_are_not(
    tmp_path: Path, architecture: str, matrices: int
) -> None:
    model = source(tmp_path / "model", architecture)
    planned = layout.of(model, schemes.find("w8a8-fp8"))
    quantized = [weight for weight in planned.weights if len(weight.stored) > 1]
    assert len(quantized) == matrices
    assert not any(weight.name.endswith(".gate.weight") for weight in quantized)
    assert planned.ignore == (("lm_head", "re:.*\\.gate$") if architecture == "mixtral" else ("lm_head",))


def edit(model: Path, **changes: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_quantized_source_is_refused_by_the_name_of_its_method(tmp_path: Path) -> None:
    model = source(tmp_path / "model")
    edit(model, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(Unsupported, match=r"quantized already \(gptq\)") as raised:
        export(make_job(tmp_path, model, "w8a8-fp8"))
    assert raised.value.where == "config.json: quantization_config"


def test_an_unknown_model_type_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    model = source(tmp_path / "model", "gpt2")
    with pytest.raises(Unsupported, match="gpt2") as raised:
        produce.foretell(make_job(tmp_path, model, "bf16", schemes=["bf16", "w8a8-fp8"]), quiet)
    assert "llama" in raised.value.mend


def test_rows_that_do_not_divide_are_refused_by_name_and_other_schemes_are_not(tmp_path: Path) -> None:
    model = source(tmp_path / "model", hidden=320, heads=5, kv_heads=5, feed=512)
    told = produce.foretell(make_job(tmp_path, model, "bf16", schemes=list(schemes.SCHEMES)), quiet).data
    assert set(told["file_bytes"]) == {"bf16", "fp16", "w8a8-int8", "w8a8-fp8"}
    with pytest.raises(Unsupported, match="320 weights do not divide") as raised:
        export(make_job(tmp_path, model, "w4a16-gptq", calibrated=True))
    assert "q_proj" in raised.value.where


def test_tokens_that_the_model_has_no_rows_for_are_refused(qwen: Path) -> None:
    planned = layout.of(qwen, schemes.find("w4a16-gptq", calibrated=True))
    rows = planned.weights[0].place.shape[0]
    produce._require_ids(planned, rows - 1)
    with pytest.raises(SourceUnreadable, match=f"gives the token {rows}"):
        produce._require_ids(planned, rows)


def test_experts_are_not_calibrated(tmp_path: Path) -> None:
    model = source(tmp_path / "model", "mixtral")
    with pytest.raises(Unsupported, match="experts"):
        export(make_job(tmp_path, model, "w4a16-gptq", calibrated=True))


@pytest.mark.parametrize("bits", [0x7FC0, 0x7F80, 0xFF80])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, bits: int) -> None:
    model = source(tmp_path / "model")
    place = checkpoint.places(model)["model.layers.1.mlp.down_proj.weight"]
    with place.file.open("r+b") as stream:
        stream.seek(place.begin + 2 * 700)
        stream.write(bits.to_bytes(2, "little"))
    with pytest.raises(SourceUnreadable, match="NaN or infinite") as raised:
        export(make_job(tmp_path, model, "w8a8-int8"))
    assert "model.layers.1.mlp.down_proj.weight" in raised.value.where


def test_what_float16_cannot_hold_is_named(tmp_path: Path) -> None:
    model = source(tmp_path / "model")
    place = checkpoint.places(model)["model.layers.0.self_attn.o_proj.weight"]
    with place.file.open("r+b") as stream:
        stream.seek(place.begin)
        stream.write((0x4974).to_bytes(2, "little"))  # about a million
    with pytest.raises(ConversionFailed, match="beyond float16, as 999424") as raised:
        export(make_job(tmp_path, model, "fp16"))
    assert "o_proj" in raised.value.where
    export(make_job(tmp_path / "bf16", model, "bf16"))


def test_options_that_a_scheme_cannot_follow_are_refused(qwen: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no text was given"):
        export(make_job(tmp_path, qwen, "w4a16-awq"))
    with pytest.raises(UsageError, match="in one go"):
        export(make_job(tmp_path / "b", qwen, "w8a8-fp8", resume=str(tmp_path / "kept")))


def test_serve_sh_starts_vllm_on_the_folder_beside_it(qwen: Path, tmp_path: Path) -> None:
    plan = {"tensor_parallel": 2, "max_model_len": 4096, "memory_share": 0.9}
    _, outcome = export(make_job(tmp_path / "job with blanks", qwen, "bf16", serving=plan, context=8192))
    script = tmp_path / "job with blanks" / "staging" / "serve.sh"
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "vllm").write_text('#!/bin/sh\nfor each in "$@"; do echo "<$each>"; done\n')
    (tools / "vllm").chmod(0o755)
    said = subprocess.run(
        [script, "--port", "8001"],
        env={"PATH": f"{tools}:/usr/bin:/bin"}, cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    assert said[:-1] == [
        "<serve>", f"<{script.parent / 'checkpoint'}>", "<--tensor-parallel-size>", "<2>",
        "<--max-model-len>", "<4096>", "<--gpu-memory-utilization>", "<0.9>", "<--port>", "<8001>",
    ]  # fmt: skip
    servers = dict(outcome.data["run"])
    assert servers["vLLM"].startswith("vllm serve checkpoint --tensor-parallel-size 2 --max-model-len 4096")
    assert set(servers) == {"vLLM", "SGLang", "TGI", "TensorRT-LLM"}


def test_each_server_is_named_only_where_it_reads_the_format() -> None:
    given = serve.arguments(None, 2048)
    named = {
        name: {server for server, _ in serve.lines(schemes.find(name), given)} for name in schemes.SCHEMES
    }
    assert named["w4a16-awq"] == {"vLLM", "SGLang"}
    assert named["w8a8-int8"] == {"vLLM", "SGLang", "TGI"}


def test_groups_that_gpus_cannot_share_are_said(tmp_path: Path) -> None:
    model = source(tmp_path / "model", hidden=256, feed=768)
    planned = layout.of(model, schemes.find("w4a16-gptq", calibrated=True))

    def said(gpus: int, scheme: str = "w4a16-gptq") -> tuple[str, ...]:
        return produce._splits(planned, schemes.find(scheme), {"tensor_parallel": gpus})

    assert said(1) == said(2) == said(4, "w8a8-fp8") == ()
    assert "4 matrices, as model.layers.0.self_attn.o_proj" in said(4)[0]
