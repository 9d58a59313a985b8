"""Records made without a model."""

import pytest
from evaluation_cases import phrase

from interp.evaluation.overlap import to_rles
from interp.evaluation.result import Found, Record, Truth


@pytest.fixture
def make_record():
    """Record of lists of (phrase, mask); a true one may have a third entry with more of its fields."""

    def make(found, truth, size=(20, 24), sample_id="1", points=None, scores=None, **more):
        points = points or [None] * len(found)
        scores = scores or [None] * len(found)
        rles = [to_rles(mask[None])[0] for _, mask in found]
        return Record(
            sample_id=sample_id,
            image_id=more.pop("image_id", sample_id),
            size=size,
            answer=more.pop("answer", "a dog"),
            found=tuple(Found(phrase(t), r, p, s) for (t, _), r, p, s in zip(found, rles, points, scores, strict=True)),
            truths=tuple(Truth(t[0], to_rles(t[1][None])[0], **(t[2] if len(t) > 2 else {})) for t in truth),
            **more,
        )

    return make
