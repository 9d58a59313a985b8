"""Attend-and-segment beside the plain sequence of steps of arXiv 2410.08209 and of its released code."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.report.segmentation import inside
from interp.segmentation.exports import coco_results, gcg
from interp.segmentation.method import INVISIBLE, Method, method_of
from interp.segmentation.prompts import boxes_of, peak_points, prompts_of
from interp.types import Capture, PatchGrid, Phrase, PhraseMaps, Proposals, Segmentation

ANSWER = "A brown dog and a small table in the image."
HEIGHT, WIDTH = 40, 52


def phrase(text, root, tokens, lemma=None):
    start = ANSWER.index(root)
    return Phrase(text, root, lemma or root, start, start + len(root), tokens)


PHRASES = (phrase("A brown dog", "dog", (2,)), phrase("a small table", "table", (6, 7)))
IMAGE_PHRASE = phrase("the image", "image", (9,))


@pytest.fixture
def recorded():
    """A capture of 11 tokens, 3 layers x 4 heads, 6 x 6 patches over the image padded to a square of 52 pixels."""
    generator = torch.Generator().manual_seed(3)
    attention = torch.rand(11, 3, 4, 6, 6, generator=generator) ** 3 * 1e-3
    return Capture(
        sample_id="7", prompt="Describe the image.", answer=ANSWER, tokens=tuple("abcdefghijk"),
        grid=PatchGrid(np.arange(36).reshape(6, 6), (0.0, -6.0, 52.0, 46.0)), query="predicting",
        kept=np.arange(11), attention=attention, mean=attention.mean(0), phrases=PHRASES,
    )  # fmt: skip


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def sam():
    """A SAM of random weights far from zero, 32 pixels, with its processor; and the segmenter around both."""
    from transformers import (
        SamConfig,
        SamMaskDecoderConfig,
        SamModel,
        SamProcessor,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    from interp.segmenters._hf import SamLike

    vision = SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=4,
        window_size=4, global_attn_indexes=[1], num_pos_feats=8,
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(hidden_size=16, image_size=32, patch_size=4, mask_input_channels=8)
    decoder = SamMaskDecoderConfig(hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    square = {"height": 32, "width": 32}
    processor = SamProcessor(SamImageProcessorPil(size={"longest_edge": 32}, pad_size=square))
    return SamLike(model.eval(), processor)


END = torch.rand(3, 4, 6, 6, generator=torch.Generator().manual_seed(9)) ** 3 * 2e-3


def ended(recorded):
    """The same capture with the row that predicts the end of the answer in its mean."""
    return replace(recorded, mean=torch.cat([recorded.attention, END[None]]).mean(0), end=True)


def plain_scores(recorded, released):
    """The released code's steps on the rows: heads, mean over tokens off, mean over the root's tokens, upsampling."""
    rows = torch.cat([recorded.attention, END[None]])  # the step that predicts the end of the answer is one of them
    rows = rows[:, :, -2] if released else rows.flatten(1, 2)
    rows = rows.mean(1)
    rows = rows - rows.mean(0)
    scores = torch.stack([rows[list(p.tokens)].mean(0) for p in PHRASES])
    large = torch.nn.functional.interpolate(scores[None], size=(WIDTH, WIDTH), mode="bicubic", align_corners=False)[0]
    start = (WIDTH - HEIGHT) // 2
    return large[:, start : start + HEIGHT]


def plain_masks(sam, picture, extra=None, **prompts):
    inputs = sam.processor(picture, return_tensors="pt", **prompts)
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    with torch.no_grad():
        out = sam.model(**inputs, **(extra or {}), multimask_output=True)
    (masks,) = sam.processor.post_process_masks(out.pred_masks, *sizes)
    return masks.numpy(), out.iou_scores[0].numpy()


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_a_preset_gives_the_points_and_masks_of_the_plain_sequence_of_steps(recorded, picture, sam, preset):
    scores = plain_scores(recorded, preset == "released")
    index = scores.reshape(2, -1).argmax(1)
    points = torch.stack([index % WIDTH, index // WIDTH], 1)
    masks, ious = plain_masks(sam, picture, input_points=[points[:, None].tolist()])
    made = interp.segment_capture(ended(recorded), picture, sam, method=method_of(preset))
    assert np.array_equal(made.points, points.numpy())
    assert np.array_equal(made.masks, masks[:, -1])
    assert np.allclose(made.confidence, ious[:, -1], atol=1e-6)
    assert made.image_size == (HEIGHT, WIDTH)
    assert not made.skipped


def test_the_two_presets_differ(recorded, picture, sam):
    paper, released = (
        interp.segment_capture(ended(recorded), picture, sam, method=method_of(name)) for name in ("paper", "released")
    )
    assert not np.array_equal(paper.points, released.points)


def test_the_released_second_mode_gives_the_masks_of_the_plain_sequence_of_steps(recorded, picture, sam):
    shares = (plain_scores(recorded, True) / 0.0002).numpy()
    boxes = []
    for share in shares:
        rows, cols = np.where(share > 0.75)
        boxes.append([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1])
    clipped = np.clip(shares, 0.001, 0.999)
    logits = torch.tensor(np.log(clipped / (1 - clipped)))
    small = torch.nn.functional.interpolate(logits[None], (int(HEIGHT / WIDTH * 32), 32), mode="bicubic")[0]
    small = torch.nn.functional.pad(small, (0, 0, 0, 32 - small.shape[1]))
    made = interp.segment_capture(ended(recorded), picture, sam, method=method_of("released", prompting="mask"))
    assert np.array_equal(made.boxes, boxes)
    for i in range(2):
        masks, _ = plain_masks(sam, picture, {"input_masks": small[i][None, None]}, input_boxes=[[boxes[i]]])
        assert (made.masks[i] != masks[0, -1]).mean() < 1e-3  # a pixel on the border may fall to the other side


def test_corners_are_lowered_as_the_released_code_does(recorded, picture):
    attention = recorded.attention.clone()
    attention[2, ..., 0, 0] = 1.0
    corner = replace(recorded, attention=attention, mean=attention.mean(0))
    segmenter = interp.load_segmenter("threshold")
    as_it_is = interp.segment_capture(corner, picture, segmenter)
    assert as_it_is.points[0, 0] < 9
    lowered = interp.segment_capture(corner, picture, segmenter, remove_corners=True)
    scores = (attention.mean((1, 2)) - attention.mean((0, 1, 2)))[[2, 6]]
    scores = torch.stack([scores[0], (attention.mean((1, 2)) - attention.mean((0, 1, 2)))[[6, 7]].mean(0)])
    for row in (0, -1):
        for col in (0, -1):
            scores[:, row, col] = -torch.inf
    highest = scores.flatten(1).argmax(1)
    assert np.abs(lowered.points[:, 0] // (WIDTH / 6) - (highest % 6).numpy()).max() <= 1


def test_chosen_heads_and_weights_make_the_map(recorded, picture):
    segmenter = interp.load_segmenter("threshold")
    one = interp.segment_capture(recorded, picture, segmenter, heads=[(1, 2)])
    weighted = interp.segment_capture(recorded, picture, segmenter, heads=[(1, 2), (0, 0)], weights=[1.0, 0.0])
    assert np.array_equal(one.masks, weighted.masks)
    assert np.array_equal(one.points, weighted.points)
    assert not np.array_equal(one.points, interp.segment_capture(recorded, picture, segmenter).points)


def test_maps_and_an_embedding_can_be_used_again(recorded, picture, sam):
    maps, embedded = interp.phrase_maps(recorded), sam.embed(picture)
    again = interp.segment_maps(maps, picture, sam, embedded=embedded)
    whole = interp.segment_capture(recorded, picture, sam)
    assert np.array_equal(again.masks, whole.masks)
    assert again.answer == ""
    assert whole.answer == ANSWER


def test_an_embedding_of_another_image_is_refused(recorded, picture, sam):
    other = sam.embed(np.ascontiguousarray(picture[:, :30]))
    with pytest.raises(ValueError, match="another image"):
        interp.segment_capture(recorded, picture, sam, embedded=other)


@pytest.mark.parametrize("prompting", ["argmax", "peaks", "box", "mask"])
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_constant_or_nan_map_is_a_recorded_skip_and_spoils_no_other(recorded, picture, sam, prompting, value):
    maps = interp.phrase_maps(recorded)
    whole = interp.segment_maps(maps, picture, sam, prompting=prompting)
    spoilt = maps.maps.clone()
    spoilt[0] = value
    made = interp.segment_maps(replace(maps, maps=spoilt), picture, sam, prompting=prompting)
    assert np.isnan(made.points[0]).all()
    assert not made.masks[0].any()
    assert np.isnan(made.confidence[0])
    assert "A brown dog" in made.skipped[0].reason
    assert np.array_equal(made.points[1], whole.points[1])
    assert (made.masks[1] != whole.masks[1]).mean() < 1e-3


def test_no_point_falls_outside_the_models_crop(recorded, picture, sam):
    cropped = replace(recorded, grid=PatchGrid(recorded.grid.token_index, (6.0, 0.0, 46.0, 40.0)))
    for prompting in ("argmax", "peaks", "box"):
        made = interp.segment_capture(cropped, picture, sam, prompting=prompting)
        assert ((made.points[:, 0] >= 6) & (made.points[:, 0] < 46)).all()
        if made.boxes is not None:
            assert ((made.boxes[:, 0] >= 6) & (made.boxes[:, 2] <= 46)).all()


def test_no_phrases_give_an_empty_segmentation(recorded, picture, sam):
    made = interp.segment_capture(replace(recorded, phrases=()), picture, sam)
    assert made.masks.shape == (0, HEIGHT, WIDTH)
    assert len(made.to_frame()) == 0


def test_phrases_that_name_nothing_visible_are_left_out_on_request(recorded, picture, sam):
    more = replace(recorded, phrases=(*PHRASES, IMAGE_PHRASE))
    assert len(interp.segment_capture(more, picture, sam).phrases) == 3
    made = interp.segment_capture(more, picture, sam, drop_words=INVISIBLE)
    assert [p.text for p in made.phrases] == ["A brown dog", "a small table"]
    assert "the image" in made.skipped[0].reason
    assert np.array_equal(made.masks, interp.segment_capture(recorded, picture, sam).masks)


class Fixed:
    """A segmenter that always proposes the same masks."""

    name, choice = "fixed", "last"

    def __init__(self, masks, scores):
        self.found = Proposals(np.array(masks, bool)[:, None], np.array(scores)[:, None])

    def embed(self, image):
        return None

    def propose(self, embedded, prompts, several=True):
        return Proposals(self.found.masks.copy(), self.found.scores.copy())


@pytest.fixture
def twins(recorded):
    """Three phrases; the first and the last have nearly the same mask, the last is surer."""
    masks = np.zeros((3, HEIGHT, WIDTH), bool)
    masks[0, :20], masks[1, 20:], masks[2, :21] = True, True, True
    return replace(recorded, phrases=(*PHRASES, IMAGE_PHRASE)), masks


def test_duplicate_masks_are_merged_into_the_surest(twins, picture):
    capture, masks = twins
    segmenter = Fixed(masks, [0.6, 0.5, 0.9])
    assert len(interp.segment_capture(capture, picture, segmenter).phrases) == 3
    dropped = interp.segment_capture(capture, picture, segmenter, merge="drop")
    assert [p.text for p in dropped.phrases] == ["a small table", "the image"]
    assert "'A brown dog' has the mask of 'the image'" in dropped.skipped[0].reason
    shared = interp.segment_capture(capture, picture, segmenter, merge="share")
    assert np.array_equal(shared.masks[0], masks[2])
    assert np.array_equal(shared.masks[1], masks[1])
    assert shared.confidence.tolist() == [0.9, 0.5, 0.9]
    assert len(interp.segment_capture(capture, picture, segmenter, merge="drop", merge_above=0.99).phrases) == 3


def test_masks_that_are_empty_are_never_duplicates_of_each_other(twins, picture):
    capture, masks = twins
    made = interp.segment_capture(capture, picture, Fixed(masks & False, [np.nan] * 3), merge="drop")
    assert len(made.phrases) == 3


def test_phrases_below_a_confidence_are_left_out_and_said(twins, picture):
    capture, masks = twins
    made = interp.segment_capture(capture, picture, Fixed(masks, [0.6, 0.5, np.nan]), min_confidence=0.55)
    assert [p.text for p in made.phrases] == ["A brown dog", "the image"]  # no confidence is not a low one
    assert "0.500" in made.skipped[0].reason


@pytest.mark.parametrize(("choice", "which"), [("last", 2), ("best", 1), (0, 0), (None, 2)])
def test_the_mask_that_was_asked_for_is_taken(recorded, picture, sam, choice, which):
    made = interp.segment_capture(recorded, picture, sam, choice=choice, keep_candidates=True)
    taken = made.candidates.scores.argmax(1) if choice == "best" else [which] * 2
    for i in range(2):
        assert np.array_equal(made.masks[i], made.candidates.masks[i, taken[i]])
        assert made.confidence[i] == made.candidates.scores[i, taken[i]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompting": "points"}, "argmax"),
        ({"choice": "first"}, "last"),
        ({"choice": 3}, "proposes 3 masks"),
        ({"temperature": 0.0}, "positive"),
        ({"box_share": 1.5}, "0..1"),
        ({"heads": [(9, 0)]}, "L9H0"),
        ({"merge": "yes"}, "drop"),
        ({"peaks": 0}, "at least 1"),
    ],
)
def test_bad_options_are_refused_with_what_was_expected(recorded, picture, sam, options, message):
    with pytest.raises(ValueError, match=message):
        interp.segment_capture(recorded, picture, sam, **options)


def test_a_preset_cannot_be_bent_unnoticed(tiny_lmm, photo):
    with pytest.raises(ValueError, match="settles heads"):
        method_of("paper", heads="released")
    assert method_of("paper", heads="all") == method_of("paper")
    with pytest.raises(ValueError, match="preset"):
        method_of("article")
    with pytest.raises(ValueError, match="no option head"):
        method_of(None, head="all")
    with pytest.raises(ValueError, match="query"):
        interp.segment(tiny_lmm, photo, "Describe.", preset="paper", query="self", segmenter="threshold")


def test_segment_does_it_all_from_an_image_and_a_question(tiny_lmm, photo, sam):
    answer = "A brown dog sits on a red chair."
    made = interp.segment(
        tiny_lmm, photo, "Describe the image in detail.", answer=answer, segmenter=sam, preset="paper"
    )
    capture = interp.capture(tiny_lmm, photo, "Describe the image in detail.", answer, end=True)
    expected = interp.segment_capture(capture, photo, sam)
    assert [p.root for p in made.phrases] == ["dog", "chair"]
    assert np.array_equal(made.masks, expected.masks)
    assert made.details["preset"] == "paper"
    assert made.details["segmenter"] == "sam"
    json.dumps(made.details)


def test_a_preset_refuses_a_capture_without_the_row_that_predicts_the_end(recorded, picture, sam):
    with pytest.raises(ValueError, match="capture with end=True"):
        interp.segment_capture(recorded, picture, sam, method=method_of("paper"))


def test_peaks_are_the_highest_local_maxima_a_patch_apart():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    hill = lambda b, a, tall: tall * torch.exp(-((y - b) ** 2 + (x - a) ** 2) / 30)  # noqa: E731
    maps = torch.stack([hill(10, 10, 1.0) + hill(30, 45, 0.9) + hill(10, 50, 0.3), hill(20, 30, 1.0)])
    points = peak_points(maps, 3, 0.7, (8.0, 8.0))
    assert points[0, :2].tolist() == [[10.0, 10.0], [45.0, 30.0]]
    assert np.isnan(points[0, 2]).all()  # the third hill is too low
    assert points[1, 0].tolist() == [30.0, 20.0]
    assert np.isnan(points[1, 1:]).all()
    assert peak_points(maps, 3, 0.2, (8.0, 8.0))[0, 2].tolist() == [50.0, 10.0]


def test_a_box_goes_around_the_part_with_the_highest_pixel():
    maps = torch.zeros(1, 10, 12)
    maps[0, 2:5, 3:7] = 0.8
    maps[0, 3, 4] = 1.0
    maps[0, 8, 9] = 0.9
    prompts = prompts_of(maps, Method(prompting="box"))
    assert prompts.boxes.tolist() == [[3.0, 2.0, 7.0, 5.0]]
    assert np.isnan(boxes_of(np.zeros((1, 4, 4), bool))).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own, when decoding
def test_the_exports_are_what_cocos_tools_and_the_released_evaluation_read(recorded, picture, sam, tmp_path):
    from pycocotools import mask as tools
    from pycocotools.coco import COCO

    maps = interp.phrase_maps(replace(recorded, phrases=(*PHRASES, IMAGE_PHRASE)))
    spoilt = maps.maps.clone()
    spoilt[1] = 0
    made = interp.segment_maps(PhraseMaps("7", maps.phrases, maps.grid, spoilt), picture, sam)
    made = replace(made, answer=ANSWER)
    entries = json.loads(json.dumps(coco_results(made, 7)))
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [],
    }
    truth.createIndex()
    (tmp_path / "results.json").write_text(json.dumps(entries))
    found = truth.loadRes(str(tmp_path / "results.json"))
    stay = [i for i in range(3) if made.masks[i].any()]
    assert stay and 1 not in stay
    assert all(
        np.array_equal(found.annToMask(a), made.masks[i]) for a, i in zip(found.anns.values(), stay, strict=True)
    )
    page = json.loads(json.dumps(gcg(made, "7")))
    assert page["image_id"] == "7"
    assert page["caption"] == ANSWER
    assert page["phrases"] == ["A brown dog", "the image"]
    assert page["points"] == made.points[[0, 2]].astype(int).tolist()
    decoded = [tools.decode(rle) for rle in page["pred_masks"]]
    assert np.array_equal(np.stack(decoded), made.masks[[0, 2]])


def test_an_image_id_cannot_leave_the_folder(tmp_path):
    for name in ("../a.json", "/a.json", "a/b.json", ".."):
        with pytest.raises(ValueError, match="file name"):
            inside(tmp_path, name)
    assert inside(tmp_path, "a.json") == tmp_path / "a.json"


def test_the_overlay_colours_each_phrase_like_its_mask(picture):
    from matplotlib.colors import to_rgb

    from interp.plots.segments import colour, overlay, pieces

    cut = pieces(ANSWER, PHRASES)
    assert "".join(words for words, _ in cut) == ANSWER
    assert [(words, i) for words, i in cut if i is not None] == [("A brown dog", 0), ("a small table", 1)]
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[0, 5:15, 5:15] = True
    made = Segmentation(
        "7", "", ANSWER, PHRASES, np.array([[9.0, 9.0], [np.nan, np.nan]]), masks, np.array([0.9, np.nan])
    )
    figure = overlay(picture, made)
    words = {text.get_text().strip(): to_rgb(text.get_color()) for text in figure.axes[1].texts}
    assert words["brown"] == words["dog"] == to_rgb(colour(0))
    assert words["table"] == (0.0, 0.0, 0.0)  # it has no mask
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert np.allclose(shown[20:], picture[20:] / 255)
    assert not np.allclose(shown[6:14, 6:14], picture[6:14, 6:14] / 255)
    with pytest.raises(ValueError, match="image of"):
        overlay(picture[:, :30], made)
