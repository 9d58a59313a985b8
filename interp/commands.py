"""What the commands do. With ``cli`` the only place that joins loading, ranking, figures and the report."""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from interp import plugins, storage
from interp.listing import about
from interp.stores import setup

if TYPE_CHECKING:
    from interp.lmm import LMM
    from interp.ranking import Ranking
    from interp.types import Sample, Skip

EXAMPLES = 6
BEST = 3


class Again:
    """A data set that can be gone through more than once, lazily each time."""

    def __init__(self, start: Callable[[], Iterable[Sample | Skip]]):
        self.start = start

    def __iter__(self) -> Iterator[Sample | Skip]:
        return iter(self.start())


def samples(options: Namespace) -> Iterable[Any]:
    """The data set, lazily and more than once; a wrong --root or --split shows here, before a model is loaded."""
    source = plugins.get("datasets", options.dataset)
    given = {"split": options.split} if options.split else {}

    def start() -> Iterable[Sample]:
        return source.load(root=options.root, samples=options.samples, **given)

    found = start()
    first = iter(found)
    next(first, None)
    return Again(start) if first is found else found


def rank(options: Namespace) -> None:
    """Ranks the heads into ``--out`` and prints what was found and where the report lies."""
    metrics = options.metrics or plugins.names("metrics")
    modules = {name: plugins.get("metrics", name) for name in metrics}
    dataset = samples(options)
    lmm = _load(options)
    run = storage.Run.open(
        options.out,
        arguments(options, lmm, metrics=[*modules]),
        weights=_hash(lmm),
        seed=options.seed,
        force=options.force,
    )
    run.manifest["about"] = about_run(options, lmm, modules)
    print(f"ranking {lmm.layers} x {lmm.heads} heads of {options.model} on {options.dataset}", file=sys.stderr)
    import interp

    ranking = interp.rank(
        lmm,
        dataset,
        [*modules],
        options.samples,
        **measured(options),
        store=run,
    )
    _keep(run, ranking, lmm, dataset, options)


def demo(options: Namespace) -> None:
    """The other commands, one after the other, on what ships; see `interp.demo`."""
    import_module("interp.demo").run(options)


def capture(options: Namespace) -> None:
    """Captures one answer into ``--out``: capture.npz, figures and report.html."""
    import interp
    from interp import captured, report
    from interp.images import read_image

    image = read_image(options.image)
    lmm = _load(options)
    settings = {**arguments(options, lmm), "pixels": captured.digest(image)}
    run = storage.Run.open(options.out, settings, weights=_hash(lmm), force=options.force)
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
    captured.write(run, found, image, options.normalise)
    run.finish()
    print(f"report: {report.capture_page(run)}")


def about_run(options: Namespace, lmm: LMM, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says of the data set, the metrics and the model's size."""
    return {
        "dataset": about("datasets", options.dataset),
        "metrics": {name: _about_metric(name, module, options.weighting) for name, module in metrics.items()},
        "layers": lmm.layers,
        "heads": lmm.heads,
    }


def measured(options: Namespace) -> dict[str, Any]:
    """The options that `interp.rank`, `interp.emerge` and `interp.compare` take under the same names."""
    names = ("answers", "normalise", "query", "weighting", "seed", "batch", "nulls")
    return {name: getattr(options, name) for name in names}


def _load(options: Namespace) -> LMM:
    import interp

    extra = {"device_map": options.device_map} if options.device_map else {}
    return interp.load(options.model, device=options.device, dtype=options.dtype, **extra)


def arguments(options: Namespace, lmm: LMM, **more: Any) -> dict[str, Any]:
    """What makes this run this run: everything that can change a number, with defaults resolved."""
    left_out = ("out", "force", "debug")
    given = {name: value for name, value in vars(options).items() if name not in left_out}
    return {**given, **numbers(lmm), **more}


def numbers(lmm: LMM) -> dict[str, Any]:
    """What a model's numbers depend on beside its weights."""
    kernel = getattr(lmm.model.config.get_text_config(decoder=True), "_attn_implementation", None)
    return {"device": lmm.device.type, "dtype": str(lmm.model.dtype), "kernel": kernel, "setup": setup(lmm)}


def _hash(lmm: LMM) -> str:
    return storage.hash_weights(lmm.model)


def _about_metric(name: str, module: Any, weighting: str) -> dict[str, Any]:
    low, high = module.limits
    if (name, weighting) == ("image_mass", "value"):
        high = math.inf  # a sum of weighted attention
    span = "standard deviations" if name == "nss" else f"{low:g}..{high:g}".replace("inf", "∞")
    doc = about("metrics", name)
    return {"higher_is_better": module.higher_is_better, "uses_mask": module.uses_mask, "unit": span, "doc": doc}


def _keep(run: storage.Run, ranking: Ranking, lmm: LMM, dataset: Iterable[Sample | Skip], options: Namespace) -> None:
    """Tables, examples, figures and report; each is written whole, and again after a restart."""
    from interp import figures, report
    from interp.examples import examples

    for name in ("heads", "reductions", "phrases", "localization", "agreement"):
        run.write_table(name, getattr(ranking, name))
    counts = ("samples", "images", "phrases", "skipped")
    run.manifest["counts"] = {name: int(ranking.manifest[name]) for name in counts}
    main = figures.headline(ranking.heads, run.manifest["about"]["metrics"])
    run.manifest["about"]["headline"] = main
    run.save_manifest()
    if run.get(figures.GALLERY) is None:
        score = ranking.scores[main]
        rows = examples(lmm, dataset, score.sample_ids, score.top(BEST), main, EXAMPLES, vars(options))
        run.put(figures.GALLERY, figures.pack(rows))
    figures.draw(run)
    run.finish([{"sample_id": skip.sample_id, "reason": skip.reason} for skip in ranking.skipped])
    page = report.ranking_page(run)
    print(report.headline_text(run))
    print(f"tables:  {run.folder}/heads.parquet, phrases.parquet, ...")
    print(f"report:  {page}")


def convert(options: Namespace) -> None:
    """Writes released weights as one folder and prints how to go on."""
    converter = import_module(f"interp.models.{options.family}.convert")
    given = {part: getattr(options, part) for part in ("language_model", "diffusion", "clip") if getattr(options, part)}
    out = converter.convert(options.source, options.out, normalisation=options.normalisation, **given)
    print(f"written: {out}\nload it: interp.load({str(out)!r})")


def emerge(options: Namespace) -> None:
    """How grounding emerges over a series of checkpoints; see `interp.emerge_command`."""
    import_module("interp.emerge_command").run(options)


def compare(options: Namespace) -> None:
    """Two models on the same phrases; see `interp.compare_command`."""
    import_module("interp.compare_command").run(options)


def segment(options: Namespace) -> None:
    """One answer with a mask for every noun phrase; see `interp.segment_command`."""
    import_module("interp.segment_command").run(options)


def evaluate(options: Namespace) -> None:
    """A model's masks scored on a data set; see `interp.evaluate_command`."""
    import_module("interp.evaluate_command").run(options)


def effects(options: Namespace) -> None:
    """What a model's heads and edges do; see `interp.effects_command`."""
    import_module("interp.effects_command").run(options)


COMMANDS = {
    "compare": compare,
    "effects": effects,
    "evaluate": evaluate,
    "emerge": emerge,
    "rank": rank,
    "capture": capture,
    "segment": segment,
    "demo": demo,
    "convert": convert,
}
