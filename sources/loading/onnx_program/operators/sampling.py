"""Sampling."""

from ..call import Operator

OPERATORS: dict[str, Operator] = {}
