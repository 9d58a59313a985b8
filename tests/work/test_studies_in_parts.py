"""Every study, computed in parts: the tables of one process, byte for byte, and nothing computed a second time."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import interp
from interp.evaluation.study import collect
from interp.report.run import Run
from interp.types import Sample, Skip, Target
from interp.work.sharing import Share, Unfinished, of

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
QUIET = {"batch": 2, "progress": False}


def samples() -> list[Sample | Skip]:
    """Nine images of noise with a dog and a table each, and one that could not be read."""
    found = []
    for i in range(9):
        rng = np.random.default_rng(i)
        masks = np.zeros((2, 40, 52), dtype=bool)
        y, x = rng.integers(0, 15, 2)
        masks[0, y : y + 20, x : x + 9 + i], masks[1, y + 3 : y + 18, 30:48] = True, True
        image = rng.integers(0, 256, (40, 52, 3), np.uint8)
        targets = (Target("dog", masks[0]), Target("table", masks[1]))
        found.append(Sample(f"image {i}", image, "Hi", "A dog beside a small table.", targets))
    return [*found[:3], Skip("broken", "cannot be read"), *found[3:]]


@pytest.fixture
def checkpoints(tiny_lmm, tmp_path):
    """A series of three checkpoints, each with weights of its own."""
    for name in ("base", "checkpoint-1", "checkpoint-2", "checkpoint-3"):
        tiny_lmm.model.save_pretrained(tmp_path / "series" / name)
        with torch.no_grad():
            tiny_lmm.model.lm_head.weight.mul_(1.01)  # or one checkpoint's parts are the next one's
    tiny_lmm.processor.save_pretrained(tmp_path / "series" / "base")
    return tmp_path / "series"


def study(name, lmm, checkpoints, store):
    """What the study finds, as plain tables."""
    if name == "rank":
        return interp.rank(lmm, samples(), ["pointing_game", "nss"], store=store, **QUIET).tables()
    if name == "effects":
        return interp.cause(lmm, samples(), draws=2, store=store, **QUIET).tables()
    if name == "compare":
        names = ("x", "y")
        return interp.compare(
            lmm, lmm, samples(), ["nss"], names=names, store=store, max_new_tokens=4, **QUIET
        ).tables()
    if name == "emerge":
        how = {"recall": True, "examples": 2, "max_new_tokens": 4, "store": store, **QUIET}
        found = interp.emerge(lmm, interp.series(checkpoints), samples(), ["nss"], **how)
        tables = {key: value for key, value in vars(found.tables).items() if hasattr(value, "to_dict")}
        return tables, [e.maps for e in found.examples], found.skipped
    segmenter = interp.load_segmenter("threshold")
    whole = [s for s in samples() if isinstance(s, Sample)]
    one = [Sample(s.id, s.image, s.prompt, s.answer, s.targets[:1]) for s in whole]
    return [r.to_json() for r in collect(lmm, segmenter, one, "referring", store=store, **QUIET).records]


@pytest.mark.parametrize("name", ["rank", "effects", "compare", "emerge", "evaluate"])
def test_a_study_in_parts_has_the_bytes_of_one_in_a_piece(name, tiny_lmm, checkpoints, tmp_path, monkeypatch):
    wanted = pickle.dumps(study(name, tiny_lmm, checkpoints, None))
    for count, how in ((2, "shard"), (4, "shard"), (2, "worker")):
        folder, put = tmp_path / f"{how}-{count}", []
        for place in range(count):
            part = {"shard": (place, count)} if how == "shard" else {"launch": "launch", "place": (place, count)}
            with of(Share(**part, whole=False)), pytest.raises(Unfinished):
                study(name, tiny_lmm, checkpoints, Run.open(folder, {}))
        with monkeypatch.context() as patch, of(Share(launch="launch" if how == "worker" else "")):
            patch.setattr(Run, "put", lambda run, key, arrays, put=put: put.append(key))
            assert pickle.dumps(study(name, tiny_lmm, checkpoints, Run.open(folder, {}))) == wanted
        assert not put, f"{how} of {count}"


def test_a_part_ends_its_block_and_leaves_the_tables_to_the_whole(tiny_lmm, tmp_path):
    found = None
    for part in ("0/2", "1/2"):
        with interp.shard(part):
            found = interp.rank(tiny_lmm, samples(), ["nss"], store=Run.open(tmp_path, {}), **QUIET)
    assert found is None
    assert len(interp.rank(tiny_lmm, samples(), ["nss"], store=Run.open(tmp_path, {}), **QUIET).heads) == 12
