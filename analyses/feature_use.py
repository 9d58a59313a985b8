"""How much of a DiffLMM's image tokens comes from the diffusion feature and from CLIP, and what the feature is for.

    python analyses/feature_use.py mini-difflmm runs/full/both-3-2000-2560-1600 --samples 32 --scenes 200

Tokens: each image's feature, or its CLIP tokens, is taken from another image; how far the image tokens move is given as
a share of their spread (distance from their mean over images and patches). Near 0: the model does not use that part.
``into projector``: deviation of the numbers that each part hands to the projector's joining layer.

Words: of ``--scenes`` test scenes with their captions, the share that is named right (`bound_words.named_right`) and
the noun recall of the model's own captions, with each image's own feature and less those with another image's; 95 %
intervals over images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch

import interp
from bound_words import estimate, named_right
from interp.answer.recall import named_targets
from interp.datasets import scenes
from interp.types import Sample


@torch.no_grad()
def use(lmm: Any, samples: list[Sample]) -> dict[str, float]:
    """One row of the table of tokens."""
    model, prompts = lmm.model.model, [lmm.template(s.prompt) for s in samples]
    inputs = lmm.inputs([s.image for s in samples], prompts)
    clip = model.clip_tokens(inputs["pixel_values"])
    projector = model.multi_modal_projector
    feature = model.diffusion(inputs["pixel_values"], projector.caption(clip), inputs["seeds"].tolist())
    tokens = projector(feature, clip)
    spread = (tokens - tokens.mean((0, 1))).norm()
    reduced = projector.reduce(projector.norm(feature.flatten(2).transpose(1, 2)))
    return {
        "diffusion feature": float((projector(feature.roll(1, 0), clip) - tokens).norm() / spread),
        "CLIP's tokens": float((projector(feature, clip.roll(1, 0)) - tokens).norm() / spread),
        "into projector: diffusion": float(reduced.std()),
        "into projector: CLIP": float(clip.std()),
    }


@contextmanager
def others_feature(lmm: Any) -> Iterator[None]:
    """Inside, each image of a batch is seen with the diffusion feature of the one before it."""
    handle = lmm.model.model.diffusion.register_forward_hook(lambda module, given, feature: feature.roll(1, 0))
    try:
        yield
    finally:
        handle.remove()


def words(lmm: Any, samples: Sequence[Sample], batch: int) -> pd.DataFrame:
    """``what own own_low own_high cost cost_low cost_high``, a row per kind of phrase and one of noun recall. Samples
    beside each other are of different images; those of a last batch that is not full are left out."""
    samples = samples[: len(samples) // batch * batch]
    free = [s for s in samples if {t.kind for t in s.targets} == {"free"}]
    free = free[: len(free) // batch * batch]

    def recall() -> np.ndarray:
        hits = [h for i in range(0, len(free), batch) for h in named_targets(lmm, free[i : i + batch], 56)]
        return np.concatenate(hits)

    own, own_recall = named_right(lmm, samples, batch), recall()
    with others_feature(lmm):
        other, other_recall = named_right(lmm, samples, batch), recall()
    found = {kind: (own.loc[at, "right"], other.loc[at, "right"]) for kind, at in own.groupby("kind").groups.items()}
    images = {kind: own.loc[at, "image_id"] for kind, at in own.groupby("kind").groups.items()}
    found["noun recall"], images["noun recall"] = (
        (own_recall, other_recall),
        [s.image_id for s in free for t in s.targets if t.mask.any()],
    )
    rows = []
    for what, (mine, theirs) in found.items():
        index = pd.Index(images[what])
        mine, theirs = (pd.Series(np.asarray(x, dtype=float), index) for x in (mine, theirs))
        row: dict[str, Any] = {"what": what, "n": len(mine)}
        for label, values in (("own", mine), ("cost", mine - theirs)):
            row |= dict(zip((label, f"{label}_low", f"{label}_high"), estimate(values), strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="DiffLMMs: shipped names, folders or hub ids")
    parser.add_argument("--samples", type=int, default=32, help="for the tokens")
    parser.add_argument("--scenes", type=int, default=200, help="for the words")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = parser.parse_args()
    samples = list(scenes.load(split="test", samples=a.samples))
    told = [list(scenes.described_samples("test", i)) for i in range(a.scenes)]
    each = [some[k] for k in range(max(map(len, told), default=0)) for some in told if k < len(some)]
    tokens, tables = {}, []
    for name in a.models:
        lmm = interp.load(name, device=a.device)
        tokens[name] = use(lmm, samples)
        tables.append(words(lmm, each, a.batch).assign(model=name))
    print(pd.DataFrame.from_dict(tokens, orient="index").round(4).to_string())
    print(pd.concat(tables).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
