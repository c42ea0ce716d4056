"""Whether modelport's GGUF files are those of llama.cpp's own two steps, byte for byte."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bar import close
from gguf_cases import Case, cases

from gguf_compare import compare, write_imatrix
from gguf_jobs import export, make_job
from llama_oracle import Conversion, Quantization, first_type, run_conversions, run_quantizations
from modelport.targets.errors import ModelportError
from tiny_llms import pre_of

SCHEMES = ("q4_k_m", "q5_k_m", "q8_0", "q4_0", "q6_k", "f16")


@dataclass(frozen=True)
class File:
    """One file to be made both ways."""

    case: Case
    scheme: str
    weighed: bool
    """With an importance matrix."""
    via: str | None = None

    @property
    def label(self) -> str:
        """The column that it stands in."""
        return self.scheme + ("+im" if self.weighed else "") + (f" via {self.via}" if self.via else "")


def files(chosen: list[Case]) -> list[File]:
    """Every scheme with and without importance matrix; q4_k_m through float16 as well, the usual detour."""
    listed = [
        File(case, scheme, weighed) for case in chosen for scheme in SCHEMES for weighed in (False, True)
    ]
    return listed + [File(case, "q4_k_m", False, "f16") for case in chosen]


def oracle(root: Path, listed: list[File]) -> None:
    """The two steps of every file, each step in one process; matrices are made up from the converted files."""
    firsts: dict[Path, Conversion] = {}
    for file in listed:
        out = _first(root, file)
        firsts[out] = Conversion(
            root / file.case.name, out, out.stem.split(".")[-1], pre_of(file.case.architecture)
        )
    run_conversions(firsts.values())
    for out in firsts:
        matrix = _matrix(root, out.name.split(".")[0])
        if not matrix.exists():
            write_imatrix(out, matrix)
    run_quantizations(
        Quantization(_first(root, file), _theirs(root, file), file.scheme, _given(root, file))
        for file in listed
    )


def _first(root: Path, file: File) -> Path:
    kind = first_type(root / file.case.name, file.scheme) if file.via is None else file.via
    return root / "oracle" / f"{file.case.name}.{kind}.gguf"


def _theirs(root: Path, file: File) -> Path:
    return root / "oracle" / f"{file.case.name}.{file.label.replace(' ', '-')}.final.gguf"


def _matrix(root: Path, case: str) -> Path:
    return root / "oracle" / f"{case}.imatrix"


def _given(root: Path, file: File) -> Path | None:
    return _matrix(root, file.case.name) if file.weighed else None


def difference(root: Path, file: File) -> str | None:
    """What modelport's file differs in, None where nothing; an error of its own counts as a difference."""
    given = _given(root, file)
    with tempfile.TemporaryDirectory(dir=root) as work:
        options = {"via": file.via, "imatrix": str(given) if given else None}
        try:
            ours, _ = export(make_job(Path(work), root / file.case.name, file.scheme, **options))
        except ModelportError as error:
            return f"{type(error).__name__}: {error}".replace(str(root), "")
        return compare(ours, _theirs(root, file))


def grouped(told: list[tuple[str, str, str]]) -> dict[tuple[str, str], list[str]]:
    """The columns in which one case differs in one way."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, label, what in told:
        found.setdefault((name, what), []).append(label)
    return found


def main() -> None:
    """Every case in a row of a table, `=` for an identical file; what differs is told below it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "cases", nargs="*", help="names of cases, or beginnings of them; all where none is given"
    )
    wanted = tuple(parser.parse_args().cases)
    chosen = [case for case in cases() if not wanted or case.name.startswith(wanted)]
    listed = files(chosen)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for case in chosen:
            case.make(root)
        oracle(root, listed)
        labels = list(dict.fromkeys(file.label for file in listed))
        print(f"{'':22}" + " ".join(labels))
        told: list[tuple[str, str, str]] = []
        for case in chosen:
            own = {file.label: difference(root, file) for file in listed if file.case == case}
            marks = " ".join(f"{'=' if own[label] is None else 'X':^{len(label)}}" for label in labels)
            print(f"{case.name:22}{marks}", flush=True)
            told += [(case.name, label, what) for label, what in own.items() if what is not None]
    for (name, what), labels in grouped(told).items():
        print(f"{name} ({', '.join(labels)}): {what}")
    same = len(listed) - len(told)
    close("gguf-identical", [(f"identical files of {len(listed)}", same, ">=", len(listed))])


if __name__ == "__main__":
    main()
