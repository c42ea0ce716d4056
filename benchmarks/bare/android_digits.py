"""What a user writes without modelport: digits.pt2 to full-integer LiteRT, and a comparison. ARGS: pt2, npz, out."""

from __future__ import annotations

import sys

import litert_torch
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe


def main(model: str, data: str, out: str) -> None:
    """Load, convert, calibrate, quantize, run both on 64 held-out samples."""
    images = np.load(data)["image"][:320]
    module = torch.export.load(model).module()
    with torch.no_grad():
        reference = np.concatenate([module(torch.from_numpy(image[None])).numpy() for image in images[256:]])
    litert_torch.convert(module, (torch.zeros(1, 1, 8, 8),)).export(out + ".float")
    steps = quantizer.Quantizer(out + ".float", recipe.static_wi8_ai8())
    name = Interpreter(out + ".float").get_signature_runner("serving_default").get_input_details()
    samples = [{next(iter(name)): image[None]} for image in images[:256]]
    ranges = steps.calibrate({"serving_default": samples})
    steps.quantize(ranges).export_model(out, overwrite=True)
    runner = Interpreter(out).get_signature_runner("serving_default")
    (into,), (from_,) = runner.get_input_details().items(), runner.get_output_details().items()
    (scale_in, zero_in), (scale_out, zero_out) = into[1]["quantization"], from_[1]["quantization"]
    outputs = []
    for image in images[256:]:
        quantized = np.clip(np.round(image[None] / scale_in + zero_in), -128, 127).astype(np.int8)
        outputs.append((runner(**{into[0]: quantized})[from_[0]].astype(np.float32) - zero_out) * scale_out)
    noise = np.square(np.concatenate(outputs) - reference).sum()
    print(f"{10 * np.log10(np.square(reference).sum() / noise):.1f} dB")


if __name__ == "__main__":
    main(*sys.argv[1:])
