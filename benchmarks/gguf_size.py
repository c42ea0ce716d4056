"""Whether the size of a GGUF file is foretold to the byte, from config.json and tokenizer files alone."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from bar import close
from gguf_cases import Case, cases

from gguf_compare import write_imatrix
from gguf_jobs import export, make_job, sizes
from modelport.targets.registry import find_target


def without_weights(folder: Path) -> Path:
    """A copy of a model's folder in which no weight is left, nor the index that names their files."""
    bare = folder.parent / "bare" / folder.name  # the folder's name stands in the file
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    return bare


def wrong(case: Case, root: Path, schemes: list[str]) -> list[str]:
    """A line for every scheme, with and without importance matrix, whose foretold size is not the file's."""
    folder = case.make(root)
    bare = without_weights(folder)
    lines = []
    made, _ = export(make_job(root / "f16", folder, "f16"))
    matrix = write_imatrix(made, root / "matrix.gguf")
    for given in (None, str(matrix)):
        foretold = sizes(bare, schemes, imatrix=given)
        for scheme in schemes:
            with tempfile.TemporaryDirectory(dir=root) as work:
                file, _ = export(make_job(Path(work), folder, scheme, imatrix=given))
                if (size := file.stat().st_size) != foretold[scheme]:
                    how = " with importance matrix" if given else ""
                    lines.append(f"{scheme}{how}: foretold {foretold[scheme]:,}, made {size:,} bytes")
    return lines


def main() -> None:
    """Every case in every scheme of the card; the bar is on the number of exact sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "cases", nargs="*", help="names of cases, or beginnings of them; all where none is given"
    )
    wanted = tuple(parser.parse_args().cases)
    schemes = list(find_target("local-llm").schemes)
    chosen = [case for case in cases() if not wanted or case.name.startswith(wanted)]
    each, missed = 2 * len(schemes), 0
    for case in chosen:
        with tempfile.TemporaryDirectory() as root:
            lines = wrong(case, Path(root), schemes)
        missed += len(lines)
        print(f"{case.name:22}{each - len(lines)} of {each} exact", *lines, sep="\n    ", flush=True)
    count = each * len(chosen)
    close("gguf-size", [(f"exact sizes of {count}", count - missed, ">=", count)])


if __name__ == "__main__":
    main()
