"""What a GGUF file really holds: bytes by stored type, multiply-accumulates, and what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

import gguf_files
from gguf_files import LLAMA
from modelport.reports.record import audit_entry
from modelport.verification.audit import Audit, audit
from modelport.verification.audit.rule import forms, shares

MATRICES = gguf_files.matrices()
LAYERS = sum(rows * columns for name, (rows, columns) in MATRICES.items() if name.startswith("blk"))
TABLE = 48 * 256


def counted(folder: Path, kind: str, **others: str) -> Audit:
    path = gguf_files.write(folder / "m.gguf", LLAMA, gguf_files.tensors(kind, **others))
    found = audit(path, "gguf")
    assert found is not None
    return found


def test_bytes_are_counted_by_stored_type(tmp_path: Path) -> None:
    found = counted(tmp_path, "q4_k", ffn_down="q6_k", output="q6_k")
    narrow = 2 * 512 * 256 + TABLE
    assert found.weight_bytes == {
        "float32": 5 * 256 * 4,
        "q4_k": (LAYERS + 2 * TABLE - narrow) * 4.5 / 8,
        "q6_k": narrow * 6.5625 / 8,
    }
    assert sum(found.weight_bytes.values()) < found.file_bytes < sum(found.weight_bytes.values()) + 8192
    assert found.operators["attn_q"] == 2
    assert (found.operators["token_embd"], found.operators["output"]) == (1, 1)


def test_a_token_goes_through_every_matrix_but_reads_one_row_of_the_table(tmp_path: Path) -> None:
    found = counted(tmp_path, "q4_k", attn_v="float16")
    values = 2 * 128 * 256
    assert found.macs == {"int8": LAYERS + TABLE - values, "float16": values}
    named = gguf_files.tensors("q8_0")
    del named["output.weight"]
    tied = audit(gguf_files.write(tmp_path / "tied.gguf", LLAMA, named), "gguf")
    assert tied.macs == {"int8": LAYERS + TABLE}


def test_a_token_visits_some_of_the_experts(tmp_path: Path) -> None:
    named = {**gguf_files.tensors("q8_0"), "blk.0.ffn_gate_exps.weight": ("q8_0", (8, 512, 256))}
    keys = {**LLAMA, "llama.expert_count": 8, "llama.expert_used_count": 2}
    found = audit(gguf_files.write(tmp_path / "m.gguf", keys, named), "gguf")
    assert found.macs == {"int8": LAYERS + TABLE + 2 * 512 * 256}


def test_matrices_left_in_float_are_named_largest_first(tmp_path: Path) -> None:
    found = counted(tmp_path, "q8_0", attn_k="float16", ffn_up="bfloat16")
    assert found.float_ops == (
        "bfloat16 'blk.0.ffn_up.weight'",
        "bfloat16 'blk.1.ffn_up.weight'",
        "float16 'blk.0.attn_k.weight'",
        "float16 'blk.1.attn_k.weight'",
    )


@pytest.mark.parametrize(
    ("weights", "kind", "others"),
    [
        ("int4", "q4_k", {"ffn_down": "q6_k", "output": "q6_k"}),
        ("int4", "q4_0", {"output": "q6_k"}),
        ("int4", "q3_k", {"ffn_down": "q5_k"}),
        ("int4", "q5_0", {}),
        ("int8", "q8_0", {}),
        ("int8", "q5_k", {"ffn_down": "q6_k"}),
        ("int8", "q6_k", {"output": "q8_0"}),
        ("int2", "q2_k", {"ffn_down": "q3_k", "output": "q6_k"}),
        ("float16", "float16", {}),
        ("bfloat16", "bfloat16", {}),
        ("float32", "float32", {}),
    ],
)
def test_every_mixture_is_what_was_asked_for(
    tmp_path: Path, weights: str, kind: str, others: dict[str, str]
) -> None:
    compute = "int8" if weights.startswith("int") else weights
    held = shares(counted(tmp_path, kind, **others), weights, compute)
    assert held.weights > 0.95
    assert held.macs == 1
    assert (held.warnings, held.refused) == ((), False)


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ("int4", "float16"), ("int4", "float32"), ("int4", "q8_0"), ("int4", "q2_k"), ("int8", "bfloat16"),
        ("int8", "q4_k"), ("int2", "q8_0"), ("float16", "bfloat16"), ("float16", "q8_0"), ("bfloat16", "float32"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused(tmp_path: Path, weights: str, kind: str) -> None:
    held = shares(counted(tmp_path, kind), weights, "int8")
    assert held.refused
    assert f"{weights} was asked for and 0.0%" in held.warnings[0]


def test_a_q4_file_that_holds_mostly_f16_is_refused_and_says_where(tmp_path: Path) -> None:
    found = counted(tmp_path, "float16", attn_q="q4_k")
    entry = audit_entry(
        {
            "weight_bytes": found.weight_bytes, "macs": found.macs, "operators": found.operators,
            "float_ops": found.float_ops, "file_bytes": found.file_bytes,
        },
        "int4", "int8",
    )  # fmt: skip
    assert entry["refused"]
    assert "left in float: float16 × 14" in entry["warnings"][0]
    assert "of the multiply-accumulates are int8" in entry["warnings"][1]


def test_a_table_that_fell_back_to_wider_blocks_is_a_warning(tmp_path: Path) -> None:
    # Rows of no multiple of 256 take q8_0, and a small model is mostly its table.
    named = {**gguf_files.tensors("q4_k"), "blk.1.extra.weight": ("q8_0", (8000, 256))}
    found = audit(gguf_files.write(tmp_path / "m.gguf", LLAMA, named), "gguf")
    held = shares(found, "int4", "int8")
    assert not held.refused
    assert held.weights < 0.5
    assert "in other blocks: q8_0 7" in held.warnings[0]


def test_blocks_do_not_count_where_float_was_asked_for(tmp_path: Path) -> None:
    held = shares(counted(tmp_path, "q8_0", attn_q="float16"), "float16", "float16")
    assert held.refused


def test_forms_are_names_of_stored_types() -> None:
    assert {"int4", "uint4", "q4_k", "q6_k", "q5_0"} <= set(forms("int4"))
    assert not {"q8_0", "q2_k", "float16"} & set(forms("int4"))
    assert forms("float32") == ("float32",)


@pytest.mark.slow
def test_what_llama_cpp_quantized_is_counted_as_it_says(tmp_path: Path) -> None:
    import gguf
    import numpy as np

    from modelport.exporters.runtimes.gguf import library

    source = tmp_path / "f32.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    for key, given in LLAMA.items():
        if isinstance(given, int):
            writer.add_uint32(key, given)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    random = np.random.default_rng(0)
    for name, (_, shape) in gguf_files.tensors("float32").items():
        writer.add_tensor(name, random.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    llama = library.llama()
    for file_type, weights in (
        (llama.LLAMA_FTYPE_MOSTLY_Q4_K_M, "int4"),
        (llama.LLAMA_FTYPE_MOSTLY_Q8_0, "int8"),
    ):
        options = llama.llama_model_quantize_default_params()
        options.ftype, options.nthread = file_type, 1
        target = tmp_path / f"{weights}.gguf"
        assert llama.llama_model_quantize(bytes(source), bytes(target), options) == 0
        found = audit(target, "gguf")
        sizes = {item.name: item.n_bytes for item in gguf.GGUFReader(target).tensors}
        assert sum(found.weight_bytes.values()) == sum(int(size) for size in sizes.values())
        held = shares(found, weights, "int8")
        assert (held.warnings, held.refused, held.macs) == ((), False, 1)
