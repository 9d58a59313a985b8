"""Writes small random parts in exactly the layouts that LLaVA's own code leaves, and computes what that code does."""

import json

import numpy as np
import peft
import sentencepiece
import torch
from PIL import Image
from torch import nn
from transformers import LlamaForCausalLM

TEXT, WIDTH, SIDE, PATCH = 32, 16, 28, 7
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions."
)
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VISION = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION |= {"image_size": SIDE, "patch_size": PATCH, "projection_dim": 8, "initializer_range": 0.2}
SIZES = {"hidden_size": TEXT, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "initializer_range": 0.15, "rms_norm_eps": 1e-5, "max_position_embeddings": 512}
SIZES |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False}
EYES = {"projector": "mlp2x_gelu", "aspect": "pad", "layer": -2, "feature": "patch"}


def settings(parts, projector="mlp2x_gelu", aspect="pad", layer=-2, feature="patch", **more):
    """A ``config.json`` of LLaVA's training."""
    mm = {"mm_vision_tower": str(parts.folder / "clip"), "mm_projector_type": projector, "mm_hidden_size": WIDTH}
    mm |= {"mm_vision_select_layer": layer, "mm_vision_select_feature": feature, "image_aspect_ratio": aspect}
    mm |= {"mm_use_im_start_end": False, "mm_use_im_patch_token": False, "mm_patch_merge_type": "flat"}
    mm |= {"use_mm_proj": True, "tune_mm_mlp_adapter": False, "freeze_mm_mlp_adapter": False, "mm_projector_lr": 2e-5}
    about = {"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"], "torch_dtype": "float32"}
    about |= {"_name_or_path": str(parts.folder / "vicuna"), "rope_theta": 10000.0, "rope_scaling": None}
    return {**SIZES, "vocab_size": parts.vocabulary, "pretraining_tp": 1, "hidden_act": "silu", **mm, **about, **more}


def write(folder, weights, about, shards=2):
    """Weights in numbered .bin files with their index, as ``save_pretrained`` did in the days of LLaVA."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(about))
    names, where = list(weights), {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        part = {name: weights[name].clone() for name in names[i::shards]}
        torch.save(part, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def train_tokenizer(folder):
    """Llama's kind of SentencePiece: bytes for the unknown, a space before each text, nothing cut off."""
    lines = [SYSTEM, "USER: Describe the image in detail. ASSISTANT: A brown dog sits on a red chair.", "What is it?"]
    (folder / "text.txt").write_text("\n".join(lines * 20))
    options = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 400, "normalization_rule_name": "identity"}
    options |= {"remove_extra_whitespaces": False, "add_dummy_prefix": True, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), minloglevel=2, **options
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def add_tokenizer(parts, folder):
    """What Vicuna and LLaVA ship."""
    (folder / "tokenizer.model").write_bytes((parts.folder / "tokenizer.model").read_bytes())
    about = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False}
    about |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(about | {"model_max_length": 512}))


def random_projector(kind="mlp2x_gelu", seed=0):
    torch.manual_seed(seed)
    first = nn.Linear(WIDTH, TEXT)
    return nn.Sequential(first, nn.GELU(), nn.Linear(TEXT, TEXT)) if kind == "mlp2x_gelu" else first


def in_file(projector, prefix="model.mm_projector."):
    return {prefix + name: value.detach().clone() for name, value in projector.state_dict().items()}


def add_stage_1(parts, folder, seed=0, **about):
    """``mm_projector.bin`` and ``config.json``, as the first stage leaves them."""
    folder.mkdir(parents=True)
    projector = random_projector(about.get("projector", "mlp2x_gelu"), seed)
    (folder / "config.json").write_text(json.dumps(settings(parts, **about)))
    torch.save(in_file(projector), folder / "mm_projector.bin")
    return projector


def add_lora(parts, folder, seed=0, old=True, **about):
    """Adapter and ``non_lora_trainables.bin``, as a LoRA run leaves them; ``old``: as PEFT wrote adapters then."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=LAYERS, init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(parts.llama(), config)
    adapted.save_pretrained(folder, safe_serialization=not old)
    named = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(named | {"base_model_name_or_path": str(parts.folder / "vicuna")})
    )
    projector = random_projector(about.get("projector", "mlp2x_gelu"), seed)
    (folder / "config.json").write_text(json.dumps(settings(parts, **about)))
    torch.save(in_file(projector, "base_model.model.model.mm_projector."), folder / "non_lora_trainables.bin")
    return adapted, projector


def add_full(parts, folder, seed=0, tower=None, **about):
    """A whole checkpoint, with the first stage's projector still beside it, and with its vision tower or without."""
    torch.manual_seed(seed)
    llama, projector = LlamaForCausalLM(parts.text), random_projector(about.get("projector", "mlp2x_gelu"), seed)
    weights = {**llama.state_dict(), **in_file(projector)}
    for name, value in (tower or nn.Module()).state_dict().items():
        weights[f"model.vision_tower.vision_tower.vision_model.{name}"] = value
    write(folder, weights, settings(parts, **about))
    add_tokenizer(parts, folder)
    torch.save(in_file(random_projector(about.get("projector", "mlp2x_gelu"), 99)), folder / "mm_projector.bin")
    return llama, projector


def with_weights(model, weights):
    model.load_state_dict(weights)
    return model.eval()


def pixels_of(image, aspect="pad"):
    """CLIP's processing by hand; before it, with "pad", the image in the middle of a square of the mean colour."""
    height, width = image.shape[:2]
    if aspect == "pad":
        side = max(height, width)
        square = np.tile((np.array(MEAN) * 255).astype(np.uint8), (side, side, 1))
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = image
        image, (height, width) = square, (side, side)
    short = min(height, width)
    size = (SIDE, int(SIDE * height / short)) if width == short else (int(SIDE * width / short), SIDE)
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) / 255.0
    top, left = (small.shape[0] - SIDE) // 2, (small.shape[1] - SIDE) // 2
    small = small[top : top + SIDE, left : left + SIDE]
    return torch.tensor((small - np.array(MEAN)) / np.array(STD), dtype=torch.float32).permute(2, 0, 1)[None]


def tokens_of(parts, question):
    """Ids before and behind the image: each text by itself, only the first with a beginning of sequence."""
    before, behind = f"{SYSTEM} USER: ", f"\n{question} ASSISTANT:"
    return [1, *parts.spm.encode(before)], parts.spm.encode(behind)


@torch.no_grad()
def logits_of(parts, llama, connect, image, question, clip=None, aspect="pad", layer=-2, feature="patch", **_):
    """Logits over the original vocabulary, at every token, as LLaVA's own code computes them."""
    states = (clip or parts.clip)(pixels_of(image, aspect), output_hidden_states=True).hidden_states[layer]
    seen = connect(states[:, 1:] if feature == "patch" else states)
    embed = llama.get_input_embeddings()
    before, behind = (embed(torch.tensor([ids])) for ids in tokens_of(parts, question))
    return llama(inputs_embeds=torch.cat([before, seen, behind], 1)).logits
