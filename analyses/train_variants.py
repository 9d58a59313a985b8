"""What each part of DiffLMM's eyes is worth: short trainings with parts taken away, several seeds, paired intervals.

    python analyses/train_variants.py --llava runs/train --difflmm runs/train-difflmm --mini-llava data/mini-llava \
        --seeds 2 3 4 --steps 480 240 --out runs/variants

``--llava`` and ``--difflmm`` are the work folders of ``train_mini_llava.py`` and ``train_mini_difflmm.py``. Each
variant and seed goes through LLaVA's two stages (other seeds see other scenes, too) into OUT/VARIANT-SEED, which
``interp.load`` takes; then all are measured on the same test scenes. What is done already is not done again. Writes
variants.csv and variants.md: each variant's grounding and noun recall beside those of ``both``.

``both``: as mini-difflmm. ``clip``: the U-Net's feature is cut off before the projector. ``diffusion``: CLIP's tokens
are; the implicit captioner still has them. ``empty``: the U-Net sees an empty caption in place of the implicit one.
``diffusion-empty``: both, so that nothing comes from CLIP. ``t-N``: as ``both``, with noise of timestep N.
``llava``: mini-llava. All of them are plain weights of the same model: what is cut off is zero and stays zero.

For the claims of ``compare_claims.py`` train at full length: --variants llava both --steps 2000 2560 1600.
"""

from __future__ import annotations

import argparse
import gc
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import train_mini_difflmm as difflmm
import train_mini_llava as llava
from _training import Log
from compare_claims import Estimate, one_training, over_trainings, verdict

import interp
from interp.contrasts import KEY
from interp.datasets import scenes
from interp.models.difflmm import DiffLMMProcessor
from interp.naming import named_targets
from interp.storage import write_bytes

VARIANTS = ("llava", "both", "clip", "diffusion", "empty", "diffusion-empty", "t-1", "t-50", "t-300")
METRIC = "pointing_game"
ELSEWHERE = 7919
"""Scenes between the first ones of one seed and of the next."""


class Shifted:
    """Batches whose scenes, captions and questions begin elsewhere for each seed but the first (2)."""

    def __init__(self, data: Any, seed: int) -> None:
        self.data, self.shift = data, (seed - 2) % 1000 * ELSEWHERE

    def __call__(self, visits: list[int]) -> dict[str, torch.Tensor]:
        return self.data([visit + self.shift for visit in visits])


def check(variant: str) -> str:
    """The variant, if there is one of that name.

    Raises:
        argparse.ArgumentTypeError: there is not.
    """
    if variant not in VARIANTS and not re.fullmatch(r"t-\d+", variant):
        raise argparse.ArgumentTypeError(f"no variant {variant!r}; expected t-N or one of {', '.join(VARIANTS)}")
    return variant


def untrained(variant: str, a: argparse.Namespace, how: llava.Round, seed: int) -> tuple[Any, Any]:
    """The variant's model before a round, and the round's batches."""
    if variant == "llava":
        model, data = llava.for_training(a.llava)(how, seed)
    else:
        model, data = difflmm.for_training(a.llava, a.difflmm, a.device)(how, seed)
        take_away(model, variant, a.llava)
    return model, Shifted(data, seed)


def take_away(model: Any, variant: str, pictures: Path) -> None:
    """Cuts off what the variant does not have, as weights that are zero (or constant) and get no gradient."""
    projector = model.model.multi_modal_projector
    if variant.startswith("t-"):
        model.config.timestep = int(variant[2:])
        _ = model.config.kept_signal  # an impossible timestep is an error here
    first, feature = projector.linear[0].weight, projector.reduce[0].out_features
    if variant == "clip":
        cut(first, slice(None, feature))
    if variant in ("diffusion", "diffusion-empty"):
        cut(first, slice(feature, None))
    if variant in ("empty", "diffusion-empty"):
        tokens = empty_caption(pictures)
        places = projector.caption_position
        # Each token as often as any other: attention to them is that to the tokens alone.
        if len(places) % len(tokens):
            raise ValueError(f"{len(places)} places cannot hold the {len(tokens)} tokens of an empty caption evenly")
        with torch.no_grad():
            projector.captioner[2].weight.zero_()
            projector.captioner[2].bias.zero_()
            places.copy_(tokens.repeat(len(places) // len(tokens), 1))
        projector.fixed = [*projector.captioner.parameters(), places]


def cut(weight: torch.nn.Parameter, columns: slice) -> None:
    """Zeroes the columns for good."""
    with torch.no_grad():
        weight[:, columns] = 0
    kept = torch.ones_like(weight)
    kept[:, columns] = 0
    weight.register_hook(lambda gradient: gradient * kept.to(gradient))


@torch.no_grad()
def empty_caption(pictures: Path) -> torch.Tensor:
    """What the U-Net was trained to see in place of a dropped caption: Float[token channel]."""
    text, fast = difflmm.clip_text(pictures)
    said = fast("<eot>", return_tensors="pt")
    state = text(input_ids=said["input_ids"], attention_mask=said["attention_mask"]).last_hidden_state
    return state[0].float()


def hold(model: Any) -> None:
    """Keeps what the variant has fixed from learning, after a stage has said what may learn."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    for parameter in getattr(inner.model.multi_modal_projector, "fixed", []):
        parameter.requires_grad_(False)


def train(variant: str, seed: int, a: argparse.Namespace) -> Path:
    """The folder of the trained model, which appears when it is whole."""
    out = a.out / f"{variant}-{seed}"
    if (out / "config.json").exists():
        return out
    work = a.out / "work" / f"{variant}-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    log, newest = Log(work / "log.jsonl"), None
    for name, steps in zip(llava.ROUNDS, a.steps, strict=False):
        model, data = untrained(variant, a, llava.ROUNDS[name], seed)
        if newest:
            model = llava.with_adapters(model, newest, seed)
        else:
            llava.freeze_all_but_projector(model)
        hold(model)
        llava.stage(name, model, data, work, log, a.device, seed, (steps,))
        newest = work / name / f"checkpoint-{steps}"
    save(variant, model, newest, out, a)
    return out


def save(variant: str, model: Any, newest: Path, out: Path, a: argparse.Namespace) -> None:
    """The stage's newest weights, merged, with the processor."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoProcessor

    model.get_base_model().load_state_dict(load_file(newest / "projector.safetensors"), strict=False)
    set_peft_model_state_dict(model, load_file(newest / "adapter_model.safetensors"))
    merged = model.merge_and_unload().float().cpu()
    partial = out.with_name(f".{out.name}.partial")
    if variant == "llava":
        AutoProcessor.from_pretrained(a.mini_llava / "base").save_pretrained(partial)
    else:
        processor = DiffLMMProcessor.from_config(merged.config, llava.load_tokenizer(a.llava))
        processor.chat_template = llava.TEMPLATE
        processor.save_pretrained(partial)
    merged.save_pretrained(partial)
    partial.rename(out)


def measure(folder: Path, a: argparse.Namespace) -> tuple[pd.DataFrame, pd.Series]:
    """Grounding per phrase and choice of heads, and whether the model's own answer names each target."""
    kept = folder / f"measured-{a.samples}"
    if not (kept / "named.parquet").exists():
        kept.mkdir(exist_ok=True)
        lmm, samples = interp.load(folder, device=a.device), list(scenes.load(split="test", samples=a.samples))
        ranking = interp.rank(lmm, samples, [METRIC], batch=a.batch)
        ranking.phrases.to_parquet(kept / "phrases.parquet")
        rows = []
        for first in range(0, len(samples), a.batch):
            group = samples[first : first + a.batch]
            for sample, named in zip(group, named_targets(lmm, group, max_new_tokens=56), strict=True):
                rows += [{"sample_id": sample.id, "word": f"target {i}", "value": x} for i, x in enumerate(named)]
        pd.DataFrame(rows).to_parquet(kept / "named.partial")
        (kept / "named.partial").rename(kept / "named.parquet")
        del lmm
        gc.collect()
    named = pd.read_parquet(kept / "named.parquet").assign(occurrence=0)
    phrases = pd.read_parquet(kept / "phrases.parquet").assign(word=lambda f: f["phrase"].str.lower())
    phrases["occurrence"] = phrases.groupby(["metric", "heads", "sample_id", "word"]).cumcount()
    return phrases, named.set_index(KEY)["value"].astype(np.float64)


def table(measured: dict[tuple[str, int], tuple[pd.DataFrame, pd.Series]]) -> pd.DataFrame:
    """A row per variant, measure and seed (and ``all``): its mean and how much more than ``both``, with intervals."""
    found: dict[tuple[str, str], dict[int, pd.Series]] = {}
    for (variant, seed), (phrases, named) in measured.items():
        found.setdefault((variant, "noun recall"), {})[seed] = named
        for heads, rows in phrases.groupby("heads"):
            found.setdefault((variant, f"{METRIC}, {heads}"), {})[seed] = rows.set_index(KEY)["value"]
    result = []
    for (variant, measure_), each in found.items():
        beside = found.get(("both", measure_), {})
        gaps = {seed: values - beside[seed] for seed, values in each.items() if seed in beside}
        about = {"variant": variant, "measure": measure_}
        for seed, values in each.items():
            gap = one_training(gaps[seed]) if seed in gaps else None
            result.append({**about, "seed": str(seed), **_columns(one_training(values), gap)})
        total = over_trainings([*gaps.values()]) if gaps else None
        result.append({**about, "seed": "all", **_columns(over_trainings([*each.values()]), total)})
    return pd.DataFrame(result)


def _columns(own: Estimate, gap: Estimate | None) -> dict[str, Any]:
    beside = gap or Estimate(np.nan, np.nan, np.nan)
    more = {"more_than_both": beside.mean, "more_low": beside.low, "more_high": beside.high}
    return own._asdict() | more | {"verdict": verdict(beside).replace("holds", "better").replace("reversed", "worse")}


def markdown(found: pd.DataFrame) -> str:
    """The rows over all seeds as Markdown, with the seeds' means beside them."""
    head = ["variant", "measure", "mean over seeds", "each seed", "more than both", "95 % interval", ""]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (variant, measure_), rows in found.groupby(["variant", "measure"], sort=False):
        total, each = rows[rows["seed"] == "all"].iloc[0], rows[rows["seed"] != "all"]
        cells = [variant, measure_, f"{total['mean']:.3f}", ", ".join(f"{x:.3f}" for x in each["mean"])]
        if np.isfinite(total["more_than_both"]) and variant != "both":
            interval = (
                f"{total['more_low']:+.3f} to {total['more_high']:+.3f}" if np.isfinite(total["more_low"]) else "–"
            )
            cells += [f"{total['more_than_both']:+.3f}", interval, total["verdict"]]
        else:
            cells += ["", "", ""]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    note = "Intervals are for other trainings and other images, paired by phrase with `both` of the same seed."
    return "\n".join([*lines, "", note]) + "\n"


def main() -> None:
    """Trains what is missing, measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llava", type=Path, required=True, help="work folder of train_mini_llava.py")
    parser.add_argument("--difflmm", type=Path, required=True, help="work folder of train_mini_difflmm.py")
    parser.add_argument("--mini-llava", type=Path, default=Path("data/mini-llava"), help="for llava's processor")
    parser.add_argument("--variants", nargs="+", type=check, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--steps", nargs="+", type=int, default=[480, 240], help="of each round of LLaVA's stages")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/variants"))
    a = parser.parse_args()
    if not 2 <= len(a.steps) <= len(llava.ROUNDS):
        parser.error(f"--steps takes 2 to {len(llava.ROUNDS)} numbers, one for each of {list(llava.ROUNDS)}")
    a.out.mkdir(parents=True, exist_ok=True)
    measured = {}
    for seed in a.seeds:
        for variant in a.variants:
            measured[variant, seed] = measure(train(variant, seed, a), a)
            found = table(measured)
            write_bytes(a.out / "variants.csv", found.to_csv(index=False, float_format="%.5g").encode())
            write_bytes(a.out / "variants.md", markdown(found).encode())
    print(markdown(found))


if __name__ == "__main__":
    main()
