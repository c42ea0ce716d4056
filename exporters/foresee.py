"""What a runtime can tell beforehand: the exact sizes of files that do not exist yet, by scheme."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

from ..sources.source import Source
from ..targets import registry
from ..targets.card import Target
from ..targets.errors import ModelportError, Unsupported
from ..targets.verdict import Size
from . import isolate
from .job import Job


def sizes(source: Source, target: Target, *, calibrated: bool = False) -> tuple[Mapping[str, Size], str]:
    """Sizes by scheme, and "" or a sentence that says why there are none.

    `calibrated`: whether data will be used, which can change the types that an exporter chooses.

    Runs the runtime's own step in a worker, which reads configuration and tokenizer and no weight. Raises
    Unsupported for a model that the runtime cannot take; whatever else goes wrong leaves an estimate.
    """
    if not registry.exporter_available(target):
        return {}, ""
    step = f"{registry.runtime_module(target.runtime)}:{target.sizes}"
    with tempfile.TemporaryDirectory(prefix="modelport-sizes-") as work:
        job = Job(
            steps=(step,),
            source_kind=source.kind,
            source_path=str(source.path),
            target=target.name,
            runtime=target.runtime,
            quant=target.default_quant,
            staging=work,
            work=work,
            options={"schemes": list(target.schemes), "extra": target.extra, "calibrated": calibrated},
        )
        try:
            told = isolate.run(job)[step].data
        except Unsupported:
            raise
        except ModelportError as error:
            where = f"{error.where}: " if error.where else ""
            return {}, f"the file's size is an estimate: {where}{error.fact}"
    return {
        name: Size(told["file_bytes"][name], told["tensor_bytes"][name]) for name in told["file_bytes"]
    }, ""
