"""GCG: each measure against one computed in another way; the text encoder and Java may be missing."""

import itertools

import numpy as np
import pytest
from evaluation_cases import blobs

from interp.evaluation import gcg
from interp.evaluation.overlap import pairwise_iou, to_rles
from interp.evaluation.result import Record

SIZE = (20, 24)


def recount(iou, similarity):
    """Mask recall's pairs as the released loop would walk: sorted once, in place of an argmax each time."""
    taken, pairs = (set(), set()), []
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        row, col = divmod(int(flat), iou.shape[1])
        if row in taken[0] or col in taken[1]:
            continue
        if iou[row, col] < 0.5 or similarity[row, col] < 0.5:
            return pairs
        pairs.append((row, col))
        taken[0].add(row)
        taken[1].add(col)
    return pairs


def most_pairs(passes):
    """The largest one-to-one matching, by trying all."""
    rows, cols = passes.shape
    if rows > cols:
        return most_pairs(passes.T)
    return max(sum(passes[i, c] for i, c in enumerate(some)) for some in itertools.permutations(range(cols), rows))


@pytest.mark.parametrize("seed", range(20))
def test_mask_recall_walks_as_the_released_loop_and_the_corrected_one_never_finds_less(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, 2))
    iou, similarity = rng.random(shape), rng.random(shape)
    released, corrected = gcg.released_pairs(iou, similarity), gcg.corrected_pairs(iou, similarity)
    assert released == recount(iou, similarity)
    assert set(released) <= set(corrected)
    passes = (iou >= 0.5) & (similarity >= 0.5)
    assert len(corrected) <= most_pairs(passes) <= 2 * len(corrected)  # what a greedy matching promises
    assert all(passes[pair] for pair in corrected)


def test_the_released_count_stops_at_the_first_pair_that_fails_and_the_corrected_one_goes_on():
    iou = np.array([[0.9, 0.0], [0.0, 0.8]])
    unlike_first = np.array([[0.1, 0.1], [0.1, 0.9]])
    assert gcg.released_pairs(iou, unlike_first) == [] and gcg.corrected_pairs(iou, unlike_first) == [(1, 1)]
    unlike_last = np.array([[0.9, 0.1], [0.1, 0.1]])
    assert gcg.released_pairs(iou, unlike_last) == [(0, 0)]
    on_the_bar = np.full((1, 1), 0.5)
    assert gcg.released_pairs(on_the_bar, on_the_bar) == [(0, 0)]


def test_masks_that_are_both_empty_and_vectors_that_are_undefined_are_never_a_match():
    nothing = np.full((1, 1), np.nan)
    for pairs in (gcg.released_pairs, gcg.corrected_pairs):
        assert pairs(nothing, np.ones((1, 1))) == [] and pairs(np.ones((1, 1)), nothing) == []
        assert pairs(np.zeros((2, 0)), np.zeros((2, 0))) == []


def test_the_pairs_leave_the_matrices_as_they_were():
    iou = np.ones((2, 2))
    gcg.released_pairs(iou, np.ones((2, 2)))
    gcg.corrected_pairs(iou, np.ones((2, 2)))
    gcg.mean_iou(iou)
    assert (iou == 1).all()


@pytest.mark.parametrize("seed", range(10))
def test_mean_iou_pairs_by_deleting_rows_and_columns(seed):
    rng = np.random.default_rng(seed)
    found, truth = (blobs(rng, n, SIZE) for n in rng.integers(1, 6, 2))
    table = np.array([[(a & b).sum() / (a | b).sum() for b in truth] for a in found])
    pairs = []
    while table.size and table.max() > 0:
        row, col = np.unravel_index(table.argmax(), table.shape)
        pairs.append(table[row, col])
        table = np.delete(np.delete(table, row, 0), col, 1)
    expected = np.mean(pairs) if pairs else 0.0
    assert gcg.mean_iou(pairwise_iou(to_rles(found), to_rles(truth))) == pytest.approx(expected, rel=1e-12)


def letters(texts):
    """Counts of letters: an encoder whose cosines can be worked out by hand."""
    return np.array([[text.count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts], dtype=float)


@pytest.fixture
def dog_and_cat(make_record):
    """Two samples: the dog is found with its mask, the cat with that of a bird beside it; the second has nothing."""
    dog, cat = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    dog[2:10, 2:10] = True
    cat[12:18, 12:22] = True
    first = make_record(
        [("dog", dog), ("xyz", cat)], [("dog", dog), ("cat", cat)], sample_id="a", answer="a dog", captions=("a dog",)
    )
    second = make_record(
        [], [("dog", dog)], sample_id="b", answer="", captions=("a dog and a cat",), failed="no answer"
    )
    return [first, second]


def test_a_data_set_is_scored_with_misses_counted_and_intervals_over_images(dog_and_cat):
    result = gcg.evaluate(dog_and_cat, encoder=letters, java=False)
    value = result.measures.set_index("measure")["value"]
    assert value["mask_recall"] == pytest.approx(1 / 3) and value["miou"] == pytest.approx(0.5)
    assert result.measures.set_index("measure").loc["mask_recall", "n"] == 3
    # two of three masks are found, with scores all equal: precision 1 up to recall 2/3, that is 67 of 101 points
    assert value["ap50"] == pytest.approx(67 / 101)
    assert np.isnan(value["meteor"]) and "Java" in result.measures.set_index("measure").loc["meteor", "note"]
    assert result.phrases["recalled"].tolist() == [1, 0, 0] and result.samples["failed"].tolist() == ["", "no answer"]
    low, high = result.measures.set_index("measure").loc["mask_recall", ["low", "high"]]
    assert np.isnan(low) and np.isnan(high)  # two images say nothing of others


def test_without_a_text_encoder_recall_is_nan_with_the_reason_and_the_rest_is_there(dog_and_cat):
    measures = gcg.evaluate(dog_and_cat, encoder="no BERT here", java=False).measures.set_index("measure")
    assert np.isnan(measures.loc["mask_recall", "value"]) and measures.loc["mask_recall", "note"] == "no BERT here"
    assert measures.loc["ap50", "value"] > 0


def test_an_encoder_of_the_wrong_shape_is_refused(dog_and_cat):
    with pytest.raises(ValueError, match="expected \\(text, dim\\)"):
        gcg.evaluate(dog_and_cat, encoder=lambda texts: np.zeros((1, 3)), java=False)


def by_pycocotools(records, ids):
    """AP50 by pycocotools itself, from the ids as the data set's file has them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def shapes(some):
        found = [(key, item.mask) for key, r in zip(ids, records, strict=True) for item in some(r)]
        return [
            {"id": n, "image_id": key, "category_id": 1, "segmentation": m, "area": 9, "iscrowd": 0, "score": 1.0}
            for n, (key, m) in enumerate(found, 1)
        ]

    runs = []
    for some in (lambda r: r.truths, lambda r: r.found):
        made = COCO()
        made.dataset = {
            "images": [{"id": key, "height": 20, "width": 24} for key in ids],
            "categories": [{"id": 1}],
            "annotations": shapes(some),
        }
        made.createIndex()
        runs.append(made)
    run = COCOeval(*runs, "segm")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run.stats[1]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
def test_ap50_counts_images_in_the_order_of_ids_of_their_own_type(make_record):
    rng = np.random.default_rng(5)
    numbers, values = [9, 10, 100, 2, 33], {}
    for ids in (numbers, [str(n) for n in numbers]):
        records = []
        for key, n in zip(ids, numbers, strict=True):
            truth = blobs(np.random.default_rng(n), 4, SIZE)
            found = truth if n in (9, 100) else blobs(rng, 4, SIZE)
            pairs = [[("dog", mask) for mask in some] for some in (found, truth)]
            records.append(make_record(*pairs, sample_id=str(n), image_key=key))
        values[type(ids[0])] = gcg.evaluate(records, encoder="none", java=False).measures["value"][0]
        assert values[type(ids[0])] == pytest.approx(by_pycocotools(records, ids), abs=1e-12)
        assert Record.from_json(records[0].to_json()).key == ids[0]
    assert values[int] != pytest.approx(values[str], abs=1e-3)


def test_two_empty_masks_leave_the_rest_of_an_images_miou_as_it_is():
    iou = np.array([[np.nan, 0.0], [0.0, 0.8]])  # the released code gives this image 0
    assert gcg.mean_iou(iou) == 0.8
