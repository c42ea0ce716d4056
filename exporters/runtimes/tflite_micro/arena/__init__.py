"""The memory that TensorFlow Lite Micro takes for a model, computed from its file: `plan` says it to the byte."""

from __future__ import annotations

from .offline import with_offline_plan
from .planning import ArenaPlan, Placed, plan

__all__ = ["ArenaPlan", "Placed", "plan", "with_offline_plan"]
