import numpy as np
import pytest
import torch

import interp
from interp.models import _hf, llava_next

TILE, PATCH = 32, 8
RESOLUTIONS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
SIZES = [(64, 64), (40, 100), (100, 40), (55, 70), (123, 97), (20, 90)]


@pytest.fixture(scope="module")
def model():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=PATCH,
        projection_dim=16,
    )
    text = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    config = LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=4, image_grid_pinpoints=RESOLUTIONS
    )
    model = LlavaNextForConditionalGeneration(config).eval()
    model.generation_config.suppress_tokens = [4, *range(150, 300)]
    return model


@pytest.fixture(scope="module")
def processor(tiny_tokenizer):
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

    assert tiny_tokenizer.convert_tokens_to_ids("<image>") == 4
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}, image_grid_pinpoints=RESOLUTIONS
    )
    return LlavaNextProcessor(
        image_processor=images,
        tokenizer=tiny_tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="[INST] <image>\n{{ messages[0]['content'][1]['text'] }} [/INST]",
    )


def pixels_of(processor, image):
    return _hf.prepare(processor, [image], ["<image> a"])["pixel_values"][0].numpy()


def packed_position(model, tile, row, col, shape, tiles):
    """Where transformers' own packing puts a patch of a tile among the image's tokens; None if it is cut off."""
    side = TILE // PATCH
    features = torch.arange(tiles * side * side, dtype=torch.float32).reshape(tiles, side * side, 1)
    packed, _ = model.model.pack_image_features(
        [features], [list(shape)], "default", image_newline=torch.tensor([-1.0])
    )
    at = (packed[0][:, 0] == tile * side * side + row * side + col).nonzero()
    return int(at) if len(at) else None


@pytest.mark.parametrize("shape", SIZES)
def test_a_marker_at_a_cells_centre_is_in_that_cells_token(model, processor, shape):
    ids = _hf.prepare(processor, [np.zeros((*shape, 3), np.uint8)], ["a <image> b"])["input_ids"][0]
    grid = llava_next.grid(model, processor, shape, {"input_ids": ids})
    first = int((ids == 4).nonzero()[0])
    x0, y0, x1, y1 = grid.box
    plain = np.full((*shape, 3), 60, dtype=np.uint8)
    before, seen = pixels_of(processor, plain), 0
    for row in range(grid.shape[0]):
        for col in range(grid.shape[1]):
            x, y = x0 + (col + 0.5) / grid.shape[1] * (x1 - x0), y0 + (row + 0.5) / grid.shape[0] * (y1 - y0)
            if not (1 <= x < shape[1] - 1 and 1 <= y < shape[0] - 1):
                continue
            image = plain.copy()
            image[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 255
            change = np.abs(pixels_of(processor, image) - before).sum(1)[1:]  # without the whole image
            tile, at_y, at_x = np.unravel_index(change.argmax(), change.shape)
            place = packed_position(model, tile + 1, at_y // PATCH, at_x // PATCH, shape, len(before))
            assert first + place == grid.token_index[row, col]
            seen += 1
    assert seen > grid.token_index.size / 2


@pytest.mark.parametrize("shape", SIZES)
def test_the_grid_covers_the_image_and_at_most_a_cell_of_padding(model, processor, shape):
    rows, cols, (x0, y0, x1, y1) = llava_next.fine_grid(shape, RESOLUTIONS, TILE, PATCH)
    cell_x, cell_y = (x1 - x0) / cols, (y1 - y0) / rows
    assert -cell_x < x0 <= cell_x and -cell_y < y0 <= cell_y
    assert shape[1] - cell_x <= x1 < shape[1] + cell_x and shape[0] - cell_y <= y1 < shape[0] + cell_y


def test_the_box_of_a_wide_image_by_hand():
    # 40 x 100 fits 32 x 96 as 32 x 80 (scale 0.8) with 8 pixels, one column of patches, cut off at either side.
    assert llava_next.fine_grid((40, 100), RESOLUTIONS, TILE, PATCH) == (4, 10, (0.0, 0.0, 100.0, 40.0))


def test_captures_of_images_with_different_grids_equal_single_ones(model, processor):
    from interp.types import Sample

    lmm = interp.wrap(model, processor)
    rng = np.random.default_rng(0)
    samples = [
        Sample(str(s), rng.integers(0, 256, (*s, 3), dtype=np.uint8), "What is it?", "A dog on a chair.") for s in SIZES
    ]
    for got, sample in zip(interp.captures(lmm, samples, batch=3), samples, strict=True):
        alone = interp.capture(lmm, sample.image, sample.prompt, sample.answer)
        assert got.grid.shape == alone.grid.shape and got.attention.isfinite().all()
        torch.testing.assert_close(got.attention, alone.attention, atol=1e-5, rtol=0)


def test_generated_answers_are_replayed_over_the_cache(model, processor):
    lmm = interp.wrap(model, processor)
    image = np.random.default_rng(1).integers(0, 256, (55, 70, 3), dtype=np.uint8)
    replayed, streamed = (
        interp.capture(lmm, image, "What is it?", tokens="all", streaming=s, max_new_tokens=6, phrases=[])
        for s in (False, True)
    )
    torch.testing.assert_close(replayed.attention, streamed.attention, atol=1e-5, rtol=0)


def test_a_transformer_lens_bridge_sees_the_same(model, processor):
    pytest.importorskip("transformer_lens")
    lmm, answer = interp.wrap(model, processor), "A dog on a chair."
    image = np.random.default_rng(0).integers(0, 256, (55, 70, 3), dtype=np.uint8)
    bridge, asked = interp.to_lens(lmm), interp.lens_prompt(lmm, image, "What is it?", answer)
    assert {id(x) for x in bridge.parameters()} == {id(x) for x in model.parameters()}
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(asked.input_ids, **asked.inputs)
        own = model(input_ids=asked.input_ids, **asked.inputs).logits
    want = interp.capture(lmm, image, "What is it?", answer, tokens="all")
    torch.testing.assert_close(logits, own, atol=1e-5, rtol=0)
    torch.testing.assert_close(asked.capture(cache).attention, want.attention, atol=1e-5, rtol=0)


def test_text_and_image_that_do_not_belong_together_are_refused(model, processor):
    ids = _hf.prepare(processor, [np.zeros((40, 100, 3), np.uint8)], ["<image> a"])["input_ids"][0]
    with pytest.raises(ValueError, match="do not belong together"):
        llava_next.grid(model, processor, (100, 100), {"input_ids": ids})


def test_without_a_chat_template_a_whole_text_is_asked_for(processor, monkeypatch):
    monkeypatch.setattr(processor, "chat_template", None)
    with pytest.raises(ValueError, match="no chat template"):
        _hf.template(processor, "What?")
    assert _hf.template(processor, "[INST] <image> a [/INST]") == "[INST] <image> a [/INST]"


def test_it_loads_from_a_folder(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    lmm = interp.load(tmp_path)
    assert lmm.family is llava_next and (lmm.layers, lmm.heads) == (2, 4)
