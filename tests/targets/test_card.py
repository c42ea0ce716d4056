"""Cards: the catalogue loads, and every mistake in a card names file and key."""

import re
from pathlib import Path

import pytest

from modelport.sources.source import KINDS
from modelport.targets import registry
from modelport.targets.card import read_card
from modelport.targets.errors import Unsupported, UsageError

CATALOG = sorted((Path(registry.__file__).parent / "catalog").glob("*.toml"))

CARD = """
name = "my-board"
title = "My board"
aliases = ["board"]
runtime = "litert"
format = "tflite"
artifact = "model.tflite"
default_quant = "int8"
default_device = "pixel8"
device_classes = ["android"]
sources = ["keras"]

[refused.onnx]
reason = "no importer"
nearest = "onnx -> server-cpu"

[quant.int8]
title = "full integer"
weights = "int8"
weight_bits = 8.1
activations = "int8"
compute = "int8"
calibration = "required"
min_cosine = 0.95
"""


def card(tmp_path: Path, text: str = CARD) -> Path:
    path = tmp_path / "my-board.toml"
    path.write_text(text)
    return path


def test_the_catalogue_has_the_eight_targets_of_the_design():
    assert {path.stem for path in CATALOG} == {
        "android", "ios", "edge", "server-cpu", "local-llm", "server-gpu", "server-gpu-llm", "cloud-tpu"
    }  # fmt: skip


@pytest.mark.parametrize("path", CATALOG, ids=lambda path: path.stem)
def test_every_card_loads_and_answers_for_every_kind_of_source(path):
    target = read_card(path)
    assert target.name == path.stem
    for kind in KINDS:
        assert kind in target.sources or kind in target.refused, kind
    assert set(target.sources) | set(target.refused) == set(KINDS)


@pytest.mark.parametrize("path", CATALOG, ids=lambda path: path.stem)
def test_the_default_device_of_every_card_is_one_the_target_runs_on(path):
    target = read_card(path)
    assert registry.find_device(None, target).device_class in target.device_classes


@pytest.mark.parametrize("path", CATALOG, ids=lambda path: path.stem)
def test_the_nearest_pair_of_a_refusal_is_a_pair_that_works(path):
    for kind, refusal in read_card(path).refused.items():
        source, _, rest = refusal.nearest.partition(" -> ")
        assert source == kind
        nearest = registry.find_target(re.match(r"[a-z-]+", rest)[0])
        assert kind in nearest.sources


def test_schemes_have_the_floors_of_the_design():
    android = registry.find_target("android")
    floors = {name: scheme.min_cosine for name, scheme in android.schemes.items()}
    assert floors == {
        "fp32": 0.9999, "fp16": 0.999, "int8": 0.95, "int8-dynamic": 0.97, "int8-weight": 0.98, "int4-weight": 0.9
    }  # fmt: skip


def test_a_card_of_ones_own_is_read_whole(tmp_path):
    target = read_card(
        card(tmp_path, CARD + "[limits]\nmax_file_bytes = 1000\n[overhead]\nweight_copies = 0.5\n")
    )
    assert (target.name, target.aliases, target.runtime, target.extra) == (
        "my-board",
        ("board",),
        "litert",
        "",
    )
    assert target.limits.max_file_bytes == 1000
    assert target.limits.max_memory_bytes is None
    assert target.overhead.weight_copies == 0.5
    assert target.scheme("int8").min_cosine == 0.95


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("weight_bits = 8.1", "weight_bits = -1", "quant.int8.weight_bits", "above 0"),
        ("weight_bits = 8.1", "weight_bits = true", "quant.int8.weight_bits", "not a number"),
        ("weight_bits = 8.1", "weight_bits = nan", "quant.int8.weight_bits", "finite"),
        ("weight_bits = 8.1", "weight_bit = 8.1", "quant.int8.weight_bits", "missing"),
        ("weight_bits = 8.1", "weight_bits = 8.1\nbits = 3", "quant.int8.bits", "nothing reads"),
        ('weights = "int8"', 'weights = "in8"', "quant.int8.weights", "Did you mean int8"),
        ('"required"', '"maybe"', "quant.int8.calibration", "none, optional, required"),
        ("min_cosine = 0.95", "min_cosine = 1.5", "quant.int8.min_cosine", "at most 1"),
        ('title = "My board"', "title = 3", "title", "not a string"),
        ('title = "My board"', 'titel = "My board"', "title", "missing"),
        ('name = "my-board"', 'name = "My Board"', "name", "not a name"),
        ('aliases = ["board"]', 'aliases = "board"', "aliases", "not a list"),
        ('aliases = ["board"]', 'aliases = ["my-board"]', "aliases", "repeats"),
        ('aliases = ["board"]', 'aliases = ["a", "a"]', "aliases", "twice"),
        ('runtime = "litert"', 'runtime = "os.path"', "runtime", "not a module name"),
        ('artifact = "model.tflite"', 'artifact = "../x"', "artifact", "plain file name"),
        ('default_quant = "int8"', 'default_quant = "int4"', "default_quant", "no scheme"),
        ('sources = ["keras"]', "sources = []", "sources", "empty"),
        ('sources = ["keras"]', 'sources = ["onnx"]', "refused.onnx", "in `sources` too"),
        ('nearest = "onnx', 'nearer = "onnx', "refused.onnx.nearest", "missing"),
        ("[refused.onnx]", "[limits]\nmax_file_bytes = 1.5\n[refused.onnx]", "limits.max_file_bytes", "whole"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_card_names_file_and_key(tmp_path, old, new, key, words):
    assert old in CARD
    path = card(tmp_path, CARD.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        read_card(path)
    assert caught.value.where == f"{path}: {key}"
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name = ", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"#" * (1 << 21), "more than"),
    ],
)
def test_a_file_that_is_no_card_is_one_clear_error(tmp_path, content, words):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_card(path)
    assert caught.value.where == str(path)


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            read_card(path)


def test_a_wrong_scheme_gets_the_closest_names():
    with pytest.raises(UsageError, match=r"no scheme 'int8-dynamc'.*Did you mean int8-dynamic"):
        registry.find_target("android").scheme("int8-dynamc")


def test_a_refused_source_says_why_and_what_works():
    with pytest.raises(Unsupported, match=r"gguf -> android.*no graph.*Nearest: gguf -> local-llm"):
        registry.find_target("android").require_source("gguf")
    registry.find_target("android").require_source("keras")


def test_a_kind_that_a_card_does_not_mention_is_refused_too(tmp_path):
    with pytest.raises(Unsupported, match=r"huggingface -> my-board.*keras"):
        read_card(card(tmp_path)).require_source("huggingface")
