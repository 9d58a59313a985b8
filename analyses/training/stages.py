"""LLaVA's two stages: the projector, then projector and low-rank adapters, in rounds with checkpoints."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainingArguments

from training.layouts import LISTS, ONLY_CAPTIONS, SHARES
from training.loop import fast_bf16
from training.parts import Log
from training.trainer import ChangedOnly, Saver, Visits, resumable

SAVED_TOO = (*range(150, 3000, 150), *range(3000, 30_000, 500))  # to go on from after an interruption; they do not ship
ADAPTED = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class Round:
    """One warm-up and cosine of LLaVA's stages.

    ``saves``: the steps that ship, the last one is the end. ``first``: number of its first visit, so that none comes
    twice. ``things``: how few and how many a scene has. ``shares``: what is said how often (`layouts.spoken`). A step
    sees ``batch`` pictures with ``answers`` dialogues each. ``plain``: how many times as often as it was rendered a
    scene of untinted things comes.
    """

    saves: tuple[int, ...]
    batch: int
    rate: float
    first: int
    things: tuple[int, int]
    shares: dict[str, float]
    answers: int = 3
    plain: int = 1


ROUNDS = {
    "projector": Round((0, 32, 64, 125, 250, 500, 1000), 3, 3e-3, 0, (1, 2), ONLY_CAPTIONS),
    "lora": Round((20, 80, 160, 320, 640, 1280), 4, 1.5e-3, 16_000, (1, 5), SHARES),
    "lora_again": Round((800,), 4, 8e-4, 60_000, (2, 5), SHARES),
    "lora_last": Round((2500,), 4, 1.2e-3, 100_000, (1, 5), SHARES),
    "lora_long": Round((8000,), 4, 1.2e-3, 200_000, (1, 5), LISTS),
    "lora_wide": Round((7000,), 10, 1.2e-3, 300_000, (1, 5), LISTS, answers=1, plain=4),
}


def again(parser: ArgumentParser, last: str | None = None) -> ArgumentParser:
    """Adds options for another training of the two stages: a shipped model's parts, a seed, the last round."""
    parser.add_argument("--shipped", type=Path, help="take all that comes before the stages from this shipped model")
    parser.add_argument("--seed", type=int, default=2, help="of the projector; the adapters take the next (default: 2)")
    parser.add_argument(
        "--until", choices=ROUNDS, default=last, help=f"the last round (default: {last or [*ROUNDS][-1]})"
    )
    return parser


Start = Callable[[Round, int], tuple[Any, Any]]
"""``start(round, seed)``: the untrained model and its batches."""


def stage(
    name: str,
    model: Any,
    data: Any,
    work: Path,
    log: Log,
    device: str,
    seed: int,
    saves: tuple[int, ...] | None = None,
    rate: float | None = None,
) -> None:
    """One of ``ROUNDS`` with transformers' Trainer, to its end or to another, at its rate or another; only what it
    trains is saved."""
    how, home = ROUNDS[name], work / name
    saves = saves or how.saves
    steps = max(saves)
    if (home / f"checkpoint-{steps}" / "projector.safetensors").exists():
        return
    arguments = TrainingArguments(
        output_dir=str(home), max_steps=steps, per_device_train_batch_size=how.batch, save_strategy="no",
        bf16=fast_bf16(device),
        learning_rate=rate or how.rate, weight_decay=0.0, max_grad_norm=1.0,
        adam_beta2=0.98, logging_steps=5, report_to=[], remove_unused_columns=False, seed=seed, disable_tqdm=True,
        use_cpu=device == "cpu", dataloader_pin_memory=device != "cpu",
    )  # fmt: skip
    visits, saver = Visits(how.first, steps * how.batch), Saver(name, (*saves, *SAVED_TOO), log)
    trainer = ChangedOnly(model, arguments, data_collator=data, train_dataset=visits, callbacks=[saver])
    if 0 in saves:
        trainer.save_changed(home / "checkpoint-0")
    trainer.train(resume_from_checkpoint=resumable(home))


def freeze_all_but_projector(model: torch.nn.Module) -> None:
    """Lets only the projector learn."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("multi_modal_projector" in name)


def with_adapters(model: torch.nn.Module, newest: Path, seed: int) -> torch.nn.Module:
    """The model with that checkpoint's projector and adapters (new ones if it has none), both free to learn."""
    model.load_state_dict(load_file(newest / "projector.safetensors"), strict=False)
    torch.manual_seed(seed)
    model = get_peft_model(model, LoraConfig(r=12, lora_alpha=24, target_modules=ADAPTED))
    if (newest / "adapter_model.safetensors").exists():
        set_peft_model_state_dict(model, load_file(newest / "adapter_model.safetensors"))
    for name, parameter in model.named_parameters():
        if "multi_modal_projector" in name:
            parameter.requires_grad_(True)
    return model


def newest_of(work: Path, name: str) -> Path:
    """The folder of a round's last checkpoint."""
    return work / name / f"checkpoint-{max(ROUNDS[name].saves)}"


def projector(work: Path, log: Log, device: str, start: Start, seed: int = 2, rate: float | None = None) -> None:
    """Stage 1: the projector alone, on captions of scenes with one or two things."""
    model, data = start(ROUNDS["projector"], seed)
    freeze_all_but_projector(model)
    stage("projector", model, data, work, log, device, seed, rate=rate)


def rounds(until: str | None = None) -> list[str]:
    """Names of the rounds of both stages in order, to that one or to the last."""
    names = list(ROUNDS)
    return names[: names.index(until) + 1 if until else None]


def lora(work: Path, log: Log, device: str, start: Start, seed: int = 3, until: str | None = None) -> None:
    """Stage 2: projector and low-rank adapters on every linear layer of the language model, captions and questions.

    In rounds, to the one named ``until`` or to the last, each with a falling rate.
    """
    for before, name in pairwise(rounds(until)):
        model, data = start(ROUNDS[name], seed)
        model = with_adapters(model, newest_of(work, before), seed)
        stage(name, model, data, work, log, device, seed)
