"""The loop of every training but LLaVA's: warm-up and cosine, a state to go on from."""

from __future__ import annotations

import math
from pathlib import Path

import torch


def optimiser(module: torch.nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def fast_bf16(device: str) -> bool:
    """Whether ``device`` multiplies matrices faster in bf16 than in fp32: GPUs, and CPUs with AMX."""
    return device != "cpu" or torch.cpu._is_amx_tile_supported()


def begun(model: torch.nn.Module, start: Path) -> bool:
    """Gives the model the weights (a state dict) in the file, where there is one, and says whether; some may lack.

    Raises:
        ValueError: weights that are not the model's.
    """
    if not start.exists():
        return False
    foreign = model.load_state_dict(torch.load(start, weights_only=True), strict=False).unexpected_keys
    if foreign:
        raise ValueError(f"{start} holds {len(foreign)} weights that the model has not, such as {foreign[0]!r}")
    return True


def compile_layers(layers) -> None:
    """Has each layer compiled when it first runs, for inputs of any size."""
    for layer in layers:
        layer.compile(dynamic=True)


def train(name, module, batches, loss_of, steps, rate, decay, work, log, device, warm=50, floor=0.02) -> None:
    """Trains ``module`` with warm-up and cosine to ``floor`` of the rate, in bf16 where that is fast.

    WORK/NAME.pt is there to go on from.
    """
    saved, start = work / f"{name}.pt", 0
    schedule = lambda k: min(1.0, (k + 1) / warm) * (floor + (1 - floor) * (0.5 + 0.5 * math.cos(math.pi * k / steps)))  # noqa: E731
    optimizer = optimiser(module, rate, decay)
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    module.train()
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step)
        with torch.autocast(device, torch.bfloat16, enabled=fast_bf16(device)):
            loss, extra = loss_of({key: value.to(device) for key, value in batches(step).items()})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps - 1:
            log(part=name, step=step, loss=round(loss.item(), 4), **extra)
        if step % 100 == 99 or step == steps - 1:
            torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, saved)
