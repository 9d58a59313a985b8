"""Record chosen attention rows inside a diffusion model of diffusers while its own processor computes the output.

Each attention module of a `UNet2DConditionModel` (or of diffusers' autoencoder) is watched through hooks: the queries
and keys are those that its own processor made, with whatever norms and adapters stand before them. The processor is
not replaced, so the model computes what it always does, bit for bit.

Following a word of a DiffLMM from the language model's head to the patch, and on to what the U-Net attended to there::

    capture = interp.capture(lmm, image, prompt)
    maps = interp.phrase_maps(capture)
    looked = maps.maps[0, 14, 24]                                # first phrase, layer 14, head 24
    row, col = divmod(int(looked.argmax()), looked.shape[1])     # the patch that this head looks at

    under = interp.patch_cells([(row, col)], maps.grid.shape)
    inputs = lmm.inputs([image], [lmm.template(prompt)])
    with torch.no_grad(), interp.record(lmm.model, under, kind="cross", blocks=["up_blocks.1"]) as inside:
        lmm.model.get_image_features(inputs["pixel_values"], inputs["seeds"])
    for name, rows in inside.by_patch.items():                   # [sample head patch key]
        caption = rows[0, :, 0].mean(0).view(maps.grid.shape)    # its keys are CLIP's patches, row by row
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from interp.attention.unet.recorder import Cells, Kind, UNetRecorder


@contextlib.contextmanager
def record_unet(
    model: nn.Module, queries: Cells = None, *, kind: Kind = "cross", blocks: Sequence[str] | None = None
) -> Iterator[UNetRecorder]:
    """A ``UNetRecorder`` of the forward passes made inside; see `interp.record`, which calls this.

    Raises:
        TypeError: the model has no attention module of diffusers.
        ValueError: a kind or block that does not exist, or bad cells.
    """
    if kind not in ("cross", "self", "both"):
        raise ValueError(f"kind is {kind!r}; expected 'cross', 'self' or 'both'")
    root = _unet(model)
    recorder = UNetRecorder(_attention(root, blocks), queries, kind)
    with contextlib.ExitStack() as undo:
        undo.callback(recorder.forget)
        undo.callback(root.register_forward_pre_hook(recorder.begin).remove)
        for name in _around(recorder.modules):
            _hook(undo, root.get_submodule(name).register_forward_pre_hook, recorder.enter, name)
        for name, module in recorder.modules.items():
            _hook(undo, module.register_forward_pre_hook, recorder.call, name)
            for part in ("to_q", "to_k", "to_qkv", "to_kv"):
                if isinstance(projection := getattr(module, part, None), nn.Module):
                    undo.callback(projection.register_forward_hook(_projected(recorder, name, part)).remove)
            undo.callback(module.register_forward_hook(_left(recorder, name)).remove)
        yield recorder


def _hook(undo: contextlib.ExitStack, register: Callable[..., Any], see: Callable[..., None], name: str) -> None:
    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(name, args, kwargs)

    undo.callback(register(before, with_kwargs=True).remove)


def _projected(recorder: UNetRecorder, name: str, part: str) -> Callable[..., None]:
    def after(_module: nn.Module, _args: Any, output: Tensor) -> None:
        recorder.project(name, part, output)

    return after


def _left(recorder: UNetRecorder, name: str) -> Callable[..., None]:
    def after(_module: nn.Module, _args: Any, _output: Any) -> None:
        recorder.leave(name)

    return after


def _unet(model: nn.Module) -> nn.Module:
    """The model, if it is one of diffusers; else the U-Net inside it (DiffLMM's)."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    if type(model).__module__.startswith("diffusers."):
        return model
    found = [module for module in model.modules() if isinstance(module, UNet2DConditionModel)]
    if len(found) != 1:
        raise TypeError(
            f"{type(model).__name__} holds {len(found)} U-Nets of diffusers; expected one, or pass the one to record"
        )
    return found[0]


def _attention(root: nn.Module, blocks: Sequence[str] | None) -> dict[str, nn.Module]:
    """Name -> attention module, in the model's order; those inside ``blocks``, if given."""
    from diffusers.models.attention_processor import Attention

    found: dict[str, nn.Module] = {name: m for name, m in root.named_modules() if isinstance(m, Attention)}
    if not found:
        raise TypeError(
            f"{type(root).__name__} has no module of diffusers' `Attention`; expected a U-Net such as "
            "UNet2DConditionModel with attention blocks"
        )
    if blocks is None:
        return found
    asked = [blocks] if isinstance(blocks, str) else list(blocks)
    chosen = {name: m for name, m in found.items() if any(f"{name}.".startswith(f"{block}.") for block in asked)}
    wrong = [block for block in asked if not any(f"{name}.".startswith(f"{block}.") for name in found)]
    if wrong or not chosen:
        there = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]).removesuffix(".attentions") for name in found))
        raise ValueError(f"no attention in blocks {wrong or asked}; there is some in {there}")
    return chosen


def _around(modules: Mapping[str, nn.Module]) -> list[str]:
    """The names of all modules that hold one of these, the model itself (the empty name) included."""
    names = {".".join(name.split(".")[:end]) for name in modules for end in range(name.count(".") + 1)}
    return sorted(names)
