"""Small Core ML packages that coremltools writes by itself, one a form of weights, made once a session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHAPE = (1, 1, 8, 8)
WEIGHTS = 13_706
"""Weights and biases of the network below: 160 + 4,640 + 8,256 + 650."""
MACS = 91_776
"""1,024 x 9 + 512 x 144 + 128 x 64 + 64 x 10."""


def network() -> Any:
    """A convolutional network on 8 x 8 images with seeded weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    ).eval()  # fmt: skip


def write(folder: Path) -> Mapping[str, Path]:
    """The network as fp32 (iOS15), fp16 (iOS17), int8 weights (iOS17) and int4 in blocks and 4-bit palettes (iOS18)."""
    import coremltools as ct
    import coremltools.optimize.coreml as cto
    import torch

    traced = torch.jit.trace(network(), torch.zeros(SHAPE))

    def converted(precision: Any, target: Any) -> Any:
        return ct.convert(
            traced,
            convert_to="mlprogram",
            inputs=[ct.TensorType("image", shape=SHAPE)],
            outputs=[ct.TensorType("logits")],
            compute_precision=precision,
            minimum_deployment_target=target,
            skip_model_load=True,
        )

    def config(kind: Any, **settings: Any) -> Any:
        return cto.OptimizationConfig(global_config=kind(weight_threshold=64, **settings))

    half, late = (converted(ct.precision.FLOAT16, target) for target in (ct.target.iOS17, ct.target.iOS18))
    models = {
        "fp32": converted(ct.precision.FLOAT32, ct.target.iOS15),
        "fp16": half,
        "int8-weight": cto.linear_quantize_weights(
            half, config(cto.OpLinearQuantizerConfig, mode="linear_symmetric")
        ),
        "int4-weight": cto.linear_quantize_weights(
            late,
            config(
                cto.OpLinearQuantizerConfig,
                mode="linear_symmetric",
                dtype="int4",
                granularity="per_block",
                block_size=32,
            ),
        ),
        "palette4": cto.palettize_weights(half, config(cto.OpPalettizerConfig, mode="uniform", nbits=4)),
    }
    paths = {name: folder / f"{name}.mlpackage" for name in models}
    for name, model in models.items():
        model.save(str(paths[name]))
    return paths


def program(path: Path, function: Any, inputs: Mapping[str, tuple[int, ...]], **settings: Any) -> Path:
    """A package of a program that `function(mb, **inputs)` builds with coremltools' MIL builder, in float32."""
    import coremltools as ct
    from coremltools.converters.mil import Builder

    specs = [Builder.TensorSpec(shape=shape) for shape in inputs.values()]
    arguments = ", ".join(inputs)
    # The builder names inputs by the function's own arguments.
    scope: dict[str, Any] = {"function": function, "mb": Builder}
    exec(f"def named({arguments}): return function(mb, {arguments})", scope)
    made = Builder.program(input_specs=specs, opset_version=ct.target.iOS17)(scope["named"])
    ct.convert(
        made,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
        **settings,
    ).save(str(path))
    return path
