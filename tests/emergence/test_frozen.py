"""Features that are remembered are those that would be computed again, and never those of other weights."""

import numpy as np
import pytest
import torch

import interp
from interp.emergence.frozen import inputs_cache, vision_cache
from interp.types import Sample


def samples(n=5):
    rng = np.random.default_rng(0)
    return [
        Sample(f"s{i}", rng.integers(0, 256, (40, 44, 3), dtype=np.uint8), "What is it?", "A brown dog sits.")
        for i in range(n)
    ]


def attention(lmm, **options):
    return torch.stack([c.attention for c in interp.captures(lmm, samples(), batch=2, **options)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_captures_with_and_without_the_cache_are_equal_bit_for_bit(tiny_lmm, dtype):
    tiny_lmm.model.to(dtype)
    before = attention(tiny_lmm)
    with vision_cache(tiny_lmm.model) as cache:
        assert torch.equal(attention(tiny_lmm), before) and (cache.hits, cache.misses) == (0, 3)
        calls = []
        hook = tiny_lmm.model.model.vision_tower.encoder.layers[0].register_forward_hook(lambda *a: calls.append(1))
        assert torch.equal(attention(tiny_lmm), before) and (cache.hits, cache.misses) == (3, 3)
        hook.remove()
        assert not calls  # the tower did not run
    assert "forward" not in vars(tiny_lmm.model.model.vision_tower)
    assert torch.equal(attention(tiny_lmm), before)


def test_a_changed_projector_keeps_the_features_and_a_changed_tower_loses_them(tiny_lmm):
    with vision_cache(tiny_lmm.model) as cache:
        attention(tiny_lmm)
        with torch.no_grad():
            tiny_lmm.model.model.multi_modal_projector.linear_1.weight *= 1.5
        assert cache.refresh()
        kept = attention(tiny_lmm)
        with torch.no_grad():
            tiny_lmm.model.model.vision_tower.encoder.layers[0].mlp.fc1.weight *= 1.5
        assert not cache.refresh()
        anew = attention(tiny_lmm)
        assert cache.misses == 6 and not torch.equal(anew, kept)
    assert torch.equal(attention(tiny_lmm), anew)


def test_a_full_cache_computes_what_it_cannot_keep(tiny_lmm):
    before = attention(tiny_lmm)
    with vision_cache(tiny_lmm.model, budget=0) as cache:
        for _ in range(2):
            assert torch.equal(attention(tiny_lmm), before)
        assert cache.misses == 6 and cache.bytes == 0


def test_inputs_are_prepared_once_and_are_the_same(tiny_lmm, monkeypatch):
    """Else a series of checkpoints processes every image again, or a cached input is not the image's own."""
    lmm = tiny_lmm
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(2)]
    texts = [lmm.family.template(lmm.processor, "Describe the image.")] * 2
    fresh, other = lmm.inputs(images, texts), lmm.inputs(images[::-1], texts)
    counted, prepare = [], lmm.family.prepare
    monkeypatch.setattr(lmm.family, "prepare", lambda *given: counted.append(1) or prepare(*given))
    with inputs_cache(lmm):
        first = lmm.inputs(images, texts)
        first["pixel_values"].zero_()  # what a user does with them is no concern of the cache
        again, turned = lmm.inputs(images, texts), lmm.inputs(images[::-1], texts)
    assert len(counted) == 2, "the same images with the same texts are prepared once"
    assert "inputs" not in vars(lmm)
    for name, tensor in fresh.items():
        assert torch.equal(again[name], tensor)
        assert torch.equal(turned[name], other[name])
