"""LiteRT's schemes: what each stores and computes in, how close it stays, and that its bytes are the same again."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from litert_jobs import SOURCES, compare, export, images, make_job
from modelport.targets.errors import Unsupported
from modelport.verification import audit, runners

pytestmark = pytest.mark.slow


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
