"""Null masks come from other images, have a similar area and lie where they would lie on this image's grid."""

import numpy as np
import pytest

from interp.answer.maps import coverage
from interp.statistics.nulls import MaskPool, _said, draw, halves, partners, stack
from interp.types import PatchGrid, Sample, Target


def sample(name, *masks):
    image = np.zeros((*masks[0].shape, 3), dtype=np.uint8)
    return Sample(name, image, "prompt", None, tuple(Target(f"thing {i}", m) for i, m in enumerate(masks)))


def box(height, width, y0, y1, x0, x1):
    """A mask of these shares of an image."""
    mask = np.zeros((height, width), dtype=bool)
    mask[int(y0 * height) : int(y1 * height), int(x0 * width) : int(x1 * width)] = True
    return mask


def grid(rows, cols, area):
    return PatchGrid(np.zeros((rows, cols), dtype=np.int64), tuple(float(x) for x in area))


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    made = []
    for i in range(60):
        side = rng.uniform(0.1, 0.6)
        y, x = rng.uniform(0, 1 - side, 2)
        made.append(sample(f"image {i:02d}", box(96, 192, y, y + side, x, x + side)))
    return made


def test_null_masks_never_come_from_the_same_image():
    """Image a alone has masks at the top; none of its nulls may cover the top row."""
    top, bottom = box(96, 96, 0, 0.25, 0, 1), box(96, 96, 0.75, 1, 0, 1)
    pool = MaskPool.of([sample("a", top, top), *(sample(f"other {i}", bottom) for i in range(10))])
    cells = grid(4, 4, (0, 0, 96, 96))
    nulls = pool.of_others("a", 0, 0.25, (96, 96), cells, 8, seed=0)
    assert nulls.shape == (8, 4, 4)
    assert nulls[:, 0].max() == 0
    assert nulls[:, 3].min() == 1
    assert pool.usual_places("a", (96, 96), cells)[0].max() == 0
    assert pool.usual_places("other 0", (96, 96), cells)[0].tolist() == pytest.approx([2 / 11] * 4)


def test_null_masks_have_a_similar_area(samples):
    pool, cells = MaskPool.of(samples), grid(16, 16, (0, 0, 192, 96))
    for area in (0.02, 0.1, 0.3):
        found = pool.of_others("image 00", 0, area, (96, 192), cells, 4, seed=0).mean((1, 2)).numpy()
        every = pool.area[pool.image_ids != "image 00"]
        nearest = np.sort(np.abs(np.log(every / area)))[15]
        assert np.abs(np.log(found / area)).max() < nearest + 0.15


def test_a_null_mask_lies_where_its_image_was_on_a_padded_grid(samples):
    """The grid overhangs the 96 x 192 image above and below; the same mask by way of full-size pixels agrees."""
    one = samples[3]
    pool = MaskPool.of([one, sample("own", box(50, 100, 0, 1, 0, 1))])
    cells = grid(8, 8, (0, -25, 100, 75))
    found = pool.of_others("own", 0, 0.2, (50, 100), cells, 1, seed=0)[0]
    expected = coverage(one.targets[0].mask[None], grid(8, 8, (0, -48, 192, 144)))[0]
    assert abs(found - expected).max() < 0.15  # masks are kept at 96 x 96
    assert found[:2].max() == 0


def test_draws_depend_on_seed_image_and_phrase_alone(samples):
    cells = grid(6, 6, (0, 0, 192, 96))
    pool, turned = MaskPool.of(samples), MaskPool.of(samples[::-1])
    first = pool.of_others("image 05", 1, 0.1, (96, 192), cells, 8, seed=0)
    assert first.equal(turned.of_others("image 05", 1, 0.1, (96, 192), cells, 8, seed=0))
    assert pool.digest() == turned.digest() != MaskPool.of(samples[1:]).digest()
    for other in (("image 06", 1, 0), ("image 05", 2, 0), ("image 05", 1, 1)):
        assert not first.equal(pool.of_others(other[0], other[1], 0.1, (96, 192), cells, 8, seed=other[2]))


def test_too_few_other_images_leave_undefined_masks():
    pool = MaskPool.of([sample("a", box(8, 8, 0, 1, 0, 1)), sample("b", box(8, 8, 0, 1, 0, 1))])
    nulls = pool.of_others("a", 0, 0.5, (8, 8), grid(2, 2, (0, 0, 8, 8)), 3, seed=0)
    assert stack([nulls, nulls[:0]], 3).sum((2, 3)).tolist() == [[4, 0, 0], [0, 0, 0]]


def test_no_targets_give_an_empty_pool():
    pool = MaskPool.of([])
    cells = grid(2, 2, (0, 0, 8, 8))
    assert pool.of_others("a", 0, 0.5, (8, 8), cells, 3, seed=0).shape == (0, 2, 2)
    assert pool.usual_places("a", (8, 8), cells).sum() == 0


def test_every_mask_is_a_null_as_often_as_an_own_mask():
    """So any score of a map that knows nothing has the same sum over own and over null masks, large masks and all."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    area = 0.03 * np.exp(1.3 * rng.normal(size=len(image)))
    found = partners(area, image, 8, rng)
    assert (np.sort(found, axis=0) == np.arange(len(image))[:, None]).all()
    assert (image[found] != image[:, None]).all()
    rank = area.argsort().argsort()
    assert np.median(abs(rank[found] - rank[:, None])) < 8 and abs(rank[found] - rank[:, None]).max() < 40
    score = area**2 + rng.random(len(area))  # whatever the metric makes of a mask
    assert score[found].mean(1).sum() == pytest.approx(score.sum())


def test_masks_of_one_image_alone_have_no_null():
    assert (partners(np.ones(3), np.zeros(3, dtype=int), 4, np.random.default_rng(0)) == -1).all()
    two = partners(np.ones(2), np.arange(2), 4, np.random.default_rng(0))
    assert (two == [[1], [0]]).all()


def test_the_largest_mask_serves_others_as_a_null(samples):
    """Every mask of the pool is drawn for some other one, the largest too."""
    pool, cells = MaskPool.of(samples), grid(8, 8, (0, 0, 192, 96))
    nulls = [
        pool.of_others(s.id, 0, float(s.targets[0].mask.mean()), (96, 192), cells, 8, seed=0).mean((1, 2))
        for s in samples
    ]
    assert np.concatenate(nulls).max() == pytest.approx(pool.area.max(), abs=0.01)
    assert np.stack(nulls).mean() == pytest.approx(pool.area.mean(), abs=0.002)


def test_two_targets_of_one_name_are_one_mask_and_samples_of_one_image_are_one_image():
    top, bottom, left = (box(96, 96, *x) for x in ((0, 0.25, 0, 1), (0.75, 1, 0, 1), (0, 1, 0, 0.25)))
    two = Sample("a", np.zeros((96, 96, 3), np.uint8), "", None, (Target("dog", top), Target("Dog", bottom)))
    pool = MaskPool.of([two, sample("b", left)])
    assert pool.area.tolist() == [0.5, 0.25]
    cells = grid(4, 4, (0, 0, 96, 96))
    assert (pool.of_others("b", 0, 0.25, (96, 96), cells, 2, seed=0) == coverage((top | bottom)[None], cells)).all()


def test_halves_are_of_equal_size_whatever_the_order():
    ids = [f"image {i}" for i in range(41)]
    found = halves(3, ids)
    assert sorted([sum(found.values()), 41 - sum(found.values())]) == [20, 21]
    assert found == halves(3, [*reversed(ids), *ids]) != halves(4, ids)


def test_nulls_of_a_mask_outside_the_pool_are_those_of_sorting_all_others(samples):
    """The plain way, as it is written down: all masks of other images in the order of their areas, for every phrase."""
    rng = np.random.default_rng(1)
    several = [
        sample(s.image_id, *(t.mask for t in s.targets), *(box(96, 192, 0, h, 0, 0.5) for h in rng.uniform(0.1, 1, 3)))
        for s in samples
    ]
    pool = MaskPool.of(several)
    for i, area in enumerate([0.0, 1.0, *pool.area[:5], *rng.uniform(0, 0.6, 200)]):
        image, count = f"image {rng.integers(62):02d}", int(rng.integers(1, 20))
        others = np.flatnonzero(pool.image_ids != image)
        others = others[np.argsort(pool.area[others], kind="stable")]
        smaller = int(np.searchsorted(pool.area[others], area))
        reach = max(min(2 * count, smaller, len(others) - smaller), -(-count // 2))
        near = others[max(smaller - reach, 0) : smaller + reach]
        expected = draw(0, "nulls", image, i).permutation(near)[:count]
        assert pool._around(image, i, float(area), count, 0).tolist() == expected.tolist()


@pytest.mark.parametrize("data", [b"", b"plain", b"a'b", b'a"b', b"a'\"\\\x00\xff" * 7, bytes(range(256)) * 3])
def test_the_key_of_a_pool_is_that_of_all_its_bytes_at_once(data):
    for size in (1, 3, 5, 1 << 20):
        assert b"".join(_said(memoryview(data), size)) == repr(data).encode()
