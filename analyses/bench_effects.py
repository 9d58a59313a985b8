"""Effects of every head against one whole forward pass per head and sample: time side by side, and the same numbers.

    python analyses/bench_effects.py mini-llava --samples 8 --rounds 3

Both do the same ablation (zero, at the rows that predict the answer) and read the same log-probabilities; nothing is
generated. The rounds take turns, so that whatever else the machine does meets both; the ratio of each round is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch

import interp
from interp import plugins
from interp.causation.subjects import read_group


def one_by_one(lmm: Any, samples: list[Any]) -> np.ndarray:
    """[phrase head] log-probability lost, from a whole forward pass for each head and sample."""
    rows = []
    for sample in samples:
        group = read_group(lmm, [sample], "reference", 128)
        again = group.replay()
        answer = list(range(again.start, again.start + len(group.ids[0])))

        def said(again: Any = again, group: Any = group) -> np.ndarray:
            with torch.no_grad():
                logits = lmm.model(**again.call, logits_to_keep=again.rows).logits[0].float().log_softmax(-1)
            return np.array([sum(logits[t, group.ids[0][t]].item() for t in s.phrase.tokens) for s in group.subjects])

        plain, lost = said(), []
        for layer in range(lmm.layers):
            for head in range(lmm.heads):
                with interp.ablate(lmm.model, [(layer, head)], rows=answer):
                    lost.append(plain - said())
        rows.append(np.stack(lost, 1))
    return np.concatenate(rows)


def main() -> None:
    """The ratio of every round and their median."""
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
    interp.effects(lmm, samples[:1], "all", "zero", where=a.where, progress=False)
    ratios = []
    for number in range(a.rounds):
        start = time.perf_counter()
        found = interp.effects(lmm, samples, "all", "zero", where=a.where, batch=a.samples, progress=False)
        middle = time.perf_counter()
        want = one_by_one(lmm, samples)
        fast, slow = middle - start, time.perf_counter() - middle
        ratios.append(slow / fast)
        gap = np.abs(found.scores["logprob"].values[:, 0] - want).max()
        print(
            f"round {number}: {fast:.2f} s, one by one {slow:.2f} s, {ratios[-1]:.2f} x"
            + (f", greatest difference {gap:.1e} nats" if a.where == "answer" else "")
        )
    print(f"median {statistics.median(ratios):.2f} x faster over {lmm.layers * lmm.heads} heads x {a.samples} samples")


if __name__ == "__main__":
    main()
