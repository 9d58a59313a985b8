"""Pixtral 12B: a LLaVA whose vision tower takes images of any shape; held to what the families are held to."""

import pytest
from tiny_models import measures, parts

import interp
from interp.models._pixtral import processor_class

MARKS = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
CLOSE = 1e-5


@pytest.fixture(scope="module")
def lmm():
    """Patches of 8 pixels of images of at most 64 pixels a side, a token each."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, PixtralImageProcessorPil

    tokens = parts.tokenizer(*MARKS)
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "head_dim": 8, "image_size": 64, "patch_size": 8}  # fmt: skip
    config = LlavaConfig(
        text_config={"model_type": "mistral", **parts.text(tokens, sliding_window=None)}, vision_config=vision,
        image_token_index=tokens.convert_tokens_to_ids(MARKS[0]), vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    processor = processor_class()(
        image_processor=PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8}),
        tokenizer=tokens, patch_size=8, chat_template=parts.chat(MARKS[0]),
    )  # fmt: skip
    return interp.wrap(parts.finished(LlavaForConditionalGeneration, config, tokens, 0, spread=0.15), processor)


@pytest.mark.parametrize("size", measures.SIZES)
def test_a_marker_in_the_image_moves_the_very_token_that_the_grid_names(size, lmm):
    tried = list(measures.markers(lmm, measures.SIZES[size]))
    assert tried and not [marker for marker in tried if not marker[-1]]


@pytest.mark.parametrize("query", ["predicting", "self"])
def test_rows_are_the_same_over_the_cache_anew_streaming_in_batches_and_under_eager(query, lmm):
    assert max(measures.three_ways(lmm, query)) < CLOSE
    assert max(measures.together_and_alone(lmm, query, "reference")) < CLOSE
    across, same_kernel, bits = measures.from_eager(lmm)
    assert across < CLOSE and same_kernel < 1e-6 and bits


def test_effects_are_those_of_whole_passes_and_a_saved_model_loads(lmm, tmp_path):
    got, by_hand = measures.effects(lmm, "answer")
    assert abs(got - by_hand).max() < 2e-5 and abs(got).max() > 1e-4
    lmm.model.save_pretrained(tmp_path)
    lmm.processor.save_pretrained(tmp_path)
    image = measures.photo((41, 83))
    loaded = interp.load(tmp_path, device="cpu")
    given, wanted = (x.inputs([image], [x.template(measures.PROMPT)]) for x in (loaded, lmm))
    assert given["pixel_values"].equal(wanted["pixel_values"]) and given["input_ids"].equal(wanted["input_ids"])
