"""Writes capture.safetensors (the attention rows, for `interp.open`), one figure per phrase and report.html."""

from __future__ import annotations

import argparse

from interp.commands import _options
from interp.commands import _session as session

HELP = "attention maps of one answer about one image"


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    _options.image_and_prompt(sub)
    _options.said(sub)
    _options.normalise(sub)
    _options.row(sub)
    _options.shared(sub)


def run(options: argparse.Namespace) -> None:
    """Captures one answer into ``--out``: capture.safetensors, figures and report.html."""
    import interp
    from interp.images import digest, read_image
    from interp.report import capture as report

    image = read_image(options.image)
    lmm = session.load(options)
    folder = session.begin(options, {**session.arguments(options, lmm), "pixels": digest(image)}, lmm)
    found = interp.capture(
        lmm,
        image,
        options.prompt,
        options.answer,
        query=options.query,
        weighting=options.weighting,
        phrases=options.phrases,
        sample_id=options.image,
    )
    print(f"answer: {found.answer}")
    report.write(folder, found, image, options.normalise)
    folder.finish()
    print(f"report: {report.page(folder)}")
