"""What one head's output hands over, patched from a run on one image into a run on another with another noun."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import interp
from interp.datasets import scenes


@torch.no_grad()
def patching(model: str, pairs: int, seed: int = 0) -> pd.DataFrame:
    """``pair clean corrupted layer head recovered flips``: each head's output at the noun's predicting row, patched.

    Recovered: the share of the difference in log p(clean noun) - log p(corrupted noun) that the patch brings back.
    """
    lmm = interp.load(model, device="cpu")
    bridge, rows, rng = interp.to_lens(lmm), [], np.random.default_rng(seed)
    short = [n for n in scenes.nouns() if len(lmm.tokenizer(f" {n}", add_special_tokens=False).input_ids) == 1]
    for pair in tqdm(range(pairs), desc="pairs"):
        names = [str(n) for n in rng.choice(short, 2, replace=False)]
        clean, corrupted = (asked(lmm, pair, noun) for noun in names)
        about = {"pair": pair, "clean": names[0], "corrupted": names[1]}
        rows += [{**about, **found} for found in every_head(lmm, bridge, clean, corrupted)]
    return pd.DataFrame(rows)


def asked(lmm: Any, pair: int, noun: str) -> Any:
    """The prompt with an image of the noun on the pair's background, and an answer that names it."""
    image = scenes.compose(scenes.generator("test", pair + 1), (noun,)).image
    return interp.lens_prompt(lmm, image, scenes.DESCRIBE[0], f"There is a {noun}.", phrases=noun)


def every_head(lmm: Any, bridge: Any, clean: Any, corrupted: Any) -> list[dict[str, Any]]:
    """``layer head recovered flips``: what the clean run's output of each head does in the corrupted run."""
    at = clean.rows[clean.phrases[0].tokens[0]]
    wanted, other = (p.input_ids[0, at + 1] for p in (clean, corrupted))

    def gap(logits: torch.Tensor) -> float:
        return float(logits[0, at, wanted] - logits[0, at, other])

    found, cache = bridge.run_with_cache(clean.input_ids, **clean.inputs)
    high, low = gap(found), gap(bridge(corrupted.input_ids, **corrupted.inputs))

    def patched(layer: int, head: int) -> torch.Tensor:
        name = f"blocks.{layer}.attn.hook_z"

        def patch(z: Any, hook: Any) -> Any:
            z[:, at, head] = cache[name][:, at, head]
            return z

        return bridge.run_with_hooks(corrupted.input_ids, fwd_hooks=[(name, patch)], **corrupted.inputs)

    rows = []
    for layer in range(lmm.layers):
        for head in range(lmm.heads):
            logits = patched(layer, head)
            share, flips = (gap(logits) - low) / (high - low), bool(logits[0, at].argmax() == wanted)
            rows.append({"layer": layer, "head": head, "recovered": share, "flips": flips})
    return rows
