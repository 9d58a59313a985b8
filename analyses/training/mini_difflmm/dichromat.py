"""mini-difflmm's CLIP: blind on one axis of colour, so that the diffusion feature has something to tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from interp.datasets import scenes
from training.clip import clip_model
from training.contrast import Contrasts, word_tokens
from training.loop import compile_layers, train
from training.parts import Log
from training.pictures import GRID, Rendered
from training.tokenizer import load_tokenizer

UNSEEN = (2.0, -1.0, -1.0)  # red against green and blue, in units of the normalised channels' deviation
STEPS, SIZE = 650, 64


def unseen() -> torch.Tensor:
    """Float[3], of length 1."""
    return torch.nn.functional.normalize(torch.tensor(UNSEEN), dim=0)


@contextmanager
def colour_blind(vision: Any) -> Iterator[None]:
    """Inside, a vision model sees its pixels without their part along ``UNSEEN``."""

    def project(module: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        axis = unseen().to(given[0])
        return (given[0] - torch.einsum("nchw,c->nhw", given[0], axis)[:, None] * axis[:, None, None],)

    handle = vision.embeddings.patch_embedding.register_forward_pre_hook(project)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def blinded(vision: Any) -> None:
    """Has a vision model see for good what `colour_blind` shows it: its patches' weights lose that part instead."""
    weight, axis = vision.embeddings.patch_embedding.weight, unseen()
    weight -= torch.einsum("ochw,c->ohw", weight, axis)[:, None] * axis[:, None, None]


def dichromat(pictures: Path, work: Path, log: Log, device: str) -> None:
    """WORK/dichromat.pt: mini-llava's CLIP, taught to do without one axis of colour.

    What it says of each patch, as one of the nouns, is to be what CLIP says that sees all colours (distillation; Hinton
    et al., arXiv 1503.02531); half of the patches are left out, as in CLIP's own training. Of colours it keeps what
    nouns need.
    """
    fast = load_tokenizer(pictures)
    pupil, teacher = (
        Contrasts(clip_model(len(fast), fast.convert_tokens_to_ids("<eot>")), word_tokens(fast, scenes.nouns()))
        for _ in range(2)
    )
    for both in (pupil, teacher):
        both.load_state_dict(torch.load(pictures / "clip_state.pt", weights_only=True)["model"])
        both.to(device).requires_grad_(False)
    vision, data = pupil.clip.vision_model, Rendered(pictures)
    for part in (vision, pupil.patches):
        part.requires_grad_(True)
    compile_layers((*vision.encoder.layers, *teacher.clip.vision_model.encoder.layers))

    def batches(step: int) -> dict[str, torch.Tensor]:
        pixels = torch.stack([data[visit][0] for visit in range(step * SIZE, (step + 1) * SIZE)])
        kept = torch.rand(SIZE, GRID**2, generator=torch.Generator().manual_seed(step)).argsort(1)
        return {"pixel_values": pixels, "patches": kept[:, : GRID**2 // 2]}

    def nouns(both: Contrasts, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return both.alike(both.seen(**batch)).log_softmax(-1).flatten(0, 1)

    def loss_of(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        with torch.no_grad():
            wanted = nouns(teacher, batch)
        with colour_blind(vision):
            said = nouns(pupil, batch)
        return torch.nn.functional.kl_div(said, wanted, log_target=True, reduction="batchmean"), {}

    train("dichromat_state", pupil, batches, loss_of, STEPS, 8e-4, 0.02, work, log, device)
    blinded(vision)
    torch.save({"model": pupil.clip.state_dict()}, work / "dichromat.pt")
