"""How much each key can add to a head's output: the norm of its value after the head's part of the output projection.

Attention times this norm is the value-weighted map, || a_ij W_O^h v_j ||: Kobayashi et al. 2020, arXiv 2004.10102,
equation 5. A head may attend to a token whose value it hardly passes on; this tells the two apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.attention.guards import drop_hook
from interp.types import Weighting
from interp.work.halves import NotForThisModel

NAMES = ("o_proj", "out_proj", "c_proj", "dense", "wo", "proj", "projection_layer")
"""What transformers calls an attention module's output projection."""


_STRETCH = 2.0**10
"""Basis vectors are this long, so that a bias that is added and taken away again rounds little of their images."""


def check_weighting(weighting: str) -> None:
    """Nothing, if there is such a weighting; else a ValueError."""
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting is {weighting!r}; expected one of {', '.join(map(repr, get_args(Weighting)))}")


class ValueNorms:
    """The norms of one recorder's modules. What is known of a projection is kept as long as the recorder, no longer.

    Raises:
        TypeError: a module has no output projection that is known here.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._projections = {module: output_projection(module) for module in modules}
        self._grams: dict[nn.Module, Tensor] = {}
        self._given: dict[nn.Module, Tensor] = {}
        self._checked: set[nn.Module] = set()

    def __call__(
        self, module: nn.Module, value: Float[Tensor, "batch group key dim"], heads: int
    ) -> Float[Tensor, "batch head key"]:
        """|| W_O^h v_j || of every head and key, fp32; grouped-query heads share their group's values.

        As sqrt(v^T G v) with G = W_O^h^T W_O^h, so that nothing of size head x key x width is made; where the
        projection takes nearly all of a value away, what is left is known to about 3e-4 of |W_O^h| |v|.

        Raises:
            TypeError: the projection is of another size than the heads' outputs.
        """
        batch, groups, keys, dim = value.shape
        if module not in self._grams:
            weight = output_weight(self._projections[module], value.new_empty(0, heads * dim))
            parts = weight.view(len(weight), heads, dim).transpose(0, 1)
            self._grams[module] = (parts.mT @ parts).view(groups, heads // groups, dim, dim)
        v = value.float()[:, :, None]
        squares = ((v @ self._grams[module]) * v).sum(-1)
        return squares.clamp(min=0).sqrt().reshape(batch, heads, keys)

    def expect(self, module: nn.Module, output: Tensor) -> None:
        """Notes what the kernel gave: the projection is to get just this (`checks`)."""
        if module not in self._checked:
            self._given[module] = output.detach()

    @contextlib.contextmanager
    def checks(self) -> Iterator[None]:
        """Inside, a module that gates or normalises its heads' outputs before it projects them is a TypeError at its
        first pass: there the norm of the projected value is not what the head passes on."""
        with contextlib.ExitStack() as undo:
            undo.callback(self._given.clear)
            for module, projection in self._projections.items():
                undo.callback(projection.register_forward_pre_hook(self._hook(module, projection)).remove)
            yield

    def _hook(self, module: nn.Module, projection: nn.Module) -> Callable[..., None]:
        def look(called: nn.Module, inputs: tuple[Any, ...]) -> None:
            if called is not projection:
                return drop_hook(called, look)
            self._check(module, projection, inputs)

        return look

    def _check(self, module: nn.Module, projection: nn.Module, inputs: tuple[Any, ...]) -> None:
        given = self._given.pop(module, None)
        if given is None:
            return
        got = inputs[0].detach().flatten()
        given = given.to(got.dtype).flatten()
        if got.shape != given.shape or not torch.allclose(got, given, rtol=0, atol=0, equal_nan=True):
            raise NotForThisModel(
                f"{type(module).__name__} changes its heads' outputs before it projects them (a gate or a norm, say), "
                "so that the norm of a projected value is not what a head passes on; use weighting='attention'"
            )
        self._checked.add(module)


def output_projection(module: nn.Module) -> nn.Module:
    """The child of an attention module that projects its heads' outputs.

    Raises:
        TypeError: no child has a known name.
    """
    found = next((x for name in NAMES if isinstance(x := getattr(module, name, None), nn.Module)), None)
    if found is None:
        children = ", ".join(name for name, _ in module.named_children()) or "none"
        raise NotForThisModel(
            f"{type(module).__name__} has no output projection called {', '.join(NAMES)} (its parts: {children}); "
            "use weighting='attention'"
        )
    return found


def output_weight(projection: nn.Module, like: Float[Tensor, "0 inner"]) -> Float[Tensor, "width inner"]:
    """The projection's matrix, fp32; what is added by adapters that are not merged is in it.

    ``like`` has the size, number format and device of what the projection gets.

    Raises:
        TypeError: it takes vectors of another size.
    """
    known: Any = projection
    plain = type(known) in (nn.Linear, Conv1D) and not known.weight.is_meta
    if plain:
        weight = known.weight.T if type(known) is Conv1D else known.weight
        takes = weight.shape[1]
    else:
        takes = getattr(known, "in_features", like.shape[1])
    if takes != like.shape[1]:
        raise NotForThisModel(
            f"the output projection ({type(known).__name__}) takes {takes} numbers and the heads give {like.shape[1]}; "
            "weighting='value' needs a projection of the heads' outputs alone"
        )
    return weight.float() if plain else _from_images(known, like)


def _from_images(projection: nn.Module, like: Float[Tensor, "0 inner"]) -> Float[Tensor, "width inner"]:
    """A linear map is known by its images of the basis, whatever it is made of: adapters, quantised weights, ...

    Without dropout, and past hooks that others have put on the projection itself.
    """
    basis = _STRETCH * torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
    training = [part for part in projection.modules() if part.training]
    for part in training:
        part.training = False
    try:
        images, bias = projection.forward(basis), projection.forward(torch.zeros_like(basis[:1]))
    finally:
        for part in training:
            part.training = True
    return ((images.float() - bias.float()) / _STRETCH).mT
