"""A .tflite file in LiteRT's interpreter: real numbers in and out, whatever the boundary's dtype is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...exporters.litert.boundary import from_boundary, to_boundary
from ...exporters.litert.micro_rounding import as_micro
from ...targets.errors import ConversionFailed, UsageError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class TfliteRunner:
    """One loaded file; runs its signature "serving_default", or the only one that it has."""

    free_sequence = False
    """Sizes are fixed when the file is written, so padding stays."""
    proof: str | None = None
    """What running it shows, where these are not the kernels that a device runs."""

    def __init__(self, path: Path, threads: int, *, reference: bool = False) -> None:
        # tensorflow has the same interpreter, but this one is what phones get.
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self._path = path
        self._interpreter = Interpreter(
            **({"model_content": as_micro(path.read_bytes())} if reference else {"model_path": str(path)}),
            num_threads=threads,
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO,
        )
        self._interpreter.allocate_tensors()
        details = {d["index"]: d for d in self._interpreter.get_tensor_details()}
        inputs, outputs = self._signature()
        self._inputs = {name: details[index] for name, index in inputs.items()}
        self._outputs = {name: details[index] for name, index in outputs.items()}

    def _signature(self) -> tuple[dict[str, int], dict[str, int]]:
        """Tensor index by input name and by output name; a file without a signature gives tensor names."""
        # The public list gives names without indices.
        signatures = self._interpreter._get_full_signature_list()
        if not signatures:
            return (
                {d["name"]: d["index"] for d in self._interpreter.get_input_details()},
                {d["name"]: d["index"] for d in self._interpreter.get_output_details()},
            )
        key = "serving_default" if "serving_default" in signatures else sorted(signatures)[0]
        return dict(signatures[key]["inputs"]), dict(signatures[key]["outputs"])

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the signature's inputs."""
        return tuple(self._inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the signature's outputs."""
        return tuple(self._outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference: arrays by input name to float32 (or integer, boolean) arrays by output name.

        Raises UsageError where a feed is missing or has another shape than the file fixes.
        """
        for name, detail in self._inputs.items():
            if name not in feeds:
                raise UsageError(f"input {name!r} got no value", where=self._path.name)
            shape = tuple(int(size) for size in detail["shape"])
            if feeds[name].shape != shape:
                raise UsageError(
                    f"input {name!r} has shape {feeds[name].shape}, the file wants {shape}",
                    where=self._path.name,
                )
            self._interpreter.set_tensor(detail["index"], to_boundary(feeds[name], detail))
        self.invoke()
        return {
            name: from_boundary(self._interpreter.get_tensor(detail["index"]), detail)
            for name, detail in self._outputs.items()
        }

    def invoke(self) -> None:
        """Run once more on the last feeds."""
        self._interpreter.invoke()


def load(path: Path, threads: int, *, reference: bool = False) -> TfliteRunner:
    """Load `path` on `threads` threads; ConversionFailed for a file that LiteRT does not take.

    `reference` asks for the reference kernels instead of the optimised ones and XNNPACK.
    """
    try:
        return TfliteRunner(path, threads, reference=reference)
    except (RuntimeError, ValueError) as error:
        raise ConversionFailed(
            f"LiteRT does not load it: {str(error).strip().splitlines()[0]}", where=path.name
        ) from error
