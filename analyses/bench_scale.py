"""What a ranking costs as it grows: time and memory by stage, over images and over phrases of a synthetic store.

    python analyses/bench_scale.py                                                       # hours: 200,000 phrases
    python analyses/bench_scale.py --images 4 8 --phrases 500 2000 --grid 4 8 --metrics 1 --rows none   # a minute

Images: `interp rank` of a shipped model, in a process of its own for each size. It runs twice in one folder, and the
second time finds every batch measured; then `interp redraw` draws alone. So ``measure`` is the first less the second,
``tables`` the second less the third, ``figures`` the third. Phrases: batches of random scores of ``--grid`` layers x
heads, as a store holds them, become tables and files (``gather``: one array a metric; ``tables``; ``write``). Written:
processor seconds of each stage, and the highest resident set of the process (`resource.getrusage`) at its end.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PHRASES, SAMPLES = 4, 8
"""Phrases of an image, and images of a batch."""


def options() -> argparse.Namespace:
    """What is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini-llava")
    parser.add_argument("--images", type=int, nargs="*", default=[25, 50, 100, 200, 400])
    parser.add_argument("--phrases", type=int, nargs="*", default=[20_000, 200_000])
    parser.add_argument("--grid", type=int, nargs=2, default=[32, 32], metavar=("LAYERS", "HEADS"))
    parser.add_argument("--metrics", type=int, nargs="*", default=[1, 9], help="numbers of metrics")
    parser.add_argument("--rows", choices=("all", "none"), default="all", help="scores by a word's rows as well")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_scale"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


class Stages:
    """Seconds and peak memory of what has been done so far; ``found`` is a row a stage."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def run(self, stage: str, work: Callable[[], Any]) -> Any:
        """What the work returns."""
        before = time.process_time()
        result = work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.found.append({"stage": stage, "seconds": time.process_time() - before, "peak, MiB": peak})
        return result


def ranked(model: str, images: int) -> list[dict[str, Any]]:
    """The stages of a ranking of so many scenes, all metrics."""
    stages = Stages()
    with tempfile.TemporaryDirectory() as folder:
        words = ["rank", model, "scenes", "--samples", str(images), "--figures", "all", "--out", folder]
        cli = stages.run("import", _imported)
        for stage, given in (("measure", words), ("tables", words), ("figures", ["redraw", folder])):
            if stages.run(stage, lambda given=given: cli.main(given)):
                raise SystemExit(f"interp {' '.join(given)} failed")
    rows = stages.found
    for earlier, later in ((1, 2), (2, 3)):
        rows[earlier]["seconds"] -= rows[later]["seconds"]
    return rows


def _imported() -> Any:
    """The command line with all that a ranking imports."""
    import interp.answer.parser
    import interp.explorer.study
    import interp.models._load
    import interp.report.ranking
    from interp import cli

    interp.answer.parser.load_parser()
    return cli


def stored(phrases: int, metrics: int, grid: tuple[int, int], rows: bool, home: Path) -> list[dict[str, Any]]:
    """The stages from scored batches to files, of so many phrases."""
    import numpy as np

    from interp import plugins
    from interp.ranking.batch import Batch, Plan
    from interp.ranking.gathered import Words
    from interp.ranking.result import MASK_FREE, TOP
    from interp.ranking.tables import ranking_of
    from interp.report import ranking as report
    from interp.report import scores
    from interp.report.run import Run

    names = ["pointing_game", *(n for n in plugins.names("metrics") if n != "pointing_game")][:metrics]
    found = {name: plugins.get("metrics", name) for name in [*names, *MASK_FREE]}
    nothing: Any = SimpleNamespace()  # no model and no masks: the batches are there
    plan = Plan(nothing, found, nothing, "reference", "answer", "predicting", 0, 8, 1)
    plan = replace(plan, by_rows="pointing_game" if rows else "")
    batch = PHRASES * SAMPLES
    stages = Stages()

    def part(i: int) -> dict[str, np.ndarray]:
        """Arrays of one batch, from its number alone."""
        rng, count = np.random.default_rng(i), min(batch, phrases - i * batch)
        about = [
            {"sample_id": f"{image:012d}", "image_id": f"{image:012d}", "text": f"a thing {k}", "root": f"thing {k}",
             "tokens": 1 + k % 2, "area": 0.1 + k / 9, "targets": [k], "mention": 1, "kind": "", "partners": 1}
            for n in range(count) for image, k in [divmod(i * batch + n, PHRASES)]
        ]  # fmt: skip
        kinds = ([("heads", n, grid) for n in found] + [("reduced", n, (1, 2)) for n in found]
                 + [("rows", n, grid) for n in ("mean", "first", "last") if rows])  # fmt: skip
        arrays = {
            f"{kind}.{name}.{p}": rng.random((count, *shape), dtype=np.float32)
            for kind, name, shape in kinds for p in ("values", "null", "specificity")
        }  # fmt: skip
        arrays |= {f"{kind}.{name}.chance": np.full(count, 0.1, np.float32) for kind, name, _ in kinds}
        known = {"phrases": about, "skipped": [], "groups": 0, "metrics": list(found),
                 "rows": ["mean", "first", "last"] * rows, "layers": list(range(grid[0]))}  # fmt: skip
        return arrays | {"about": np.frombuffer(json.dumps(known).encode(), dtype=np.uint8)}

    def best(i: int, top: Any, halves: Any) -> Any:
        """Scores of the best heads' mean maps."""
        own = Batch.of(part(i), maps=False).scores
        three = own[names[0]]._fields[:3]
        cut = {n: {p: getattr(own[n], p)[:, :1, : len(TOP)].copy() for p in three} for n in top}  # views keep the whole
        return {name: own[name]._replace(**parts) for name, parts in cut.items()}

    def words_of() -> Words:
        made = Words()
        for i in range(-(-phrases // batch)):
            made.add(Batch.of(part(i), maps=False))
        return made

    with tempfile.TemporaryDirectory(dir=home) as folder:
        run = Run.open(folder, {})
        manifest = {"samples": phrases // PHRASES, "headline": "pointing_game"}
        words = stages.run("words", words_of)
        given = (plan, words, lambda i: Batch.of(part(i), maps=False), best, names, None, manifest, run.folder)
        ranking = stages.run("tables", lambda: ranking_of(*given))
        stages.run("write", lambda: (scores.write(run.folder, ranking.scores, SAMPLES), _write(run, ranking, report)))
    return stages.found


def _write(run: Any, ranking: Any, report: Any) -> None:
    """The tables, as `interp rank` writes them."""
    run.write_pieces("phrases", ranking.phrase_pieces(1 << 18), 1 << 18)
    for name in report.TABLES:
        if name != "phrases":
            run.write_table(name, getattr(ranking, name))


def child(what: dict[str, Any], out: Path) -> list[dict[str, Any]]:
    """The stages of one size, in a process of its own."""
    words = [sys.executable, __file__, "--out", str(out), "--child", json.dumps(what)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return [{**what, **row} for row in json.loads(done.stdout.splitlines()[-1])]


def draw(rows: Any, path: Path) -> None:
    """Processor time by stage, and peak memory, over images and over phrases."""
    from matplotlib.figure import Figure

    from interp.plots.style import style

    with style():
        figure = Figure(figsize=(7.2, 5.4), layout="constrained")
        for column, size in zip(figure.subplots(2, 2).T, ("images", "phrases"), strict=True):
            own = rows.dropna(subset=[size])
            for metrics, some in own.groupby("metrics"):
                dash = "-" if metrics > 1 else "--"
                for place, (stage, of_stage) in enumerate(some.groupby("stage", sort=False)):
                    label = f"{stage}, {metrics} metric{'s' * (metrics > 1)}"
                    column[0].plot(
                        of_stage[size], of_stage["seconds"], dash, marker="o", color=f"C{place}", label=label
                    )
                peak = some.groupby(size)["peak, MiB"].max()
                column[1].plot(peak.index, peak, dash, marker="o", color="black", label=f"{metrics} metrics")
            column[0].set(title=f"processor time over {size}", ylabel="seconds")
            column[1].set(title="peak memory of the process", xlabel=size, ylabel="MiB", ylim=(0, None))
            for axes in column if len(own) else ():
                axes.legend()
        figure.savefig(path, dpi=150)


def main() -> None:
    """Prints the table, and writes it and the figure beside --out."""
    a = options()
    a.out.parent.mkdir(parents=True, exist_ok=True)
    if a.child:
        what = json.loads(a.child)
        if "images" in what:
            found = ranked(what["model"], what["images"])
        else:
            found = stored(what["phrases"], what["metrics"], tuple(what["grid"]), what["rows"] == "all", a.out.parent)
        print(json.dumps(found))
        return
    import pandas as pd

    sizes: list[dict[str, Any]] = [{"model": a.model, "images": n, "metrics": 9} for n in a.images]
    sizes += [{"phrases": n, "metrics": m, "grid": a.grid, "rows": a.rows} for m in a.metrics for n in a.phrases]
    rows = pd.DataFrame([row for size in sizes for row in child(size, a.out)]).reindex(
        columns=["images", "phrases", "metrics", "rows", "stage", "seconds", "peak, MiB"]
    )
    rows.to_csv(a.out.with_suffix(".csv"), index=False)
    draw(rows, a.out.with_suffix(".png"))
    print(rows.round(1).to_string(index=False, na_rep=""))


if __name__ == "__main__":
    main()
