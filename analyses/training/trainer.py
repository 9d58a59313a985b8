"""transformers' Trainer as LLaVA's stages use it: scenes in order, only what learns is saved, and gone on from."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from peft import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback

from training.parts import Log

WARM = 20


class Visits(Dataset):
    """The numbers of the visits, so that the collator can build a batch at once."""

    def __init__(self, first: int, amount: int) -> None:
        self.first, self.amount = first, amount

    def __len__(self) -> int:
        return self.amount

    def __getitem__(self, i: int) -> int:
        return self.first + i


def scheduled(step: int, steps: int) -> float:
    """The learning rate's share 0..1 of its peak: warm-up, then a cosine down to nothing."""
    return step / WARM if step < WARM else 0.5 + 0.5 * math.cos(math.pi * (step - WARM) / (steps - WARM))


def inner(model: Any) -> Any:
    """The model without PEFT's wrapper, if it has one."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


class Saver(TrainerCallback):
    """Says at which steps to save, and logs the loss as ``part``."""

    def __init__(self, part: str, saves: Collection[int], log: Log) -> None:
        self.part, self.saves, self.log = part, saves, log

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = state.global_step in self.saves

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        said = {k: v for k, v in (logs or {}).items() if k in ("loss", "grad_norm")}
        self.log(part=self.part, step=state.global_step, **said)


class ChangedOnly(Trainer):
    """Saves and loads only what the stage trains, and visits the scenes in order."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        steps = self.args.max_steps
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: scheduled(step, steps))
        return self.lr_scheduler

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return SequentialSampler(self.train_dataset)

    def save_changed(self, folder: Path) -> None:
        """FOLDER with the adapters, if there are some, and the projector."""
        folder.mkdir(parents=True, exist_ok=True)
        plain = inner(self.model)
        projector = {k: v.contiguous() for k, v in plain.state_dict().items() if "multi_modal_projector" in k}
        if plain is not self.model:
            self.model.save_pretrained(folder)
        save_file(projector, folder / "projector.safetensors")  # last: where it is, the checkpoint is whole

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.save_changed(Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder, plain = Path(resume_from_checkpoint), inner(self.model)
        plain.load_state_dict(load_file(folder / "projector.safetensors"), strict=False)
        if plain is not self.model:
            set_peft_model_state_dict(self.model, load_file(folder / "adapter_model.safetensors"))


def resumable(home: Path) -> str | None:
    """The newest checkpoint that can be gone on from."""
    done = sorted(int(p.name.split("-")[1]) for p in home.glob("checkpoint-*") if (p / "optimizer.pt").exists())
    return str(home / f"checkpoint-{done[-1]}") if done else None
