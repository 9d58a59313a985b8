"""A command's work divided among processes: --shard, --workers and --ray of the commands that go through a data set."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import wraps

from interp.commands import _session as session
from interp.commands import _values

Run = Callable[[argparse.Namespace], None]


def options(sub: argparse.ArgumentParser) -> None:
    """--shard, --workers and --ray."""
    sub.add_argument(
        "--shard",
        metavar="I/N",
        help="compute part I (from 0) of N alone, auto: of the SLURM array or torchrun; the same command without it "
        "makes the tables",
    )
    sub.add_argument(
        "--workers", type=_values.positive, metavar="N", help="compute on N processes, one a GPU (needs the extra ray)"
    )
    sub.add_argument(
        "--ray", metavar="ADDRESS", help="on a Ray cluster, auto: the one that is running; as many workers as GPUs"
    )


def in_parts(run: Run) -> Run:
    """The command, which computes as --shard, --workers and --ray say before it makes tables; or its part alone."""

    @wraps(run)
    def divided(options: argparse.Namespace) -> None:
        _check(options)
        if options.shard is not None:
            _shard(options, run)
        elif options.workers is not None or options.ray is not None:
            from interp.commands import _workers

            _workers.run(options, run)
        else:
            run(options)

    return divided


def _check(options: argparse.Namespace) -> None:
    asked = [name for name in ("shard", "workers", "ray") if getattr(options, name) is not None]
    if "shard" in asked and len(asked) > 1:
        raise ValueError(f"--shard and --{asked[1]} both divide the work; leave one of them out")
    if asked and getattr(options, "predictions", None) is not None:
        raise ValueError(f"--predictions are read and not computed; leave out --{asked[0]}")
    if asked and options.force:
        raise ValueError(
            f"--force would throw away what other processes compute with --{asked[0]}; remove {options.out} first, or "
            "name another --out"
        )


def _shard(options: argparse.Namespace, run: Run) -> None:
    """The command with its part of the batches, on its own GPU where torchrun started several on one machine."""
    from interp.work.sharing import Share, Unfinished, of, shard_of

    own = shard_of(options.shard)
    if options.shard == "auto" and not options.device and "LOCAL_RANK" in os.environ:
        _see_one_gpu(int(os.environ["LOCAL_RANK"]))
    try:
        with of(Share(own, whole=own[1] == 1)):
            run(options)
    except Unfinished as part:
        session.say(
            f"part {own[0]} of {own[1]} is there ({part.computed} batches computed now). The same command without "
            "--shard makes the tables when all parts are"
        )


def _see_one_gpu(number: int) -> None:
    """Nothing but that GPU, as the process sees them, can be used from here on; without one, nothing is done."""
    import torch

    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    if number < len(seen) and seen[number]:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[number]
