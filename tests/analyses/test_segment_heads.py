"""The study of head choices: a planted head wins, baselines are what they say, a killed study ends the same."""

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from head_choice import figure, images, scores, tables, variants
from interp.answer.maps import coverage
from interp.datasets import scenes
from interp.types import Capture, Head, PatchGrid, Phrase
from interp.work.store import Memory

PLANTED = Head(1, 1)  # not one of the released heads, which are heads 2


class FakeLMM:
    """Three layers of four heads whose attention is noise, but for one head that looks at what is named."""

    name, model, layers, heads = "fake", torch.nn.Linear(1, 1), 3, 4


def fake_captures(lmm, samples, **_):
    for sample in samples:
        rng = np.random.default_rng(len(sample.id) + sum(map(ord, sample.id)))
        n, size = len(sample.targets), sample.image.shape[0]
        grid = PatchGrid(np.arange(64).reshape(8, 8), (0.0, 0.0, float(size), float(size)))
        attention = torch.from_numpy(rng.random((n, 3, 4, 8, 8))).float() * 0.01
        attention[:, PLANTED.layer, PLANTED.head] += coverage(np.stack([t.mask for t in sample.targets]), grid)
        yield Capture(
            sample_id=sample.id,
            prompt=sample.prompt,
            answer=" ".join(t.phrase for t in sample.targets),
            tokens=("x",) * n,
            grid=grid,
            query="predicting",
            kept=np.arange(n),
            attention=attention,
            mean=torch.zeros(3, 4, 8, 8),
            phrases=tuple(Phrase(t.phrase, t.phrase, t.phrase, 0, 1, (i,)) for i, t in enumerate(sample.targets)),
        )


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setattr(images, "captures", fake_captures)
    some = [scenes.sample("validation", i, size=48) for i in range(4)]
    chosen, radius = variants.choose(FakeLMM(), some, "pointing_game", 2, Memory())
    segmenters = {"threshold": interp.load_segmenter("threshold")}
    return scores.Setting(FakeLMM(), segmenters, chosen, radius, seed=0)


def test_the_head_that_looks_at_the_target_is_chosen_and_its_masks_beat_all_others(planted):
    by_name = {(v.name, v.normalise): v for v in planted.variants}
    assert len(by_name) == 12 and by_name["top 1", "answer"].heads == [PLANTED]
    weighted = by_name["weighted heads", "answer"]
    assert len(weighted.weights) == 12 and int(np.argmax(weighted.weights)) == PLANTED.layer * 4 + PLANTED.head
    rows, skipped = scores.measure(planted, [scenes.sample("test", i, size=48) for i in range(5)], 2, Memory())
    assert not skipped
    table = tables.summarise(rows.assign(model="fake"), seed=0)
    at = table[table["measure"] == "point"].set_index(["heads", "normalise"])["value"]
    assert at["top 1", "answer"] >= 0.9 and at["top 1", "answer"] > at["random point", ""]
    iou = table[table["measure"] == "iou"].set_index(["heads", "normalise"])
    assert iou.loc[("top 1", "answer"), "value"] > iou.loc[("released heads", "answer"), "value"] + 0.1
    paper = iou.loc[("all heads (paper)", "answer")]
    assert paper["difference"] == paper["difference_low"] == paper["difference_high"] == 0
    assert (table["low"] <= table["value"] + 1e-12).all() and (table["value"] <= table["high"] + 1e-12).all()
    text = tables.markdown(table)
    assert text.count("\n| ") >= 14 and "threshold" in text
    assert len(figure.draw(table).axes) == 3


def test_iou_of_the_study_is_that_of_segmenting_one_variant_alone(planted):
    sample = scenes.sample("test", 9, size=48)
    (capture,) = fake_captures(None, [sample])
    named = [(i, t.mask) for i, t in enumerate(sample.targets)]
    iou, hit = scores.one_image(planted, sample, capture, named)
    assert iou.shape == (len(named), 14, 1) and hit.shape == (len(named), 14)
    for column, variant in enumerate(planted.variants):
        made = interp.segment_capture(
            capture,
            sample.image,
            planted.segmenters["threshold"],
            heads=variant.heads,
            weights=variant.weights,
            normalise=variant.normalise,
        )
        for row, (i, mask) in enumerate(named):
            expected = (made.masks[i] & mask).sum() / (made.masks[i] | mask).sum()
            assert iou[row, column, 0] == pytest.approx(expected)
            x, y = made.points[i].astype(int)
            assert hit[row, column] == mask[y, x]


def test_baselines_are_the_centre_and_a_seeded_point_that_knows_no_batch():
    centre, drawn = scores.baseline_points("a", 500, (40, 60), seed=0)
    assert (centre == [30, 20]).all()
    again = scores.baseline_points("a", 500, (40, 60), seed=0)[1]
    assert (drawn == again).all() and (drawn != scores.baseline_points("a", 500, (40, 60), seed=1)[1]).any()
    assert drawn.min() >= 0 and (drawn.max(0) == [59, 39]).all() and abs(drawn.mean(0) - [29.5, 19.5]).max() < 2
    disc = scores.discs(np.array([[30.0, 20.0]]), (40, 60), radius=0.25)[0]
    assert disc[20, 30] == 1 and disc[20, 40] == pytest.approx(0.5)  # 10 pixels of a height of 40


def test_a_point_outside_or_undefined_is_no_hit():
    masks = np.zeros((3, 4, 4), bool)
    masks[:, 1, 2] = True
    points = np.array([[2.0, 1.0], [1.0, 2.0], [np.nan, np.nan]])
    assert scores.inside(points, masks).tolist() == [1, 0, 0]


def test_a_killed_study_goes_on_with_the_same_rows(planted):
    some = [scenes.sample("test", i, size=48) for i in range(4)]
    whole, _ = scores.measure(planted, some, 2, Memory())

    class Dies(Memory):
        def put(self, key, arrays):
            if self.entries:
                raise KeyboardInterrupt
            super().put(key, arrays)

    store = Dies()
    with pytest.raises(KeyboardInterrupt):
        scores.measure(planted, some, 2, store)
    kept = Memory()
    kept.entries = dict(store.entries)
    resumed, _ = scores.measure(planted, some, 2, kept)
    pd.testing.assert_frame_equal(resumed, whole)
