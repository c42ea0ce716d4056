"""From a Hugging Face folder to the file, against llama.cpp's own two steps; what is left for verification."""

import dataclasses
import filecmp
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import gguf_jobs
import llama_oracle
import tiny_llms
from gguf_compare import compare, write_imatrix
from llama_oracle import Conversion, Quantization
from modelport.calibration.samples import write_set
from modelport.exporters.runtimes.gguf import packing, rows, stream
from modelport.sources.gguf import header
from modelport.targets import host
from modelport.targets.errors import ConversionFailed, SourceUnreadable

pytestmark = pytest.mark.slow

MODELS = {
    "llama3": {"dtype": "bfloat16", "shards": 3, "tied": False},  # permuted heads, rope factors
    "gemma3": {"dtype": "float16"},  # norms plus one, rounded to float16
    "gpt2": {"dtype": "float32"},  # transposed matrices
    "phi3": {"dtype": "bfloat16", "hidden": 288},  # rows that K-quants do not divide
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def models(folder):
    """Each model, and its first file by llama.cpp's converter, in its own type and in f16."""
    made = {name: tiny_llms.make(name, folder / name, **options) for name, options in MODELS.items()}
    llama_oracle.run_conversions(
        Conversion(path, folder / f"{name}.{kind}.gguf", kind, tiny_llms.pre_of(name))
        for name, path in made.items()
        for kind in {"f16", llama_oracle.first_type(path, "q4_0")}
    )
    return made


def first(folder, models, name, kind=None):
    return folder / f"{name}.{kind or llama_oracle.first_type(models[name], 'q4_0')}.gguf"


@pytest.mark.parametrize("scheme", ["q4_k_m", "q8_0", "f16"])
@pytest.mark.parametrize("name", MODELS)
def test_the_file_is_that_of_the_two_steps(folder, models, tmp_path, name, scheme):
    source = first(folder, models, name, "f16" if scheme == "f16" else None)
    wanted = llama_oracle.quantize(source, tmp_path / "wanted.gguf", scheme)
    made, _ = gguf_jobs.export(gguf_jobs.make_job(tmp_path, models[name], scheme))
    assert compare(made, wanted) is None


@pytest.mark.parametrize("scheme", ["q4_k_m", "q4_0"])
def test_by_way_of_float16_where_asked(folder, models, tmp_path, scheme):
    wanted = llama_oracle.quantize(first(folder, models, "gpt2", "f16"), tmp_path / "wanted.gguf", scheme)
    made, _ = gguf_jobs.export(gguf_jobs.make_job(tmp_path / "f16", models["gpt2"], scheme, via="f16"))
    assert compare(made, wanted) is None
    straight, _ = gguf_jobs.export(gguf_jobs.make_job(tmp_path / "own", models["gpt2"], scheme))
    assert compare(straight, wanted) is not None


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("threads", "slab", "band"), [(1, 1, 1), (3, 5000, 3000)])
def test_bytes_depend_on_neither_threads_nor_slabs(models, tmp_path, monkeypatch, name, threads, slab, band):
    plain, _ = gguf_jobs.export(gguf_jobs.make_job(tmp_path / "plain", models[name], "q4_0"))
    monkeypatch.setattr(stream, "SLAB", slab)
    monkeypatch.setattr(rows, "_BAND", band)
    other, _ = gguf_jobs.export(gguf_jobs.make_job(tmp_path / "other", models[name], "q4_0", threads=threads))
    assert filecmp.cmp(plain, other, shallow=False)


def test_no_importance_is_collected_for_a_scheme_without(models, tmp_path):
    job = gguf_jobs.make_job(tmp_path, models["llama3"], "q8_0", calibrated=True)
    _, outcome = gguf_jobs.export(job)
    assert outcome.files == ("model.gguf",)
    assert "serves verification alone" in outcome.notes[0]


def test_two_steps_of_our_own_give_the_same_file(models, tmp_path):
    one, _ = gguf_jobs.export(gguf_jobs.make_job(tmp_path / "one", models["llama3"], "q4_k_m"))
    job = gguf_jobs.make_job(tmp_path / "two", models["llama3"], "q4_k_m", two_step=True)
    two, outcome = gguf_jobs.export(job)
    assert filecmp.cmp(one, two, shallow=False)
    assert outcome.data["lanes"] == "llama.cpp"
    assert sorted(path.name for path in Path(job.work).iterdir()) == ["header.gguf", "tensors.json"]


@pytest.mark.parametrize("scheme", ["q4_k_m", "q4_0"])
def test_with_an_importance_matrix(folder, models, tmp_path, scheme):
    source = first(folder, models, "gpt2")
    matrix = write_imatrix(source, tmp_path / "imatrix.gguf")
    llama_oracle.run_quantizations([Quantization(source, tmp_path / "wanted.gguf", scheme, matrix)])
    job = gguf_jobs.make_job(tmp_path, models["gpt2"], scheme, imatrix=str(matrix), base=True)
    made, outcome = gguf_jobs.export(job)
    assert compare(made, tmp_path / "wanted.gguf") is None
    plain, _ = gguf_jobs.export(gguf_jobs.make_job(tmp_path / "plain", models["gpt2"], scheme))
    assert filecmp.cmp(outcome.data["plain"], plain, shallow=False)


@pytest.mark.parametrize("name", ["llama3", "gemma3", "gpt2"])
def test_the_model_in_16_bits_is_left_for_verification(folder, models, tmp_path, name):
    _, outcome = gguf_jobs.export(gguf_jobs.make_job(tmp_path, models[name], "q4_k_m", base=True))
    kind = "bf16" if MODELS[name]["dtype"] == "bfloat16" else "f16"
    wanted = llama_oracle.quantize(first(folder, models, name, kind), tmp_path / "wanted.gguf", kind)
    assert compare(Path(outcome.data["base"]), wanted) is None
    assert "plain" not in outcome.data


@pytest.mark.parametrize("free", [1 << 40, 1 << 20])
def test_importance_is_collected_from_text_and_published(models, tmp_path, monkeypatch, free):
    monkeypatch.setattr(host, "available_bytes", lambda: free)
    job = gguf_jobs.make_job(tmp_path, models["llama3"], "q4_k_m", calibrated=True, calibration="text.txt")
    windows = np.random.default_rng(0).integers(0, 700, (4, 64))
    write_set(tmp_path / "samples" / "calibration", {"input_ids": windows})
    made, outcome = gguf_jobs.export(dataclasses.replace(job, samples=str(tmp_path / "samples")))
    assert outcome.files == ("model.gguf", "imatrix.gguf")
    assert any("in q8_0" in note for note in outcome.notes) == (free == 1 << 20)
    again, _ = gguf_jobs.export(
        gguf_jobs.make_job(
            tmp_path / "again", models["llama3"], "q4_k_m", imatrix=str(made.with_name("imatrix.gguf"))
        )
    )
    assert filecmp.cmp(made, again, shallow=False)


def test_sizes_need_no_weights(models, tmp_path):
    for name, path in models.items():
        bare = tmp_path / path.name
        shutil.copytree(path, bare, ignore=shutil.ignore_patterns("*.safetensors*"))
        told = gguf_jobs.sizes(bare, ["q4_k_m", "q2_k"])
        for scheme, nbytes in told.items():
            made, _ = gguf_jobs.export(gguf_jobs.make_job(tmp_path / f"{name}-{scheme}", path, scheme))
            assert made.stat().st_size == nbytes


def changed(path: Path, tmp_path: Path, change) -> Path:
    """A copy of a model in one shard, with one tensor's bytes changed."""
    copy = tmp_path / path.name
    shutil.copytree(path, copy)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    length = int.from_bytes(data[:8], "little")
    listed = json.loads(data[8 : 8 + length])
    begin = 8 + length + listed["h.1.mlp.c_fc.weight"]["data_offsets"][0]
    values = np.frombuffer(data, np.float32, 1, begin)
    values[0] = change
    weights.write_bytes(data)
    return copy


def test_a_nan_in_the_checkpoint_names_tensor_and_file(models, tmp_path):
    damaged = changed(models["gpt2"], tmp_path, np.nan)
    with pytest.raises(SourceUnreadable, match=r"^model\.safetensors: h\.1\.mlp\.c_fc\.weight: 1 .*NaN"):
        gguf_jobs.export(gguf_jobs.make_job(tmp_path / "out", damaged, "q4_k_m"))


def test_a_weight_beyond_float16_is_seen_on_the_way_through_it(models, tmp_path):
    large = changed(models["gpt2"], tmp_path, 70000.0)
    with pytest.raises(ConversionFailed, match=r"h\.1\.mlp\.c_fc\.weight: 1 .*float16"):
        gguf_jobs.export(gguf_jobs.make_job(tmp_path / "f16", large, "q8_0", via="f16"))
    _, outcome = gguf_jobs.export(gguf_jobs.make_job(tmp_path / "own", large, "q8_0", base=True))
    assert "bf16" in outcome.notes[0]


def test_keys_are_encoded_as_the_gguf_package_writes_them(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path=None, arch="llama")
    writer.add_array("a.strings", ["", "é", "\0", "x" * 300])
    writer.add_array("a.bytes", [b"\xff\xfe", b"ok"])
    writer.add_array("a.ints", [1, -(2**31)])
    writer.add_array("a.bools", [True, False])
    writer.add_array("a.floats", [0.1, -1e30])
    writer.add_key_value("a.raw", b"\0\1\2", gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT8)
    writer.add_key_value("a.sub", [1, 2], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32)
    writer.add_string("a.text", "text")
    for number, add in enumerate((writer.add_uint8, writer.add_int16, writer.add_uint32, writer.add_int64)):
        add(f"a.number{number}", 7)
    writer.add_float64("a.double", 0.1)
    writer.add_bool("a.bool", True)
    entries = packing.entries_of(writer)
    writer.write_header_to_file(tmp_path / "theirs.gguf")
    writer.write_kv_data_to_file()
    writer.close()
    ours = header.encode(entries, ())
    theirs = (tmp_path / "theirs.gguf").read_bytes()
    assert ours == theirs + bytes(-len(theirs) % 32)


def test_a_list_of_several_types_is_no_array():
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path=None, arch="llama")
    writer.add_array("a", ["x", 1])
    with pytest.raises(ValueError, match="int, str"):
        packing.entries_of(writer)
