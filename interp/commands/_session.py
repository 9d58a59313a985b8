"""What the commands share: the data set, the model, the run folder, and what is written and said at the end."""

from __future__ import annotations

import inspect
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from interp import plugins

if TYPE_CHECKING:
    import pandas as pd

    from interp.models._lmm import LMM
    from interp.report.run import Run

SHARED: dict[Hashable, Any] | None = None
BEGUN: list[Run] = []
"""The runs that commands of this process began; see `withdraw`."""
MADE = ("scenes", "bound_scenes")
"""Data sets that are not read from disk."""
LEFT_OUT = ("out", "force", "debug", "format", "dpi", "width", "shard", "workers", "ray", "lean", "figures")
"""Options that change no number."""


def samples(options: Namespace, **extra: Any) -> Iterable[Any]:
    """The data set, lazily and more than once; a wrong --root or --split shows here, before a model is loaded."""
    from interp.work.samples import Again, of_kinds

    source = plugins.get("datasets", options.dataset)
    if options.root and options.dataset in MADE:
        raise ValueError(f"the data set {options.dataset} is made, not read, and takes no --root; leave it out")
    given = {"split": options.split} if options.split else {}
    kinds = getattr(options, "kinds", None)

    def start() -> Iterable[Any]:
        found = source.load(root=options.root, samples=options.samples, **given, **extra)
        return of_kinds(found, kinds) if kinds else found

    found = start()
    first = iter(found)
    next(first, None)
    return Again(start) if first is found else found


def load(options: Namespace, place: str | None = None) -> LMM:
    """The model that the options name, or the one at ``place``, on the device and in the precision that they name."""
    import interp

    name, how = options.model if place is None else place, placed(options)
    return once(("model", name, repr(how)), lambda: interp.load(name, **how))


@contextmanager
def sharing() -> Iterator[None]:
    """Inside, commands of this process make once what they have in common (`once`): a model, a segmenter."""
    global SHARED
    SHARED = {}
    try:
        yield
    finally:
        SHARED = None


def once(key: Hashable, make: Callable[[], Any]) -> Any:
    """What ``make`` gives; inside of `sharing`, what it gave when it was first asked for under this key."""
    if SHARED is None:
        return make()
    if key not in SHARED:
        SHARED[key] = make()
    return SHARED[key]


def placed(options: Namespace) -> dict[str, Any]:
    """Where a model goes and how it is shown images, as `interp.load` takes it."""
    extra: dict[str, Any] = {"device_map": options.device_map} if options.device_map else {}
    extra |= {"view": options.view, "processor_options": dict(options.processor)}
    return {"device": options.device, "dtype": options.dtype, **extra}


def begin(
    options: Namespace, arguments: Mapping[str, Any], lmm: LMM | None, places: Sequence[str] = (), **more: Any
) -> Run:
    """The run in ``--out``, new or to go on with, of this model; ``more`` in place of its weights' hash, if given.
    ``places`` are arguments that may change between calls.

    Raises:
        interp.report.run.RunConflict: the folder holds another run.
    """
    from interp.models._identity import hash_weights
    from interp.report.run import Run
    from interp.work.sharing import current

    weights = {"weights": hash_weights(lmm.model)} if lmm is not None else {}
    seed = getattr(options, "seed", 0)
    how: dict[str, Any] = {"seed": seed, "force": options.force, "places": places, "joins": current().place[0] > 0}
    run = Run.open(options.out, arguments, **{**weights, **more}, **how)
    BEGUN.append(run)
    draw_as(run, options)
    return run


@contextmanager
def finishing(run: Run) -> Iterator[None]:
    """Inside, the run's tables and report are made, by one process at a time; then nothing is left of who computed
    what."""
    with run.claims.alone("finish"):
        yield
    run.claims.clear()


def draw_as(run: Run, options: Namespace) -> None:
    """Figures of the run are drawn as --figures says, and also written as --format, --dpi and --width say."""
    run.drawn = {"formats": options.format, "dpi": options.dpi, "width": options.width}
    run.drawn["figures"] = getattr(options, "figures", "all")


def withdraw() -> None:
    """Takes the last run away if nothing was scored in it: an error that the user mends must not leave a run that
    refuses the corrected command."""
    if BEGUN:
        BEGUN.pop().withdraw()


def given(options: Namespace) -> dict[str, Any]:
    """The options that can change a number."""
    return {name: value for name, value in vars(options).items() if name not in LEFT_OUT}


def arguments(options: Namespace, lmm: LMM, **more: Any) -> dict[str, Any]:
    """What makes this run this run: everything that can change a number, with defaults resolved."""
    return {**given(options), **numbers(lmm), **more}


def heads_said(heads: Any) -> Any:
    """Heads as a run's arguments have them: names as they are, else each head, wherever it was taken from."""
    return heads if heads is None or isinstance(heads, str) else [[*head] for head in heads]


def numbers(lmm: LMM) -> dict[str, Any]:
    """What a model's numbers depend on beside its weights."""
    from interp.models._identity import setup

    kernel = getattr(lmm.model.config.get_text_config(decoder=True), "_attn_implementation", None)
    return {"device": lmm.device.type, "dtype": str(lmm.model.dtype), "kernel": kernel, "setup": setup(lmm)}


def metrics_of(chosen: Sequence[str] | None) -> dict[str, Any]:
    """Name -> metric of those that were named or whose files were given, or of all."""
    from interp.metrics._given import metrics_of

    return metrics_of(chosen or None)


def about_run(options: Namespace, lmm: LMM, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says of the data set, the metrics and the model's size."""
    from interp.answer.layers import layers_without_heads

    return {
        "dataset": plugins.about("datasets", options.dataset),
        "metrics": {name: _about_metric(name, module, options.weighting) for name, module in metrics.items()},
        "layers": lmm.layers,
        "heads": lmm.heads,
        "without_heads": list(layers_without_heads(lmm)),
    }


def _about_metric(name: str, module: Any, weighting: str) -> dict[str, Any]:
    low, high = module.limits
    if (name, weighting) == ("image_mass", "value"):
        high = math.inf  # a sum of weighted attention
    span = "standard deviations" if name == "nss" else f"{low:g}..{high:g}".replace("inf", "∞")
    doc = inspect.cleandoc(module.__doc__ or "(no docstring)")
    return {"higher_is_better": module.higher_is_better, "uses_mask": module.uses_mask, "unit": span, "doc": doc}


def measured(options: Namespace) -> dict[str, Any]:
    """The options that `interp.rank`, `interp.emerge` and `interp.compare` take under the same names."""
    names = ("answers", "normalise", "query", "weighting", "seed", "batch", "nulls", "rows", "mentions", "by")
    return {**{name: getattr(options, name) for name in names}, "phrases": words(options)}


def words(options: Namespace) -> Any:
    """What --words asks for, as `interp.rank` takes it."""
    given = options.words
    return "targets" if given == ["targets"] else given


def keep(
    run: Run, page: Any, tables: Mapping[str, pd.DataFrame], skipped: Sequence[Mapping[str, str]], **manifest: Any
) -> None:
    """Tables, figures and report of a run, each written whole, and again after a restart; then what was found.

    ``page`` is the file of `interp.report` for this kind of run: it draws, writes, and says the headlines.
    """
    for name, frame in tables.items():
        run.write_table(name, frame)
    run.manifest.update(manifest)
    run.save_manifest()
    page.draw(run)
    run.finish(skipped)
    written = page.page(run)
    for line in page.headlines(run):
        print(line)
    print(f"tables:  {page.tables(run)}")
    print(f"report:  {written}")


def warn_few(counts: Mapping[str, int]) -> None:
    """Says it where there are too few images for intervals and tests to be trusted."""
    from interp.report.html import few

    if warning := few(counts["images"]):
        say(warning)


def skips(found: Iterable[Any]) -> list[dict[str, str]]:
    """Skipped samples as the manifest has them."""
    return [{"sample_id": skip.sample_id, "reason": skip.reason} for skip in found]


def say(text: str) -> None:
    """A line for whoever watches; results go to standard output, this does not."""
    print(text, file=sys.stderr)
