"""Every weight of an original LLaVA under its name in ``LlavaForConditionalGeneration``, computed when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from interp.models._adapter import adapter_in, deltas
from interp.models._folder import ADAPTER_CONFIG
from interp.models._hf import listed
from interp.models._original.layout import OriginalLayout
from interp.models._original.names import in_llava
from interp.models._original.parts import Parts
from interp.models._stored import Stored, files_of, tensors_in

EMBED, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
TOWER, PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."
NOT_CLIPS_EYES = ("text_model.", "logit_scale", "text_projection.", "visual_projection.")


class Weights:
    """A view of the parts' files; their headers alone are read until a weight is asked for.

    ``names`` maps each weight to its shape, ``dtype`` is that of the language model's embeddings, ``files`` are all
    files that the numbers come from. With ``rows`` the vocabulary is filled up to so many, see `filled`.
    """

    def __init__(self, parts: Parts):
        self.parts = parts
        base, trained = _named(_all(files_of(parts.language_model))), _beside(parts)
        if not any(name.startswith(TOWER) for name in base):
            base |= _eyes(parts, any(name.startswith(TOWER) for name in trained))
        self._found = base | trained
        if EMBED not in self._found:
            raise OriginalLayout(f"{parts.language_model} lacks model.embed_tokens.weight; fetch or save it again")
        if HEAD not in self._found and parts.config.get("tie_word_embeddings"):
            self._found[HEAD] = self._found[EMBED]
        self.dtype = self._found[EMBED].dtype
        self.rows = self.own_rows = self._found[EMBED].shape[0]
        self._deltas = {}
        if parts.adapter is not None:
            language = _skeleton(LlamaForCausalLM, LlamaConfig.from_dict({**parts.config, "vocab_size": self.rows}))
            self._deltas = {in_llava(name): delta for name, delta in deltas(language, parts.adapter).items()}
        self._second = self._found[EMBED].shape[1] if parts.config.get("mm_projector_type", "linear") == "linear" else 0

    @property
    def names(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight."""
        shapes = {name: stored.shape for name, stored in self._found.items()}
        shapes |= {name: (self.rows, *shapes[name][1:]) for name in (EMBED, HEAD) if name in shapes}
        return shapes | {name: tuple(made.shape) for name, made in second_layer(self._second, "meta").items()}

    @property
    def files(self) -> list[Path]:
        """Files that the numbers come from."""
        adapter = self.parts.adapter
        own = [] if adapter is None else [adapter_in(adapter), adapter / ADAPTER_CONFIG]
        return sorted({stored.file for stored in self._found.values()} | set(own))

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One weight, on the CPU, in the precision asked for; an adapter's change is added as PEFT merges it."""
        if name not in self._found:
            return second_layer(self._second)[name].to(dtype)
        tensor = self._found[name].read().to(dtype)
        if name in self._deltas:
            tensor = tensor.clone().add_(self._deltas[name]())
        return filled(tensor, self.rows) if name in (EMBED, HEAD) else tensor

    def check(self, config: LlavaConfig) -> None:
        """Nothing, if these are all weights of the model, each of its shape.

        Raises:
            OriginalLayout: with those that are missing, left over or of another shape.
        """
        own = {k: tuple(v.shape) for k, v in _skeleton(LlavaForConditionalGeneration, config).state_dict().items()}
        names, problems = self.names, []
        if missing := sorted(own.keys() - names.keys()):
            problems.append(f"missing weights: {listed(missing)}")
        if left := sorted(names.keys() - own.keys()):
            problems.append(f"weights left over: {listed([_where(self._found, name) for name in left])}")
        other = [f"{k} {names[k]} for {own[k]}" for k in sorted(own.keys() & names.keys()) if names[k] != own[k]]
        problems += [f"other shapes than config.json and CLIP give: {listed(other)}"] * bool(other)
        if self._second and f"{PROJECTOR}linear_2.weight" in self._found:
            problems.append("config.json says that mm_projector_type is linear, and the projector has two layers")
        if problems:
            raise OriginalLayout(f"{self.parts.source} does not fit together: {'; '.join(problems)}")


def filled(weight: Tensor, rows: int) -> Tensor:
    """The embeddings or the output layer with so many rows, the new ones being the mean of the others.

    The original has no token for the image; llava-hf adds one and fills up to a multiple of 64 with random rows around
    this mean. With the mean itself a new token's logit is the mean of all, so that it is never the greatest, and
    log-probabilities fall by no more than log(1 + added / rows): 0.002 nats of 64 in 32,000.
    """
    added = rows - len(weight)
    return torch.cat([weight, weight.float().mean(0, keepdim=True).to(weight.dtype).expand(added, -1)])


def second_layer(width: int, device: str = "cpu") -> dict[str, Tensor]:
    """The second layer that transformers' projector has and a linear one has not: the identity, exact in any precision.
    Empty without a width."""
    if not width:
        return {}
    made = {"weight": torch.eye(width, device=device), "bias": torch.zeros(width, device=device)}
    return {f"{PROJECTOR}linear_2.{part}": tensor for part, tensor in made.items()}


def _skeleton(kind: Any, config: Any) -> Any:
    with torch.device("meta"):
        return kind(config)


def _beside(parts: Parts) -> dict[str, Stored]:
    """What was trained beside the language model."""
    found = _named(tensors_in(parts.trained)) if parts.trained else {}
    if parts.trained and not any(name.startswith(PROJECTOR) for name in found):
        raise OriginalLayout(f"{parts.trained} holds no mm_projector; fetch it again, or take the run's last folder")
    return found


def _eyes(parts: Parts, trained: bool) -> dict[str, Stored]:
    """CLIP's weights, of which some or all may have been ``trained``.

    Raises:
        OriginalLayout: they were trained, and are nowhere; or there is no CLIP.
    """
    if parts.config.get("unfreeze_mm_vision_tower") and not trained:
        raise OriginalLayout(
            f"{parts.source} has a vision tower that was trained (unfreeze_mm_vision_tower), and its files do not hold "
            "it; take a checkpoint with the whole model"
        )
    files = files_of(parts.clip)
    if not files:
        raise OriginalLayout(
            f"the vision tower {parts.clip} is not here and not to be had from the hub, or holds no weights; name CLIP "
            "with --clip"
        )
    stored = _all(files)
    eyes = {k: v for k, v in stored.items() if not k.startswith(NOT_CLIPS_EYES)}
    return _named({f"vision_tower.{k.removeprefix('vision_model.')}": v for k, v in eyes.items()})


def _all(files: Iterable[Path]) -> dict[str, Stored]:
    return {key: stored for file in files for key, stored in tensors_in(file).items()}


def _named(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    return {name: tensor for key, tensor in stored.items() if (name := in_llava(key)) is not None}


def _where(found: Mapping[str, Stored], name: str) -> str:
    return f"{found[name].key} in {found[name].file.name}" if name in found else name
