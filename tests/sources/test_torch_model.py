"""Torch sources become one module of positional tensors, or are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.sources.loading import torch_model
from modelport.targets.errors import SourceUnreadable, Unsupported, UsageError

pytestmark = pytest.mark.slow
torch: Any = pytest.importorskip("torch")


class Net(torch.nn.Module):
    """Two outputs by name, one keyword, one constant argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(4 * 36, 10)

    def forward(self, image, times, *, shift):
        hidden = torch.relu(self.conv(image)).flatten(1)
        return {"logits": self.head(self.drop(hidden)) * times + shift, "hidden": hidden}


def save(path: Path, net: Any, args=None, kwargs=None, shapes="batch") -> Path:
    batch = torch.export.Dim("batch")
    dynamic = {"image": {0: batch}, "times": None, "shift": {0: batch}} if shapes == "batch" else None
    args = args or (torch.randn(2, 1, 8, 8), 3)
    kwargs = {"shift": torch.randn(2, 1)} if kwargs is None else kwargs
    torch.export.save(torch.export.export(net, args, kwargs, dynamic_shapes=dynamic), path)
    return path


def test_program_with_keywords_and_named_outputs_becomes_positional(tmp_path: Path) -> None:
    net = Net().eval()
    path = save(tmp_path / "net.pt2", net)
    model = torch_model.load("torch-exported", path, {})
    assert model.input_names == ("image", "shift")
    assert model.output_names == ("logits", "hidden")
    assert [tuple(tensor.shape) for tensor in model.example] == [(1, 1, 8, 8), (1, 1)]
    assert model.dynamic == {"image": {0: "batch"}, "shift": {0: "batch"}}
    image, shift = torch.randn(5, 1, 8, 8), torch.randn(5, 1)
    with torch.no_grad():
        expected, actual = net(image, 3, shift=shift), model.module(image, shift)
    torch.testing.assert_close(actual[0], expected["logits"])
    torch.testing.assert_close(actual[1], expected["hidden"])


def test_reference_runs_on_arrays_by_name(tmp_path: Path) -> None:
    net = Net().eval()
    path = save(tmp_path / "net.pt2", net)
    image = np.random.default_rng(0).normal(size=(2, 1, 8, 8))  # float64 on purpose: the loader casts
    given = torch_model.load_reference("torch-exported", path, {})(
        {"image": image, "shift": np.zeros((2, 1))}
    )
    with torch.no_grad():
        expected = net(torch.tensor(image, dtype=torch.float32), 3, shift=torch.zeros(2, 1))
    np.testing.assert_allclose(given["logits"], expected["logits"].numpy(), rtol=1e-5, atol=1e-6)


def test_static_program_has_no_free_axes_and_numbered_outputs(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 3)).eval()
    torch.export.save(torch.export.export(net, (torch.randn(1, 4),)), tmp_path / "net.pt2")
    model = torch_model.load("torch-exported", tmp_path / "net.pt2", {})
    assert model.dynamic == {}
    assert model.output_names == ("output_0",)


def test_program_in_training_mode_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "net.pt2", Net().train())
    with pytest.raises(Unsupported, match=r"training mode.*eval\(\)"):
        torch_model.load("torch-exported", path, {})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    net = Net().eval()
    with torch.no_grad():
        net.conv.weight[0, 0, 0, 0] = bad
    with pytest.raises(SourceUnreadable, match=r"conv\.weight: 1 of 36 values are NaN or Inf"):
        torch_model.load("torch-exported", save(tmp_path / "net.pt2", net), {})


def test_a_mask_of_minus_infinity_is_no_broken_weight(tmp_path: Path) -> None:
    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.triu(torch.full((4, 4), float("-inf")), diagonal=1))

        def forward(self, scores):
            return torch.softmax(scores + self.mask, -1)

    torch.export.save(torch.export.export(Masked(), (torch.randn(4, 4),)), tmp_path / "net.pt2")
    assert torch_model.load("torch-exported", tmp_path / "net.pt2", {}).input_names == ("scores",)


def test_a_file_that_torch_cannot_load_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"PK\x05\x06" + bytes(18))
    with pytest.raises(SourceUnreadable, match="cannot load"):
        torch_model.load("torch-exported", tmp_path / "net.pt2", {})


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def rewrite(folder: Path, change) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pool(folder: Path, mode: str, *, normalize: bool) -> None:
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + (
        [("2_Normalize", "Normalize")] if normalize else []
    )
    listed = [
        {"idx": n, "name": str(n), "path": where, "type": f"sentence_transformers.models.{kind}"}
        for n, (where, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16, f"pooling_mode_{mode}": True})
    )


FEED = {
    "input_ids": np.array([[1, 2, 3, 4, 0], [5, 6, 0, 0, 0]]),
    "attention_mask": np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]),
    "token_type_ids": np.zeros((2, 5), np.int64),
}


def states(folder: Path) -> np.ndarray:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(**{name: torch.tensor(value) for name, value in FEED.items()}).last_hidden_state.numpy()


def test_encoder_gives_hidden_states(bert: Path) -> None:
    model = torch_model.load("huggingface", bert, {"sequence": 7})
    assert model.input_names == ("input_ids", "attention_mask", "token_type_ids")
    assert model.output_names == ("last_hidden_state",)
    assert model.example[0].shape == (1, 7)
    assert model.dynamic["input_ids"] == {0: "batch", 1: "sequence"}
    given = torch_model.load_reference("huggingface", bert, {})(FEED)["last_hidden_state"]
    np.testing.assert_allclose(given, states(bert), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_is_in_the_graph(bert: Path, mode: str, normalize: bool) -> None:
    hidden, mask = states(bert), FEED["attention_mask"][..., None]
    expected = {
        "cls_token": hidden[:, 0],
        "mean_tokens": (hidden * mask).sum(1) / mask.sum(1),
        "max_tokens": np.where(mask == 1, hidden, -np.inf).max(1),
        "mean_sqrt_len_tokens": (hidden * mask).sum(1) / np.sqrt(mask.sum(1)),
    }[mode]
    if normalize:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    pool(bert, mode, normalize=normalize)
    given = torch_model.load_reference("huggingface", bert, {})(FEED)
    np.testing.assert_allclose(given["sentence_embedding"], expected, rtol=1e-4, atol=1e-5)


def test_two_poolings_at_once_are_refused(bert: Path) -> None:
    pool(bert, "mean_tokens", normalize=False)
    config = bert / "1_Pooling" / "config.json"
    config.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}))
    with pytest.raises(Unsupported, match=r"mean \+ max.*One of"):
        torch_model.load("huggingface", bert, {})


def test_missing_weights_are_refused_by_name_instead_of_made_up(bert: Path) -> None:
    rewrite(bert, lambda weights: weights.pop("encoder.layer.0.output.dense.weight"))
    with pytest.raises(SourceUnreadable, match=r"1 weights are missing: .*layer\.0\.output\.dense\.weight"):
        torch_model.load("huggingface", bert, {})


def test_a_pooler_that_no_output_reads_may_be_missing(bert: Path) -> None:
    rewrite(bert, lambda weights: [weights.pop(f"pooler.dense.{part}") for part in ("weight", "bias")])
    assert torch_model.load("huggingface", bert, {}).output_names == ("last_hidden_state",)


def test_weights_of_another_shape_are_refused(bert: Path) -> None:
    rewrite(bert, lambda weights: weights.update({"embeddings.LayerNorm.weight": torch.ones(17)}))
    with pytest.raises(SourceUnreadable, match=r"LayerNorm"):
        torch_model.load("huggingface", bert, {})


def test_half_precision_is_loaded_as_float32(bert: Path) -> None:
    rewrite(bert, lambda weights: weights.update({name: value.half() for name, value in weights.items()}))
    model = torch_model.load("huggingface", bert, {})
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}


def test_a_sequence_beyond_the_positions_is_refused(bert: Path) -> None:
    with pytest.raises(UsageError, match=r"at most 64 tokens, not 65"):
        torch_model.load("huggingface", bert, {"sequence": 65})


def test_the_models_own_code_is_never_run(bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Evil", "AutoConfig": "evil.EvilConfig"}
    (bert / "config.json").write_text(json.dumps(config))
    (bert / "evil.py").write_text("raise SystemExit('the code of the model was run')")
    assert torch_model.load("huggingface", bert, {}).output_names == ("last_hidden_state",)
