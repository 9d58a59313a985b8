"""Maps that take out of CLIP's patches what tells colours, and the projector that reads CLIP through them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import one_hot

Map = tuple[Tensor, Tensor]
"""(A, b), for A x + b."""
DIRECTIONS = 24  # of CLIP's 192 channels: nouns are told with them nearly as well as with all, colours badly
ERASER = "eraser.safetensors"


def without(x: Float[Tensor, "patch channel"], y: Int[Tensor, " patch"]) -> Map:
    """(A, b) so that no linear probe tells ``y`` from A x + b, which is as near x as can be.

    LEACE (arXiv 2306.03819, theorem 4.3).
    """
    mean, centred, root, inverse = _whitened(x, x.T.cov(correction=0))
    classes = one_hot(y).to(x)
    said, size, _ = torch.linalg.svd(inverse @ (centred.T @ (classes - classes.mean(0))) / len(x), full_matrices=False)
    said = said[:, size > 1e-6 * size[0]]
    return _affine(torch.eye(len(mean)).to(x) - root @ said @ said.T @ inverse, mean)


def only(x: Float[Tensor, "patch channel"], y: Int[Tensor, " patch"], directions: int) -> Map:
    """(A, b) so that A x + b keeps the ``directions`` that tell ``y`` best and is the mean in all else (Fisher's
    linear discriminants)."""
    classes = one_hot(y).to(x)[:, y.unique()]
    centres = classes.T @ x / classes.sum(0)[:, None]
    within = (x - classes @ centres).T.cov(correction=0)
    mean, _, root, inverse = _whitened(x, within + 1e-6 * within.diagonal().mean() * torch.eye(len(within)).to(x))
    between = inverse @ (classes @ (centres - mean)).T.cov(correction=0) @ inverse
    best = torch.linalg.eigh(between)[1][:, -directions:]
    return _affine(root @ best @ best.T @ inverse, mean)


def _whitened(x: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, centred, and the covariance's root and inverse root."""
    size, axes = torch.linalg.eigh(covariance)
    kept = size > 1e-9 * size.max()
    size, axes = size[kept], axes[:, kept]
    return x.mean(0), x - x.mean(0), axes * size.sqrt() @ axes.T, axes / size.sqrt() @ axes.T


def _affine(matrix: Tensor, mean: Tensor) -> Map:
    return matrix, mean - matrix @ mean


def nouns_alone(x: Float[Tensor, "patch channel"], nouns: Tensor, colours: Tensor) -> Map:
    """(A, b): colours taken out, the nouns' best directions kept, what those let in of colours taken out again."""
    x = x.double()
    a, b = torch.eye(x.shape[1]).to(x), torch.zeros(x.shape[1]).to(x)
    for found in (
        lambda seen: without(seen[colours >= 0], colours[colours >= 0]),
        lambda seen: only(seen, nouns, DIRECTIONS),
        lambda seen: without(seen[colours >= 0], colours[colours >= 0]),
    ):
        matrix, offset = found(x @ a.T + b)
        a, b = matrix @ a, matrix @ b + offset
    return a.float(), b.float()


def save_eraser(maps: dict[str, Map], folder: Path) -> None:
    """FOLDER/eraser.safetensors, with a map for each layer of the projector that reads CLIP."""
    flat = {f"{layer}.{name}": x.cpu() for layer, of in maps.items() for name, x in zip("ab", of, strict=True)}
    save_file(flat, folder / ERASER)


def load_eraser(folder: Path) -> dict[str, Map]:
    """What `save_eraser` has saved."""
    flat = load_file(folder / ERASER)
    return {layer: (flat[f"{layer}.a"], flat[f"{layer}.b"]) for layer in ("captioner", "linear")}


def erase(projector: torch.nn.Module, maps: dict[str, Map]) -> list[Any]:
    """From here on the projector's layers read CLIP's tokens through the maps. The handles take them out again."""
    handles = []
    for name, (matrix, offset) in maps.items():
        layer = getattr(projector, name)[0]

        def through(_: Any, given: tuple[Tensor], a: Tensor = matrix, b: Tensor = offset) -> Tensor:
            other, clip = given[0].split([given[0].shape[-1] - len(a), len(a)], -1)
            return torch.cat([other, clip @ a.to(clip).T + b.to(clip)], -1)

        handles.append(layer.register_forward_pre_hook(through))
    return handles


def folded(weights: dict[str, Tensor], maps: dict[str, Map]) -> dict[str, Tensor]:
    """A projector's weights, by names that end in ``captioner.0.weight`` and so on, that do without the maps what the
    given ones do behind them. Others are left as they are."""
    done = dict(weights)
    for layer, (a, b) in maps.items():
        for name in (name for name in weights if name.endswith(f"{layer}.0.weight")):
            weight, bias = weights[name], name.removesuffix("weight") + "bias"
            other, clip = weight.split([weight.shape[1] - len(a), len(a)], 1)
            done[name] = torch.cat([other, clip @ a.to(weight)], 1)
            done[bias] = weights[bias] + clip @ b.to(weight)
    return done
