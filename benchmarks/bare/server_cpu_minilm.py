"""What a user writes without modelport: MiniLM to dynamic int8 ONNX, and a comparison. ARGS: folder, txt, out."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from transformers import AutoModel, AutoTokenizer

HELD_OUT = 64
NAMES = ("input_ids", "attention_mask", "token_type_ids")


class Encoder(torch.nn.Module):
    """Mean pooling and normalisation behind the encoder, as sentence-transformers does."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Embeddings, shape (batch, hidden)."""
        states = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=1)


def main(folder: str, texts: str, out: str) -> None:
    """Load, export, quantize, run both on 64 held-out sentences."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = Encoder(AutoModel.from_pretrained(folder, attn_implementation="eager")).eval()
    with open(texts, encoding="utf-8") as stream:
        sentences = stream.read().splitlines()[-HELD_OUT:]
    feeds = [dict(tokenizer(text, return_tensors="pt")) for text in sentences]
    with torch.no_grad():
        reference = np.concatenate([module(*(feed[name] for name in NAMES)).numpy() for feed in feeds])
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
    example = tuple(torch.ones(2, 16, dtype=torch.int64) for _ in NAMES)
    exported = torch.onnx.export(
        module, example, dynamo=True, opset_version=21, verbose=False, input_names=list(NAMES),
        dynamic_shapes=(free, free, free),
    )  # fmt: skip
    exported.save(out + ".float.onnx")
    quant_pre_process(out + ".float.onnx", out + ".pre.onnx", skip_symbolic_shape=True)
    quantize_dynamic(out + ".pre.onnx", out, per_channel=True, weight_type=QuantType.QInt8)
    session = onnxruntime.InferenceSession(out)
    outputs = [session.run(None, {name: feed[name].numpy() for name in NAMES})[0] for feed in feeds]
    print(f"cosine {(np.concatenate(outputs) * reference).sum(1).mean():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
