"""A small Llama that has really been trained on Python's own texts, so that perplexity and agreement mean something.

Training takes half a minute of CPU time, once: the folder is kept in the cache outside the tree, under a hash
of the recipe.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

import tiny_llms
from llama_oracle import cache
from tiny_corpus import code, prose
from tiny_tokenizers import ids_of

RECIPE: dict[str, Any] = {
    "architecture": "llama3",
    "tokens": 2048,
    "layers": 2,
    "hidden": 256,
    "feed": 768,
    "context": 2048,
    "tied": True,
    "steps": 150,
    "batch": 8,
    "window": 128,
    "rate": 3e-3,
    "version": 1,
}


def _texts() -> tuple[str, str]:
    """What is trained on, and what is held out: the last tenth of the prose and of the code."""
    cuts = [(text, len(text) * 9 // 10) for text in (prose(), code())]
    return "\n\n".join(t[:at] for t, at in cuts), "\n\n".join(t[at:] for t, at in cuts)


def held_out(characters: int = 60_000) -> str:
    """Text of the same kind that the model has not seen: half prose, half code."""
    half = characters // 2
    return "\n\n".join(text[len(text) * 9 // 10 :][:half] for text in (prose(), code()))


def trained(folder: Path | None = None) -> Path:
    """The model's folder, trained now where the cache has none; copied into `folder` where one is given."""
    # The text comes from Python itself, so another Python makes another model.
    text = hashlib.sha256("".join(_texts()).encode()).hexdigest()
    name = hashlib.sha256((json.dumps(RECIPE, sort_keys=True) + text).encode()).hexdigest()[:16]
    kept = cache() / f"trained-llama-{name}"
    if not (kept / "model.safetensors").is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as work:
            made = _train(Path(work, "model"))
            if not kept.exists():
                os.rename(made, kept)
    if folder is None:
        return kept
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    return folder


def _train(folder: Path) -> Path:
    """Train from the random weights of tiny_llms, and write the result over them."""
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    names = ("layers", "hidden", "feed", "context")
    tiny_llms.make(
        RECIPE["architecture"], folder, tied=RECIPE["tied"], tokens=RECIPE["tokens"],
        config={"rope_scaling": None}, **{name: RECIPE[name] for name in names},
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor(ids_of(folder)(_texts()[0]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other by spinning, for minutes on a machine that is busy
    try:
        _optimize(torch, model, ids)
    finally:
        torch.set_num_threads(threads)
    state = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    del state["lm_head.weight"]  # tied
    stored = {
        name: ("bfloat16", value.shape, tiny_llms.stored(value, "bfloat16")) for name, value in state.items()
    }
    tiny_llms.write_safetensors(folder / "model.safetensors", stored)
    return folder


def _optimize(torch: Any, model: Any, ids: Any) -> None:
    """AdamW with a warm-up and a cosine, on windows drawn at random; every window begins with <|begin_of_text|>."""
    steps, window = RECIPE["steps"], RECIPE["window"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE["rate"], weight_decay=0.1, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    model.train()
    for step in range(steps):
        warm = min(1.0, (step + 1) / 20)
        for group in optimizer.param_groups:
            group["lr"] = RECIPE["rate"] * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        starts = torch.randint(0, len(ids) - window, (RECIPE["batch"],), generator=generator)
        batch = torch.stack([ids[start : start + window] for start in starts.tolist()])
        batch[:, 0] = model.config.bos_token_id
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
