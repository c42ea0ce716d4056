"""Types by scheme: what the dry run says is what llama.cpp's quantizer then writes."""

from pathlib import Path

import numpy as np
import pytest

import gguf_files
from modelport.exporters.runtimes.gguf import library, mixture
from modelport.exporters.runtimes.gguf.file import Described
from modelport.sources.gguf import header
from modelport.targets.errors import ConversionFailed, Unsupported

pytestmark = pytest.mark.slow

ROWS_OF_256 = gguf_files.tensors("float16", layers=9)
NARROW = {
    name: (kind, tuple(size * 9 // 8 if size > 48 else size for size in shape))
    for name, (kind, shape) in ROWS_OF_256.items()
}
"""288 columns, which the K-quants do not divide."""


def described(named):
    return [Described(name, gguf_files.IDS[kind], shape) for name, (kind, shape) in named.items()]


def values_of(named):
    return {
        **gguf_files.LLAMA,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.block_count": 9,
        "llama.embedding_length": named["output_norm.weight"][1][0],
    }


def keys(named):
    return gguf_files.entries(values_of(named))


def importance(named):
    return {name: np.ones(shape[-1], np.float32) for name, (_, shape) in named.items() if len(shape) == 2}


@pytest.mark.parametrize("scheme", mixture.FILE_TYPES)
@pytest.mark.parametrize("named", [ROWS_OF_256, NARROW], ids=["256", "288"])
@pytest.mark.parametrize("weighed", [False, True])
def test_the_decision_is_what_the_quantizer_writes(tmp_path, scheme, named, weighed):
    matrix = importance(named) if weighed else None
    decided = mixture.decide(keys(named), described(named), scheme, tmp_path, importance=matrix)
    source = gguf_files.write(tmp_path / "source.gguf", values_of(named), named)
    mixture.quantize(source, tmp_path / "written.gguf", scheme, importance=matrix)
    written = {info.name: info.type for info in header.read_header(tmp_path / "written.gguf").tensors}
    assert dict(zip(named, decided, strict=True)) == written


def test_an_importance_matrix_changes_some_decisions(tmp_path):
    plain, weighed = (
        mixture.decide(keys(ROWS_OF_256), described(ROWS_OF_256), "q4_0", tmp_path, importance=matrix)
        for matrix in (None, importance(ROWS_OF_256))
    )
    assert plain != weighed


def test_the_decision_leaves_no_file(tmp_path):
    mixture.decide(keys(ROWS_OF_256), described(ROWS_OF_256), "q4_k_m", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_vocabulary_does_not_matter_but_its_size_is_told(tmp_path):
    kept = mixture._without_vocabulary(keys(ROWS_OF_256))
    tokens = next(entry for entry in kept if entry.key == "tokenizer.ggml.tokens")
    assert tokens.items == 48
    path = tmp_path / "kept.gguf"
    path.write_bytes(header.encode(kept, ()))
    assert header.value(header.read_header(path).find("tokenizer.ggml.tokens")) == [0] * 48


def test_a_model_that_llama_cpp_does_not_know_is_refused_in_its_words(tmp_path):
    entries = gguf_files.entries({"general.architecture": "abacus"})
    with pytest.raises(ConversionFailed, match=r"unknown model architecture.*abacus"):
        mixture.decide(entries, described(ROWS_OF_256), "q4_k_m", tmp_path)


def test_a_log_of_another_form_is_not_guessed_at(tmp_path, monkeypatch):
    monkeypatch.setattr(mixture, "quantize", lambda *args, **kwargs: "[1/1] output.weight: f16 to q6_K\n")
    with pytest.raises(ConversionFailed, match="two-step"):
        mixture.decide(keys(ROWS_OF_256), described(ROWS_OF_256), "q4_k_m", tmp_path)


def test_schemes_are_llama_cpps_file_types():
    numbers = {name: mixture.file_type(name) for name in mixture.FILE_TYPES}
    assert numbers["q4_k_m"] == library.llama().LLAMA_FTYPE_MOSTLY_Q4_K_M
    assert len(set(numbers.values())) == len(numbers) == 12
    with pytest.raises(Unsupported, match="q9_9"):
        mixture.file_type("q9_9")


def test_every_scheme_of_the_card_is_known():
    from modelport.targets import registry

    assert set(registry.find_target("local-llm").schemes) == set(mixture.FILE_TYPES)


def test_a_missing_file_is_llama_cpps_own_error(tmp_path):
    with pytest.raises(ConversionFailed, match=r"none\.gguf"):
        mixture.quantize(Path(tmp_path / "none.gguf"), tmp_path / "out.gguf", "q4_0")
