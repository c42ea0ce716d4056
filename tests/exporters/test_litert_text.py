"""Text models on LiteRT: embeddings, a small BERT and MiniLM on English sentences, in integer weights."""

from __future__ import annotations

import ast
import email
import re
from pathlib import Path

import numpy as np
import pytest

from litert_jobs import Arrays, compare, export, make_job
from modelport.verification import audit

pytestmark = pytest.mark.slow


def test_a_tensorflow_embedding_gets_integer_rows(tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32", name="ids")
    rows = keras.layers.Embedding(2000, 64)(ids)
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Dense(64, activation="relu")(rows))
    keras.Model(ids, keras.layers.Dense(10, name="scores")(pooled)).save(tmp_path / "text.keras")
    data = {"ids": np.random.default_rng(0).integers(0, 2000, (32, 24)).astype(np.int32)}
    for quant, least_db in {
        "fp16": 60,
        "int8": 25,
        "int8-dynamic": 35,
        "int8-weight": 35,
        "int4-weight": 10,
    }.items():
        given = data if quant == "int8" else None
        job = make_job(tmp_path / quant, "keras", tmp_path / "text.keras", quant, given, sequence=24)
        outcome, artifact = export(job)
        assert compare(job, outcome, data)["scores"]["sqnr_db"] > least_db, quant
        counted = audit.audit(artifact, "tflite")
        assert counted is not None
        assert "GATHER" not in counted.operators
        assert (counted.weight_share(["float32"]) or 0) < 0.02, quant


def encoder(folder: Path) -> Path:
    """A small BERT with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256, vocab_size=500
    )
    transformers.BertModel(config).eval().save_pretrained(folder)
    return folder


def token_ids(count: int) -> Arrays:
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 500, (count, 32))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def test_an_encoder_in_static_int8_and_in_four_bits(tmp_path: Path) -> None:
    path = encoder(tmp_path / "bert")
    least = {"int8": 30, "int4-weight": 15}
    for quant, least_db in least.items():
        data = token_ids(32) if quant == "int8" else None
        job = make_job(tmp_path / quant, "huggingface", path, quant, data, sequence=32)
        outcome, artifact = export(job)
        figures = compare(job, outcome, token_ids(4))["last_hidden_state"]
        assert figures["sqnr_db"] > least_db, quant
        counted = audit.audit(artifact, "tflite")
        assert counted is not None
        assert (counted.weight_share(["int4", "int8"]) or 0) > 0.9, quant
        if quant == "int8":
            assert counted.mac_share(["int8"]) == 1
            assert any("SOFTMAX" in note for note in outcome.notes)
        if quant == "int4-weight":
            assert (counted.weight_share(["int4"]) or 0) > 0.9
            import tensorflow as tf

            tf.lite.Interpreter(model_path=str(artifact)).allocate_tensors()


def sentences(count: int) -> list[str]:
    """English sentences from the standard library's own docstrings, seeded."""
    found: set[str] = set()
    for file in sorted(Path(email.__file__).parents[1].glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(errors="replace"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                words = " ".join((ast.get_docstring(node) or "").split())
                found |= {
                    s for s in re.split(r"(?<=[.!?])\s+", words) if 40 < len(s) < 200 and s.endswith(".")
                }
    ordered = sorted(found)
    return [ordered[i] for i in np.random.default_rng(0).permutation(len(ordered))[:count]]


def test_a_real_encoder_stays_close_in_static_and_dynamic_int8(minilm: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(length=64)
    encoded = tokenizer.encode_batch(sentences(96))
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    tokens = {
        name: np.array([getattr(e, field) for e in encoded], np.int64) for name, field in fields.items()
    }
    calibration = {name: values[:64] for name, values in tokens.items()}
    held_out = {name: values[64:] for name, values in tokens.items()}
    for quant, floor in (("int8", 0.98), ("int8-dynamic", 0.99)):
        data = calibration if quant == "int8" else None
        job = make_job(tmp_path / quant, "huggingface", minilm, quant, data, sequence=64)
        outcome, artifact = export(job)
        assert compare(job, outcome, held_out)["sentence_embedding"]["cosine"] >= floor
        assert artifact.stat().st_size < 0.27 * 90_868_376
        if quant == "int8":
            assert any("int8-dynamic" in note and "better choice" in note for note in outcome.notes)
