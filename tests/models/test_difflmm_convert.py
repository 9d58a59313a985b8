"""The converter over small random parts, saved under exactly the names that were released."""

import json
import math
import shutil

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import interp
from interp.cli import main
from interp.models import difflmm
from interp.models._overlay import CheckpointMismatch
from interp.models.difflmm.convert import convert
from interp.models.difflmm.released import ConversionError

CLIP_WIDTH, CAPTION, CHANNELS, FEATURE, TEXT, CELLS = 16, 12, 16, 8, 32, 64
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PREFIX = "base_model.model.model.mm_projector."
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def released_projector():
    """Keys and shapes of the released ``non_lora_trainables.bin``."""
    shapes = {
        "clip_projector.0.weight": (CAPTION, CLIP_WIDTH),
        "clip_projector.0.bias": (CAPTION,),
        "clip_projector.2.weight": (CAPTION, CAPTION),
        "clip_projector.2.bias": (CAPTION,),
        "clip_pe": (CELLS, CAPTION),
        "vt_pe": (CELLS, TEXT),
        "sd_norm_layer.weight": (CHANNELS,),
        "sd_norm_layer.bias": (CHANNELS,),
        "sd_proj_layer.0.weight": (FEATURE, CHANNELS, 1, 1),
        "sd_proj_layer.0.bias": (FEATURE,),
        "linear.0.weight": (TEXT, FEATURE + CLIP_WIDTH),
        "linear.0.bias": (TEXT,),
        "linear.2.weight": (TEXT, TEXT),
        "linear.2.bias": (TEXT,),
    }
    return {PREFIX + name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tiny_tokenizer):
    """Folders of the four parts, in the layouts of their hub repositories."""
    import peft
    from transformers import CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    vision = {"hidden_size": CLIP_WIDTH, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision |= {"image_size": 24, "patch_size": 3}
    words = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=words, projection_dim=8)).save_pretrained(folder / "clip")
    vae = {"block_out_channels": [8, 8], "latent_channels": 4, "norm_num_groups": 4, "scaling_factor": 0.3}
    vae |= {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    unet = {"block_out_channels": [8, 8, 16, 16], "cross_attention_dim": CAPTION, "attention_head_dim": 2}
    unet |= {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]}
    unet |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]}
    unet |= {"layers_per_block": 1, "norm_num_groups": 4}
    diffusers.AutoencoderKL(**vae).save_pretrained(folder / "sd" / "vae")
    diffusers.UNet2DConditionModel(**unet).save_pretrained(folder / "sd" / "unet")
    diffusers.PNDMScheduler(**SCHEDULE, skip_prk_steps=True).save_pretrained(folder / "sd" / "scheduler")
    # Vicuna's tokenizer has neither an image token nor one for padding.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
    )
    language = LlamaForCausalLM(text)
    language.save_pretrained(folder / "vicuna")
    tokenizer.save_pretrained(folder / "vicuna")
    lora = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=list(LAYERS), init_lora_weights=False, task_type="CAUSAL_LM"
    )
    peft.get_peft_model(language, lora).save_pretrained(folder / "released")
    torch.save(released_projector(), folder / "released" / "non_lora_trainables.bin")
    about = {"model_type": "llava_llama", "mm_projector_type": "SDCLIPBlock", "mm_vision_resolution": 32}
    about |= {"mm_vision_sd_timestep": 100, "mm_vision_sd_ensemble_size": 1, "mm_vision_select_layer": 1}
    (folder / "released" / "config.json").write_text(json.dumps(about))
    return folder


def others(parts):
    return {"language_model": str(parts / "vicuna"), "diffusion": str(parts / "sd"), "clip": str(parts / "clip")}


@pytest.fixture(scope="module")
def made(parts, tmp_path_factory):
    """The converted folder."""
    return convert(parts / "released", tmp_path_factory.mktemp("made") / "difflmm", **others(parts))


@pytest.fixture
def copied(parts, tmp_path):
    """A copy of all parts, to be spoilt."""
    return shutil.copytree(parts, tmp_path / "parts")


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)


def as_published(parts, image, mean, std, seed):
    """The image's tokens by the formulas of the paper and the released code, from the parts as they lie on disk."""
    from transformers import CLIPModel

    square = np.tile((np.array(mean) * 255).astype(np.uint8), (52, 52, 1))
    square[6:46] = image
    small = np.asarray(Image.fromarray(square).resize((32, 32), Image.Resampling.BICUBIC)) / 255.0
    x = torch.tensor((small - np.array(mean)) / np.array(std), dtype=torch.float32).permute(2, 0, 1)[None]
    # CLIP: the same pixels at 3/4 of the size, taken to have mean and deviation 0.5
    y = nn.functional.interpolate(x, size=(24, 24), mode="bilinear", align_corners=False) * 0.5 + 0.5
    y = (y - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    clip = CLIPModel.from_pretrained(parts / "clip").vision_model(y, output_hidden_states=True)
    clip = clip.hidden_states[-2][:, 1:]
    w = {k.removeprefix(PREFIX): v for k, v in torch.load(parts / "released/non_lora_trainables.bin").items()}
    gelu = nn.functional.gelu
    caption = gelu(clip @ w["clip_projector.0.weight"].T + w["clip_projector.0.bias"])
    caption = caption @ w["clip_projector.2.weight"].T + w["clip_projector.2.bias"] + w["clip_pe"]
    # the noised latent
    vae = diffusers.AutoencoderKL.from_pretrained(parts / "sd", subfolder="vae")
    latent = vae.encode(x).latent_dist
    kept = math.prod(1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2 for i in range(101))
    generator = torch.Generator().manual_seed(difflmm.encoder.mixed(0, seed))
    z = (latent.mean + latent.std * torch.randn(4, 16, 16, generator=generator)) * 0.3
    z = math.sqrt(kept) * z + math.sqrt(1 - kept) * torch.randn(4, 16, 16, generator=generator)
    # the whole U-Net, and what its up block 1 gave
    unet = diffusers.UNet2DConditionModel.from_pretrained(parts / "sd", subfolder="unet")
    seen = []
    unet.up_blocks[1].register_forward_hook(lambda module, args, output: seen.append(output))
    unet(z, 100, caption)
    feature = nn.functional.layer_norm(
        seen[0].permute(0, 2, 3, 1), (CHANNELS,), w["sd_norm_layer.weight"], w["sd_norm_layer.bias"]
    )
    reduced = nn.functional.conv2d(feature.permute(0, 3, 1, 2), w["sd_proj_layer.0.weight"], w["sd_proj_layer.0.bias"])
    joined = torch.cat([gelu(reduced), clip.transpose(1, 2).reshape(1, CLIP_WIDTH, 8, 8)], 1).flatten(2).transpose(1, 2)
    tokens = gelu(joined @ w["linear.0.weight"].T + w["linear.0.bias"]) @ w["linear.2.weight"].T + w["linear.2.bias"]
    return tokens + w["vt_pe"]


@torch.no_grad()
def tokens_of(lmm, image):
    inputs = lmm.inputs([image], [lmm.family.template(lmm.processor, "What?")])
    features = lmm.model.get_image_features(pixel_values=inputs["pixel_values"], seeds=inputs["seeds"])
    return torch.stack(features.pooler_output), int(inputs["seeds"][0])


# What it makes


def test_image_tokens_equal_the_published_formulas(parts, made, image):
    lmm = interp.load(made)
    got, seed = tokens_of(lmm, image)
    with torch.no_grad():
        want = as_published(parts, image, MEAN, STD, seed)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert want.std() > 0.1


def test_the_papers_normalisation_is_to_be_had(parts, image, tmp_path):
    lmm = interp.load(convert(parts / "released", tmp_path / "out", **others(parts), normalisation="paper"))
    got, seed = tokens_of(lmm, image)
    half = (0.5, 0.5, 0.5)
    with torch.no_grad():
        torch.testing.assert_close(got, as_published(parts, image, half, half, seed), atol=1e-5, rtol=1e-5)
        assert (got - as_published(parts, image, MEAN, STD, seed)).abs().max() > 1e-2


def test_released_images_are_normalised_as_that_codes_processor_does():
    """Its ``mean`` and ``std`` are no options of CLIP's processor, which keeps its own."""
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size=32, crop_size=32, mean=[0.5] * 3, std=[0.5] * 3)
    assert tuple(processor.image_mean) == MEAN and tuple(processor.image_std) == STD


def test_the_language_model_is_the_adapted_one(parts, made):
    """Logits for a text equal those of PEFT's model, unmerged; and W + alpha / r B A by hand."""
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    model = interp.load(made).model
    ids = torch.tensor([[1, 20, 30, 40, 50, 60]])
    plain = LlamaForCausalLM.from_pretrained(parts / "vicuna")
    before = plain(ids).logits
    adapted = PeftModel.from_pretrained(plain, parts / "released")
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, adapted(ids).logits, atol=1e-5, rtol=1e-5)
        assert (model(ids).logits - before).abs().max() > 0.1
    lora = load_file(parts / "released" / "adapter_model.safetensors")
    base = load_file(parts / "vicuna" / "model.safetensors")
    assert len(lora) == 2 * 2 * len(LAYERS)
    for layer in (0, 1):
        name = f"layers.{layer}.mlp.down_proj"
        a, b = (lora[f"base_model.model.model.{name}.lora_{x}.weight"] for x in "AB")
        want = base[f"model.{name}.weight"] + 8 / 4 * b @ a
        got = model.model.language_model.get_submodule(name).weight
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_the_folder_stands_alone_and_says_what_it_is_made_of(parts, made, tmp_path, image):
    alone = shutil.copytree(made, tmp_path / "alone")
    lmm, there = interp.load(alone), interp.load(made)
    assert lmm.generate(image, "What?", 6) == there.generate(image, "What?", 6)
    assert json.loads((alone / "conversion.json").read_text())["clip"] == str(parts / "clip")
    assert not [k for k in lmm.model.state_dict() if "decoder" in k or "up_blocks.2" in k or "text_model" in k]
    assert lmm.tokenizer.pad_token == "<unk>" and lmm.model.generation_config.pad_token_id == 0
    assert lmm.model.config.vocab_size == 220 if hasattr(lmm.model.config, "vocab_size") else True
    assert not list(made.parent.glob(".*"))


def test_a_converted_model_is_captured(made, image):
    lmm = interp.load(made)
    answers = ["A brown dog on a chair.", "A dog."]
    samples = [interp.Sample(str(i), image, "What?", answer) for i, answer in enumerate(answers)]
    for got, answer in zip(interp.captures(lmm, samples, batch=2), answers, strict=True):
        alone = interp.capture(lmm, image, "What?", answer)
        torch.testing.assert_close(got.attention, alone.attention, atol=1e-5, rtol=1e-5)
        assert got.grid.shape == (8, 8) and got.grid.box == (0, -6, 52, 46)


def test_precision_is_the_language_models_or_the_one_asked_for(parts, tmp_path):
    convert(parts / "released", tmp_path / "half", **others(parts), dtype=torch.bfloat16)
    assert interp.load(tmp_path / "half", dtype="auto").model.dtype == torch.bfloat16
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {v.dtype for v in stored.values()} == {torch.bfloat16}


# Where it is called from


def test_released_weights_load_by_themselves_and_are_converted_once(parts, made, image, tmp_path, monkeypatch):
    from interp.models.difflmm import convert as module

    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    lmm = interp.load(parts / "released", **others(parts))
    want = interp.load(made).model.state_dict()
    assert all(torch.equal(v, want[k]) for k, v in lmm.model.state_dict().items())
    assert lmm.name == str(parts / "released") and len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setattr(module, "convert", lambda *a, **k: pytest.fail("converted again"))
    assert interp.load(parts / "released", **others(parts)).generate(image, "A?", 4) == lmm.generate(image, "A?", 4)
    (parts / "released" / "adapter_model.safetensors").touch()
    with pytest.raises(pytest.fail.Exception, match="converted again"):  # another adapter is another model
        interp.load(parts / "released", **others(parts))


def test_the_command_converts(parts, tmp_path, capsys):
    options = [f"--{name.replace('_', '-')}={path}" for name, path in others(parts).items()]
    assert main(["convert", "difflmm", str(parts / "released"), str(tmp_path / "out"), *options]) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    assert interp.load(tmp_path / "out").model.config.model_type == "difflmm"
    assert main(["convert", "difflmm", str(parts / "released"), str(tmp_path / "out"), *options]) == 2
    assert "is there already" in capsys.readouterr().err


# What it refuses


def spoilt(path, change):
    load, save = (torch.load, torch.save) if path.suffix == ".bin" else (load_file, save_weights)
    weights = load(path)
    change(weights)
    save(weights, path)


def save_weights(weights, path):
    save_file(weights, path, metadata={"format": "pt"})


FILES = {
    "projector": ("released/non_lora_trainables.bin", PREFIX + "sd_norm_layer.bias"),
    "adapter": ("released/adapter_model.safetensors", "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"),
    "vicuna": ("vicuna/model.safetensors", "model.layers.0.mlp.gate_proj.weight"),
    "vae": ("sd/vae/diffusion_pytorch_model.safetensors", "encoder.conv_in.bias"),
    "unet": ("sd/unet/diffusion_pytorch_model.safetensors", "mid_block.resnets.0.conv1.weight"),
    "clip": ("clip/model.safetensors", "vision_model.encoder.layers.1.mlp.fc1.bias"),
}


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("part", FILES)
def test_a_missing_key_of_any_part_is_named(copied, part, tmp_path):
    file, key = FILES[part]
    spoilt(copied / file, lambda weights: weights.pop(key))
    with pytest.raises(ConversionError, match="missing keys: ") as caught:
        convert(copied / "released", tmp_path / "out", **others(copied))
    assert ".".join(key.removeprefix(PREFIX).replace("sd_norm_layer", "norm").split(".")[-3:]) in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts"]


@pytest.mark.parametrize("part", FILES)
def test_a_key_left_over_in_any_part_is_named(copied, part, tmp_path):
    file, key = FILES[part]
    left = key.replace("layers.1", "layers.7").replace("layers.0", "layers.7")
    left = left if left != key else key.replace("bias", "surplus").replace("conv1", "conv9")
    spoilt(copied / file, lambda weights: weights.update({left: weights[key].clone()}))
    with pytest.raises(ConversionError, match=r"keys left over: .*(layers\.7|surplus|conv9)"):
        convert(copied / "released", tmp_path / "out", **others(copied))


def test_parts_of_other_sizes_are_refused_with_both_shapes(copied, tmp_path):
    spoilt(
        copied / "released/non_lora_trainables.bin",
        lambda w: w.update({PREFIX + "vt_pe": torch.zeros(CELLS, TEXT + 1)}),
    )
    with pytest.raises(ConversionError, match=r"multi_modal_projector\.position \(64, 33\) for \(64, 32\)"):
        convert(copied / "released", tmp_path / "out", **others(copied))


def test_code_in_the_projectors_file_is_not_run(copied, tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"x": Harm()}, copied / "released/non_lora_trainables.bin")
    with pytest.raises(CheckpointMismatch, match=r"non_lora_trainables\.bin is damaged \(Weights only"):
        convert(copied / "released", tmp_path / "out", **others(copied))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("data", [b"", b"\x80\x02garbage", b"(((", bytes(range(256))])
def test_a_damaged_projectors_file_is_called_damaged(data, copied, tmp_path):
    (copied / "released/non_lora_trainables.bin").write_bytes(data)
    with pytest.raises(CheckpointMismatch, match=r"non_lora_trainables\.bin is damaged"):
        convert(copied / "released", tmp_path / "out", **others(copied))


def test_a_source_without_a_projector_is_refused(parts, tmp_path):
    with pytest.raises(ConversionError, match=r"holds no non_lora_trainables\.bin"):
        convert(parts / "vicuna", tmp_path / "out", **others(parts))
    with pytest.raises(ValueError, match="normalisation is 'none'"):
        convert(parts / "released", tmp_path / "out", **others(parts), normalisation="none")


def test_old_names_of_the_autoencoders_attention_are_understood(copied, tmp_path):
    """Stable Diffusion 1.5's file has query, key, value and proj_attn."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(weights):
        for key in [k for k in weights if "attentions" in k and "group_norm" not in k]:
            new = next(n for n in names if f".{n}." in key)
            weights[key.replace(new, names[new])] = weights.pop(key)

    spoilt(copied / "sd/vae/diffusion_pytorch_model.safetensors", rename)
    out = convert(copied / "released", tmp_path / "out", **others(copied))
    assert any("mid_block.attentions.0.to_q" in k for k in load_file(out / "model.safetensors"))


def test_prompts_have_the_tokens_of_the_released_code_which_reads_what_follows_the_image_by_itself(copied, image):
    """A SentencePiece tokenizer as Vicuna's begins every text with a space of its own, but none behind `<image>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(set(difflmm.processing.CHAT_TEMPLATE) | set("What?USERASSISTANT:▁\n") - {" "})
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    made.decoder = decoders.Metaspace("▁", prepend_scheme="first", split=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    assert len(tokenizer) <= 220
    tokenizer.save_pretrained(copied / "vicuna")
    lmm = interp.load(convert(copied / "released", copied / "out", **others(copied)))
    prompt = lmm.family.template(lmm.processor, "What?")
    ids = lmm.inputs([image], [prompt])["input_ids"][0].tolist()
    before, behind = (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER: ",
        "\nWhat? ASSISTANT:",
    )
    place, space = lmm.model.config.image_token_id, vocabulary["▁"]
    wanted = [
        *tokenizer(before)["input_ids"],
        *[place] * CELLS,
        *tokenizer(behind, add_special_tokens=False)["input_ids"],
    ]
    assert ids == wanted and ids[ids.index(place) + CELLS] == space


def test_an_adapter_of_another_model_is_told_apart_from_a_broken_difflmm(copied):
    torch.save({f"{PREFIX}0.weight": torch.zeros(2, 2)}, copied / "released" / "non_lora_trainables.bin")
    with pytest.raises(ConversionError, match=r"is not of a DiffLMM: it holds .*mm_projector\.0\.weight"):
        convert(copied / "released", copied / "out", **others(copied))


def test_a_source_that_cannot_be_reached_is_not_called_incomplete(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("interp.models.difflmm.released.is_offline_mode", lambda: True)
    with pytest.raises(OSError, match="nobody/nothing is no folder"):
        convert("nobody/nothing", tmp_path / "out", **others(parts))


@pytest.mark.parametrize("name", ["mm_vision_sd_implicit_caption", "mm_vision_sd_concat_clip"])
def test_a_difflmm_without_one_of_its_parts_is_refused(copied, name):
    path = copied / "released" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: False}))
    with pytest.raises(ConversionError, match=f"{name} False"):
        convert(copied / "released", copied / "out", **others(copied))
