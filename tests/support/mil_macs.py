"""A pytest plugin: the MIL evaluator in the place of Core ML, in coremltools' own operator tests.

Those tests come with coremltools (`coremltools/converters/mil/mil/ops/tests/`); their expectations hold for Core ML,
and on a Mac they run it. Here each package is written, opened and evaluated instead, and a line of JSON about every
comparison is appended to the file that MIL_MACS_LOG names: agreed, differs, unknown (operator or mode) or refused.
MIL_MACS_CASES is the most cases of one test function that run, spread over all of its cases.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ["PYMIL_TEST_TARGETS"] = "mlprogram"
os.environ["INCLUDE_MIL_FP32_UNIT_TESTS"] = "1"
os.environ["RUN_BACKWARD_COMPATIBILITY"] = "1"

import coremltools.converters.mil.mil.ops.tests.testing_utils as builders
import coremltools.converters.mil.testing_reqs as settings
import coremltools.converters.mil.testing_utils as frontends
import numpy as np
import pytest

from modelport.mil.evaluate import Evaluator
from modelport.mil.package import open_package
from modelport.mil.program import UnknownOperator
from modelport.targets.errors import SourceUnreadable

TOLERANCE = 1e-3
"""Least relative and absolute difference that counts: some expectations are written with three decimals."""


current = ""
"""The test that runs, as iOS15/test_pool.py::TestAvgPool::test_something[case]."""


def compare(
    mlmodel: Any, input_key_values: Any, expected_outputs: Any, dtype: str = "fp32", **options: Any
) -> Any:
    """What coremltools' `compare_backend` does on a Mac: runs the model and compares every output."""
    if options.get("state") is not None or not mlmodel.is_package:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.mlpackage"
            mlmodel.save(str(path))
            arrays = {name: np.asarray(value) for name, value in input_key_values.items()}
            found = Evaluator(open_package(path).program).run(arrays)
    except UnknownOperator as error:
        return note("unknown", error.operator)
    except SourceUnreadable as error:
        note("refused", str(error))
        # In the words of Core ML, for the tests that expect it.
        raise RuntimeError("Unable to compute the prediction using ML Program") from error
    if expected_outputs is not None:
        tolerance = [max(TOLERANCE, options.get(name, 0)) for name in ("atol", "rtol")]
        wrong = [
            name for name, value in expected_outputs.items() if not agree(found[name], value, *tolerance)
        ]
        note("differs" if wrong else "agreed", ", ".join(wrong))
    return found


def agree(found: Any, expected: Any, absolute: float, relative: float) -> bool:
    """Whether a result has the shape and the values that were expected."""
    if not isinstance(expected, np.ndarray | np.generic):
        return bool(np.array_equal(found, expected))
    same_shape = found.shape == expected.shape or (expected.shape == () and found.shape == (1,))
    return same_shape and np.allclose(found, expected, atol=absolute, rtol=relative, equal_nan=True)


def note(outcome: str, detail: str) -> None:
    """Append one comparison to the log."""
    with Path(os.environ["MIL_MACS_LOG"]).open("a") as log:
        print(json.dumps({"test": current, "outcome": outcome, "detail": detail}), file=log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember which test runs."""
    global current
    current = f"{item.path.parent.name}/{item.path.name}::{item.nodeid.split('::', 1)[1]}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep at most MIL_MACS_CASES of the cases of each test function."""
    most = int(os.environ.get("MIL_MACS_CASES", "3"))
    functions: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        functions.setdefault((item.path, item.nodeid.split("[")[0]), []).append(item)
    items[:] = [
        cases[int(place * max(1, len(cases) / most))]
        for cases in functions.values()
        for place in range(min(len(cases), most))
    ]


builders.compare_backend = compare
frontends.compare_backend = compare
settings.backends_internal[:] = [each for each in settings.backends_internal if each.precision == "fp32"]
settings.backends[:] = [each for each in settings.backends if each[1] == "fp32"]
