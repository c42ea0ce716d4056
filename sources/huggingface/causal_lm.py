"""Hugging Face causal language model directories: geometry from config.json, weights from headers."""

from __future__ import annotations

from pathlib import Path

from ...targets.facts import IoFact, ModelFacts
from ..files.jsonfile import Fields
from ..source import Source
from . import checkpoint, decoders

KIND = "causal-lm"

ENDINGS = ("ForCausalLM", "LMHeadModel")


def is_causal(config: Fields) -> bool:
    """Whether config.json's architectures name a decoder-only language model."""
    named = checkpoint.architectures(config)
    # Model types with a decoder only, for configs that leave the architectures out.
    if named:
        return named[0].endswith(ENDINGS)
    return config.text("model_type", "") in (*decoders.FAMILIES, "gpt2")


def recognises(path: Path) -> bool:
    """Whether `path` is a folder with config.json of a causal language model and safetensors weights."""
    return path.is_dir() and checkpoint.has_weights(path) and is_causal(checkpoint.read_config(path))


def open(path: Path) -> Source:
    """The validated model in the folder `path`; reads config.json, the index and the shards' headers.

    Raises SourceUnreadable for damaged, missing or outside files, and for weights that are missing or of
    another shape than config.json implies.
    """
    path = path.resolve()
    config = checkpoint.read_config(path)
    facts = decoders.geometry(config, _architecture(config))
    weights = checkpoint.read_weights(path)
    if not _quantized(config):
        file = weights.files[0].name
        checkpoint.check_expected(
            weights.tensors, decoders.expected(config, facts), decoders.base(config), file
        )
    files = {path / "config.json", *weights.files, *checkpoint.companions(path)}
    return Source(KIND, path, tuple(sorted(files)))


def inspect(source: Source, *, sequence: int = 128) -> ModelFacts:
    """Geometry and weights. Operators are left out: prefill and decode follow from the geometry."""
    config = checkpoint.read_config(source.path)
    weights = checkpoint.read_weights(source.path)
    llm = decoders.geometry(config, _architecture(config))
    ids = IoFact("input_ids", "int64", ("batch", "sequence"))
    logits = IoFact("logits", "float32", ("batch", "sequence", llm.vocab))
    return ModelFacts(
        kind=KIND,
        name=source.name,
        architecture=llm.architecture,
        tensors=tuple(weights.tensors.values()),
        inputs=(ids, IoFact("attention_mask", "int64", ("batch", "sequence"))),
        outputs=(logits,),
        llm=llm,
        assumed={"batch": 1, "sequence": min(sequence, llm.context)},
        notes=(*weights.notes, *_notes(config, llm.architecture)),
    )


def _architecture(config: Fields) -> str:
    return (*checkpoint.architectures(config), config.text("model_type", "unknown"))[0]


def _quantized(config: Fields) -> bool:
    return config.values.get("quantization_config") is not None


def _notes(config: Fields, architecture: str) -> tuple[str, ...]:
    notes = list(checkpoint.config_notes(config))
    model_type = decoders.complete(config).text("model_type", "")
    if _quantized(config):
        notes.append("The checkpoint is quantized already; shapes were not checked against config.json.")
    elif model_type != "gpt2" and model_type not in decoders.FAMILIES:
        notes.append(
            f"{architecture} is not described here: its weights were not checked against config.json."
        )
    return tuple(notes)
