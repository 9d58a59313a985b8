import numpy as np
import pytest
import torch

import interp
from interp.models import llava

SIDE, PATCH = 96, 8
SIZES = [(200, 120), (120, 200), (96, 96), (37, 53), (101, 150)]


def processors():
    from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil

    square = {"height": SIDE, "width": SIDE}
    return {
        "crop": CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square),
        "crop after a larger resize": CLIPImageProcessorPil(size={"shortest_edge": 115}, crop_size=square),
        "stretch": CLIPImageProcessorPil(size=square, do_center_crop=False),
        "pad": LlavaImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square, do_pad=True),
        "crop without pad": LlavaImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square),
        "crop without resize": CLIPImageProcessorPil(do_resize=False, crop_size=square),
    }


def marked(shape, x, y):
    """A grey image, and where the marker's centre went: pixels at most 2 away from (x, y) are white."""
    image = np.full((*shape, 3), 60, dtype=np.uint8)
    image[max(int(y) - 2, 0) : int(y) + 3, max(int(x) - 2, 0) : int(x) + 3] = 255
    return image


def centroid(processor, shape, x, y):
    """(x, y) of the marker in the processed image, or None where the processor cut it off."""
    from PIL import Image

    images = [Image.fromarray(i) for i in (marked(shape, x, y), np.full((*shape, 3), 60, dtype=np.uint8))]
    with_marker, without = (np.asarray(processor(i, return_tensors="np")["pixel_values"])[0] for i in images)
    weight = np.abs(with_marker - without).sum(0)
    weight[weight < weight.max() / 2] = 0  # leaves out the ringing of the resize
    if weight.sum() < 1:
        return None
    rows, cols = np.indices(weight.shape)
    return ((cols + 0.5) * weight).sum() / weight.sum(), ((rows + 0.5) * weight).sum() / weight.sum()


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", processors())
def test_a_marker_at_a_cells_centre_lands_in_that_patch(name, shape):
    processor = processors()[name]
    x0, y0, x1, y1 = llava.patch_box(processor, shape)
    height, width = llava.processed_size(processor, shape)
    assert (height, width) == (SIDE, SIDE)
    rows, cols = height // PATCH, width // PATCH
    seen = 0
    for row in range(0, rows, 3):
        for col in range(1, cols, 3):
            x, y = x0 + (col + 0.5) / cols * (x1 - x0), y0 + (row + 0.5) / rows * (y1 - y0)
            if not (3 <= x < shape[1] - 3 and 3 <= y < shape[0] - 3):
                continue
            got = centroid(processor, shape, x, y)
            assert got is not None
            # to a third of a patch: a shift of the box by one patch, or by half of one, fails
            assert abs(got[0] - (col + 0.5) * PATCH) < PATCH / 3 and abs(got[1] - (row + 0.5) * PATCH) < PATCH / 3
            seen += 1
    assert seen >= 2


@pytest.mark.parametrize("shape", [(200, 120), (120, 200)])
def test_what_the_crop_cut_off_lies_outside_the_box(shape):
    crop = processors()["crop"]
    x0, y0, x1, y1 = llava.patch_box(crop, shape)
    assert 0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0]
    outside = (10, y0 / 2) if shape[0] > shape[1] else (x0 / 2, 10)
    assert centroid(crop, shape, *outside) is None
    inside = ((x0 + x1) / 2, y0 + 4) if shape[0] > shape[1] else (x0 + 4, (y0 + y1) / 2)
    assert centroid(crop, shape, *inside) is not None


def test_boxes_of_a_wide_image_as_computed_by_hand():
    assert llava.patch_box(processors()["crop"], (100, 200)) == (50.0, 0.0, 150.0, 100.0)
    assert llava.patch_box(processors()["stretch"], (100, 200)) == (0.0, 0.0, 200.0, 100.0)
    assert llava.patch_box(processors()["pad"], (100, 200)) == (0.0, -50.0, 200.0, 150.0)
    assert llava.patch_box(processors()["pad"], (200, 100)) == (-50.0, 0.0, 150.0, 200.0)


def test_pixels_behind_the_last_whole_patch_are_outside_the_box():
    x0, y0, x1, y1 = llava.patch_box(processors()["stretch"], (96, 96), patch=14)  # 6 x 14 = 84 of 96
    assert (x0, y0, x1, y1) == (0.0, 0.0, 84.0, 84.0)


def test_an_unknown_way_to_pad_or_resize_is_refused():
    from transformers import CLIPImageProcessorPil

    with pytest.raises(ValueError, match="CLIPImageProcessorPil pads"):
        llava.patch_box(CLIPImageProcessorPil(do_pad=True), (50, 60))
    with pytest.raises(ValueError, match="expected height and width, or shortest_edge"):
        llava.patch_box(CLIPImageProcessorPil(size={"shortest_edge": 30, "longest_edge": 60}), (50, 60))


def test_the_grid_holds_the_image_tokens_row_by_row(tiny_llava, photo):
    model, processor = tiny_llava
    text = llava.template(processor, "What is on the left?")
    ids = llava.prepare(processor, [photo], [text])["input_ids"][0]
    grid = llava.grid(model, processor, photo.shape[:2], {"input_ids": ids})
    assert grid.shape == (4, 4)
    assert (ids[torch.from_numpy(grid.token_index)] == model.config.image_token_id).all()
    assert (np.diff(grid.token_index.reshape(-1)) == 1).all()


def test_a_kept_class_token_is_no_patch(tiny_llava, photo):
    model, processor = tiny_llava
    processor.vision_feature_select_strategy = "full"
    ids = llava.prepare(processor, [photo], [llava.template(processor, "What?")])["input_ids"][0]
    first = int((ids == model.config.image_token_id).nonzero()[0])
    assert llava.grid(model, processor, photo.shape[:2], {"input_ids": ids}).token_index[0, 0] == first + 1


def test_a_processor_of_another_model_is_refused(tiny_llava, photo):
    model, processor = tiny_llava
    processor.patch_size = 16
    ids = llava.prepare(processor, [photo], [llava.template(processor, "What?")])["input_ids"][0]
    with pytest.raises(ValueError, match=r"4 image tokens.*4 x 4 = 16"):
        llava.grid(model, processor, photo.shape[:2], {"input_ids": ids})


def test_templates(tiny_llava):
    _, processor = tiny_llava
    want = "USER: <image>\nWhat is it? ASSISTANT:"
    assert llava.template(processor, "What is it?") == want
    assert llava.template(processor, want) == want  # a whole template is taken as it is
    processor.chat_template = None
    assert llava.template(processor, "What is it?") == want  # LLaVA-1.5's own
    processor.chat_template = "{{ bos_token }}[INST] <image>\nhi [/INST]"
    assert llava.template(processor, "What?").count("<s>") == 0  # or the text would begin with two
    processor.chat_template = "no place"
    with pytest.raises(ValueError, match="leaves 0 image places"):
        llava.template(processor, "What?")


@pytest.mark.parametrize("prompt, message", [("", "empty"), (" \n", "empty"), ("<image>", "empty")])
def test_empty_prompts_are_refused(tiny_llava, prompt, message):
    with pytest.raises(ValueError, match=message):
        llava.template(tiny_llava[1], prompt)


def test_an_image_as_tall_as_it_has_colours_is_not_turned_over(tiny_llava):
    _, processor = tiny_llava
    image = np.zeros((3, 40, 3), dtype=np.uint8)
    image[:, :, 0] = 255  # red everywhere: three equal columns of pixels if the axes were mistaken
    pixels = llava.prepare(processor, [image], ["<image> a"])["pixel_values"][0]
    assert pixels[0].min() > pixels[1].max()


def test_a_batch_needs_a_padding_token(tiny_llava, photo, monkeypatch):
    from types import SimpleNamespace

    with pytest.raises(ValueError, match="padding token"):
        llava.prepare(SimpleNamespace(tokenizer=SimpleNamespace(pad_token=None)), [photo] * 2, ["a", "b"])


def test_old_processors_learn_the_patch_size_from_the_model(tiny_llava, tmp_path, photo):
    model, processor = tiny_llava
    processor.patch_size = processor.vision_feature_select_strategy = None
    processor.num_additional_image_tokens = 0
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    lmm = interp.load(tmp_path)
    assert interp.capture(lmm, photo, "What?", "A dog.").grid.shape == (4, 4)
