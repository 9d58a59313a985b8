"""Every family under TransformerLens's hooks, or the reason why not."""

import numpy as np
import pytest
import tiny_models
import torch

import interp
from interp import plugins
from interp.answer.lens import LensMissing


@pytest.mark.parametrize("name", plugins.names("models"))
def test_a_bridge_sees_what_a_capture_sees_or_says_why_not(name):
    pytest.importorskip("transformer_lens")
    model, processor = tiny_models.build(name)
    lmm, before = interp.wrap(model, processor), torch.__version__
    image = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    try:
        bridge = interp.to_lens(lmm)
    except LensMissing as error:
        assert "torchvision" in str(error) and torch.__version__ == before
        return
    except ValueError as error:
        assert f"no adapter for {type(model).__name__}; it has one for" in str(error)
        return
    asked = interp.lens_prompt(lmm, image, "What is it?", "A brown dog.")
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(asked.input_ids, **asked.inputs)
    got = asked.capture(cache, logits)
    want = interp.capture(lmm, image, "What is it?", "A brown dog.", tokens="all")
    torch.testing.assert_close(got.attention, want.attention, atol=1e-5, rtol=0)
    np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-5)
    assert (got.elsewhere is None) == (want.elsewhere is None)
    if want.elsewhere is not None:
        torch.testing.assert_close(got.elsewhere, want.elsewhere, atol=1e-5, rtol=0)
