"""The arrows between the rooms: each imports only from rooms above it, and nothing heavy at start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("targets", "sources", "calibration", "mil", "exporters", "verification", "reports")
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
STANDARD_LIBRARY_ONLY = ("targets",)
FRAMEWORKS = {
    "torch",
    "tensorflow",
    "keras",
    "onnx",
    "onnxruntime",
    "transformers",
    "litert_torch",
    "jax",
    "numpy",
}


def imported(path: Path, *, top_level: bool = False) -> list[tuple[int, str]]:
    """(relative level, dotted name) of every import; with `top_level`, of those that run at import."""
    tree = ast.parse(path.read_text())
    found: list[tuple[int, str]] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if typing_only or (top_level and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
                continue
            if isinstance(child, ast.Import):
                found.extend((0, alias.name) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                names = [alias.name for alias in child.names] if child.module is None else [""]
                found.extend((child.level, ".".join(p for p in (child.module, n) if p)) for n in names)
            visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_rooms_above_it(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    room = parts[0]
    for level, name in imported(path):
        if level == 0:
            assert name.partition(".")[0] != "modelport", f"{path}: imports itself by its absolute name"
            continue
        base = parts[:-1][: len(parts) - level]
        other = (*base, *name.split("."))[0]
        if other in ROOMS:
            assert ROOMS.index(other) <= ROOMS.index(room), (
                f"{path}: {room} imports {other}, which is below it"
            )


@pytest.mark.parametrize("path", sorted((ROOT / "targets").rglob("*.py")), ids=lambda path: path.name)
def test_targets_use_the_standard_library_only(path: Path) -> None:
    for level, name in imported(path):
        assert level > 0 or name.partition(".")[0] in sys.stdlib_module_names, f"{path} imports {name}"


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in MODULES
        if p.relative_to(ROOT).parts[0] in ("targets", "sources") and "loading" not in p.parts
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_reading_headers_imports_no_framework_at_module_level(path: Path) -> None:
    for level, name in imported(path, top_level=True):
        assert level > 0 or name.partition(".")[0] not in FRAMEWORKS, f"{path} imports {name}"


def test_runtimes_never_import_each_other() -> None:
    folder = ROOT / "exporters" / "runtimes"
    runtimes = {
        path.stem for path in folder.iterdir() if path.stem != "__init__" and not path.name.startswith("__")
    }
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).parts[0].removesuffix(".py")
        for level, name in imported(path):
            depth = len(path.relative_to(folder).parts)
            if level == depth:
                assert name.partition(".")[0] not in runtimes - {own}, f"{path} imports another runtime"


@pytest.mark.parametrize("module", ["modelport", "modelport.cli", "modelport.pipeline"])
def test_importing_loads_no_framework(module: str) -> None:
    code = f"import sys, {module}; print(sorted(sys.modules.keys() & {sorted(FRAMEWORKS)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_package_folder_is_installed() -> None:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        ".".join(("modelport", *p.parent.relative_to(ROOT).parts))
        for r in ROOMS
        for p in (ROOT / r).rglob("__init__.py")
    }
    assert there <= set(listed)
