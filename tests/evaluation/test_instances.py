"""Instances: AP worked out from its definition, PAcc by counting pixels, words matched to categories."""

import numpy as np
import pytest
from evaluation_cases import blobs, phrase

from interp.evaluation import instances
from interp.evaluation.instances import Instance, coco_precision
from interp.evaluation.overlap import to_rles

SIZE = (20, 24)
CATEGORIES = ("dog", "cat")


def precision_by_hand(truth, found, threshold):
    """AP at one IoU, mean over categories: greedy matching per image by score, 101 points of recall (no crowds)."""
    result = []
    for category in sorted({t["category"] for t in truth}):
        true = [t for t in truth if t["category"] == category]
        ranked = sorted((f for f in found if f["category"] == category), key=lambda f: -f["score"])
        used, hits = set(), []
        for f in ranked:
            best, place = threshold, None
            for i, t in enumerate(true):
                if t["image"] == f["image"] and i not in used:
                    iou = (t["mask"] & f["mask"]).sum() / (t["mask"] | f["mask"]).sum()
                    if iou >= best:
                        best, place = iou, i
            hits.append(place is not None)
            used |= {place} - {None}
        tp = np.cumsum(hits)
        recall, precision = tp / len(true), tp / np.arange(1, len(hits) + 1)
        at = [
            max((p for r, p in zip(recall, precision, strict=True) if r >= x), default=0.0)
            for x in np.linspace(0, 1, 101)
        ]
        result.append(np.mean(at))
    return np.mean(result)


def random_case(seed):
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in ("3", "12", "7"):
        for some, n in ((truth, 3), (found, 5)):
            for mask in blobs(rng, n, SIZE):
                some.append(
                    {"image": image, "category": CATEGORIES[rng.integers(2)], "mask": mask, "score": rng.random()}
                )
        for t in truth[-3:-1]:  # so that something is found
            moved = np.roll(t["mask"], rng.integers(0, 3), axis=int(rng.integers(2)))
            found.append({**t, "mask": moved, "score": rng.random()})
    return truth, found


def of(cases):
    return [Instance(c["image"], c["category"], to_rles(c["mask"][None])[0], c["score"]) for c in cases]


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_equals_its_definition(seed):
    truth, found = random_case(seed)
    stats = coco_precision(of(truth), of(found))
    assert stats["ap50"] == pytest.approx(precision_by_hand(truth, found, 0.5), abs=1e-9)
    assert stats["ap75"] == pytest.approx(precision_by_hand(truth, found, 0.75), abs=1e-9)
    every = [precision_by_hand(truth, found, t) for t in np.linspace(0.5, 0.95, 10)]
    assert stats["ap"] == pytest.approx(np.mean(every), abs=1e-9)
    assert np.isnan(stats["ap_large"])  # nothing of 96 x 96 pixels is there


def test_perfect_masks_have_precision_one_and_none_have_zero():
    truth, _ = random_case(0)
    assert coco_precision(of(truth), of(truth))["ap"] == pytest.approx(1)
    assert coco_precision(of(truth), [])["ap"] == 0
    assert np.isnan(coco_precision([], of(truth))["ap"])


def test_a_detection_on_a_crowd_is_neither_right_nor_wrong():
    mask, other = np.zeros((2, *SIZE), bool)
    mask[2:8, 2:8], other[10:18, 10:20] = True, True
    truth = [Instance("1", "dog", to_rles(mask[None])[0]), Instance("1", "dog", to_rles(other[None])[0], crowd=True)]
    found = [Instance("1", "dog", to_rles(m[None])[0], s) for m, s in ((other, 0.9), (mask, 0.5))]
    assert coco_precision(truth, found)["ap50"] == pytest.approx(1)


def test_points_count_inside_the_union_of_their_category_alone():
    dog, far, cat = np.zeros((3, *SIZE), bool)
    dog[2:5, 2:5], far[10:15, 10:15], cat[16:19, 2:9] = True, True, True
    truths = [(name, to_rles(m[None])[0]) for name, m in (("dog", dog), ("dog", far), ("cat", cat))]
    points = np.array([[3.0, 3.0], [12.0, 14.0], [4.0, 17.0], [4.0, 17.0], [np.nan, np.nan], [3.0, 3.0], [99.0, 3.0]])
    names = ["dog", "dog", "cat", "dog", "dog", None, "dog"]
    hits = instances.point_accuracy(points, names, truths, SIZE)
    np.testing.assert_array_equal(hits, [1, 1, 1, 0, np.nan, np.nan, 0])


def test_a_root_word_takes_the_nearest_category_from_the_threshold_on():
    table = {"dog": [1.0, 0.0], "cat": [0.6, 0.8], "puppy": [0.9, 0.1], "cloud": [-1.0, 0.1], "blob": [0.0, 0.0]}

    def vectors(texts):
        return np.array([table[t] for t in texts])

    said = [phrase("a puppy"), phrase("the Cat", "Cat"), phrase("a cloud"), phrase("a blob")]
    assert instances.categories_of(said, CATEGORIES, vectors) == ["dog", "cat", None, None]
    assert instances.categories_of(said[:1], CATEGORIES, vectors, threshold=0.999) == [None]
    assert instances.categories_of(said, [], vectors) == [None] * 4


def test_without_word_vectors_the_nouns_themselves_are_compared():
    said = [phrase("two dogs"), phrase("a teddy bear"), phrase("the sky")]
    assert instances.categories_of(said, ("dog", "bear", "teddy bear"), None) == ["dog", "teddy bear", None]


def test_a_data_set_is_scored_and_says_how_words_were_matched(make_record):
    dog, cat = np.zeros((2, *SIZE), bool)
    dog[2:8, 2:8], cat[10:18, 10:20] = True, True
    first = make_record(
        [("a dog", dog), ("a tree", cat)], [("dog", dog), ("cat", cat)], points=[(3.0, 3.0), None], scores=[0.9, 0.8]
    )
    second = make_record([], [("dog", dog)], sample_id="2", failed="no noun phrase")
    result = instances.evaluate([first, second], vectors=None)
    measures = result.measures.set_index("measure")
    assert measures.loc["pacc", "value"] == 1 and measures.loc["pacc", "n"] == 1
    assert measures.loc["categories_named", "value"] == pytest.approx(1 / 3)
    assert measures.loc["ap50", "value"] == pytest.approx((51 / 101 + 0) / 2)  # one of two dogs, none of one cat
    assert "no word vectors" in measures.loc["ap", "note"]
    assert result.samples["failed"].tolist() == ["", "no noun phrase"]
