"""The LiteRT exporter on the digits CNN, small encoders and MiniLM: numbers, boundary, layout, bytes."""

from __future__ import annotations

import ast
import email
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.calibration.samples import write_set
from modelport.exporters.job import Job, Outcome
from modelport.exporters.runtimes import litert
from modelport.sources.loading.reference import load_reference
from modelport.targets.errors import SourceUnreadable, Unsupported, UsageError
from modelport.verification import audit, runners
from modelport.verification.fidelity import compare_output
from modelport.verification.steps import to_artifact, to_source

pytestmark = pytest.mark.slow

Arrays = Mapping[str, np.ndarray[Any, Any]]


def make_job(
    folder: Path, kind: str, path: Path, quant: str, data: Arrays | None = None, **options: Any
) -> Job:
    (folder / "staging").mkdir(parents=True)
    if data is not None:
        write_set(folder / "samples" / "calibration", data)
    samples = str(folder / "samples") if data is not None else None
    return Job(
        (),
        kind,
        str(path),
        "android",
        "litert",
        quant,
        str(folder / "staging"),
        str(folder),
        samples,
        options,
    )


def export(job: Job) -> tuple[Outcome, Path]:
    outcome = litert.export(job, lambda stage, done, total: None)
    return outcome, Path(job.staging) / outcome.files[0]


def compare(job: Job, outcome: Outcome, held_out: Arrays) -> dict[str, dict[str, Any]]:
    """Figures per output of the artifact against the source."""
    reference = load_reference(job.source_kind, Path(job.source_path), job.options)
    runner = runners.load(Path(job.staging) / outcome.files[0], "tflite", threads=2)
    assert runner is not None
    wanted: dict[str, list[Any]] = {}
    given: dict[str, list[Any]] = {}
    for index in range(len(next(iter(held_out.values())))):
        feed = {name: values[index : index + 1] for name, values in held_out.items()}
        found = to_source(runner.run(to_artifact(feed, outcome.inputs)), outcome.outputs)
        for name, value in reference(feed).items():
            wanted.setdefault(name, []).append(value)
            given.setdefault(name, []).append(found[name])
    return {name: compare_output(name, wanted[name], given[name]) for name in wanted}


SOURCES = {"torch-exported": "digits.pt2", "saved-model": "digits_saved_model", "keras": "digits.keras"}


def images(digits: Path, kind: str, name: str, count: int) -> Arrays:
    array = np.load(digits / f"{name}.npz")["image"][:count]
    return {"image": array if kind == "torch-exported" else array.transpose(0, 2, 3, 1)}


@pytest.mark.parametrize("kind", SOURCES)
def test_static_int8_is_full_integer_and_close_from_every_source(
    digits: Path, tmp_path: Path, kind: str
) -> None:
    data = images(digits, kind, "calibration", 256)
    job = make_job(tmp_path, kind, digits / SOURCES[kind], "int8", data)
    outcome, artifact = export(job)
    (figures,) = compare(job, outcome, images(digits, kind, "held_out", 450)).values()
    assert figures["sqnr_db"] >= 30
    assert figures["top1_agreement"] >= 0.995
    from ai_edge_litert.interpreter import Interpreter

    loaded = Interpreter(model_path=str(artifact))
    for detail in (*loaded.get_input_details(), *loaded.get_output_details()):
        assert detail["dtype"] is np.int8
    counted = audit.audit(artifact, "tflite")
    assert counted is not None
    assert counted.mac_share(["int8"]) == 1
    assert (counted.weight_share(["int8"]) or 0) > 0.95
    assert counted.float_ops == ()
    assert "QUANTIZE" not in counted.operators


@pytest.mark.parametrize(
    ("quant", "least_db", "dtype"),
    [
        ("fp32", 100, "float32"),
        ("fp16", 60, "float16"),
        ("int8-dynamic", 35, "int8"),
        ("int8-weight", 35, "int8"),
    ],
)
def test_the_other_schemes_store_what_they_say(
    digits: Path, tmp_path: Path, quant: str, least_db: float, dtype: str
) -> None:
    job = make_job(tmp_path, "keras", digits / "digits.keras", quant)
    outcome, artifact = export(job)
    figures = compare(job, outcome, images(digits, "keras", "held_out", 100))["logits"]
    assert figures["sqnr_db"] >= least_db
    counted = audit.audit(artifact, "tflite")
    assert counted is not None
    assert (counted.weight_share([dtype]) or 0) > 0.95
    computes = "int8" if quant == "int8-dynamic" else "float32"
    assert counted.mac_share([computes]) == 1


def test_int4_on_a_convolutional_network_is_refused_by_name(digits: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, "keras", digits / "digits.keras", "int4-weight")
    with pytest.raises(Unsupported, match=r"CONV_2D.*int8-weight"):
        export(job)
    assert list((tmp_path / "staging").iterdir()) == []


def test_an_operator_that_litert_lacks_is_named(tmp_path: Path) -> None:
    import keras
    import torch

    class Inverse(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.erfinv(x)

    torch.export.save(torch.export.export(Inverse(), (torch.rand(1, 4),)), tmp_path / "erfinv.pt2")
    x = keras.Input((8,), name="x")
    keras.Model(x, keras.ops.erfinv(x)).save(tmp_path / "erfinv.keras")
    with pytest.raises(Unsupported, match=r"no LiteRT form of aten\.erfinv"):
        export(make_job(tmp_path / "a", "torch-exported", tmp_path / "erfinv.pt2", "fp32"))
    with pytest.raises(Unsupported, match=r"no LiteRT form of tf\.Erfinv"):
        export(make_job(tmp_path / "b", "keras", tmp_path / "erfinv.keras", "fp32"))


def test_a_loop_gets_integer_weights_and_static_int8_is_refused(tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((10, 4), name="x")
    keras.Model(x, keras.layers.LSTM(8, name="h")(x)).save(tmp_path / "lstm.keras")
    data = {"x": np.random.default_rng(0).standard_normal((8, 10, 4)).astype(np.float32)}
    for quant, stored in {"fp16": "float16", "int8-dynamic": "int8"}.items():
        job = make_job(tmp_path / quant, "keras", tmp_path / "lstm.keras", quant)
        outcome, artifact = export(job)
        assert compare(job, outcome, data)["h"]["sqnr_db"] > 40
        counted = audit.audit(artifact, "tflite")
        assert counted is not None
        assert counted.weight_bytes[stored] == (2 if stored == "float16" else 1) * 4 * 8 * (4 + 8)
    with pytest.raises(Unsupported, match=r"1 WHILE.*int8-dynamic"):
        export(make_job(tmp_path / "int8", "keras", tmp_path / "lstm.keras", "int8", data))


def test_static_int8_without_data_says_how_to_give_it(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--calibration"):
        export(make_job(tmp_path, "keras", digits / "digits.keras", "int8"))


@pytest.mark.parametrize(
    ("kind", "layout", "order", "shape"),
    [
        ("torch-exported", "nhwc", (0, 2, 3, 1), (1, 8, 8, 1)),
        ("torch-exported", "nchw", (), (1, 1, 8, 8)),
        ("keras", "nchw", (0, 3, 1, 2), (1, 1, 8, 8)),
        ("keras", None, (), (1, 8, 8, 1)),
    ],
)
def test_the_layout_is_the_one_asked_for_and_is_said(
    digits: Path,
    tmp_path: Path,
    kind: str,
    layout: str | None,
    order: tuple[int, ...],
    shape: tuple[int, ...],
) -> None:
    job = make_job(tmp_path, kind, digits / SOURCES[kind], "fp32", layout=layout)
    outcome, artifact = export(job)
    from ai_edge_litert.interpreter import Interpreter

    (detail,) = Interpreter(model_path=str(artifact)).get_input_details()
    assert tuple(detail["shape"]) == shape
    assert outcome.inputs[0].permutation == order
    (figures,) = compare(job, outcome, images(digits, kind, "held_out", 20)).values()
    assert figures["sqnr_db"] > 100
    said = " ".join(outcome.notes)
    assert ("NHWC in the artifact" in said or "NCHW in the artifact" in said) == bool(order)


def test_another_process_writes_the_same_bytes_and_tensorflow_reads_them(
    digits: Path, tmp_path: Path
) -> None:
    data = images(digits, "torch-exported", "calibration", 64)
    job = make_job(tmp_path / "a", "torch-exported", digits / "digits.pt2", "int8", data)
    _, artifact = export(job)
    other = tmp_path / "b"
    (other / "staging").mkdir(parents=True)
    shutil.copytree(tmp_path / "a" / "samples", other / "samples")
    again = job.to_json().replace(str(tmp_path / "a"), str(other))
    program = (
        "import sys; from modelport.exporters.job import Job; from modelport.exporters.runtimes import litert;"
        "litert.export(Job.from_json(sys.argv[1]), lambda *a: None)"
    )
    subprocess.run([sys.executable, "-c", program, again], check=True, capture_output=True, cwd=tmp_path)
    hashes = {
        hashlib.sha256(p.read_bytes()).hexdigest() for p in (artifact, other / "staging" / "model.tflite")
    }
    assert len(hashes) == 1
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(artifact))
    interpreter.allocate_tensors()
    held_out = images(digits, "torch-exported", "held_out", 1)["image"]
    runner = runners.load(artifact, "tflite")
    assert runner is not None
    (mine,) = runner.run({"image": held_out}).values()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = given["quantization"]
    interpreter.set_tensor(
        given["index"], np.clip(np.rint(held_out / scale) + zero, -128, 127).astype(np.int8)
    )
    interpreter.invoke()
    scale, zero = result["quantization"]
    theirs = (interpreter.get_tensor(result["index"]).astype(np.float32) - zero) * scale
    assert np.abs(mine - theirs).max() <= 1.01 * scale


def with_optimizer_slots(source: Path, target: Path) -> Path:
    """A SavedModel with the optimizer's slot variables in its object graph, as Keras 2 saved them."""
    from tensorflow.core.protobuf import saved_model_pb2

    shutil.copytree(source, target)
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((target / "saved_model.pb").read_bytes())
    graph = proto.meta_graphs[0].object_graph_def
    variables = [i for i, node in enumerate(graph.nodes) if node.WhichOneof("kind") == "variable"]
    child = graph.nodes[0].children.add()
    child.node_id, child.local_name = len(graph.nodes), "optimizer"
    optimizer = graph.nodes.add()
    optimizer.user_object.identifier = "optimizer"
    optimizer.user_object.version.producer = optimizer.user_object.version.min_consumer = 1
    slot = optimizer.slot_variables.add()
    slot.original_variable_node_id, slot.slot_variable_node_id = variables[0], variables[1]
    slot.slot_name = "m"
    (target / "saved_model.pb").write_bytes(proto.SerializeToString())
    return target


def test_a_saved_model_of_keras_2_with_optimizer_state_converts(digits: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    path = with_optimizer_slots(digits / "digits_saved_model", tmp_path / "old")
    with pytest.raises(AttributeError, match="add_slot"):
        tf.saved_model.load(str(path))
    job = make_job(tmp_path / "job", "saved-model", path, "fp32")
    outcome, artifact = export(job)
    held_out = images(digits, "saved-model", "held_out", 20)
    (figures,) = compare(job, outcome, held_out).values()
    assert figures["sqnr_db"] > 100
    (direct,) = load_reference("saved-model", digits / "digits_saved_model", {})(held_out).values()
    (old,) = load_reference("saved-model", path, {})(held_out).values()
    assert np.allclose(direct, old, atol=1e-4)
    assert any("version 1 loader" in note for note in outcome.notes)
    counted = audit.audit(artifact, "tflite")
    assert counted is not None
    assert "SHAPE" not in counted.operators


def test_a_signature_is_chosen_by_name(tmp_path: Path) -> None:
    import tensorflow as tf

    class Twice(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def double(self, x: Any) -> Any:
            return {"y": 2 * x}

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def triple(self, x: Any) -> Any:
            return {"y": 3 * x}

    module = Twice()
    path = tmp_path / "twice"
    tf.saved_model.save(module, str(path), signatures={"double": module.double, "triple": module.triple})
    with pytest.raises(UsageError, match="double, triple"):
        load_reference("saved-model", path, {})
    with pytest.raises(UsageError, match="no signature 'half'"):
        load_reference("saved-model", path, {"signature": "half"})
    job = make_job(tmp_path / "job", "saved-model", path, "fp32", signature="triple")
    _, artifact = export(job)
    runner = runners.load(artifact, "tflite")
    assert runner is not None
    assert runner.run({"x": np.ones((1, 3), np.float32)})["y"] == pytest.approx(3)


def test_weights_that_are_not_finite_are_refused_by_name(digits: Path, tmp_path: Path) -> None:
    import keras

    model = keras.models.load_model(digits / "digits.keras")
    kernel, bias = model.get_layer("logits").get_weights()
    kernel[0, 0] = np.nan
    model.get_layer("logits").set_weights([kernel, bias])
    model.save(tmp_path / "bad.keras")
    model.export(tmp_path / "bad_saved", verbose=False)
    with pytest.raises(SourceUnreadable, match="logits/kernel"):
        load_reference("keras", tmp_path / "bad.keras", {})
    with pytest.raises(SourceUnreadable, match="kernel"):
        load_reference("saved-model", tmp_path / "bad_saved", {})


def test_several_inputs_and_outputs_keep_their_names_and_order(tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    picture, extra = keras.Input((16, 16, 3), name="picture"), keras.Input((4,), name="extra")
    x = keras.layers.Conv2DTranspose(4, 3, strides=2, name="map")(keras.layers.DepthwiseConv2D(3)(picture))
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    joined = keras.layers.Concatenate()([pooled, keras.layers.Dense(4)(extra)])
    first = keras.layers.Dense(3, name="first")(joined)
    keras.Model({"picture": picture, "extra": extra}, [first, x]).save(tmp_path / "m.keras")
    rng = np.random.default_rng(0)
    data = {
        "picture": rng.standard_normal((32, 16, 16, 3)).astype(np.float32),
        "extra": rng.standard_normal((32, 4)).astype(np.float32),
    }
    job = make_job(tmp_path / "job", "keras", tmp_path / "m.keras", "int8", data, layout="nchw")
    outcome, _ = export(job)
    assert {port.source for port in outcome.inputs} == {"picture", "extra"}
    figures = compare(job, outcome, {name: values[:8] for name, values in data.items()})
    assert set(figures) == {"first", "map"}
    assert all(found["sqnr_db"] > 20 for found in figures.values())


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
