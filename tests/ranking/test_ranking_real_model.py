"""A grounding head planted in the weights of a real LLaVA, found through the whole chain: processor to p-value."""

from dataclasses import replace

import pytest
from planted import PLANTED, plant, scenes

from interp.ranking.result import NothingToRank
from interp.ranking.study import rank

OPTIONS = {"normalise": "none", "progress": False, "metrics": ["mass_in_mask", "nss"]}


def test_a_head_planted_in_the_weights_comes_first(tiny_lmm):
    samples = scenes(60)
    plant(tiny_lmm, samples[:20])
    ranking = rank(tiny_lmm, samples[20:], **OPTIONS)
    assert not ranking.skipped
    for metric, scores in ranking.scores.items():
        assert scores.top(1) == [PLANTED], metric
        row = ranking.heads.query(f"metric == '{metric}' and layer == 1 and head == 2").iloc[0]
        assert row.p_corrected < 0.05
        assert row.low > row.null
    top = ranking.reductions.set_index(["metric", "heads"])["mean"]
    assert top["nss", "top1"] > top["nss", "paper"]


def test_nothing_is_found_where_the_masks_have_nothing_to_do_with_the_images(tiny_lmm):
    """Also in the model with the planted head: it looks at red patches, and the masks are those of other images."""
    samples = scenes(60)
    plant(tiny_lmm, samples[:20])
    images, masks = samples[20:], scenes(60, seed=1)[20:]
    strangers = [replace(s, targets=m.targets) for s, m in zip(images, masks, strict=True)]
    heads = rank(tiny_lmm, strangers, **OPTIONS).heads
    assert heads.p_corrected.notna().all()
    assert (heads.p_corrected > 0.05).all()


@pytest.mark.filterwarnings("ignore:left out:UserWarning")  # a random model's words, cut off by the limit
def test_what_a_random_model_generates_names_nothing_and_that_is_said(tiny_lmm):
    with pytest.raises(NothingToRank, match=r"3 samples could be scored: [1-3] x"):
        rank(tiny_lmm, scenes(3), answers="generated", max_new_tokens=6, **OPTIONS)
