"""mini-llava's scenes and batches with DiffLMM's pixels and seeds."""

from __future__ import annotations

import numpy as np
import torch

from interp.models.difflmm.processing import seed_of
from training import dialogues, pictures


class Pictures(pictures.Rendered):
    """The rendered scenes, with pixels as DiffLMM's processor gives them."""

    def __getitem__(self, visit: int) -> tuple[torch.Tensor, list[str], np.random.Generator]:
        """Float[3 side side] -1..1, the nouns, and the visit's random stream."""
        _, nouns, rng = super().__getitem__(visit)
        return self.pixels(visit), nouns, rng

    def pixels(self, visit: int) -> torch.Tensor:
        """Float[3 side side] -1..1."""
        return torch.from_numpy(self.image(visit).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)

    def seed(self, visit: int) -> int:
        """The seed of the image's random draws, as the processor gives it."""
        return seed_of(np.ascontiguousarray(self.image(visit).transpose(2, 0, 1)))


class Dialogues(dialogues.Dialogues):
    """mini-llava's batches with DiffLMM's pixels and seeds."""

    def __call__(self, visits: list[int]) -> dict[str, torch.Tensor]:
        return {**super().__call__(visits), "seeds": torch.tensor([self.data.seed(visit) for visit in visits])}
