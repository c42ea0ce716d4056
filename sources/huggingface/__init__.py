"""Hugging Face encoder and vision directories: inputs, outputs, weights and operators, from files alone."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ...targets.errors import SourceUnreadable, Unsupported
from ...targets.facts import Dim, IoFact, ModelFacts
from ..files import jsonfile
from ..files.containment import contained
from ..files.jsonfile import Fields
from ..source import Source
from . import causal_lm, checkpoint, encoders, vision
from .forward import Tracer, Value

KIND = "huggingface"

DEFAULT_IMAGE = 224
"""Height and width in pixels where neither config.json nor the preprocessor says."""
_HEADS = {
    "ForSequenceClassification": ("logits",),
    "ForTokenClassification": ("logits",),
    "ForMaskedLM": ("logits",),
    "ForImageClassification": ("logits",),
    "ForImageClassificationWithTeacher": ("logits",),
    "ForQuestionAnswering": ("start_logits", "end_logits"),
}
"""Output names by the ending of the class in config.json's architectures."""
_MODULES = ("Transformer", "Pooling", "Normalize")
"""Modules of a sentence-transformers folder that loaders put into the graph."""


def recognises(path: Path) -> bool:
    """Whether `path` is a folder with config.json and safetensors weights of anything but a causal LM."""
    return (
        path.is_dir()
        and checkpoint.has_weights(path)
        and not causal_lm.is_causal(checkpoint.read_config(path))
    )


def open(path: Path) -> Source:
    """The validated model in the folder `path`; reads JSON files and safetensors headers only.

    Raises SourceUnreadable for damaged, missing or outside files, and for weights that are missing or of
    another shape than config.json implies, and Unsupported for a checkpoint that is quantized already.
    """
    path = path.resolve()
    config = checkpoint.read_config(path)
    if config.values.get("quantization_config") is not None:
        raise Unsupported(
            "the checkpoint is quantized already",
            where=config.where("quantization_config"),
            mend="Start from the original weights",
        )
    _refuse_unsupported(path, config)
    weights = checkpoint.read_weights(path)
    signature(path)
    traced = _trace(path, config, 1)
    if traced:
        base = f"{config.text('model_type')}.".replace("xlm-roberta", "roberta").replace(
            "camembert", "roberta"
        )
        expected = dict(traced[0].weights)
        if pooled(path):
            # Only the backbone is read; it may lie under the class's own prefix.
            expected = {n: s for n, s in expected.items() if n.startswith(base)}
        checkpoint.check_expected(weights.tensors, expected, base, weights.files[0].name)
    modules = (path / "modules.json",) if pooled(path) else ()
    files = {path / "config.json", *weights.files, *checkpoint.companions(path), *modules, *_pooling(path)}
    return Source(KIND, path, tuple(sorted(files)))


def inspect(source: Source, *, sequence: int = 128) -> ModelFacts:
    """Facts of the model at batch 1 and `sequence` tokens (cut to what the model takes)."""
    path, config = source.path, checkpoint.read_config(source.path)
    weights = checkpoint.read_weights(path)
    inputs, outputs = signature(path)
    notes = [*weights.notes, *checkpoint.config_notes(config)]
    assumed = {"batch": 1}
    if inputs[0].name == "input_ids":
        longest = encoders.longest(config, _model_type(config)) or sequence
        assumed["sequence"] = sequence = min(sequence, longest)
    traced = _trace(path, config, sequence)
    if traced is None:
        notes.append(f"{_architecture(config)} is not described here: its operators are unknown.")
    return ModelFacts(
        kind=KIND,
        name=source.name,
        architecture=_architecture(config),
        tensors=tuple(weights.tensors.values()),
        inputs=inputs,
        outputs=outputs,
        ops=tuple(traced[0].ops) if traced else (),
        peak_activations=traced[0].peak(traced[1]) if traced else None,
        peak=traced[0].fused_peak(traced[1]) if traced else None,
        assumed=assumed,
        notes=tuple(notes),
    )


def signature(directory: Path) -> tuple[tuple[IoFact, ...], tuple[IoFact, ...]]:
    """Inputs and outputs of the model in `directory`, in order, as every loader and exporter names them.

    Text: input_ids, attention_mask and, where the model has token types, token_type_ids: int64 of shape
    ("batch", "sequence"). Images: pixel_values, float32 of shape ("batch", channels, height, width).
    Outputs: sentence_embedding for a sentence-transformers folder with pooling, logits for a
    classification or masked language model head, start_logits and end_logits for question answering,
    last_hidden_state otherwise.
    """
    config = checkpoint.read_config(directory)
    if _is_vision(config):
        height, width = image_size(directory, config)
        shape = ("batch", config.integer("num_channels", 3, high=4096), height, width)
        inputs = [IoFact("pixel_values", "float32", shape)]
    else:
        names = ["input_ids", "attention_mask"]
        if encoders.token_types(config, _model_type(config)) > 1:
            names.append("token_type_ids")
        inputs = [IoFact(name, "int64", ("batch", "sequence")) for name in names]
    names_out = (
        ("sentence_embedding",) if pooled(directory) else _HEADS.get(_head(config), ("last_hidden_state",))
    )
    outputs = [IoFact(name, "float32", _output_shape(directory, config, name)) for name in names_out]
    return tuple(inputs), tuple(outputs)


def pooled(directory: Path) -> bool:
    """Whether this is a sentence-transformers folder whose modules.json pools the tokens."""
    return any(kind == "Pooling" for kind, _ in _modules(directory))


def image_size(directory: Path, config: Fields) -> tuple[int, int]:
    """(height, width) in pixels of the images that the model takes.

    config.json goes first, then preprocessor_config.json's crop_size and size, then 224.
    """
    if config.values.get("image_size") is not None:
        return vision.pair(config, "image_size")
    if not (directory / "preprocessor_config.json").exists():
        return DEFAULT_IMAGE, DEFAULT_IMAGE
    path = contained(
        directory, "preprocessor_config.json", where=f"{directory.name}: preprocessor_config.json"
    )
    fields = Fields(jsonfile.read_object(path), path.name)
    for name in ("crop_size", "size"):
        value = fields.values.get(name)
        if isinstance(value, dict):
            sizes = Fields(value, f"{path.name}: {name}")
            edge = sizes.integer("shortest_edge", DEFAULT_IMAGE, high=1 << 16)
            return sizes.integer("height", edge, high=1 << 16), sizes.integer("width", edge, high=1 << 16)
        if value is not None:
            return vision.pair(fields, name)
    return DEFAULT_IMAGE, DEFAULT_IMAGE


def preprocessing_files(source: Source) -> tuple[Path, ...]:
    """The tokenizer's and image processor's files of an opened source, validated as plain data."""
    names = {*checkpoint.COMPANIONS, *checkpoint.TEXTS} - {"modules.json", "generation_config.json"}
    return tuple(file for file in source.files if file.name in names)


def _model_type(config: Fields) -> str:
    return config.text("model_type", "")


def _architecture(config: Fields) -> str:
    return (*checkpoint.architectures(config), _model_type(config) or "unknown")[0]


def _head(config: Fields) -> str:
    """The ending of the architecture's class that names its head; "" for a bare model."""
    name = _architecture(config)
    return name[name.index("For") :] if "For" in name else ""


def _refuse_unsupported(path: Path, config: Fields) -> None:
    """Models whose inputs and outputs this module cannot name, and whose head would be lost."""
    other = "Export the model with torch.export.save and give the .pt2"
    if config.flag("is_encoder_decoder", False):
        where = config.where("is_encoder_decoder")
        raise Unsupported("encoder-decoder models are not supported", where=where, mend=other)
    if not _is_vision(config) and "vocab_size" not in config.values:
        fact = "neither vocab_size nor image_size or num_channels says what the model takes"
        raise Unsupported(fact, where=config.file, mend=other)
    if _head(config) and _head(config) not in _HEADS and not pooled(path):
        fact = f"the head of {_architecture(config)} is not supported"
        known = f"Known: {', '.join(_HEADS)}. {other}"
        raise Unsupported(fact, where=config.where("architectures"), mend=known)


def _is_vision(config: Fields) -> bool:
    image_keys = ("image_size", "num_channels", "patch_size")
    text = "vocab_size" in config.values
    return _model_type(config) in vision.FAMILIES or (
        not text and any(key in config.values for key in image_keys)
    )


def _labels(config: Fields) -> int:
    names = config.values.get("id2label")
    return len(names) if isinstance(names, dict) and names else config.integer("num_labels", 2, high=1 << 24)


def _trace(directory: Path, config: Fields, sequence: int) -> tuple[Tracer, Value] | None:
    """The forward pass and its output, without batch axis; None for a model type that is not described."""
    model_type, head = _model_type(config), "" if pooled(directory) else _head(config)
    if model_type in encoders.FAMILIES:
        tracer, out = encoders.trace(config, model_type, head, _labels(config), sequence)
        if pooled(directory):
            out = tracer.mean("pooling", out, out.shape[-1:])
        return tracer, out
    if model_type in vision.FAMILIES:
        return vision.trace(config, model_type, head, _labels(config), image_size(directory, config))
    return None


def _output_shape(directory: Path, config: Fields, name: str) -> tuple[Dim, ...] | None:
    """The output's shape where the architecture is described; None elsewhere."""
    if name in ("start_logits", "end_logits"):
        return "batch", "sequence"
    if _head(config) == "ForMaskedLM" and name == "logits":
        return "batch", "sequence", config.integer("vocab_size")
    traced = _trace(directory, config, 1)
    if traced is None:
        return None
    shape = traced[1].shape
    tokens = not _is_vision(config) and len(shape) == 2
    return ("batch", "sequence", shape[1]) if tokens else ("batch", *shape)


def _modules(directory: Path) -> tuple[tuple[str, str], ...]:
    """(class name, folder) of each module of a sentence-transformers folder; empty for other folders."""
    if not (directory / "modules.json").exists():
        return ()
    path = contained(directory, "modules.json", where=f"{directory.name}: modules.json")
    listed = jsonfile.read(path)
    if not isinstance(listed, list) or not all(isinstance(module, dict) for module in listed):
        raise SourceUnreadable("a list of modules is expected", where="modules.json")
    found = []
    for index, module in enumerate(listed):
        fields = Fields(module, f"modules.json: [{index}]")
        kind = fields.text("type").rsplit(".", 1)[-1]
        if kind not in _MODULES:
            raise Unsupported(
                f"the sentence-transformers module {kind} is not supported",
                where=f"modules.json: [{index}].type",
                mend=f"Known: {', '.join(_MODULES)}; or export the whole with torch.export",
            )
        found.append((kind, fields.text("path", "")))
    return tuple(found)


def _pooling(directory: Path) -> tuple[Path, ...]:
    """The settings of each pooling module, each inside the folder."""
    found = []
    for kind, folder in _modules(directory):
        if kind != "Pooling":
            continue
        name = (PurePosixPath(folder) / "config.json").as_posix()
        path = contained(directory, name, where="modules.json: path")
        jsonfile.read_object(path)
        found.append(path)
    return tuple(found)
