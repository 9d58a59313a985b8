"""SAM, SAM-HQ, SAM 2 and EdgeTAM beside the plain sequence of library calls."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

import interp
from interp.models._hf import BrokenCheckpoint
from interp.plugins import UnknownName
from interp.types import Prompts

MODELS = ("sam", "sam_hq", "sam2", "edgetam")
POINTS = np.array([[[12.0, 10.0], [20.0, 14.0]], [[8.0, 30.0], [4.0, 35.0]], [[45.0, 20.0], [50.0, 3.0]]])
BOXES = np.array([[5.0, 4.0, 30.0, 25.0], [0.0, 20.0, 20.0, 40.0], [30.0, 2.0, 52.0, 39.0]])
KINDS = {
    "point": {"input_points": POINTS[:, :1]},
    "points": {"input_points": POINTS},
    "box": {"input_boxes": BOXES},
    "point and box": {"input_points": POINTS[:, :1], "input_boxes": BOXES},
}


def library(segmenter, image, several, masks=None, **prompts):
    """What the documentation of transformers says to do: processor, model, post-processing, in one call each."""
    given = {name: [value.tolist()] for name, value in prompts.items()}
    inputs = segmenter.processor(images=image, return_tensors="pt", **given)
    sizes = [inputs.pop("original_sizes")]
    if "reshaped_input_sizes" in inputs:
        sizes.append(inputs.pop("reshaped_input_sizes"))
    extra = {} if masks is None else {"input_masks": masks}
    with torch.no_grad():
        out = segmenter.model(**inputs, **extra, multimask_output=several)
    (found,) = segmenter.processor.post_process_masks(out.pred_masks, *sizes)
    return found.numpy(), out.iou_scores[0].numpy()


def asked(kind, logits=None):
    prompts = KINDS[kind]
    return Prompts(
        points=prompts.get("input_points", np.zeros((3, 0, 2))), boxes=prompts.get("input_boxes"), logits=logits
    )


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_masks_equal_those_of_the_librarys_own_calls(tiny_segmenter, picture, name, kind, several):
    segmenter = tiny_segmenter(name)
    found = segmenter.propose(segmenter.embed(picture), asked(kind), several)
    masks, scores = library(segmenter, picture, several, **KINDS[kind])
    assert np.array_equal(found.masks, masks)
    assert np.allclose(found.scores, scores, atol=1e-6)
    assert 0.01 < masks.mean() < 0.99


@pytest.mark.parametrize("name", MODELS)
def test_mask_logits_of_every_phrase_equal_one_library_call_each(tiny_segmenter, picture, hills, name):
    segmenter = tiny_segmenter(name)
    logits = hills[:3] * 8 - 4
    found = segmenter.propose(segmenter.embed(picture), asked("box", logits))
    small = segmenter.mask_input(logits)
    differs = 0
    for i in range(3):
        masks, scores = library(segmenter, picture, True, small[i][None, None], input_boxes=BOXES[i : i + 1])
        assert np.array_equal(found.masks[i], masks[0])
        assert np.allclose(found.scores[i], scores[0], atol=1e-5)
        without, _ = library(segmenter, picture, True, input_boxes=BOXES[i : i + 1])
        differs += int((without != masks).sum())
    assert differs > 0  # the logits say something


def test_mask_input_keeps_the_aspect_as_the_image_does(tiny_segmenter):
    logits = torch.full((1, 40, 80), 3.0)
    small = tiny_segmenter("sam").mask_input(logits)
    assert small.shape == (1, 32, 32)
    assert torch.allclose(small[0, :16], torch.tensor(3.0))
    assert not small[0, 16:].any()
    assert torch.allclose(tiny_segmenter("sam2").mask_input(logits), torch.tensor(3.0))


@pytest.mark.parametrize("name", MODELS)
def test_the_image_is_embedded_once_and_all_phrases_go_in_one_batch(tiny_segmenter, picture, hills, name):
    segmenter, calls = tiny_segmenter(name), {"encoder": 0, "decoder": 0}

    def count(part):
        return lambda *_: calls.__setitem__(part, calls[part] + 1)

    hooks = [
        segmenter.model.vision_encoder.register_forward_hook(count("encoder")),
        segmenter.model.mask_decoder.register_forward_hook(count("decoder")),
    ]
    try:
        embedded = segmenter.embed(picture)
        for logits in (None, hills[:3]):
            segmenter.propose(embedded, asked("point", logits))
    finally:
        [hook.remove() for hook in hooks]
    assert calls == {"encoder": 1, "decoder": 2}


def test_phrases_with_unlike_prompts_each_get_their_own(tiny_segmenter, picture):
    segmenter = tiny_segmenter("sam")
    embedded = segmenter.embed(picture)
    points = POINTS.copy()
    points[1, 1] = np.nan
    points[2] = np.nan
    boxes = BOXES.copy()
    boxes[:2] = np.nan
    found = segmenter.propose(embedded, Prompts(points=points, boxes=boxes))
    two, one = (segmenter.propose(embedded, Prompts(points=POINTS[:, :k])) for k in (2, 1))
    assert np.array_equal(found.masks[0], two.masks[0])
    assert np.array_equal(found.masks[1], one.masks[1])
    assert np.array_equal(found.masks[2], segmenter.propose(embedded, asked("box")).masks[2])


@pytest.mark.parametrize("name", ["sam", "sam_hq", "sam2"])
def test_a_saved_segmenter_loads_from_its_folder_by_kind_and_by_folder(tiny_segmenter, picture, tmp_path, name):
    segmenter = tiny_segmenter(name)
    segmenter.model.save_pretrained(tmp_path)
    segmenter.processor.save_pretrained(tmp_path)
    expected = segmenter.propose(segmenter.embed(picture), asked("point"))
    for loaded in (
        interp.load_segmenter(name, str(tmp_path), device="cpu"),
        interp.load_segmenter(str(tmp_path), device="cpu"),
    ):
        found = loaded.propose(loaded.embed(picture), asked("point"))
        assert np.array_equal(found.masks, expected.masks)


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_segmenter, tmp_path):
    from safetensors.torch import load_file, save_file

    segmenter = tiny_segmenter("sam")
    segmenter.model.save_pretrained(tmp_path)
    segmenter.processor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("mask_decoder.upscale_conv1.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BrokenCheckpoint, match="upscale_conv1"):
        interp.load_segmenter(str(tmp_path), device="cpu")


def test_unknown_segmenters_are_named_with_those_that_exist(tmp_path):
    with pytest.raises(UnknownName, match="threshold"):
        interp.load_segmenter("treshold")
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(UnknownName, match="llava"):
        interp.load_segmenter(str(tmp_path))


def test_mini_sam_is_the_default_where_it_ships_and_threshold_elsewhere(tiny_segmenter, tmp_path, monkeypatch, picture):
    monkeypatch.setenv("INTERP_DATA", str(tmp_path))
    assert interp.load_segmenter().name == "threshold"
    segmenter = tiny_segmenter("sam")
    segmenter.model.save_pretrained(tmp_path / "mini-sam")
    segmenter.processor.save_pretrained(tmp_path / "mini-sam")
    assert interp.load_segmenter(device="cpu").name == "mini-sam"


def test_edgetam_says_that_it_needs_timm():
    if find_spec("timm"):
        pytest.skip("timm is installed")
    with pytest.raises(ImportError, match="timm"):
        interp.load_segmenter("edgetam")


def test_weights_saved_in_half_precision_run_in_single(tiny_segmenter, tmp_path):
    import copy

    segmenter = tiny_segmenter("sam")
    copy.deepcopy(segmenter.model).bfloat16().save_pretrained(tmp_path)
    segmenter.processor.save_pretrained(tmp_path)
    assert interp.load_segmenter(str(tmp_path), device="cpu").model.dtype == torch.float32
    assert interp.load_segmenter(str(tmp_path), device="cpu", dtype=torch.bfloat16).model.dtype == torch.bfloat16
