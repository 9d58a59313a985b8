"""What heads usually put out, gathered in a stream: the mean and random draws that ablation puts in a head's place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

import interp
from interp.answer.replay import Answer
from interp.attention.ablation import Reference
from interp.attention.outputs import head_outputs
from interp.causation.subjects import Group, read_group
from interp.models._identity import fingerprint, setup
from interp.models._lmm import evaluating
from interp.statistics.nulls import draw
from interp.types import Sample, Skip
from interp.work.parts import Work
from interp.work.samples import Batches, Repeatable
from interp.work.sharing import together
from interp.work.store import Nowhere, Store, key_of, marked

DRAWS = 64


def draws_for(intervention: str) -> int:
    """How many random rows a study of that intervention needs; one where it takes none of them: 33 MB a batch in the
    store at 7B else."""
    return DRAWS if intervention == "resample" else 1


def reference(
    lmm: Any,
    samples: Iterable[Sample | Skip],
    *,
    rows: Literal["answer", "all"] = "answer",
    answers: Literal["reference", "generated"] = "reference",
    draws: int = DRAWS,
    seed: int = 0,
    batch: int = 8,
    max_new_tokens: int = 128,
    store: Store | None = None,
    progress: bool = True,
    said: dict[str, Answer] | None = None,
) -> Reference:
    """The heads' mean output over the samples, and ``draws`` random rows of them, for `interp.ablate`.

    ``rows``: those that predict an answer's tokens, or all of prompt and answer. Memory stays at one batch. The draws
    depend on the seed and the samples' ids, not on order or batches. ``store``: what is kept of finished batches; with
    it, processes that have one folder share the work, a shard too. ``said``: generated answers, see `read_group`.

    Raises:
        ValueError: no sample could be read; with a reason.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected at least 1")
    kept, known = Nowhere() if store is None else store, {} if said is None else said
    settings = {
        "what": "reference",
        "model": getattr(lmm, "name", type(lmm).__name__),
        "weights": fingerprint(lmm.model) if store is not None else "",
        "setup": setup(lmm),
        "how": [rows, answers, draws, seed, max_new_tokens],
        "version": interp.__version__,
    }
    work = Work(
        kept, settings, Batches(samples if isinstance(samples, Repeatable) else lambda: iter(samples), batch),
        key=lambda group: key_of(settings, group).replace("scores", "reference"),
        compute=lambda group: _batch(lmm, group, rows, answers, draws, seed, max_new_tokens, known),
    )  # fmt: skip
    with together(), tqdm(desc="reference", unit="image", disable=not progress) as bar:
        return _joined(work.in_order(lambda part: part.arrays, bar), draws)


def _joined(parts: Iterator[Mapping[str, np.ndarray]], draws: int) -> Reference:
    """The batches' sums, added in their order, and of all rows those with the smallest keys."""
    total: np.ndarray | float = 0.0
    kept, keys, count, reasons, layers = torch.empty(0), torch.empty(0, dtype=torch.float64), 0, [], ()
    for arrays in parts:
        about = json.loads(bytes(arrays["about"]).decode())
        reasons += about["reasons"]
        if not about["count"]:
            continue
        own, dtype = torch.from_numpy(arrays["rows"]), getattr(torch, about["dtype"])
        total, count, layers = total + arrays["sum"], count + about["count"], tuple(about["layers"])
        kept = torch.cat([kept, own.to(dtype)]) if len(keys) else own.to(dtype)
        keys = torch.cat([keys, torch.from_numpy(arrays["keys"])])
        chosen = keys.topk(min(draws, len(keys)), largest=False).indices
        kept, keys = kept[chosen], keys[chosen]
    if not count:
        raise ValueError(f"no sample of the reference could be read: {reasons[0] if reasons else 'there is none'}")
    return Reference((torch.as_tensor(total) / count).float(), kept, count, layers)


def _batch(
    lmm: Any,
    samples: Sequence[Sample | Skip],
    rows: str,
    answers: Any,
    draws: int,
    seed: int,
    max_new_tokens: int,
    said: dict[str, Answer],
) -> dict[str, np.ndarray]:
    """The sum of the batch's rows in double precision, and the rows among them that may be drawn."""
    group, found = read_group(lmm, samples, answers, max_new_tokens, lambda g: _outputs(lmm, g, rows, seed), said)
    about: dict[str, Any] = {"reasons": [s.reason for s in group.skipped], "count": 0}
    arrays: dict[str, np.ndarray] = {}
    if found is not None:
        outputs, keys, layers = found
        chosen = keys.topk(min(draws, len(keys)), largest=False).indices
        about |= {"count": len(outputs), "layers": list(layers), "dtype": str(outputs.dtype).removeprefix("torch.")}
        arrays["sum"] = outputs.sum(0, dtype=torch.float64).numpy()
        arrays |= {"rows": outputs[chosen].float().numpy(), "keys": keys[chosen].numpy()}
    return marked({**arrays, "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}, bool(group.samples))


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
