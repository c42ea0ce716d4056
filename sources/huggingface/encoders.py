"""Text encoders of transformers as forward passes: the BERT family, DistilBERT and MPNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...targets.errors import SourceUnreadable
from ..files.jsonfile import Fields
from .forward import Tracer, Value


@dataclass(frozen=True)
class Names:
    """What one family calls its parts: config.json's keys and the checkpoint's weights."""

    base: str
    layer: str = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    out: str = "attention.output.dense"
    norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    last_norm: str = "output.LayerNorm"
    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    intermediate: str = "intermediate_size"
    token_types: int = 2
    """Default of type_vocab_size; 0 where the family has no token types."""
    padding_offset: bool = False
    """Positions are counted from behind the padding index, as RoBERTa does."""
    classifier: tuple[str, ...] = ("classifier.dense", "classifier.out_proj")
    """Layers of the sequence classification head, the last one with one output a label."""


_ROBERTA = Names("roberta.", padding_offset=True)
FAMILIES: Mapping[str, Names] = {
    "bert": Names("bert.", classifier=("bert.pooler.dense", "classifier")),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Names("electra."),
    "distilbert": Names(
        "distilbert.", "transformer.layer", "attention.q_lin", "attention.k_lin", "attention.v_lin",
        "attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
        "dim", "n_layers", "n_heads", "hidden_dim",
        token_types=0, classifier=("pre_classifier", "classifier"),
    ),
    "mpnet": Names(
        "mpnet.", "encoder.layer", "attention.attn.q", "attention.attn.k", "attention.attn.v",
        "attention.attn.o", "attention.LayerNorm", token_types=0, padding_offset=True,
    ),
}  # fmt: skip
"""Model types that are described, by config.json's model_type."""


def token_types(config: Fields, model_type: str) -> int:
    """Rows of the token type table; 0 where the model has none. Unknown families: what config.json says."""
    names = FAMILIES.get(model_type)
    if names is not None and not names.token_types:
        return 0
    return config.integer("type_vocab_size", names.token_types if names else 0, low=0)


def longest(config: Fields, model_type: str) -> int | None:
    """Longest sequence in tokens; None when config.json does not say."""
    limit = config.integer("max_position_embeddings", 0, low=0)
    names = FAMILIES.get(model_type)
    if limit and names is not None and names.padding_offset:
        limit -= config.integer("pad_token_id", 1, low=0) + 1
    return max(limit, 0) or None


def trace(config: Fields, model_type: str, head: str, labels: int, sequence: int) -> tuple[Tracer, Value]:
    """The forward pass over `sequence` tokens at batch 1, with the head that a class's name ends in.

    Shapes are without the batch axis: tokens are (sequence,), states (sequence, hidden).
    """
    names, tracer = FAMILIES[model_type], Tracer()
    hidden, heads = config.integer(names.hidden), config.integer(names.heads)
    if hidden % heads:
        raise SourceUnreadable(f"{hidden} is no multiple of {heads} heads", where=config.where(names.hidden))
    states = _embed(tracer, config, model_type, names, hidden, sequence)
    for index in range(config.integer(names.layers, high=1000)):
        prefix = f"{names.base}{names.layer}.{index}."
        states = _layer(tracer, prefix, names, states, heads, config.integer(names.intermediate))
    if model_type == "mpnet":
        buckets = config.integer("relative_attention_num_buckets", 32)
        tracer.weight("mpnet.encoder.relative_attention_bias.weight", buckets, heads)
    return tracer, _head(tracer, names, states, head, labels)


def _embed(
    tracer: Tracer, config: Fields, model_type: str, names: Names, hidden: int, sequence: int
) -> Value:
    ids = tracer.input("input_ids", (sequence,))
    tracer.input("attention_mask", (sequence,))
    width = config.integer("embedding_size", hidden) if model_type == "electra" else hidden
    base = f"{names.base}embeddings."
    total = tracer.embedding(f"{base}word_embeddings", config.integer("vocab_size"), width, ids)
    positions = config.integer("max_position_embeddings")
    parts = [tracer.embedding(f"{base}position_embeddings", positions, width, ids)]
    if types := token_types(config, model_type):
        kinds = tracer.input("token_type_ids", (sequence,)) if types > 1 else ids
        parts.append(tracer.embedding(f"{base}token_type_embeddings", types, width, kinds))
    for index, part in enumerate(parts):
        total = tracer.elementwise(f"{base}add.{index}", "Add", total, part)
    total = tracer.norm(f"{base}LayerNorm", total)
    if width != hidden:
        total = tracer.linear(f"{names.base}embeddings_project", total, hidden)
    return total


def _layer(tracer: Tracer, prefix: str, names: Names, x: Value, heads: int, intermediate: int) -> Value:
    hidden = x.shape[-1]
    query, key, value = (
        tracer.linear(prefix + part, x, hidden) for part in (names.query, names.key, names.value)
    )
    context = tracer.attention(f"{prefix}attention", query, key, value, heads)
    out = tracer.linear(prefix + names.out, context, hidden)
    x = tracer.norm(prefix + names.norm, tracer.elementwise(f"{prefix}attention.add", "Add", out, x))
    up = tracer.elementwise(f"{prefix}act", "Activation", tracer.linear(prefix + names.up, x, intermediate))
    down = tracer.linear(prefix + names.down, up, hidden)
    return tracer.norm(prefix + names.last_norm, tracer.elementwise(f"{prefix}add", "Add", down, x))


def _head(tracer: Tracer, names: Names, states: Value, head: str, labels: int) -> Value:
    """The part behind the last hidden state, by the ending of the class name."""
    hidden = states.shape[-1]
    if head == "ForSequenceClassification":
        x = tracer.view("first_token", states, (hidden,))
        first, last = names.classifier
        x = tracer.elementwise("classifier.act", "Activation", tracer.linear(first, x, hidden))
        return tracer.linear(last, x, labels)
    if head == "ForTokenClassification":
        return tracer.linear("classifier", states, labels)
    if head == "ForQuestionAnswering":
        return tracer.linear("qa_outputs", states, 2)
    if head:
        tracer.unknown("head", head, states)
    return states
