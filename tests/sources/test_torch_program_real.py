"""Programs that torch itself exported and saved: their facts agree with torch's own counts."""

from pathlib import Path
from typing import Any

import pytest

from modelport import sources

pytestmark = pytest.mark.slow


def network() -> Any:
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.depthwise = nn.Conv2d(8, 8, 3, groups=8, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
            self.first = nn.Linear(4, 6)
            self.tied = nn.Linear(4, 6, bias=False)
            self.tied.weight = self.first.weight
            self.scale = torch.arange(6.0)
            self.register_buffer("shift", torch.ones(6), persistent=False)

        def forward(self, image: Any, extra: dict[str, Any]) -> Any:
            x = torch.relu_(self.norm(self.depthwise(self.conv(image))))
            x = nn.functional.max_pool2d(self.up(x), 2).mean((2, 3))
            with torch.no_grad():
                y = self.first(x) + self.tied(x) * self.scale + self.shift
            scores = y @ extra["keys"].transpose(-1, -2)
            return {"scores": scores.softmax(-1), "product": torch.einsum("ni,nj->nij", y, y)}

    return Network().eval()


def test_a_real_program_with_every_kind_of_state(tmp_path: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = network()
    args = (torch.ones(2, 3, 16, 16), {"keys": torch.ones(2, 5, 6)})
    batch = torch.export.Dim("batch", min=1, max=9)
    program = torch.export.export(
        model,
        (torch.ones(2, 3, 16, 16), {"keys": torch.ones(5, 6)}),
        dynamic_shapes=({0: batch}, {"keys": None}),
    )
    torch.export.save(program, tmp_path / "m.pt2")
    facts = sources.inspect(sources.open_source(tmp_path / "m.pt2"))
    assert [(f.name, f.shape) for f in facts.inputs] == [
        ("image", ("batch", 3, 16, 16)),
        ("extra_keys", (5, 6)),
    ]
    assert [(f.name, f.shape) for f in facts.outputs] == [
        ("scores", ("batch", 5)),
        ("product", ("batch", 6, 6)),
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(args[0][:1], {"keys": args[1]["keys"][0]})
    compute = ("conv", "depthwise", "gemm", "matmul")
    products = {op.kind: op.flops for op in facts.ops if op.op_class in compute}
    total = sum(op.flops or 0 for op in facts.ops if op.op_class in compute)
    # The counter sees einsum of two vectors as a multiplication, not as a product.
    assert total - (products["aten.einsum.default"] or 0) == counter.get_total_flops()
    stored = {
        tensor.data_ptr(): tensor.numel()
        for tensor in [*model.state_dict().values(), model.scale, model.shift]
    }
    assert facts.parameters == sum(stored.values())
    assert {op.op_class for op in facts.ops} <= {
        "conv", "depthwise", "norm", "elementwise", "pool", "gemm", "matmul", "softmax", "movement",
    }  # fmt: skip


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_real_encoder_counts_as_torch_counts(tmp_path: Path, attention: str) -> None:
    import torch
    import transformers
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.BertConfig(**sizes, vocab_size=99, max_position_embeddings=64)
    config._attn_implementation = attention
    model = transformers.BertModel(config).eval()
    ids = torch.ones(2, 16, dtype=torch.long)
    names = ("input_ids", "attention_mask", "token_type_ids")
    free = {0: torch.export.Dim("b", min=1, max=8), 1: torch.export.Dim("s", min=1, max=64)}
    program = torch.export.export(
        model, (), dict.fromkeys(names, ids), dynamic_shapes=dict.fromkeys(names, free)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    facts = sources.inspect(sources.open_source(tmp_path / "m.pt2"), sequence=20)
    assert facts.assumed == {"batch": 1, "sequence": 20}
    assert all(fact.shape == ("batch", "sequence") for fact in facts.inputs)
    # The counter knows the products of attention, not the CPU's fused kernel.
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        model(**dict.fromkeys(names, ids[:1, :1].repeat(1, 20)))
    products = sum(op.flops or 0 for op in facts.ops if op.op_class in ("gemm", "matmul"))
    soft = 2 * 5 * 4 * 20 * 20 if attention == "sdpa" else 0
    assert products - soft == counter.get_total_flops()
    assert facts.flops is not None
    assert facts.flops > products
