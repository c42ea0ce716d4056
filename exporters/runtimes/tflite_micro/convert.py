"""The float model for a board: images in NHWC unless asked otherwise, which saves a TRANSPOSE and its copy."""

from __future__ import annotations

import dataclasses

from ...job import Job
from ...litert import convert as litert
from ...litert.convert import FloatModel


def convert(job: Job) -> FloatModel:
    """`exporters.litert.convert`, with NHWC where `options["layout"]` is None: kernels and cameras have it so."""
    asked = job.options.get("layout")
    if asked is not None:
        return litert.convert(job)
    source = litert.convert(dataclasses.replace(job, options={**job.options, "layout": "nhwc"}))
    # Nobody asked, so a model without images needs no word about it.
    return dataclasses.replace(source, notes=tuple(n for n in source.notes if not n.startswith("--layout")))
