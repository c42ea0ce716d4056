"""Collecting an importance matrix in llama.cpp, held against torch and against plain sums."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_llms
from llama_oracle import Quantization, convert, run_quantizations
from modelport.exporters.runtimes.gguf import importance, library
from modelport.sources import gguf
from modelport.targets.errors import ConversionFailed

pytestmark = pytest.mark.slow

NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tuple[Path, Path]:
    """(folder, the same as a 32-bit GGUF)."""
    work = tmp_path_factory.mktemp("collected")
    folder = tiny_llms.make("llama", work / "tiny", layers=2)
    return folder, convert(folder, work / "model.gguf", "f32")


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(3).integers(5, 700, (3, 48))


@pytest.fixture(scope="module")
def collected(model, windows, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    done = importance.collect(model[1], windows, out, threads=1, progress=lambda *_: None, datasets=["t.txt"])
    assert (done.entries, done.windows, done.unseen) == (14, 3, ())
    return out


def test_sums_are_the_squares_that_each_matrix_sees_in_torch(model, windows, collected) -> None:
    import torch
    import transformers

    loaded = transformers.AutoModelForCausalLM.from_pretrained(model[0], dtype=torch.float32)
    seen: dict[str, Any] = {}

    def watch(name: str) -> Any:
        def hook(_: Any, given: Any) -> None:
            seen[name] = seen.get(name, 0) + given[0].double().square().sum((0, 1)).numpy()

        return hook

    for name, layer in loaded.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            layer.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        loaded(torch.tensor(windows))
    found = importance.read(collected)
    assert len(seen) == len(found) == 14
    for name, squares in seen.items():
        parts = name.split(".")
        mean = squares / windows.size
        np.testing.assert_allclose(found[f"blk.{parts[2]}.{NAMES[parts[4]]}.weight"], mean, rtol=1e-2)


def test_llama_cpp_quantizes_with_the_matrix_and_to_other_bytes_than_without(
    model, collected, tmp_path
) -> None:
    plain, weighed = tmp_path / "plain.gguf", tmp_path / "weighed.gguf"
    run_quantizations(
        [Quantization(model[1], plain, "q4_k_m"), Quantization(model[1], weighed, "q4_k_m", collected)]
    )
    assert plain.stat().st_size == weighed.stat().st_size
    assert plain.read_bytes() != weighed.read_bytes()


def test_llama_cpps_own_reader_takes_the_file(collected) -> None:
    """`common_imatrix_load` of its tools begins with this call, and falls back to the older form where it fails."""
    ggml = library.ggml()
    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _Params]
    for name, kind in (("gguf_get_n_tensors", ctypes.c_int64), ("gguf_find_key", ctypes.c_int64)):
        getattr(ggml, name).restype = kind
    opened = ctypes.c_void_p(ggml.gguf_init_from_file(str(collected).encode(), _Params(True, None)))
    assert opened
    assert ggml.gguf_get_n_tensors(opened) == 28
    for key in (b"imatrix.datasets", b"imatrix.chunk_count", b"imatrix.chunk_size"):
        assert ggml.gguf_find_key(opened, key) >= 0
    ggml.gguf_free(opened)


class _Params(ctypes.Structure):
    """`struct gguf_init_params` of gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def test_the_output_matrix_is_left_out_unless_it_is_asked_for(model, windows, tmp_path) -> None:
    importance.collect(
        model[1],
        windows[:1],
        tmp_path / "with.gguf",
        threads=1,
        progress=lambda *_: None,
        process_output=True,
    )
    assert "output.weight" in importance.read(tmp_path / "with.gguf")


def test_activations_that_are_not_finite_stop_it_by_the_weight(tmp_path, windows) -> None:
    folder = tiny_llms.make("llama", tmp_path / "tiny", layers=1, dtype="float32")
    path = convert(folder, tmp_path / "model.gguf", "f32")
    raw = bytearray(path.read_bytes())
    place = gguf.places(path)["blk.0.ffn_norm.weight"]
    raw[place.begin : place.begin + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(raw)
    with pytest.raises(ConversionFailed, match="NaN or infinite") as caught:
        importance.collect(path, windows, tmp_path / "out.gguf", threads=1, progress=lambda *_: None)
    assert caught.value.where == "model.gguf: blk.0.ffn_gate.weight"
    assert not (tmp_path / "out.gguf").exists()


def tensor(array: np.ndarray, name: bytes = b"") -> Any:
    """A ggml tensor over a numpy array, whose axes may be strided."""
    made = importance._Tensor()
    made.type = 0
    shape = (1,) * (4 - array.ndim) + array.shape
    strides = (array.nbytes,) * (4 - array.ndim) + array.strides
    made.ne[:], made.nb[:] = shape[::-1], strides[::-1]
    made.data, made.name = array.ctypes.data, name
    return made


@settings(max_examples=30, deadline=None)
@given(
    experts=st.integers(2, 6), tokens=st.integers(1, 30), width=st.integers(1, 24), shared=st.booleans(),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_an_expert_counts_the_rows_that_are_sent_to_it(experts, tokens, width, shared, seed) -> None:
    rng = np.random.default_rng(seed)
    used = int(rng.integers(1, experts + 1))
    ids = np.stack([rng.permutation(experts)[:used] for _ in range(tokens)]).astype(np.int32)
    wide = np.zeros((tokens, experts), np.int32)
    wide[:, :used] = ids
    rows = rng.standard_normal((tokens, 1 if shared else used, width)).astype(np.float32)
    collector = importance._Collector(process_output=False)
    node = importance._Tensor()
    weight = tensor(np.zeros((experts, 3, width), np.float32), b"CUDA0#blk.0.ffn_up_exps.weight#0")
    given_rows, given_ids = tensor(rows), tensor(wide[:, :used])  # ids of all experts' order, cut: strided
    node.op = collector._experts
    for place, source in enumerate((weight, given_rows, given_ids)):
        node.src[place] = ctypes.pointer(source)
    for asking in (True, False):
        assert collector.see(ctypes.addressof(node), asking, None)
    assert collector.error is None
    found = collector.collected()["blk.0.ffn_up_exps.weight"]
    for expert in range(experts):
        taken = [
            rows[t, 0 if shared else k] for t in range(tokens) for k in range(used) if ids[t, k] == expert
        ]
        assert found.counts[expert] == len(taken)
        expected = np.square(np.array(taken, np.float64).reshape(-1, width)).sum(0)
        np.testing.assert_allclose(found.values[expert], expected, rtol=1e-5, atol=1e-6)
