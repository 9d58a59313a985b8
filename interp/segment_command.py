"""The command `interp segment`: an image and a question in, the answer with every noun phrase's mask out."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import interp
from interp import commands, segmented, storage
from interp.captured import digest
from interp.images import read_image
from interp.maps import Heads
from interp.prompts import INVISIBLE
from interp.segmentation import method_of
from interp.segmenter import SHIPPED, default_segmenter
from interp.shipped import data_folder
from interp.types import Head

OPTIONS = ("prompting", "choice", "min_confidence", "merge", "weights", "remove_corners")


def run(options: Namespace) -> None:
    """Segments the answer into ``--out`` and prints it with where the report lies."""
    image = read_image(options.image)
    image_id = options.image_id or Path(options.image).stem
    segmented.inside(Path(options.out), f"{image_id}.json")
    chosen = method_options(options)
    method_of(options.preset, **chosen)
    name = options.segmenter or default_segmenter()
    if options.segmenter is None and name != SHIPPED:
        print(f"segmenter: {name}, since {SHIPPED} is not in {data_folder()}", file=sys.stderr)
    segmenter = interp.load_segmenter(name, options.checkpoint, options.device)
    lmm = commands._load(options)
    settings = {
        **commands.arguments(options, lmm),
        "pixels": digest(image),
        "segmenter": name,
        "segmenter_weights": storage.hash_weights(segmenter.model) if hasattr(segmenter, "model") else None,
        "heads": options.heads if options.ranking is None else [[*head] for head in chosen["heads"]],
    }
    folder = storage.Run.open(options.out, settings, weights=storage.hash_weights(lmm.model), force=options.force)
    made = interp.segment(
        lmm,
        image,
        options.prompt,
        preset=options.preset,
        segmenter=segmenter,
        answer=options.answer,
        phrases=options.phrases,
        query=options.query,
        weighting=options.weighting,
        normalise=options.normalise,
        sample_id=image_id,
        **chosen,
    )
    print(f"answer: {made.answer}")
    segmented.write(folder, made, image, image_id)
    folder.finish([{"sample_id": skip.sample_id, "reason": skip.reason} for skip in made.skipped])
    for skip in made.skipped:
        print(f"left out: {skip.reason}", file=sys.stderr)
    print(f"masks:  {folder.folder}/coco.json, gcg/{image_id}.json, figures/overlay.png")
    print(f"report: {segmented.page(folder)}")


def method_options(options: Namespace) -> dict[str, Any]:
    """The options of `interp.prompts.Method` that were given."""
    given = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) not in (None, False)}
    if "choice" in given and given["choice"].isdigit():
        given["choice"] = int(given["choice"])
    if options.heads is not None:
        given["heads"] = heads_of(options.heads, options.ranking)
    elif options.ranking is not None:
        raise ValueError("--ranking says where heads are ranked; say how many to take, e.g. --heads top3")
    if options.drop_invisible:
        given["drop_words"] = INVISIBLE
    return given


def heads_of(text: str, ranking: str | None = None) -> Heads:
    """Heads as the command line names them: ``all``, ``released``, ``14:24,14:26``, or ``top3`` of a ranking's folder.

    Raises:
        ValueError: none of these, or ``topK`` without a ranking.
    """
    if text in ("all", "released"):
        return text
    if best := re.fullmatch(r"top(\d+)", text):
        if ranking is None:
            raise ValueError(f"--heads {text} needs --ranking DIR, the folder of an `interp rank` run")
        return top_heads(ranking, int(best[1]))
    if not re.fullmatch(r"\d+:\d+(,\d+:\d+)*", text):
        raise ValueError(f"--heads {text!r} is none of: all, released, LAYER:HEAD,LAYER:HEAD,... , topK with --ranking")
    return [Head(*(int(number) for number in head.split(":"))) for head in text.split(",")]


def top_heads(folder: str, k: int) -> list[Head]:
    """The k best heads of a ranking's headline metric, best first.

    Raises:
        FileNotFoundError: the folder holds no ranking.
        ValueError: fewer heads than that have a score.
    """
    found = storage.Run.read(folder)
    main = found.manifest.get("about", {}).get("headline")
    if main is None:
        raise FileNotFoundError(f"{folder} holds no finished ranking; make one with `interp rank ... --out {folder}`")
    higher = found.manifest["about"]["metrics"][main]["higher_is_better"]
    heads = found.read_table("heads").query("metric == @main").dropna(subset=["mean"])
    ordered = heads.sort_values(["mean", "layer", "head"], ascending=[not higher, True, True])
    if not 1 <= k <= len(ordered):
        raise ValueError(f"top{k}: the ranking in {folder} has {len(ordered)} heads with a {main}; expected 1 to that")
    return [Head(int(row.layer), int(row.head)) for row in ordered.head(k).itertuples()]  # type: ignore[arg-type]
