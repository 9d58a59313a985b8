"""What each part of DiffLMM's eyes is worth: short trainings with parts taken away, several seeds, paired intervals.

    python analyses/train_variants.py --seeds 2 3 4 --steps 480 240 --out runs/variants

The frozen parts are those of the shipped mini-llava and mini-difflmm. Each variant and seed goes through LLaVA's two
stages (other seeds see other scenes, too) into OUT/VARIANT-SEED-STEPS, which ``interp.load`` takes; then all are
measured on the same test scenes. What is done already is not done again. Writes variants.csv, variants.md and
variants.png: each variant's grounding and noun recall beside those of ``both``.

``both``: as mini-difflmm. ``clip``: the U-Net's feature is cut off before the projector. ``diffusion``: CLIP's tokens
are; the implicit captioner still has them. ``empty``: the U-Net sees an empty caption in place of the implicit one.
``diffusion-empty``: both, so that nothing comes from CLIP. ``t-N``: as ``both``, with noise of timestep N.
``wide``: the projector begins with PyTorch's initial weights, as in the released code, not with deviation 0.02.
``loud``: as ``wide``, and the feature's norm begins at 10. ``llava``: mini-llava. All of them are plain weights of the
same model: what is cut off is zero and stays zero.

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
from compare_claims import Estimate, mark, one_training, over_trainings, verdict
from safetensors.torch import load_file
from transformers import AutoProcessor, AutoTokenizer, CLIPTextConfig, CLIPTextModel, LlavaForConditionalGeneration

import interp
from interp.answer.recall import named_targets
from interp.datasets import scenes
from interp.models.difflmm import DiffLMMForConditionalGeneration
from interp.plugins import data_folder
from interp.report.files import write_bytes
from interp.statistics.contrasts import KEY

VARIANTS = ("llava", "both", "clip", "diffusion", "empty", "diffusion-empty", "t-1", "t-50", "t-300", "wide", "loud")
METRIC = "pointing_game"
SHOWN = {f"{METRIC}, paper": "pointing, all heads", f"{METRIC}, top3": "pointing, best 3", "noun recall": "noun recall"}
MEANING = {
    "llava": "mini-llava",
    "clip": "CLIP alone",
    "diffusion": "diffusion alone",
    "empty": "empty caption",
    "wide": "wider initial weights",
    "loud": "and a louder feature",
    "diffusion-empty": "diffusion alone,\nempty caption",
    **{f"t-{t}": f"timestep {t}" for t in (1, 50, 300)},
}
LOUD = 10.0
"""Where the feature's norm begins, so that the feature reaches the projector about as strong as CLIP's tokens do."""
ELSEWHERE = 7919
"""Scenes between the first ones of one seed and of the next."""


class Shifted:
    """Batches whose scenes, captions and questions begin elsewhere for each seed but the first (2)."""

    def __init__(self, data: Any, seed: int) -> None:
        self.data, self.shift = data, (seed - 2) % 1000 * ELSEWHERE

    def __call__(self, visits: list[int]) -> dict[str, Any]:
        return {**self.data([visit + self.shift for visit in visits]), "use_cache": False}


def check(variant: str) -> str:
    """The variant, if there is one of that name.

    Raises:
        argparse.ArgumentTypeError: there is not.
    """
    if variant not in VARIANTS and not re.fullmatch(r"t-\d+", variant):
        raise argparse.ArgumentTypeError(f"no variant {variant!r}; expected t-N or one of {', '.join(VARIANTS)}")
    return variant


def untrained(variant: str, a: argparse.Namespace, how: llava.Round, seed: int) -> tuple[Any, Any]:
    """The variant's model with a fresh projector, and the round's batches."""
    alone = variant == "llava"
    base = (a.mini_llava if alone else a.mini_difflmm) / "base"
    kind = LlavaForConditionalGeneration if alone else DiffLMMForConditionalGeneration
    shipped = kind.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(seed)
    model = kind(shipped.config)
    parts = {k: v for k, v in shipped.state_dict().items() if "multi_modal_projector" not in k}
    lost = model.load_state_dict(parts, strict=False)
    if lost.unexpected_keys or any("multi_modal_projector" not in key for key in lost.missing_keys):
        raise KeyError(f"the parts of {base} do not make the model again: {lost}")
    model.tie_weights()
    model.generation_config = shipped.generation_config
    fast = AutoTokenizer.from_pretrained(base)
    if alone:
        data = llava.Dialogues(llava.Rendered(pictures(a), things=how.things), fast, how.captions_only)
    else:
        seen = difflmm.Pictures(pictures(a), things=how.things)
        data = difflmm.Dialogues(seen, fast, how.captions_only)
        if not (pictures(a) / "posteriors.npy").exists():
            log, vae = Log(a.out / "log.jsonl"), model.model.diffusion.vae.to(a.device)
            difflmm.posteriors(pictures(a), pictures(a), log, a.device, vae)
        model.model.diffusion.posterior = difflmm.Posteriors(pictures(a), seen)
        difflmm.plain_attention(model.model.diffusion.unet, a.device)
        take_away(model, variant, a.mini_llava)
    if a.compile:
        for layer in model.model.language_model.layers:
            layer.compile(dynamic=True)
    return model, Shifted(data, seed)


def pictures(a: argparse.Namespace) -> Path:
    """The folder of the rendered training scenes, which are rendered when they are not there."""
    folder = a.out / "scenes"
    if not (folder / "scenes.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        llava.render(folder, Log(a.out / "log.jsonl"), "scenes", llava.scene, llava.PIXELS, llava.SCENES)
    return folder


def take_away(model: Any, variant: str, mini_llava: Path) -> None:
    """Cuts off what the variant does not have, as weights that are zero (or constant) and get no gradient."""
    projector = model.model.multi_modal_projector
    if variant.startswith("t-"):
        model.config.timestep = int(variant[2:])
        _ = model.config.kept_signal  # an impossible timestep is an error here
    if variant in ("wide", "loud"):
        for layer in (m for m in projector.modules() if isinstance(m, torch.nn.Linear)):
            layer.reset_parameters()
    if variant == "loud":
        torch.nn.init.constant_(projector.norm.weight, LOUD)
    first, feature = projector.linear[0].weight, projector.reduce[0].out_features
    if variant == "clip":
        cut(first, slice(None, feature))
    if variant in ("diffusion", "diffusion-empty"):
        cut(first, slice(feature, None))
    if variant in ("empty", "diffusion-empty"):
        tokens = empty_caption(mini_llava)
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
def empty_caption(mini_llava: Path) -> torch.Tensor:
    """What the U-Net was trained to see in place of a dropped caption: Float[token channel]."""
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(mini_llava / "clip", attn_implementation="eager")).eval()
    weights = load_file(mini_llava / "clip" / "without_vision.safetensors")
    weights = {k: v.float() for k, v in weights.items() if k.startswith("text_model.")}
    if not any(key.startswith("text_model.") for key in text.state_dict()):
        weights = {k.removeprefix("text_model."): v for k, v in weights.items()}
    text.load_state_dict(weights)
    said = AutoTokenizer.from_pretrained(mini_llava / "base")("<eot>", return_tensors="pt")
    state = text(input_ids=said["input_ids"], attention_mask=said["attention_mask"]).last_hidden_state
    return state[0].float()


def hold(model: Any) -> None:
    """Keeps what the variant has fixed from learning, after a stage has said what may learn."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    for parameter in getattr(inner.model.multi_modal_projector, "fixed", []):
        parameter.requires_grad_(False)


def train(variant: str, seed: int, a: argparse.Namespace) -> Path:
    """The folder of the trained model, which appears when it is whole."""
    folder = f"{variant}-{seed}-{'-'.join(map(str, a.steps))}"
    out, work = a.out / folder, a.out / "work" / folder
    if (out / "config.json").exists():
        return out
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

    model.get_base_model().load_state_dict(load_file(newest / "projector.safetensors"), strict=False)
    set_peft_model_state_dict(model, load_file(newest / "adapter_model.safetensors"))
    merged = model.merge_and_unload().float().cpu()
    partial = out.with_name(f".{out.name}.partial")
    base = (a.mini_llava if variant == "llava" else a.mini_difflmm) / "base"
    AutoProcessor.from_pretrained(base).save_pretrained(partial)
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


def draw(found: pd.DataFrame, path: Path) -> None:
    """How much more or less than ``both`` each variant has: small marks are seeds, the large one is over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from interp.plots.style import style

    names = [name for name in dict.fromkeys(found["variant"]) if name != "both"]
    with style():
        figure, panels = plt.subplots(
            1, len(SHOWN), figsize=(2.6 * len(SHOWN) + 1.6, 0.42 * len(names) + 1.2), sharey=True, layout="constrained"
        )
        for axes, (measure_, title) in zip(panels, SHOWN.items(), strict=True):
            for y, name in enumerate(names):
                rows = found[(found["variant"] == name) & (found["measure"] == measure_)]
                if rows.empty:
                    continue
                each, total = rows[rows["seed"] != "all"], rows[rows["seed"] == "all"].iloc[0]
                gap = Estimate(total["more_than_both"], total["more_low"], total["more_high"])
                mark(axes, y, each["more_than_both"], gap, "#222222")
            axes.axvline(0, color="#7f7f7f", linewidth=1)
            axes.set_title(title)
        panels[0].set_yticks(range(len(names)), [MEANING.get(name, name.replace("-", " ")) for name in names])
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        figure.supxlabel("more than with both encoders (small: each training; line: 95 % interval)", fontsize="medium")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def main() -> None:
    """Trains what is missing, measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mini-llava", type=Path, default=data_folder() / "mini-llava", help="as shipped")
    parser.add_argument("--mini-difflmm", type=Path, default=data_folder() / "mini-difflmm", help="as shipped")
    parser.add_argument("--variants", nargs="+", type=check, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--steps", nargs="+", type=int, default=[480, 240], help="of each round of LLaVA's stages")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the language model: a third faster on a CPU")
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
            draw(found, a.out / "variants.png")
    print(markdown(found))


if __name__ == "__main__":
    main()
