"""Effects of every head against a whole forward pass per head, for each sample and for all samples as one batch.

    python analyses/bench_effects.py mini-llava --samples 8 --rounds 3

All three do the same ablation (zero, at the rows that predict the answer) and read the same log-probabilities; nothing
is generated. All have run once before, shortly. The rounds take turns in an order drawn anew, so that whatever else the
machine does meets all; both factors of each round are printed, by processor time and by wall time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import interp
from interp import plugins
from interp.causation.setting import padded
from interp.causation.subjects import read_group


def looped(lmm: Any, samples: list[Any], batch: int) -> np.ndarray:
    """[phrase head] log-probability lost, from a whole forward pass for each head and batch of samples."""
    rows = []
    for first in range(0, len(samples), batch):
        group, _ = read_group(lmm, samples[first : first + batch], "reference", 128, lambda _: None, {})
        again = group.replay(lmm.model)
        answer = padded([range(again.start, again.start + len(ids)) for ids in group.ids])

        def said(again: Any = again, group: Any = group) -> np.ndarray:
            with torch.no_grad():
                logits = lmm.model(**again.call, logits_to_keep=again.rows).logits.float().log_softmax(-1)
            own = ((s.sample, s.phrase.tokens) for s in group.subjects)
            return np.array([sum(logits[b, t, group.ids[b][t]].item() for t in tokens) for b, tokens in own])

        plain, lost = said(), []
        for layer in range(lmm.layers):
            for head in range(lmm.heads):
                with interp.ablate(lmm.model, [(layer, head)], rows=answer):
                    lost.append(plain - said())
        rows.append(np.stack(lost, 1))
    return np.concatenate(rows)


def main() -> None:
    """The factors of every round and their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mini-llava")
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--where", choices=("answer", "all"), default="answer", help="rows of the fast one")
    parser.add_argument("--device")
    a = parser.parse_args()
    lmm = interp.load(a.model, device=a.device)
    samples = list(plugins.get("datasets", a.dataset).load(samples=a.samples))
    ways: dict[str, Callable[[list[Any]], Any]] = {
        "effects": lambda some: interp.effects(
            lmm, some, "all", "zero", where=a.where, batch=a.samples, draws=1, progress=False
        ),
        "batched loop": lambda some: looped(lmm, some, a.samples),
        "one by one": lambda some: looped(lmm, some, 1),
    }
    for work in ways.values():
        work(samples[:1])
    factors: dict[str, list[tuple[float, float]]] = {"batched loop": [], "one by one": []}
    order, rng = list(ways), np.random.default_rng(0)
    for number in range(a.rounds):
        rng.shuffle(order)
        spent, found = {}, {}
        for way in order:
            wall, processor = time.perf_counter(), time.process_time()
            found[way] = ways[way](samples)
            spent[way] = time.process_time() - processor, time.perf_counter() - wall
        ours, said = found["effects"].scores["logprob"].values[:, 0], ""
        for way, own in factors.items():
            own.append((spent[way][0] / spent["effects"][0], spent[way][1] / spent["effects"][1]))
            gap = f", greatest difference {np.abs(ours - found[way]).max():.1e} nats" if a.where == "answer" else ""
            said += f"; {way} {own[-1][0]:.2f} x (wall {own[-1][1]:.2f} x){gap}"
        print(f"round {number}: effects {spent['effects'][0]:.2f} s of processor time{said}")
    for way, own in factors.items():
        middle = [statistics.median(kind) for kind in zip(*own, strict=True)]
        size = f"{lmm.layers * lmm.heads} heads x {a.samples} samples"
        print(f"median over {way}: {middle[0]:.2f} x of processor time, {middle[1]:.2f} x of wall time; {size}")


if __name__ == "__main__":
    main()
