"""Published language models on the catalogue's cards: how a test asks for a serving plan, a verdict and its terms."""

from typing import Any

from hypothesis import strategies as st

from llm_facts import CONFIGS, published
from modelport.targets import registry, serving
from modelport.targets.device import Device
from modelport.targets.feasibility import judge
from modelport.targets.serving import Serving
from modelport.targets.verdict import Term, Verdict

VLLM = registry.find_target("server-gpu-llm")
MODELS = {name: published(name) for name in CONFIGS}
GB = 10**9


def plan(model: str, device: str | Device = "a100-80gb", quant: str = "bf16", **asked: Any) -> Serving:
    """How so many of `device` serve a model."""
    where = device if isinstance(device, Device) else registry.find_device(device, VLLM)
    return serving.plan(MODELS[model], VLLM, where, VLLM.scheme(quant), **asked)


def verdict(model: str, device: str | Device = "a100-80gb", quant: str = "bf16", **asked: Any) -> Verdict:
    """Whether a model fits on it."""
    where = device if isinstance(device, Device) else registry.find_device(device, VLLM)
    return judge(MODELS[model], VLLM, where, VLLM.scheme(quant), **asked)


def terms(
    model: str, device: str | Device = "a100-80gb", quant: str = "bf16", **asked: Any
) -> dict[str, Term]:
    """The verdict's terms by name."""
    return {term.name: term for term in verdict(model, device, quant, **asked).terms}


SERVED = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["llama-2-7b", "llama-3-8b", "mixtral-8x7b", "qwen3-30b-a3b"]),
        "device": st.sampled_from(["l4", "a100-40gb", "a100-80gb", "b200"]),
        "quant": st.sampled_from(["bf16", "w8a8-fp8", "w4a16-awq"]),
        "tensor_parallel": st.sampled_from([1, 2]),
        "batch": st.integers(1, 64),
        "context": st.integers(16, 20_000),
    }
)
