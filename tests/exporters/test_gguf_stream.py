"""The one pass over GGUF sources: llama.cpp's own bytes, and one clear error where it cannot be done."""

import filecmp
import math

import numpy as np
import pytest

import gguf_jobs
from gguf_random import KEYS, bfloat16, random_weights, write_gguf
from modelport.exporters.runtimes import gguf as runtime
from modelport.exporters.runtimes.gguf import file, lanes, library, mixture, rows, stream
from modelport.exporters.runtimes.gguf.blueprint import Tensor
from modelport.sources.place import Place
from modelport.targets.errors import ConversionFailed, SourceUnreadable, Unsupported, UsageError

pytestmark = pytest.mark.slow

F32, F16, Q4_0, Q8_0, Q4_K, BF16 = 0, 1, 2, 8, 12, 30


def export(source, scheme, folder, **options):
    return gguf_jobs.export(gguf_jobs.make_job(folder, source, scheme, **options))


def silent(stage, done, total):
    pass


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """One model in four types."""
    folder = tmp_path_factory.mktemp("sources")
    made = {
        kind: write_gguf(folder / f"{kind}.gguf", random_weights(), kind)
        for kind in ("float32", "float16", "bfloat16")
    }
    made["q8_0"] = folder / "q8_0.gguf"
    mixture.quantize(made["float16"], made["q8_0"], "q8_0")
    return made


@pytest.mark.parametrize("scheme", mixture.FILE_TYPES)
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "q8_0"])
def test_one_pass_writes_what_llama_cpp_writes(sources, tmp_path, kind, scheme):
    mixture.quantize(sources[kind], tmp_path / "wanted.gguf", scheme)
    made, outcome = export(sources[kind], scheme, tmp_path)
    assert filecmp.cmp(made, tmp_path / "wanted.gguf", shallow=False)
    assert outcome.files == ("model.gguf",)
    assert outcome.data["bytes_written"] == made.stat().st_size


def importance_of(arrays, seed=1):
    rng = np.random.default_rng(seed)
    return {
        name: rng.exponential(1.0, array.shape[-1]).astype(np.float32)
        for name, array in arrays.items()
        if array.ndim == 2 and name != "output.weight"
    }


@pytest.mark.parametrize("scheme", ["q4_k_m", "q5_k_m", "q6_k", "q4_0", "q8_0", "q3_k_m", "q2_k"])
def test_with_an_importance_matrix_too(sources, tmp_path, monkeypatch, scheme):
    from modelport.exporters.runtimes.gguf import imatrix

    weights = importance_of(random_weights())
    monkeypatch.setattr(imatrix, "read", lambda path: weights)
    mixture.quantize(sources["float16"], tmp_path / "wanted.gguf", scheme, importance=weights)
    made, _ = export(sources["float16"], scheme, tmp_path, imatrix="imatrix.gguf")
    assert filecmp.cmp(made, tmp_path / "wanted.gguf", shallow=False)


@pytest.mark.parametrize("change", ["size", "names"])
def test_another_models_importance_matrix_is_refused(sources, tmp_path, monkeypatch, change):
    from modelport.exporters.runtimes.gguf import imatrix

    weights = importance_of(random_weights())
    if change == "size":
        weights["blk.0.attn_q.weight"] = np.ones(128, np.float32)
    else:
        weights = {f"other.{name}": values for name, values in weights.items()}
    monkeypatch.setattr(imatrix, "read", lambda path: weights)
    with pytest.raises(UsageError, match=r"^imatrix\.gguf: "):
        export(sources["float16"], "q4_k_m", tmp_path, imatrix="imatrix.gguf")


@pytest.mark.parametrize(("threads", "slab"), [(1, 1), (1, 1 << 20), (3, 700), (3, 5000), (2, 1 << 26)])
def test_bytes_depend_on_neither_threads_nor_slabs(sources, tmp_path, monkeypatch, threads, slab):
    plain, _ = export(sources["bfloat16"], "q4_k_m", tmp_path / "plain")
    monkeypatch.setattr(stream, "SLAB", slab)
    other, _ = export(sources["bfloat16"], "q4_k_m", tmp_path / "other", threads=threads)
    assert filecmp.cmp(plain, other, shallow=False)


def test_a_model_in_parts_becomes_one_file(sources, tmp_path, monkeypatch):
    arrays = random_weights()
    names = list(arrays)
    with monkeypatch.context() as patched:
        patched.setattr(file, "DROPPED", ())
        for number, some in enumerate((names[:7], names[7:])):
            keys = {"split.no": (2, number), "split.count": (2, 2), "split.tensors.count": (5, len(names))}
            write_gguf(
                tmp_path / f"m-{number + 1:05}-of-00002.gguf",
                {name: arrays[name] for name in some},
                keys={**(KEYS if number == 0 else {}), **keys},
            )
    first = tmp_path / "m-00001-of-00002.gguf"
    mixture.quantize(first, tmp_path / "wanted.gguf", "q4_k_m")
    made, _ = export(first, "q4_k_m", tmp_path / "out", via="f16")
    whole, _ = export(sources["float16"], "q4_k_m", tmp_path / "whole")
    assert filecmp.cmp(made, tmp_path / "wanted.gguf", shallow=False)
    assert filecmp.cmp(made, whole, shallow=False)


def test_two_steps_give_the_same_file(sources, tmp_path):
    one, _ = export(sources["float16"], "q4_k_m", tmp_path / "one")
    two, outcome = export(sources["float16"], "q4_k_m", tmp_path / "two", two_step=True)
    assert filecmp.cmp(one, two, shallow=False)
    assert outcome.data["lanes"] == "llama.cpp"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["blk.1.attn_q.weight", "blk.0.attn_norm.weight"])
@pytest.mark.parametrize(("kind", "scheme"), [("bfloat16", "q4_k_m"), ("float16", "f16"), ("float32", "f32")])
def test_weights_that_are_not_finite_are_named_and_nothing_is_left(tmp_path, value, name, kind, scheme):
    arrays = random_weights()
    arrays[name].flat[-1] = value
    source = write_gguf(tmp_path / "damaged.gguf", arrays, kind)
    with pytest.raises(SourceUnreadable, match=rf"^damaged\.gguf: {name}: .*NaN or infinite"):
        export(source, scheme, tmp_path / "out")
    assert list((tmp_path / "out" / "staging").iterdir()) == []


@pytest.mark.parametrize("threads", [1, 4])
def test_of_several_errors_the_first_in_the_file_is_told(tmp_path, threads):
    arrays = random_weights()
    for name in ("blk.0.ffn_up.weight", "blk.1.attn_k.weight", "blk.1.ffn_up.weight"):
        arrays[name][:] = math.nan
    source = write_gguf(tmp_path / "damaged.gguf", arrays)
    for number in range(5):
        with pytest.raises(SourceUnreadable, match=r"blk\.0\.ffn_up"):
            export(source, "q4_k_m", tmp_path / str(number), threads=threads)


def test_values_beyond_float16_are_refused_in_float16_alone(tmp_path):
    arrays = random_weights()
    arrays["blk.1.ffn_up.weight"][3, 5] = 70000.0
    source = write_gguf(tmp_path / "large.gguf", arrays, "bfloat16")
    with pytest.raises(ConversionFailed, match=r"1 .*blk\.1\.ffn_up\.weight.*float16's 65,504"):
        export(source, "f16", tmp_path / "f16")
    made, _ = export(source, "bf16", tmp_path / "bf16")
    assert made.exists()


@pytest.mark.parametrize("scheme", ["q4_0", "q4_k_m"])
def test_scales_beyond_float16_are_refused_as_llama_cpp_does(tmp_path, scheme):
    arrays = random_weights()
    arrays["blk.1.ffn_up.weight"][3, 5] = 1e30
    source = write_gguf(tmp_path / "large.gguf", arrays, "bfloat16")
    with pytest.raises(ConversionFailed, match=r"scale of a block of blk\.1\.ffn_up"):
        export(source, scheme, tmp_path / "out")
    with pytest.raises(ConversionFailed, match="validation failed"):
        mixture.quantize(source, tmp_path / "wanted.gguf", scheme)


def test_low_bits_are_quantized_again_only_when_asked(sources, tmp_path):
    low = tmp_path / "low.gguf"
    mixture.quantize(sources["float16"], low, "q4_0")
    with pytest.raises(Unsupported, match=r"q4_0, which.*--requantize"):
        export(low, "q5_k_m", tmp_path / "refused")
    made, outcome = export(low, "q5_k_m", tmp_path / "made", requantize=True)
    mixture.quantize(low, tmp_path / "wanted.gguf", "q5_k_m")
    assert filecmp.cmp(made, tmp_path / "wanted.gguf", shallow=False)
    assert "q4_0 were quantized a second time" in outcome.notes[0]


def test_tensors_that_keep_their_type_are_copied_without_asking(sources, tmp_path):
    low = tmp_path / "low.gguf"
    mixture.quantize(sources["float16"], low, "q4_k_m")
    made, outcome = export(low, "q4_k_m", tmp_path / "made")
    assert filecmp.cmp(made, low, shallow=False)
    assert outcome.notes == ()


def test_a_file_that_was_cut_after_the_header_worker_is_named(sources, tmp_path):
    source = tmp_path / "cut.gguf"
    source.write_bytes(sources["float16"].read_bytes())
    job = gguf_jobs.make_job(tmp_path / "out", source, "q4_k_m")
    runtime.header(job, silent)
    with source.open("r+b") as opened:
        opened.truncate(source.stat().st_size - 1000)
    with pytest.raises(SourceUnreadable, match=r"cut\.gguf"):
        runtime.export(job, silent)


def streamed(tmp_path, tensor, array, dtype, kind, between, importance=None):
    """One tensor through `stream.run`: the bytes that it writes."""
    data = {
        "float32": array.astype(np.float32),
        "float16": array.astype(np.float16),
        "bfloat16": bfloat16(array),
    }[dtype].tobytes()
    (tmp_path / "weights").write_bytes(data)
    place = Place(tmp_path / "weights", 0, dtype, array.shape, len(data))
    (bound,) = rows.bind([tensor], {tensor.parts[0]: place})
    out = tmp_path / "out"
    total = rows.target_bytes(kind, bound.width) * bound.rows
    out.write_bytes(bytes(total))
    order = stream.Order(bound, kind, between, 0, importance)
    stream.run(
        [order], out, lanes.load(library.ggml()), threads=2, slab=3000, progress=silent, stage="quantize"
    )
    return out.read_bytes()


def test_one_is_added_in_float16_where_the_checkpoint_is_float16(tmp_path):
    array = np.random.default_rng(0).normal(0, 0.3, 3000).astype(np.float16)
    tensor = Tensor("blk.0.attn_norm.weight", (3000,), ("n",), "plus one", float32=True)
    made = np.frombuffer(streamed(tmp_path, tensor, array, "float16", F32, F32), np.float32)
    assert (made == (array + np.float16(1)).astype(np.float32)).all()
    assert (made != array.astype(np.float32) + np.float32(1)).any()


def test_one_is_added_in_float32_to_bfloat16(tmp_path):
    array = np.random.default_rng(0).normal(0, 0.3, 3000).astype(np.float32)
    tensor = Tensor("blk.0.attn_norm.weight", (3000,), ("n",), "plus one", float32=True)
    made = np.frombuffer(streamed(tmp_path, tensor, array, "bfloat16", F32, F32), np.float32)
    kept = (bfloat16(array).astype(np.uint32) << 16).view(np.float32)
    assert (made == kept + np.float32(1)).all()


@pytest.mark.parametrize(("between", "rounded"), [(F16, np.float16), (F32, np.float32)])
def test_values_are_rounded_to_the_type_in_between_first(tmp_path, between, rounded):
    array = np.random.default_rng(0).normal(0, 0.05, (16, 256)).astype(np.float32)
    tensor = Tensor("blk.0.ffn_up.weight", array.shape, ("w",))
    made = streamed(tmp_path, tensor, array, "float32", Q8_0, between)
    wide = np.ascontiguousarray(array.astype(rounded).astype(np.float32))
    wanted = np.zeros(len(made), np.uint8)
    library.ggml().ggml_quantize_chunk(Q8_0, wide.ctypes.data, wanted.ctypes.data, 0, 16, 256, None)
    assert made == wanted.tobytes()


@pytest.mark.parametrize("kind", [Q4_K, Q4_0])
def test_each_expert_is_weighed_by_its_own_columns(tmp_path, kind):
    rng = np.random.default_rng(0)
    array = rng.normal(0, 0.05, (3, 5, 256)).astype(np.float32)
    columns = rng.exponential(1.0, (3, 256)).astype(np.float32)
    tensor = Tensor("blk.0.ffn_up_exps.weight", array.shape, ("w",))
    made = streamed(tmp_path, tensor, array, "float32", kind, F32, columns.reshape(-1))
    wanted = np.zeros((3, len(made) // 3), np.uint8)
    for expert in range(3):
        library.ggml().ggml_quantize_chunk(
            kind,
            array[expert].ctypes.data,
            wanted[expert].ctypes.data,
            0,
            5,
            256,
            columns[expert].ctypes.data,
        )
    assert made == wanted.tobytes()


def test_progress_counts_every_value_once(sources, tmp_path):
    job = gguf_jobs.make_job(tmp_path, sources["float16"], "q4_k_m")
    runtime.header(job, silent)
    told = []
    runtime.export(job, lambda *event: told.append(event))
    stage, done, total = told[-1]
    assert (stage, done) == ("quantize", total)
    assert total == sum(array.size for array in random_weights().values())
    assert [event[1] for event in told if event[0] == stage] == sorted(e[1] for e in told if e[0] == stage)


def test_sizes_are_exact_for_every_scheme(sources, tmp_path):
    job = gguf_jobs.make_job(
        tmp_path / "sizes", sources["float16"], "q4_k_m", schemes=list(mixture.FILE_TYPES)
    )
    told = runtime.sizes(job, silent).data
    for scheme in mixture.FILE_TYPES:
        made, _ = export(sources["float16"], scheme, tmp_path / scheme)
        assert told["file_bytes"][scheme] == made.stat().st_size
        assert told["file_bytes"][scheme] - told["tensor_bytes"][scheme] == told["header_bytes"]
