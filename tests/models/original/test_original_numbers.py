"""A converted LLaVA computes what LLaVA's own code computes: against plain parts put together by hand."""

import json
import shutil

import numpy as np
import pytest
import torch
from own_code import PATCH, SIDE, SYSTEM, VISION, add_full, add_lora, add_stage_1, logits_of, pixels_of, tokens_of
from sparse_files import clip_l_336, llava_7b
from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaForConditionalGeneration

import interp
from interp.models import llava
from interp.models._original.building import built, in_memory
from interp.models._original.convert import convert
from interp.models._original.parts import parts_of

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
QUESTION = "What is it?"


@torch.no_grad()
def converted_logits(lmm, image):
    inputs = lmm.inputs([image], [lmm.family.template(lmm.processor, QUESTION)])
    return lmm.model(**inputs).logits


def assert_same(parts, lmm, image, want):
    got = converted_logits(lmm, image)
    assert got.shape[1] == want.shape[1]
    torch.testing.assert_close(got[..., : parts.vocabulary], want, atol=1e-5, rtol=1e-5)
    assert want.std() > 0.1


@pytest.mark.parametrize("way", ["folder", "memory"])
@pytest.mark.parametrize("layout", ["full", "full with its tower", "lora", "lora, old file", "stage 1"])
def test_logits_of_every_layout_are_those_of_the_original_code(parts, layout, way, image, tmp_path):
    run, clip = tmp_path / "run", None
    if layout.startswith("full"):
        torch.manual_seed(5)
        clip = CLIPVisionModel(CLIPVisionConfig(**VISION)).eval() if "tower" in layout else None
        llama, projector = add_full(parts, run, tower=clip)
    elif layout.startswith("lora"):
        llama, projector = add_lora(parts, run, old="old" in layout)
    else:
        llama, projector = parts.llama(), add_stage_1(parts, run)
    want = logits_of(parts, llama.eval(), projector, image, QUESTION, clip)
    if way == "folder":
        lmm = interp.load(convert(run, tmp_path / "out"))
        assert lmm.model.config.model_type == "llava" and lmm.layers == 2 and lmm.heads == 4
    else:
        lmm = interp.wrap(*in_memory(parts_of(run), torch.float32))
    assert_same(parts, lmm, image, want)


@pytest.mark.parametrize(
    "about",
    [
        {"projector": "linear"},
        {"layer": -1},
        {"layer": 1},
        {"feature": "cls_patch"},
        {"aspect": "square"},
        {"aspect": None},
    ],
    ids=str,
)
def test_other_projectors_layers_features_and_ways_to_cut_are_carried(parts, about, image, tmp_path):
    llama, projector = add_full(parts, tmp_path / "run", **about)
    want = logits_of(parts, llama.eval(), projector, image, QUESTION, **about)
    lmm = interp.load(convert(tmp_path / "run", tmp_path / "out"))
    assert_same(parts, lmm, image, want)
    assert interp.capture(lmm, image, QUESTION, "A dog.").grid.shape == (4, 4)
    if "aspect" in about:  # the square of mean colour is another image
        padded = logits_of(parts, llama, projector, image, QUESTION)
        assert (padded - want).abs().max() > 1e-2


@pytest.mark.parametrize("shape", [(40, 52), (52, 40), (31, 31), (10, 90)])
def test_images_are_padded_with_the_mean_colour_and_patches_lie_where_the_grid_says(parts, shape, tmp_path):
    add_stage_1(parts, tmp_path / "run")
    lmm = interp.load(convert(tmp_path / "run", tmp_path / "out"))
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    inputs = lmm.inputs([image], [lmm.family.template(lmm.processor, QUESTION)])
    torch.testing.assert_close(inputs["pixel_values"], pixels_of(image), atol=1e-5, rtol=0)
    grid = lmm.family.grid(lmm.model, lmm.processor, shape, {"input_ids": inputs["input_ids"][0]})
    side = max(shape)
    left, top = (side - shape[1]) // 2, (side - shape[0]) // 2
    assert grid.box == (-left, -top, side - left, side - top) and grid.shape == (SIDE // PATCH,) * 2


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("question", [QUESTION, "Where?\nSay  it twice: é", "A dog."])
def test_prompts_have_the_tokens_of_the_original_code(parts, question, legacy, image, tmp_path):
    """There the text behind the image is tokenised by itself; the reference here is SentencePiece itself."""
    add_stage_1(parts, tmp_path / "run")
    vicuna = shutil.copytree(parts.folder / "vicuna", tmp_path / "vicuna")
    about = json.loads((vicuna / "tokenizer_config.json").read_text())
    (vicuna / "tokenizer_config.json").write_text(json.dumps(about | {"legacy": legacy}))
    lmm = interp.load(convert(tmp_path / "run", tmp_path / "out", str(vicuna)))
    ids = lmm.inputs([image], [lmm.family.template(lmm.processor, question)])["input_ids"][0].tolist()
    before, behind = tokens_of(parts, question)
    assert ids == [*before, *[lmm.model.config.image_token_id] * 16, *behind]
    assert lmm.family.template(lmm.processor, question).startswith(f"{SYSTEM} USER: <image>")


def test_added_tokens_lie_where_llava_hf_has_them_and_are_never_the_likeliest(parts, image, tmp_path):
    llama, projector = add_full(parts, tmp_path / "run")
    lmm = interp.load(convert(tmp_path / "run", tmp_path / "out"))
    size, own = lmm.model.lm_head.weight.shape[0], parts.vocabulary
    assert lmm.model.config.image_token_id == own and lmm.tokenizer.convert_tokens_to_ids("<pad>") == own + 1
    assert lmm.tokenizer.pad_token_id == own + 1 and size % 64 == 0 and own + 2 <= size < own + 66
    got = converted_logits(lmm, image)
    torch.testing.assert_close(
        got[..., own:], got[..., :own].mean(-1, keepdim=True).expand(*got.shape[:2], size - own), atol=1e-4, rtol=0
    )
    assert (got.argmax(-1) < own).all()
    want = logits_of(parts, llama.eval(), projector, image, QUESTION).log_softmax(-1)
    lost = (want - got.log_softmax(-1)[..., :own]).max()
    assert 0 < lost <= np.log(1 + (size - own) / own) + 1e-5


def test_a_batch_of_a_converted_model_is_captured_as_its_samples_alone(parts, image, tmp_path):
    add_lora(parts, tmp_path / "run")
    lmm = interp.load(convert(tmp_path / "run", tmp_path / "out"))
    answers = ["A brown dog sits on a red chair.", "A dog."]
    samples = [interp.Sample(str(i), image, QUESTION, answer) for i, answer in enumerate(answers)]
    for got, answer in zip(interp.captures(lmm, samples, batch=2), answers, strict=True):
        alone = interp.capture(lmm, image, QUESTION, answer)
        torch.testing.assert_close(got.attention, alone.attention, atol=1e-5, rtol=1e-5)
    assert lmm.family is llava


def test_memory_and_folder_give_the_same_weights_and_processing(parts, image, tmp_path):
    add_lora(parts, tmp_path / "run", projector="linear")
    lmm = interp.load(convert(tmp_path / "run", tmp_path / "out"))
    model, processor = in_memory(parts_of(tmp_path / "run"), torch.float32)
    own = model.state_dict()
    assert own.keys() == lmm.model.state_dict().keys()
    assert all(torch.equal(value, own[name]) for name, value in lmm.model.state_dict().items())
    assert processor.chat_template == lmm.processor.chat_template
    inside = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    there = lmm.model.config.to_dict()
    assert json.loads(json.dumps(inside, default=str)).items() <= json.loads(json.dumps(there, default=str)).items()


def test_the_7b_configuration_has_every_weight_of_the_model_and_every_shape(parts, tmp_path):
    """Files of 13 GB that hold nothing: their headers say what lies where."""
    clip_l_336(tmp_path / "clip")
    llava_7b(parts, tmp_path / "run", tmp_path / "clip")
    weights, config, processor = built(parts_of(tmp_path / "run"))
    with torch.device("meta"):
        own = LlavaForConditionalGeneration(config).state_dict()
    assert {name: tuple(value.shape) for name, value in own.items()} == weights.names and len(own) == 686
    assert weights.names["lm_head.weight"] == (32064, 4096) and weights.dtype == torch.float16
    assert (config.image_seq_length, processor.patch_size, config.vision_config.image_size) == (576, 14, 336)
    assert sum(value.numel() for value in own.values()) == 7_063_427_072
