"""How much each key can add to a head's output: the norm of its value after the head's part of the output projection.

Attention times this norm is the value-weighted map, || a_ij W_O^h v_j ||: Kobayashi et al. 2020, arXiv 2004.10102,
equation 5. A head may attend to a token whose value it hardly passes on; this tells the two apart.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.types import Weighting

NAMES = ("o_proj", "out_proj", "c_proj", "dense", "wo", "proj")
"""What transformers calls an attention module's output projection."""


def value_norms(
    module: nn.Module, value: Float[Tensor, "batch group key dim"], heads: int
) -> Float[Tensor, "batch head key"]:
    """|| W_O^h v_j || of every head and key, fp32; grouped-query heads share their group's values.

    As sqrt(v^T G v) with G = W_O^h^T W_O^h, so that nothing of size head x key x width is made. G is computed at every
    pass, from the weights as they are then: about 1 % of the layer's own work at 7B's size.

    Raises:
        TypeError: the module has no output projection that is known here, or one of another size.
    """
    batch, groups, keys, dim = value.shape
    weight = output_weight(module)
    if weight.shape[1] != heads * dim:
        raise TypeError(
            f"the output projection of {type(module).__name__} takes {weight.shape[1]} numbers, but {heads} heads of "
            f"{dim} give {heads * dim}; weighting='value' needs a projection of the heads' outputs alone"
        )
    parts = weight.view(len(weight), heads, dim).transpose(0, 1)
    gram = (parts.mT @ parts).view(groups, heads // groups, dim, dim)
    v = value.float()[:, :, None]
    squares = ((v @ gram) * v).sum(-1)
    return squares.clamp(min=0).sqrt().reshape(batch, heads, keys)


def check_weighting(weighting: str) -> None:
    """Nothing, if there is such a weighting; else a ValueError."""
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting is {weighting!r}; expected one of {', '.join(map(repr, get_args(Weighting)))}")


def output_weight(module: nn.Module) -> Float[Tensor, "width inner"]:
    """The output projection's matrix, fp32: what is added by adapters that are not merged is in it.

    Raises:
        TypeError: no child of the module has a known name.
    """
    found: Any = next((getattr(module, n) for n in NAMES if isinstance(getattr(module, n, None), nn.Module)), None)
    if found is None:
        children = ", ".join(name for name, _ in module.named_children()) or "none"
        raise TypeError(
            f"{type(module).__name__} has no output projection called {', '.join(NAMES)} (its parts: {children}); "
            "use weighting='attention'"
        )
    if type(found) is nn.Linear and not found.weight.is_meta:
        return found.weight.float()
    # Whatever else it is (adapters, quantised or transposed weights): a linear map is known by its images of the basis.
    example = next(p for p in found.parameters())
    dtype = example.dtype if example.is_floating_point() else torch.float32
    size = next(getattr(found, n) for n in ("in_features", "nx") if hasattr(found, n))
    basis = torch.eye(size, dtype=dtype, device=example.device if not example.is_meta else None)
    return (found(basis) - found(torch.zeros_like(basis[:1]))).float().mT
