"""Runs the other commands on the shipped mini-llava and synthetic scenes, each into a folder of its own, and writes one
page that leads to their reports; no network needed."""

from __future__ import annotations

import argparse
import base64
import shlex
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from interp import plugins
from interp.commands import _options, _values
from interp.commands import _session as session
from interp.plugins import data_folder, shipped, to_get

HELP = "the whole story on the shipped model, in minutes"
SHIPPED, OTHER = "mini-llava", "mini-difflmm"
SCENES = 3
KINDS = ("free", "attribute")
"""Of the captions that heads are ranked on: in random order, and with what tells a thing before its word."""
MASKS = "What is that good for? Masks of what a caption names, on the first three test scenes that have such a caption."


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    sub.add_argument(
        "--samples", type=_values.positive, default=120, metavar="N", help="captions to rank on (default: 120)"
    )
    sub.add_argument("--model", default="mini-llava", help="another model in place of the shipped one")
    _options.shared(sub)


@dataclass(frozen=True)
class Part:
    """One command of the demo: its folder, what it answers, its words, and the figures that stand for it."""

    folder: str
    title: str
    words: tuple[str, ...]
    figures: tuple[str, ...]
    caption: str = ""
    """Parts that follow one another under one title stand side by side, with their captions."""


def run(options: argparse.Namespace) -> None:
    """Runs every part and prints where the page lies.

    A part that is finished is not computed again.

    Raises:
        LookupError: the model does not ship here, with how to get it.
    """
    if options.model == SHIPPED and SHIPPED not in shipped():
        raise LookupError(
            f"{SHIPPED} is not in {data_folder()}. {to_get(SHIPPED)}; or show another model: interp demo --model "
            "FOLDER_OR_HUB_ID"
        )
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    chosen = parts(options.model, options.samples, out, _write_scenes(out))
    with session.sharing():
        for number, part in enumerate(chosen, 1):
            words = [*part.words, "--out", str(out / part.folder), *_passed_on(options)]
            session.say(f"\n[{number}/{len(chosen)}] interp {shlex.join(words)}")
            _command(words)
    print(f"\nreport:  {_page(out, chosen, options)}")


def _command(words: list[str]) -> None:
    """One of the other commands, as the command line would run it."""
    name, *rest = words
    command = plugins.get(plugins.COMMANDS, name)
    parser = argparse.ArgumentParser(prog=f"interp {name}")
    command.options(parser)
    command.run(parser.parse_args(rest, argparse.Namespace(command=name, debug=False)))


def parts(model: str, samples: int, out: Path, captions: list[str]) -> list[Part]:
    """What the demo shows of a model: emergence if it has checkpoints, a comparison if the other model ships too.

    ``captions``: of the scenes that are segmented.
    """
    few = str(max(1, min(samples, 16)))
    found = [
        Part(
            "heads",
            "Which heads find the thing before its word is said?",
            ("rank", model, "bound_scenes", "--kinds", *KINDS, "--samples", str(samples), "--batch", "32"),
            ("told.png", "specific_pointing_game.png", "heads_pointing_game.png"),
        )
    ]
    words = ("effects", model, "scenes", "--samples", few, "--draws", "20")
    found.append(Part("effects", "What do those heads do?", words, ("against_logprob.png",)))
    home = Path(model) if Path(model).is_dir() else data_folder() / model
    if any(home.glob("checkpoint-*")):
        words = ("emerge", model, "scenes", "--samples", few, "--metric", "pointing_game")
        found.append(Part("emergence", "When did they begin to?", words, ("growth_pointing_game.png",)))
    if model in shipped():
        found += [part for number, caption in enumerate(captions) for part in masks(model, out, number, caption)]
    if model == SHIPPED and OTHER in shipped():
        same = _at_the_step_of(OTHER)
        words = ("compare", same, OTHER, "scenes", "--samples", few, "--names", same, OTHER)
        title = "Does a model with a diffusion model's eyes ground better?"
        found.append(Part("comparison", title, words, ("heads_pointing_game.png",)))
    return found


def _at_the_step_of(other: str) -> str:
    """The shipped model's checkpoint at the other one's last step, where there is one: both have learned as long."""
    steps = [int(folder.name.removeprefix("checkpoint-")) for folder in (data_folder() / other).glob("checkpoint-*")]
    same = f"{SHIPPED}/checkpoint-{max(steps, default=0)}"
    return same if (data_folder() / same).is_dir() else SHIPPED


def masks(model: str, out: Path, number: int, caption: str) -> list[Part]:
    """Masks of one scene: by the best head of the ranking that the demo has made, and by the paper's mean of all."""
    words = ("segment", model, str(out / picture(number)), "Describe the image.", "--answer", caption)
    ranked = ("--heads", "top1", "--ranking", str(out / "heads"))
    return [
        Part(f"masks-{number}", MASKS, (*words, *ranked), ("overlay.png",), "the best head of the ranking"),
        Part(f"masks-{number}-all", MASKS, words, ("overlay.png",), "the mean of all heads (the paper)"),
    ]


def picture(number: int) -> str:
    """The file of one of the scenes that are segmented."""
    return f"scene-{number}.png"


def _passed_on(options: argparse.Namespace) -> list[str]:
    given = {name: getattr(options, name) for name in ("device", "device_map", "dtype")}
    words = [word for name, value in given.items() if value for word in (f"--{name.replace('_', '-')}", value)]
    return words + ["--force"] * options.force


def _write_scenes(out: Path) -> list[str]:
    """The first test scenes with a caption that tells each thing just before its noun; the captions."""
    from PIL import Image

    from interp.datasets import bound_scenes

    told = (s for s in bound_scenes.load() if any(t.kind == KINDS[-1] for t in s.targets))
    captions = []
    for number, scene in enumerate(islice(told, SCENES)):
        Image.fromarray(scene.image).save(out / picture(number))
        captions.append(scene.answer)
    return captions


def _page(out: Path, chosen: list[Part], options: argparse.Namespace) -> Path:
    """The written page: each part's command, figures, and the way to its report."""
    from interp.report import explorer, html
    from interp.report.run import Run

    shown: list[dict[str, Any]] = []
    for part in chosen:
        drawn = [out / part.folder / "figures" / figure for figure in part.figures]
        pictures = [base64.b64encode(figure.read_bytes()).decode() for figure in drawn if figure.exists()]
        words = shlex.join(["interp", *part.words, "--out", str(out / part.folder)])
        about = {"folder": part.folder, "words": words, "pictures": pictures, "caption": part.caption}
        if not shown or shown[-1]["title"] != part.title:
            shown.append({"title": part.title, "parts": []})
        shown[-1]["parts"].append(about)
    path = out / "report.html"
    first = explorer.shown(Run.read(out / chosen[0].folder))
    ranked = f"The head was chosen on the {options.samples} captions of the first part, these three among them."
    page = html.template("demo").render(model=options.model, groups=shown, explorer=first, masks=MASKS, ranked=ranked)
    return html.save(path, page)
