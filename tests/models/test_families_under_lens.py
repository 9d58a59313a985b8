"""Every family under TransformerLens's hooks, or the reason why not."""

import pytest
import tiny_models
import torch
from tiny_models import measures

import interp
from interp import plugins
from interp.answer.lens import LensMissing


@pytest.mark.parametrize("name", plugins.names("models"))
def test_a_bridge_sees_what_a_capture_sees_or_says_why_not(name):
    pytest.importorskip("transformer_lens")
    lmm, before = interp.wrap(*tiny_models.build(name)), torch.__version__
    try:
        assert measures.lens(lmm) < 1e-5
    except LensMissing as error:
        assert "torchvision" in str(error)
    except ValueError as error:
        assert f"no adapter for {type(lmm.model).__name__}; it has one for" in str(error)
    assert torch.__version__ == before
