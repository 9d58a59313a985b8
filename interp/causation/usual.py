"""What heads usually put out, gathered in a stream: the mean and random draws that ablation puts in a head's place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from interp.answer.replay import Answer
from interp.attention.ablation import Reference
from interp.attention.outputs import head_outputs
from interp.causation.subjects import Group, groups
from interp.models._lmm import evaluating
from interp.statistics.nulls import draw
from interp.types import Sample, Skip


def reference(
    lmm: Any,
    samples: Iterable[Sample | Skip],
    *,
    rows: Literal["answer", "all"] = "answer",
    answers: Literal["reference", "generated"] = "reference",
    draws: int = 64,
    seed: int = 0,
    batch: int = 8,
    max_new_tokens: int = 128,
    progress: bool = True,
    said: dict[str, Answer] | None = None,
) -> Reference:
    """The heads' mean output over the samples, and ``draws`` random rows of them, for `interp.ablate`.

    ``rows``: those that predict an answer's tokens, or all of prompt and answer. Memory stays at one batch. The draws
    depend on the seed and the samples' ids, not on order or batches. ``said``: generated answers, see `read_group`.

    Raises:
        ValueError: no sample could be read; with a reason.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected at least 1")
    total: Tensor | float = 0.0
    layers: tuple[int, ...] = ()
    kept, keys = torch.empty(0), torch.empty(0, dtype=torch.float64)
    count, reasons = 0, []
    known = {} if said is None else said
    each = groups(lmm, samples, answers, batch, max_new_tokens, lambda g: _outputs(lmm, g, rows, seed), known)
    for group, found in tqdm(each, desc="reference", disable=not progress):
        reasons += [s.reason for s in group.skipped]
        if found is None:
            continue
        outputs, own, layers = found
        total, count = total + outputs.sum(0, dtype=torch.float64), count + len(outputs)
        kept, keys = torch.cat([kept, outputs]) if len(keys) else outputs, torch.cat([keys, own])
        chosen = keys.topk(min(draws, len(keys)), largest=False).indices
        kept, keys = kept[chosen], keys[chosen]
    if not count:
        raise ValueError(f"no sample of the reference could be read: {reasons[0] if reasons else 'there is none'}")
    assert isinstance(total, Tensor)
    return Reference((total / count).float(), kept, count, layers)


def _outputs(lmm: Any, group: Group, which: str, seed: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """[row layer head dim] of all asked rows of the group on the CPU, a random key for each, the layers' numbers."""
    again = group.replay(lmm.model)
    length = again.call["input_ids"].shape[1]
    if which == "all":
        real = [m.nonzero()[:, 0] for m in again.call["attention_mask"].cpu()]
    else:
        real = [torch.arange(again.start, again.start + len(ids)) for ids in group.ids]
    rows = torch.nn.utils.rnn.pad_sequence(real, batch_first=True, padding_value=-1)
    with head_outputs(lmm.decoder, rows) as seen, torch.no_grad(), evaluating(lmm.model):
        lmm.model(**again.call, logits_to_keep=1)
    assert length >= int(rows.max())
    outputs = seen.outputs.permute(0, 3, 1, 2, 4).cpu()
    parts = [outputs[b, : len(own)] for b, own in enumerate(real)]
    random = [
        torch.from_numpy(draw(seed, "reference", s.id).random(len(own)))
        for s, own in zip(group.samples, real, strict=True)
    ]
    return torch.cat(parts), torch.cat(random), seen.layers
