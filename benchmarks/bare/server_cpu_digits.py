"""What a user writes without modelport: digits.pt2 to int8 ONNX, and a comparison. ARGS: pt2, npz, out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):
    """One image at a time."""

    def __init__(self, images: np.ndarray[Any, Any]) -> None:
        self.images: Iterator[np.ndarray[Any, Any]] = iter(images)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next feed."""
        image = next(self.images, None)
        return None if image is None else {"image": image[None]}


def main(model: str, data: str, out: str) -> None:
    """Load, export, calibrate, quantize, run both on 64 held-out samples."""
    images = np.load(data)["image"][:320]
    program = torch.export.load(model)
    module = program.module()
    with torch.no_grad():
        reference = np.concatenate([module(torch.from_numpy(image[None])).numpy() for image in images[256:]])
    exported = torch.onnx.export(program, dynamo=True, opset_version=21, verbose=False)
    exported.save(out + ".float.onnx")
    quant_pre_process(out + ".float.onnx", out + ".pre.onnx")
    quantize_static(
        out + ".pre.onnx", out, Reader(images[:256]), per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(out)
    outputs = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images[256:]])
    noise = np.square(outputs - reference).sum()
    print(f"{10 * np.log10(np.square(reference).sum() / noise):.1f} dB")


if __name__ == "__main__":
    main(*sys.argv[1:])
