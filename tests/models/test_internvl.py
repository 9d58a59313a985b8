"""What InternVL's checkpoints differ in beside the image: their language models, and tiles of another size."""

import copy

import pytest
from tiny_models import internvl, measures
from tiny_models.measures import SIZES

import interp
from interp.answer.layers import layers_with_heads

CLOSE = 1e-5
"""Of rows, and of log-probabilities in nats."""
HYBRID = {
    "model_type": "qwen3_5_text", "num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
SINKS = {
    "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip
TEXTS = {"InternVL3": ({"model_type": "qwen2"}, (0, 1, 2)), "20B-A4B": (SINKS, (0, 1, 2)), "hybrid": (HYBRID, (1, 3))}


@pytest.mark.parametrize("name", TEXTS)
def test_rows_and_effects_are_right_over_each_language_model(name):
    text, layers = TEXTS[name]
    lmm = interp.wrap(*internvl.build(**text))
    assert tuple(layers_with_heads(lmm)) == layers
    for query in ("predicting", "self"):
        assert max(measures.three_ways(lmm, query)) < CLOSE
        rows, nats = measures.together_and_alone(lmm, query, "reference")
        assert rows < CLOSE
        # The hybrid's own padded pass is 5e-5 nats from a single one in float32, and 3e-14 in float64.
        assert nats < CLOSE or name == "hybrid"
    across, same_kernel, bits = measures.from_eager(lmm)
    assert across < CLOSE and same_kernel < 1e-6 and bits
    got, by_hand = measures.effects(lmm, "answer")
    assert abs(got - by_hand).max() < 2e-5 and abs(got).max() > 1e-4


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{"size": {"height": 48, "width": 48}}, {"min_patches": 2, "max_patches": 12}])
def test_tiles_of_another_size_and_number_lie_where_the_grid_names_them(options, size):
    model, processor = internvl.build()
    processor = copy.copy(processor)
    processor.image_seq_length = 9 if "size" in options else 4
    lmm = interp.wrap(model, processor, processor_options=options)
    tried = list(measures.markers(lmm, SIZES[size]))
    alone = "size" in options and size == "square"  # four tiles would have more than twice its pixels
    assert {view for view, *_ in tried} == ({"main"} if alone else {"main", "thumbnail"})
    assert not [marker for marker in tried if not marker[-1]]


def test_a_processor_that_counts_other_tokens_than_the_model_makes_is_named():
    model, processor = internvl.build()
    processor.image_seq_length = 9
    lmm = interp.wrap(model, processor)
    inputs = lmm.inputs([measures.photo((30, 92))], [lmm.template(measures.PROMPT)])
    with pytest.raises(ValueError, match=r"holds 36 image tokens, .* gives 4 squares of 2 x 2 = 16; model and"):
        lmm.grid((30, 92), inputs)
