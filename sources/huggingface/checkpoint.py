"""A Hugging Face checkpoint folder: its config.json and its safetensors weights, in one file or in shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...targets.errors import SourceUnreadable
from ...targets.facts import TensorFact
from ..files import jsonfile
from ..files.containment import contained
from ..place import Place
from . import safetensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
INDEX_LIMIT = 64 << 20

STRIPPED = ("auto_map", "custom_pipelines", "trust_remote_code", "use_kernels")
"""Keys of config.json that name code to load from elsewhere; every `_attn_*` key as well."""

COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "preprocessor_config.json", "processor_config.json", "generation_config.json", "chat_template.json",
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
)  # fmt: skip
"""JSON files beside the weights that belong to a model; `TEXTS` are those that are not JSON."""
TEXTS = (
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "README.md",
)
COMPANION_LIMIT = 256 << 20

_AGAIN = "Download the model again, with all its files"


@dataclass(frozen=True)
class Weights:
    """Every weight of a checkpoint by header, and the files that hold them."""

    tensors: Mapping[str, TensorFact]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    headers: tuple[safetensors.Header, ...] = ()
    """One for each file of weights."""


def read_config(directory: Path) -> jsonfile.Fields:
    """The fields of config.json. Refused when it makes transformers load weights under another name."""
    path = contained(directory, "config.json", where=f"{directory.name}: config.json")
    fields = jsonfile.Fields(jsonfile.read_object(path), "config.json")
    if fields.values.get("transformers_weights") is not None:
        raise SourceUnreadable(
            "names another weight file than the one that was checked",
            where=fields.where("transformers_weights"),
            mend=f"Remove the field, and name the weights {SINGLE}",
        )
    return fields


def _is_stripped(key: str) -> bool:
    return key in STRIPPED or key.startswith(("_attn", "attn_implementation", "_experts_implementation"))


def stripped_keys(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of config.json that loaders must not see: they name remote code or kernels."""
    return tuple(sorted(key for key in config if _is_stripped(key)))


def clean_config(directory: Path) -> dict[str, Any]:
    """config.json without the keys that name code from elsewhere, at every depth."""
    cleaned = _clean(dict(read_config(directory).values))
    assert isinstance(cleaned, dict)
    return cleaned


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items() if not _is_stripped(key)}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def config_notes(config: jsonfile.Fields) -> tuple[str, ...]:
    """Sentences for the report about what of config.json is left out."""
    keys = stripped_keys(config.values)
    if not keys:
        return ()
    return (f"config.json's {', '.join(keys)} is ignored: code from elsewhere is never loaded.",)


def architectures(config: jsonfile.Fields) -> tuple[str, ...]:
    """The class names that config.json gives; empty when it gives none."""
    names = config.values.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(n, str) and n.isidentifier() for n in names):
        raise SourceUnreadable("a list of class names is expected", where=config.where("architectures"))
    return tuple(names)


def has_weights(directory: Path) -> bool:
    """Whether the folder looks like a checkpoint: config.json and safetensors weights."""
    return (directory / "config.json").exists() and any(
        (directory / name).exists() for name in (SINGLE, INDEX)
    )


def read_weights(directory: Path) -> Weights:
    """Every tensor of the checkpoint in `directory`, from headers alone.

    As transformers does, `model.safetensors` goes before the index. Refused with SourceUnreadable: shards
    that are missing or outside the folder, tensors that the index names and its shard lacks, tensors that
    two shards hold, and adapters without their base model.
    """
    if (directory / "adapter_config.json").exists():
        raise SourceUnreadable(
            "the folder holds an adapter, which loads another model's weights",
            where="adapter_config.json",
            mend="Merge it first (merge_and_unload in peft) and save the whole model",
        )
    if (directory / SINGLE).exists() or not (directory / INDEX).exists():
        header = safetensors.read_header(contained(directory, SINGLE, where=f"{directory.name}: {SINGLE}"))
        return Weights({fact.name: fact for fact in header.tensors}, (header.path,), headers=(header,))
    index = contained(directory, INDEX, where=f"{directory.name}: {INDEX}")
    raw = jsonfile.read_object(index, limit=INDEX_LIMIT)
    return _read_shards(directory, index, _weight_map(raw.get("weight_map")))


def _weight_map(raw: object) -> dict[str, str]:
    where = f"{INDEX}: weight_map"
    if not isinstance(raw, dict) or not raw:
        raise SourceUnreadable("an object of tensor name to file is expected", where=where, mend=_AGAIN)
    for name, file in raw.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            fact = f"{str(file)[:200]!r} is not a .safetensors file"
            raise SourceUnreadable(fact, where=f"{where}.{name[:200]}", mend=_AGAIN)
    return raw


def _read_shards(directory: Path, index: Path, weight_map: Mapping[str, str]) -> Weights:
    shards: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        shards.setdefault(file, []).append(name)
    tensors: dict[str, TensorFact] = {}
    headers: list[safetensors.Header] = []
    unlisted: list[str] = []
    for file, names in sorted(shards.items()):
        header = safetensors.read_header(contained(directory, file, where=f"{INDEX}: weight_map.{names[0]}"))
        headers.append(header)
        found = {fact.name: fact for fact in header.tensors}
        for name in names:
            if name not in found:
                fact = f"{name[:200]!r} is not in this shard, where the index says it is"
                raise SourceUnreadable(fact, where=file, mend=_AGAIN)
        for name, tensor in found.items():
            if name in tensors:
                raise SourceUnreadable(f"{name[:200]!r} stands in two shards", where=file, mend=_AGAIN)
            tensors[name] = tensor
        unlisted += [name for name in found if name not in weight_map]
    note = (
        f"{len(unlisted)} tensors stand in the shards but not in the index, as {unlisted[0]}"
        if unlisted
        else ""
    )
    files = (index, *(header.path for header in headers))
    return Weights(tensors, files, (note,) if note else (), tuple(headers))


def places(directory: Path) -> dict[str, Place]:
    """Where each tensor of the checkpoint in `directory` lies, by name; refused as `read_weights` refuses."""
    return {
        fact.name: Place(header.path, header.begins[fact.name], fact.dtype, fact.shape, fact.nbytes)
        for header in read_weights(directory).headers
        for fact in header.tensors
    }


def companions(directory: Path) -> tuple[Path, ...]:
    """Tokenizer, preprocessing and pooling files that belong to the model, each contained and plain data.

    JSON files are parsed; the others are checked for size and place only.
    """
    found: list[Path] = []
    for name in (*COMPANIONS, *TEXTS):
        if not (directory / name).exists() and not (directory / name).is_symlink():
            continue
        path = contained(directory, name, where=f"{directory.name}: {name}")
        if name in COMPANIONS:
            jsonfile.read(path, limit=COMPANION_LIMIT)
        elif path.stat().st_size > COMPANION_LIMIT:
            raise SourceUnreadable(f"larger than {COMPANION_LIMIT:,} bytes", where=name)
        found.append(path)
    return tuple(found)


def check_expected(
    tensors: Mapping[str, TensorFact], expected: Mapping[str, tuple[int, ...]], base: str, file: str
) -> None:
    """Every weight that the architecture needs must be there, in the shape that config.json implies.

    transformers fills missing weights with random numbers and says so only in its log. `base` is the
    prefix that a checkpoint of the bare model leaves out ("bert.").
    """
    missing: list[str] = []
    for name, shape in expected.items():
        tensor = next((tensors[n] for n in _spellings(name, base) if n in tensors), None)
        if tensor is None:
            missing.append(name)
        elif tensor.shape != shape:
            fact = f"shape {list(tensor.shape)}, where config.json implies {list(shape)}"
            raise SourceUnreadable(fact, where=f"{file}: {tensor.name}", mend=_AGAIN)
        elif not tensor.dtype.startswith(("float", "bfloat")):
            fact = f"stored as {tensor.dtype}, and the architecture multiplies floating-point weights"
            raise SourceUnreadable(
                fact, where=f"{file}: {tensor.name}", mend="Start from the original weights"
            )
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        fact = f"weights that config.json implies are missing: {', '.join(missing[:3])}{more}"
        raise SourceUnreadable(fact, where=file, mend=_AGAIN)


def _spellings(name: str, base: str) -> Iterable[str]:
    """The names under which a checkpoint may hold a weight: with or without prefix, old layer norm names."""
    bare = name.removeprefix(base)
    for spelled in (name, bare, base + bare):
        yield spelled
        yield spelled.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )
