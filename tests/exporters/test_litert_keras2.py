"""SavedModels that Keras 2 wrote with the optimizer's state, which TensorFlow's own loader no longer reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from litert_jobs import compare, export, images, make_job
from modelport.sources.loading.reference import load_reference
from modelport.verification import audit

pytestmark = pytest.mark.slow


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
