"""How maps become masks: the options of `interp segment` and `interp evaluate`, and heads by name."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from interp.commands import _options, _values

if TYPE_CHECKING:
    from interp.answer.maps import Heads
    from interp.models._lmm import LMM
    from interp.report.run import Run
    from interp.segmentation.method import Method
    from interp.types import Head

OPTIONS = ("prompting", "choice", "min_confidence", "merge", "weights", "end", "remove_corners")


def options(sub: argparse.ArgumentParser) -> None:
    """How maps become masks."""
    sub.add_argument("--segmenter", metavar="S", help="see: interp list (default: mini-sam if shipped, else threshold)")
    sub.add_argument("--checkpoint", metavar="P", help="the segmenter's weights: folder or hub id")
    sub.add_argument("--preset", choices=("paper", "released"), help="arXiv 2410.08209, or what its code does")
    sub.add_argument("--heads", metavar="H", help="all, released, 14:24,14:26,... or top3 of --ranking (default: all)")
    sub.add_argument("--ranking", metavar="DIR", help="the folder of an `interp rank` run, for --heads topK")
    _options.by(sub)
    sub.add_argument("--weights", nargs="+", type=float, metavar="W", help="one per head (default: the mean)")
    sub.add_argument(
        "--prompting", choices=("argmax", "peaks", "box", "mask"), help="how a map prompts (default: argmax)"
    )
    sub.add_argument(
        "--choice",
        metavar="C",
        type=_values.choice,
        help="of several masks: last, best, or a number (default: the segmenter's)",
    )
    sub.add_argument("--remove-corners", action="store_true", help="corner patches get the lowest value")
    sub.add_argument("--end", action="store_true", help="the row that predicts the answer's end is in its mean")
    sub.add_argument("--drop-invisible", action="store_true", help='leave out "the image", "the left", ...')
    sub.add_argument("--min-confidence", type=_values.share, metavar="X", help="leave out masks of a lower score")
    sub.add_argument("--merge", choices=("drop", "share"), help="phrases with the same mask: keep one, or share it")


def method_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `interp.segmentation.method.Method` that were given."""
    from interp.segmentation.method import INVISIBLE

    given = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) not in (None, False)}
    if options.heads is not None:
        given["heads"] = heads_of(options.heads, options.ranking, getattr(options, "by", None))
    elif options.ranking is not None:
        raise ValueError("--ranking says where heads are ranked; say how many to take, e.g. --heads top3")
    if options.ranking is not None and not str(options.heads).startswith("top"):
        raise ValueError(f"--heads {options.heads} needs no --ranking; leave it out, or say how many to take: top3")
    if getattr(options, "by", None) and options.ranking is None:
        raise ValueError(
            "--by says by what the best heads of a ranking are chosen; give --ranking and --heads topK too"
        )
    if options.drop_invisible:
        given["drop_words"] = INVISIBLE
    return given


def heads_of(text: str, ranking: str | None = None, by: str | None = None) -> Heads:
    """Heads as the command line names them: ``all``, ``released``, ``14:24,14:26``, or ``top3`` of a ranking's folder.

    Raises:
        ValueError: none of these, or ``topK`` without a ranking.
    """
    from interp.types import Head

    if text in ("all", "released"):
        return text
    if best := re.fullmatch(r"top([0-9]{1,6})", text):
        if ranking is None:
            raise ValueError(f"--heads {text} needs --ranking DIR, the folder of an `interp rank` run")
        return top_heads(ranking, int(best[1]), by)
    if not re.fullmatch(r"[0-9]{1,6}:[0-9]{1,6}(,[0-9]{1,6}:[0-9]{1,6})*", text):
        short = repr(text if len(text) <= 60 else text[:50] + "...")
        raise ValueError(f"--heads {short} is none of: all, released, LAYER:HEAD,LAYER:HEAD,... , topK with --ranking")
    return [Head(*(int(number) for number in head.split(":"))) for head in text.split(",")]


def check_heads(method: Method, lmm: LMM) -> None:
    """Nothing, if the model has the method's heads and there is a weight for each.

    Raises:
        ValueError: else.
    """
    import torch

    from interp.answer.layers import layers_with_heads
    from interp.answer.maps import reduce_heads

    layers = layers_with_heads(lmm)
    reduce_heads(torch.zeros(1, len(layers), lmm.heads, 1, 1), method.heads, method.weights, layers)


def top_heads(folder: str, k: int, by: str | None = None) -> list[Head]:
    """The k best heads of a ranking's headline metric, best first; by ``specificity`` or ``mean`` (None: as it chose).

    Raises:
        FileNotFoundError: the folder holds no ranking.
        ValueError: fewer heads than that have a score, or what lies there is not as a ranking writes it.
    """
    from pandas.errors import UndefinedVariableError

    from interp.report.run import Run

    found = Run.read(folder)
    try:
        return _top(found, folder, k, by)
    except (AttributeError, KeyError, TypeError, UndefinedVariableError) as error:
        lost = f"no {error.args[0]!r}" if isinstance(error, KeyError) else "something of another kind"
        raise ValueError(
            f"{folder} is not as `interp rank` writes it ({lost} in its manifest or heads.parquet); rank anew"
        ) from error


def _top(found: Run, folder: str, k: int, by: str | None) -> list[Head]:
    from interp.types import Head

    main = found.manifest.get("about", {}).get("headline")
    if main is None:
        raise FileNotFoundError(f"{folder} holds no finished ranking; make one with `interp rank ... --out DIR`")
    chosen = by or found.manifest["about"].get("by", {}).get(main, "mean")
    higher = chosen == "specificity" or found.manifest["about"]["metrics"][main]["higher_is_better"]
    heads = found.read_table("heads").query("metric == @main").dropna(subset=[chosen])
    ordered = heads.sort_values([chosen, "layer", "head"], ascending=[not higher, True, True])
    if not 1 <= k <= len(ordered):
        raise ValueError(f"top{k}: the ranking in {folder} has {len(ordered)} heads with a {main}; expected 1 to that")
    return [Head(int(row.layer), int(row.head)) for row in ordered.head(k).itertuples()]  # type: ignore[arg-type]


def weights_of(segmenter: Any) -> str | None:
    """The hash of a segmenter's weights, if it has any."""
    from interp.models._identity import hash_weights

    return hash_weights(segmenter.model) if hasattr(segmenter, "model") else None
