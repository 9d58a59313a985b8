"""How maps become masks: the options of `interp segment` and `interp evaluate`, and heads by name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from interp.commands import _options, _values

if TYPE_CHECKING:
    from interp.answer.maps import Heads
    from interp.models._lmm import LMM
    from interp.segmentation.method import Method

OPTIONS = ("prompting", "choice", "min_confidence", "merge", "weights", "end", "remove_corners")


def options(sub: argparse.ArgumentParser) -> None:
    """How maps become masks."""
    sub.add_argument("--segmenter", metavar="S", help="see: interp list (default: mini-sam if shipped, else threshold)")
    sub.add_argument("--checkpoint", metavar="P", help="the segmenter's weights: folder or hub id")
    sub.add_argument("--preset", choices=("paper", "released"), help="arXiv 2410.08209, or what its code does")
    _options.heads(sub)
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
    invisible = sub.add_mutually_exclusive_group()
    invisible.add_argument(
        "--drop-invisible", action="store_true", default=None,
        help='leave out "a photo", "the left", ... (segment does, unless a preset settles it)',
    )  # fmt: skip
    invisible.add_argument("--keep-invisible", dest="drop_invisible", action="store_false", help="segment these too")
    sub.add_argument("--min-confidence", type=_values.share, metavar="X", help="leave out masks of a lower score")
    sub.add_argument("--merge", choices=("drop", "share"), help="phrases with the same mask: keep one, or share it")


def method_options(options: argparse.Namespace, drop: bool = False) -> dict[str, Any]:
    """The options of `interp.segmentation.method.Method` that were given; ``drop``: what is no thing is left out unless
    they say otherwise."""
    from interp.segmentation.method import INVISIBLE

    given = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) not in (None, False)}
    if options.heads is not None:
        given["heads"] = heads_of(options)
    elif options.ranking is not None:
        raise ValueError("--ranking says where heads are ranked; say how many to take, e.g. --heads top3")
    if options.ranking is not None and not str(options.heads).startswith("top"):
        raise ValueError(f"--heads {options.heads} needs no --ranking; leave it out, or say how many to take: top3")
    if getattr(options, "by", None) and options.ranking is None and " of " not in str(options.heads):
        raise ValueError(
            "--by says by what the best heads of a ranking are chosen; give --ranking and --heads topK too"
        )
    if options.drop_invisible or (options.drop_invisible is None and drop and options.preset is None):
        given["drop_words"] = INVISIBLE
    return given


def heads_of(options: argparse.Namespace) -> Heads:
    """What --heads, --ranking and --by mean."""
    from interp.heads import read_heads

    return read_heads(options.heads, options.ranking, getattr(options, "by", None))


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


def weights_of(segmenter: Any) -> str | None:
    """The hash of a segmenter's weights, if it has any."""
    from interp.models._identity import hash_weights

    return hash_weights(segmenter.model) if hasattr(segmenter, "model") else None
