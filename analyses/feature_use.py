"""How much of a DiffLMM's image tokens comes from the diffusion feature, and how much from CLIP.

    python analyses/feature_use.py mini-difflmm runs/full/both-3-2000-2560-1600 --samples 32

Each image's feature, or its CLIP tokens, is taken from another image; how far the image tokens move is given as a share
of their spread (distance from their mean over images and patches). Near 0: the model does not use that part.
``into projector``: deviation of the numbers that each part hands to the projector's joining layer.
"""

from __future__ import annotations

import argparse
from typing import Any

import pandas as pd
import torch

import interp
from interp.datasets import scenes
from interp.types import Sample


@torch.no_grad()
def use(lmm: Any, samples: list[Sample]) -> dict[str, float]:
    """One row of the table."""
    model, prompts = lmm.model.model, [lmm.template(s.prompt) for s in samples]
    inputs = lmm.inputs([s.image for s in samples], prompts)
    seen = model.vision_tower(model.clip_pixels(inputs["pixel_values"]), output_hidden_states=True)
    clip = seen.hidden_states[lmm.model.config.vision_feature_layer][:, 1:]
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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="DiffLMMs: shipped names, folders or hub ids")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = parser.parse_args()
    samples = list(scenes.load(split="test", samples=a.samples))
    rows = {name: use(interp.load(name, device=a.device), samples) for name in a.models}
    print(pd.DataFrame.from_dict(rows, orient="index").round(4).to_string())


if __name__ == "__main__":
    main()
