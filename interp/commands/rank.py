"""Scores every head on every phrase that names a target and writes tables, figures and report.html. Killed at any
moment, the same command goes on where it was and ends with the same numbers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from interp.commands import _options, _parts
from interp.commands import _session as session

if TYPE_CHECKING:
    from interp.models._lmm import LMM
    from interp.ranking.result import Ranking
    from interp.report.run import Run
    from interp.types import Head

HELP = "rank a model's heads on a data set with masks"
EXAMPLES, BEST, TOUCHED, TOLD = 6, 3, 3, 2
ROWS = 1 << 18
"""Rows of a table that are in memory at a time while it is written."""


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    _options.model_and_data(sub)
    sub.add_argument("--metrics", nargs="+", metavar="METRIC", help="names (interp list) or .py files (default: all)")
    _options.words(sub)
    _options.measured(sub)
    sub.add_argument(
        "--control",
        choices=("none", "image", "sinks"),
        default="none",
        help="take away on purpose: another image for the same words, or the patches that every word looks at",
    )
    sub.add_argument(
        "--lean", action="store_true", help="keep no maps on disk: the model reads the images a second time instead"
    )
    _parts.options(sub)
    _options.figures(sub)
    _options.shared(sub)


@_parts.in_parts
def run(options: argparse.Namespace) -> None:
    """Ranks the heads into ``--out`` and prints what was found and where the report lies."""
    import interp

    metrics = session.metrics_of(options.metrics)
    dataset = session.samples(options)
    lmm = session.load(options)
    folder = session.begin(options, session.arguments(options, lmm, metrics=[*metrics]), lmm)
    folder.manifest["about"] = session.about_run(options, lmm, metrics)
    session.say(f"ranking {lmm.layers} x {lmm.heads} heads of {options.model} on {options.dataset}")
    how = {"control": options.control, "lean": options.lean, **session.measured(options)}
    found = interp.rank(lmm, dataset, options.metrics, options.samples, **how, store=folder)
    with session.finishing(folder):
        keep(folder, found, lmm, dataset, options)


def keep(run: Run, found: Ranking, lmm: LMM, dataset: Iterable[Any], options: argparse.Namespace) -> None:
    """Tables, examples, figures and report."""
    from interp.metrics._given import metric_of
    from interp.ranking.examples import examples, told
    from interp.ranking.kinds import best_told
    from interp.report import explorer, figures, ranking, scores

    counts = {name: int(found.manifest[name]) for name in ("samples", "images", "phrases", "skipped")}
    about = {**run.manifest["about"], "headline": found.headline, "by": found.manifest["by"]}
    score, top = found.scores[found.headline], found.top(BEST, options.by)
    gallery = figures.gallery_key(found.manifest["batches"], found.headline, top)
    if run.get(gallery) is None:
        scorer = next(given for given in options.metrics or [found.headline] if metric_of(given)[0] == found.headline)
        how = {**vars(options), "words": session.words(options)}
        if knowing := best_told(found.rows, TOLD):
            run.put(_told(gallery), figures.pack(told(lmm, dataset, score.sample_ids, *knowing, TOLD, how)))
        run.put(gallery, figures.pack(examples(lmm, dataset, score.sample_ids, top, scorer, EXAMPLES, how)))
    if options.control == "none" and explorer.key_of(run) != gallery:
        explorer.keep(run, _explored(lmm, dataset, score.sample_ids, top[0], options), gallery)
    scores.write(run.folder, found.scores, options.batch)
    more = {
        "unmatched": found.manifest["unmatched"],
        "gallery": gallery,
        "told": _told(gallery),
        "ranking": found.manifest,
    }
    session.warn_few(counts)
    tables = {name: getattr(found, name) for name in ranking.TABLES if name != "phrases"}
    run.write_pieces("phrases", found.phrase_pieces(ROWS), ROWS)
    session.keep(run, ranking, tables, session.skips(found.skipped), counts=counts, about=about, **more)


def _told(gallery: str) -> str:
    """Where the pictures of what the text has told lie, beside the gallery's."""
    return f"told-{gallery}"


def _explored(lmm: LMM, dataset: Iterable[Any], ids: Sequence[str], best: Head, options: argparse.Namespace) -> Any:
    """The explorer of as many of the gallery's images as a report takes in, open on the best head."""
    import numpy as np

    import interp
    from interp.ranking.asked import finder
    from interp.ranking.examples import drawn
    from interp.report import explorer

    samples = drawn(dataset, ids, TOUCHED, np.random.default_rng(options.seed))
    if options.answers == "generated":
        samples = [replace(sample, answer=None) for sample in samples]
    how: Any = {
        "words": finder(session.words(options)),
        "ways": [(options.query, options.weighting)],
        "limit": explorer.LIMIT,
    }
    attempts = [lambda n=n: interp.explore(lmm, samples[:n], **how) for n in range(len(samples), 0, -1)]
    contents = explorer.first_that_fits(attempts)
    return contents and {**contents, "start": [*best]}
