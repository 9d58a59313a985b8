"""The things a plug-in may be, on one page. A plug-in is a module: one file (or folder) whose name is its name.

A stage gets its model, metric or data set as an argument and never imports one; ``plugins.py`` finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.types import PatchGrid, Prompts, Proposals, Sample, Skip


class ModelFamily(Protocol):
    """``models/NAME.py``: NAME is the ``model_type`` in the checkpoint's ``config.json``.

    A file holds what is particular to the family: ``architecture`` (or a ``load`` of its own) and ``grid``. All else
    has a default in `interp.models._family`, in force where the file has nothing of that name.
    """

    architecture: str
    """Name of the model's class in transformers; the default ``load`` takes it."""

    def grid(
        self, model: torch.nn.Module, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]
    ) -> PatchGrid:
        """All tokens of one image of (height, width) pixels: the main view, other views, those without a place.

        ``inputs`` are the sample's own: of every tensor that ``prepare`` gave with an axis for samples, the sample's
        row, without padding where it has as many numbers as there are tokens (``input_ids``, ``image_grid_thw``, ...).
        A file may call the last parameter ``input_ids``, and then gets these alone.
        """
        ...

    def load(self, checkpoint: str, **from_pretrained: Any) -> tuple[torch.nn.Module, Any]:
        """The model, in eval mode, and its processor. Default: the ``architecture``, and the processor without its
        video parts."""
        ...

    def decoder(self, model: torch.nn.Module) -> torch.nn.Module:
        """The part of the model whose layers' attention is recorded: the language model. Default: ``get_decoder()``."""
        ...

    def template(self, processor: Any, prompt: str) -> str:
        """The whole text before the answer: chat template, image placeholder, prompt, start of the answer. Default: the
        processor's chat template."""
        ...

    def prepare(
        self, processor: Any, images: Sequence[np.ndarray], texts: Sequence[str], **options: Any
    ) -> dict[str, Tensor]:
        """Inputs of ``model.forward`` and ``model.generate`` for a batch, left-padded where the lengths differ.
        Default: the processor's call. ``options`` are the image processor's own (pan-and-scan, numbers of pixels); they
        also stand in the copy of the image processor that ``grid`` gets."""
        ...


@runtime_checkable
class Metric(Protocol):
    """``metrics/NAME.py``: how well maps agree with masks. Vectorised over phrases, layers and heads."""

    higher_is_better: bool
    raw: bool
    """True: it gets the raw attention, never negative; False: the normalised maps, whose values have a sign."""
    uses_mask: bool
    """False: the score does not depend on the mask, so there is no null and no p-value for it."""
    limits: tuple[float, float]
    """Least and greatest score there can be.

    A metric may also have ``score_each(maps, masks, others)``: scores [phrase mask layer head] of several masks of each
    phrase [phrase mask row col] at once, equal to those of ``score`` on each. Without it ``score`` is called for each.
    A metric of raw attention that uses no mask may also say ``all_views = True``: it is about the whole image, and gets
    as one more cell what goes to the image's tokens outside the map (other views, ends of rows).
    """

    def score(
        self,
        maps: Float[Tensor, "phrase layer head row col"],
        masks: Float[Tensor, "phrase row col"],
        others: Float[Tensor, "phrase row col"],
    ) -> Float[Tensor, "phrase layer head"]:
        """Scores; NaN where undefined: for an empty mask and, if the mask is used, for a constant map.

        ``masks`` are shares of each patch that the mask covers (0..1). ``others`` is, per phrase, the mean of such
        masks over other images: where the data set's objects usually lie. Metrics that need no such thing ignore it.
        """
        ...

    def chance(self, masks: Float[Tensor, "phrase row col"]) -> Float[Tensor, " phrase"]:
        """What a map without information scores on masks of this area; NaN where there is no such value."""
        ...


class Dataset(Protocol):
    """``datasets/NAME.py``: a data set or a file format."""

    def load(self, root: str | None = None, split: str = "test", samples: int | None = None) -> Iterable[Sample | Skip]:
        """The split's samples in a fixed order, lazily; at most ``samples`` of them. One that cannot be read comes as a
        ``Skip`` with the reason, which a run records."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """What ``segmenters/NAME.py`` loads: masks from prompts. The image is embedded once, however often it is asked."""

    name: str
    choice: str
    """Which of several masks is the whole thing: the ``last``, or the ``best`` by its score."""

    def embed(self, image: UInt8[np.ndarray, "height width 3"]) -> Any:
        """Whatever the segmenter keeps of an image, for any number of calls of ``propose``."""
        ...

    def propose(self, embedded: Any, prompts: Prompts, several: bool = True) -> Proposals:
        """Masks for every phrase, all prompts in one batch.

        ``several``: SAM's ``multimask_output``, three masks for a prompt in place of one; a segmenter that has only
        one gives one. A phrase without a prompt (NaN) gets empty masks with score NaN.
        """
        ...


class SegmenterPlugin(Protocol):
    """``segmenters/NAME.py``: NAME is the name on the command line."""

    def load(self, checkpoint: str | None = None, device: str | None = None, **options: Any) -> Segmenter:
        """The segmenter: from a hub id or a folder, where it has weights."""
        ...
