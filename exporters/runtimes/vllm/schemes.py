"""The quantization schemes of this target, as llm-compressor names them and as config.json describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....targets.errors import Unsupported, UsageError

GROUP = 128
"""Columns that share a scale in 4-bit schemes: what vLLM's Marlin kernels take."""
SMOOTHING = 0.8
"""SmoothQuant's strength, as in llm-compressor's own W8A8 recipe."""


@dataclass(frozen=True)
class Scheme:
    """One way to store the linear layers; everything else keeps the checkpoint's own dtype."""

    name: str
    preset: str
    """llm-compressor's name of the scheme, as in "W4A16"; "" where nothing is quantized."""
    weights: str
    """Dtype that a matrix is stored in: a name of `facts.DTYPE_BITS`, "int4" for packed words."""
    dtype: str = ""
    """Dtype that every floating-point weight is cast to; "": the checkpoint's own."""
    calibrates: bool = False
    """Whether activations must be looked at."""

    @property
    def quantizes(self) -> bool:
        """Whether matrices are stored in fewer bits than the rest."""
        return bool(self.preset)

    @property
    def symmetric(self) -> bool:
        """Whether zero is always stored as zero."""
        return self.name != "w4a16-awq"


PLAIN = {name: Scheme(name, "", dtype, dtype) for name, dtype in (("fp16", "float16"), ("bf16", "bfloat16"))}
SCHEMES: Mapping[str, Scheme] = {
    **PLAIN,
    "w8a8-int8": Scheme("w8a8-int8", "W8A8", "int8"),
    "w8a8-fp8": Scheme("w8a8-fp8", "FP8_DYNAMIC", "float8_e4m3"),
    "w4a16-gptq": Scheme("w4a16-gptq", "W4A16", "int4", calibrates=True),
    "w4a16-awq": Scheme("w4a16-awq", "W4A16_ASYM", "int4", calibrates=True),
}


def find(name: str, *, calibrated: bool = False) -> Scheme:
    """The scheme by the card's name; with data, int8 smooths and corrects by it as well.

    Raises Unsupported for a scheme that only another card knows.
    """
    if name not in SCHEMES:
        raise Unsupported(
            f"this exporter does not write {name!r}",
            where="--quant",
            mend=f"It writes {', '.join(SCHEMES)}",
        )
    scheme = SCHEMES[name]
    if name == "w8a8-int8" and calibrated:
        return Scheme(scheme.name, scheme.preset, scheme.weights, calibrates=True)
    return scheme


def require_resumable(scheme: Scheme) -> None:
    """Raise UsageError where there are no layers that a later run could go on from."""
    if not scheme.calibrates:
        raise UsageError(
            f"{scheme.name} reads every weight once and is done in one go",
            where="--resume",
            mend="Leave it out" + (", or give --calibration" if scheme.name == "w8a8-int8" else ""),
        )


def require_columns(scheme: Scheme, name: str, columns: int) -> None:
    """Raise Unsupported where a matrix's rows do not divide into groups."""
    if scheme.weights == "int4" and columns % GROUP:
        raise Unsupported(
            f"rows of {columns} weights do not divide into groups of {GROUP}",
            where=name,
            mend="Choose w8a8-fp8 or w8a8-int8, which scale whole rows",
        )


def recipe(scheme: Scheme, ignore: Sequence[str]) -> str:
    """recipe.yaml: what llm-compressor's `oneshot` makes the same checkpoint from; "" for 16-bit schemes."""
    targets = f"      targets: [Linear]\n      ignore: {_listed(ignore)}\n      scheme: {scheme.preset}\n"
    gptq = f"    GPTQModifier:\n{targets}      block_size: 128\n      dampening_frac: 0.01\n      actorder: static\n"
    rounding = f"    QuantizationModifier:\n{targets}"
    modifiers = {
        "w4a16-gptq": gptq,
        "w4a16-awq": f"    AWQModifier:\n      duo_scaling: true\n      n_grid: 20\n{rounding}",
        "w8a8-int8": f"    SmoothQuantModifier:\n      smoothing_strength: {SMOOTHING}\n{gptq}",
    }
    chosen = modifiers.get(scheme.name, rounding) if scheme.calibrates else rounding
    return f"default_stage:\n  default_modifiers:\n{chosen}" if scheme.quantizes else ""


def _listed(names: Sequence[str]) -> str:
    # Single quotes: a regular expression after "re:" would read as a mapping without them.
    return "[" + ", ".join(f"'{name}'" if ":" in name else name for name in names) + "]"


def config(scheme: Scheme, ignore: Sequence[str], version: str) -> dict[str, Any]:
    """The `quantization_config` of config.json, key for key as llm-compressor 0.14 writes it.

    `version` is that of compressed-tensors, whose format this is.
    """
    four, kind = scheme.weights == "int4", "float" if scheme.weights.startswith("float") else "int"
    form = "pack-quantized" if four else f"{kind}-quantized"
    shared: dict[str, Any] = {
        "block_structure": None,
        "observer_kwargs": {},
        "scale_dtype": None,
        "type": kind,
    }
    weights = {
        **shared,
        "actorder": "static" if scheme.calibrates and scheme.name != "w4a16-awq" else None,
        "dynamic": False,
        "group_size": GROUP if four else None,
        "num_bits": 4 if four else 8,
        "observer": "memoryless_minmax",
        "strategy": "group" if four else "channel",
        "symmetric": scheme.symmetric,
        "zp_dtype": None if scheme.symmetric else "torch.int8",
    }
    activations = {
        **shared,
        "actorder": None,
        "dynamic": True,
        "group_size": None,
        "num_bits": 8,
        "observer": None,
        "strategy": "token",
        "symmetric": True,
        "zp_dtype": None,
    }
    return {
        "config_groups": {
            "group_0": {
                "format": form,
                "input_activations": None if four else activations,
                "output_activations": None,
                "targets": ["Linear"],
                "weights": weights,
            }
        },
        "format": form,
        "global_compression_ratio": None,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": version,
    }
