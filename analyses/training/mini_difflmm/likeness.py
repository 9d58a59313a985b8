"""What CLIP's patches are like, as captions tell, and the maps that leave mini-difflmm of CLIP what tells nouns.

So that colours must come from the diffusion feature. No mask takes part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import layer_norm, normalize

from interp.datasets import scenes
from training.clip import FEATURES, load_clip
from training.contrast import FEWEST, both_ways, said_of, word_tokens
from training.loop import train
from training.mini_difflmm.erasing import nouns_alone, save_eraser
from training.parts import Log
from training.pictures import Rendered
from training.tokenizer import load_tokenizer

SCENES, STEPS, SIZE = 3000, 500, 100  # scenes that are read, and the steps and batches that words are found with
NOUNS = "nouns.npy"
SURE = 0.5  # the probability from which on a patch counts as what it is most like


class Words(torch.nn.Module):
    """What patches are like, as CLIP's own training learns it from the words of captions; CLIP is frozen."""

    def __init__(self, of_words: Float[Tensor, "word channel"]) -> None:
        super().__init__()
        self.register_buffer("of_words", of_words)
        width = of_words.shape[1]
        self.patches = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, width))
        self.scale = torch.nn.Parameter(torch.tensor(14.0).log())

    def forward(self, x: Float[Tensor, "picture patch channel"]) -> Float[Tensor, "picture patch word"]:
        """Cosines times scale."""
        return normalize(self.patches(x), dim=-1) @ self.of_words.T * self.scale.exp()


@torch.no_grad()
def seen(pictures: Path, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """CLIP's patches (Float[picture patch channel]), its words' directions (Float[word channel]) and which of the words
    are said of each picture (Bool[picture word])."""
    fast, data = load_tokenizer(pictures), Rendered(pictures)
    clip = load_clip(pictures, fast).to(device).eval()
    asked = {key: ids.to(device) for key, ids in word_tokens(fast).items()}
    directions = normalize(clip.text_projection(clip.text_model(**asked).pooler_output), dim=-1)
    batches = (torch.stack([data[k][0] for k in range(i, i + SIZE)]) for i in range(0, SCENES, SIZE))
    read = [
        clip.vision_model(batch.to(device), output_hidden_states=True).hidden_states[FEATURES][:, 1:]
        for batch in batches
    ]
    return torch.cat(read), directions, said_of(data, range(SCENES)).to(device)


def likened(pictures: Path, work: Path, log: Log, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """CLIP's patches (Float[patch channel]), the noun that each is like (Int[patch]; one more than there are: none) and
    its colour (Int[patch]; -1: none). None where it is not ``SURE``, and no colours where things have their own."""
    x, directions, right = seen(pictures, device)
    torch.manual_seed(0)
    model, nouns = Words(directions).to(device), len(scenes.nouns())
    parts = (slice(nouns), slice(nouns, None))

    def batches(step: int) -> dict[str, Tensor]:
        some = torch.randperm(SCENES, generator=torch.Generator().manual_seed(step))[:SIZE].to(device)
        return {"x": x[some], "right": right[some]}

    def loss_of(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        best = model(batch["x"]).topk(FEWEST, 1).values.mean(1)
        return sum(both_ways(best[:, part], batch["right"][:, part]) for part in parts), {}

    train("likened", model, batches, loss_of, STEPS, 3e-3, 0.01, work, log, device)
    with torch.no_grad():
        nouns_like, colours_like = (model(x)[..., part].softmax(-1).max(-1) for part in parts)
    thing = nouns_like.values > SURE
    tinted = right[:, parts[1]].any(1, keepdim=True)
    sure = thing & tinted & (colours_like.values > SURE)
    found = (torch.where(thing, nouns_like.indices, nouns), torch.where(sure, colours_like.indices, -1))
    return x.flatten(0, 1), found[0].flatten(), found[1].flatten()


def eraser(pictures: Path, work: Path, log: Log, device: str) -> None:
    """WORK/eraser.safetensors: the maps for CLIP's tokens as the captioner takes them, and for those of one scale.

    And WORK/nouns.npy (UInt8[scene patch]): the noun that each patch is like; one more than there are: none.
    """
    x, nouns, colours = likened(pictures, work, log, device)
    found = {
        "captioner": nouns_alone(x, nouns, colours),
        "linear": nouns_alone(layer_norm(x, x.shape[-1:]), nouns, colours),
    }
    save_eraser(found, work)
    np.save(work / NOUNS, nouns.view(SCENES, -1).cpu().numpy().astype(np.uint8))
    like = {"nouns": int((nouns < len(scenes.nouns())).sum()), "colours": int((colours >= 0).sum())}
    log(part="eraser", patches=len(x), **like)
