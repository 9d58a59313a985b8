"""Attend-and-segment: the model answers, the highest point of each noun phrase's attention map prompts a segmenter.
Writes the overlay, coco.json, gcg/IMAGE.json, masks.npz, phrases.parquet and report.html."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from interp.commands import _masks, _options
from interp.commands import _session as session
from interp.plugins import data_folder, to_get

HELP = "one answer with a pixel mask for every noun phrase"


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    _options.image_and_prompt(sub)
    _masks.options(sub)
    _options.said(sub)
    _options.normalise(sub)
    _options.row(sub)
    sub.add_argument("--image-id", metavar="ID", help="in coco.json and gcg/ (default: the image file's name)")
    _options.shared(sub)


def run(options: argparse.Namespace) -> None:
    """Segments the answer into ``--out`` and prints it with where the report lies."""
    import interp
    from interp.images import digest, read_image
    from interp.report import explorer, segmentation
    from interp.segmentation.method import method_of
    from interp.segmenters._load import SHIPPED, default_segmenter

    image = read_image(options.image)
    image_id = options.image_id or Path(options.image).stem
    segmentation.inside(Path(options.out), f"{image_id}.json")
    chosen = _masks.method_options(options, drop=True)
    method = method_of(options.preset, **chosen)
    name = options.segmenter or default_segmenter()
    if options.segmenter is None and name != SHIPPED:
        session.say(f"segmenter: {name}, since {SHIPPED} is not in {data_folder()}. {to_get(SHIPPED)}")
    loaded = ("segmenter", name, options.checkpoint, options.device)
    segmenter = session.once(loaded, lambda: interp.load_segmenter(name, options.checkpoint, options.device))
    lmm = session.load(options)
    _masks.check_heads(method, lmm)
    settings = {
        **session.arguments(options, lmm),
        "pixels": digest(image),
        "segmenter": name,
        "segmenter_weights": _masks.weights_of(segmenter),
        "heads": session.heads_said(chosen.get("heads")),
    }
    folder = session.begin(options, settings, lmm)
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
    segmentation.write(folder, made, image, image_id)
    said = (options.prompt, made.answer)
    how: Any = {"words": options.phrases, "ways": [(options.query, options.weighting)], "limit": explorer.LIMIT}
    explored = session.once(  # the same whichever heads make the masks
        ("explored", id(lmm), digest(image), *said, repr(how)),
        lambda: explorer.first_that_fits([lambda: interp.explore(lmm, image, *said, **how)]),
    )
    explorer.keep(folder, explored)
    folder.finish(session.skips(made.skipped))
    for skip in made.skipped:
        session.say(f"left out: {skip.reason}")
    print(f"masks:  {folder.folder}/coco.json, gcg/{image_id}.json, figures/overlay.png")
    print(f"report: {segmentation.page(folder)}")
