"""Trains mini-llava: a CLIP on captions, a Llama on text, then LLaVA's two stages with dense checkpoints.

    python analyses/train_mini_llava.py --work runs/train --out data/mini-llava

No loss ever sees a mask, box or position. Every part is seeded, logs to WORK/log.jsonl and is skipped if it is done
already; a stage that was interrupted resumes from its newest checkpoint. Parts: tokenizer, scenes, close_ups, clip,
text, projector, lora, export (run one alone with --part).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from _training import Log, arguments, parsed, run, train
from PIL import Image
from torch.utils.data import Dataset

from interp.datasets import scenes

PIXELS, PATCH, SCENES, CLOSE_UPS = 96, 8, 24_000, 50_400
GRID = PIXELS // PATCH
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
IGNORED = -100
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% else %}ASSISTANT: {% for part in message['content'] %}{{ part['text'] }}{% endfor %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CLOSE = 48  # side of a close-up in pixels: one or two objects at the size that they have in a scene
CLOSE_STEPS, HALVED_STEPS, WHOLE_STEPS = 600, 2200, 300  # CLIP: close-ups, scenes with half of their patches, scenes
FEATURES = -2  # the vision layer that LLaVA reads
FEWEST = 6  # patches that a thing fills, more or less, when it is small
SHORT = 16  # words of a short list, at most
SHORT_STEPS, LONG_STEPS = 1500, 600  # of the language model: what is said once is not said again; then to count
MIXED_STEPS = 1600  # of its second round: lists of all lengths
SAVED_TOO = (800, 1920)  # of LLaVA's stages, to go on from after an interruption; they do not ship
WARM = 20
ADAPTED = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class Round:
    """One warm-up and cosine of LLaVA's stages.

    ``saves``: the steps that ship, the last one is the end. ``first``: number of its first visit, so that none comes
    twice. ``things``: how few and how many a scene has. ``captions_only``: no questions.
    """

    saves: tuple[int, ...]
    batch: int
    rate: float
    first: int
    things: tuple[int, int]
    captions_only: bool = False


ROUNDS = {
    "projector": Round((0, 32, 64, 125, 250, 500, 1000, 2000), 8, 3e-3, 0, (1, 2), captions_only=True),
    "lora": Round((40, 160, 640, 1280, 2560), 16, 1.5e-3, 16_000, (1, 5)),
    "lora_last": Round((1600,), 16, 8e-4, 60_000, (2, 5)),
}


def _small(image: np.ndarray, pixels: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((pixels, pixels), Image.Resampling.BICUBIC))


def scene(index: int) -> tuple[np.ndarray, tuple[str, ...]]:
    rng = scenes.generator("train", index)
    chosen = scenes.choose(rng, "train", counts=(1, 5))
    return _small(scenes.compose(rng, chosen).image, PIXELS), chosen


def _close_up(index: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Noun number ``index`` modulo their number, three times in ten with another one."""
    rng, pool = scenes.generator("train", 1_000_000 + index), scenes.nouns()
    chosen = [pool[index % len(pool)]]
    other = pool[rng.integers(len(pool))]
    if rng.random() < 0.3 and other != chosen[0] and not scenes.held_out(chosen[0], other):
        chosen.append(other)
    return _small(scenes.compose(rng, chosen, 2 * CLOSE, sides=(0.52, 1.0)).image, CLOSE), tuple(chosen)


def render(work: Path, log: Log, name: str, one, pixels: int, amount: int) -> None:
    """WORK/NAME.npy (UInt8[picture pixels pixels 3]) and WORK/NAME.json (their nouns), of the training split."""
    images = np.lib.format.open_memmap(work / "partial.npy", "w+", np.uint8, (amount, pixels, pixels, 3))
    nouns = []
    with Pool(os.cpu_count()) as pool:
        for i, (image, chosen) in enumerate(pool.imap(one, range(amount), chunksize=64)):
            images[i] = image
            nouns.append(chosen)
            if i % 4000 == 0:
                log(part="render", pictures=name, done=i)
    images.flush()
    (work / f"{name}.json").write_text(json.dumps(nouns))
    os.replace(work / "partial.npy", work / f"{name}.npy")


class Rendered:
    """Rendered training pictures with so few to so many things; text differs at each visit, not between runs."""

    def __init__(self, work: Path, name: str = "scenes", things: tuple[int, int] = (1, 5)) -> None:
        self.images = np.load(work / f"{name}.npy", mmap_mode="r")
        every = json.loads((work / f"{name}.json").read_text())
        self.numbers = [k for k, nouns in enumerate(every) if things[0] <= len(nouns) <= things[1]]
        self.nouns = [every[k] for k in self.numbers]

    def image(self, visit: int) -> np.ndarray:
        """UInt8[side side 3]."""
        return self.images[self.numbers[visit % len(self.nouns)]]

    def __getitem__(self, visit: int) -> tuple[torch.Tensor, list[str], np.random.Generator]:
        """Float[3 side side] normalised as CLIP's processor does, the nouns, and the visit's random stream."""
        pixels = torch.from_numpy(self.image(visit).astype(np.float32) / 255)
        pixels = ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)
        return pixels, self.nouns[visit % len(self.nouns)], np.random.default_rng([visit, 7])


def tokenizer(work: Path, log: Log):
    """Byte-level BPE trained on captions, questions and answers; 640 entries, so that rarer nouns fall into pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    rng, texts = np.random.default_rng(0), list(scenes.DESCRIBE)
    for _ in range(20_000):
        chosen = scenes.choose(rng, "train")
        texts += [scenes.caption(rng, chosen), *scenes.question(rng, chosen)]
    texts += [f"USER: {prompt} ASSISTANT:" for prompt in scenes.DESCRIBE] * 500
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<eot>"]  # CLIP treats an end token of id 2 as a relic
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=640, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<image>", "<eot>"]})
    fast.padding_side = "left"
    fast.save_pretrained(work / "tokenizer")
    pieces = [len(fast.tokenize(" " + noun)) for noun in scenes.nouns()]
    log(part="tokenizer", entries=len(fast), nouns=len(pieces), in_two_or_more_pieces=sum(p > 1 for p in pieces))


def load_tokenizer(work: Path):
    """The trained tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(work / "tokenizer")


def clip_model(entries: int, end: int):
    """An untrained CLIPModel: 5 x 192 vision layers over 12 x 12 patches, 3 x 128 text layers."""
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 5, "num_attention_heads": 6,
        "image_size": PIXELS, "patch_size": PATCH, "projection_dim": 192,
    }  # fmt: skip
    text = {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
        "vocab_size": entries, "max_position_embeddings": 64, "projection_dim": 192,
        "bos_token_id": 1, "eos_token_id": end, "pad_token_id": 3,
    }  # fmt: skip
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=192, attn_implementation="eager")
    )


def captioned(data: Rendered, fast, visits) -> dict[str, torch.Tensor]:
    """Pictures with captions that name all of their nouns or, half the time, some of them."""
    pixels, captions = [], []
    for visit in visits:
        image, nouns, rng = data[visit]
        named = list(nouns)
        if rng.random() < 0.5:
            named = list(rng.permutation(nouns)[: rng.integers(1, len(nouns) + 1)])
        pixels.append(image)
        captions.append(scenes.caption(rng, named) + "<eot>")
    text = fast(captions, return_tensors="pt", padding=True, padding_side="right")
    return {
        "pixel_values": torch.stack(pixels),
        "input_ids": text["input_ids"],
        "attention_mask": text["attention_mask"],
    }


def placed(close_ups: torch.Tensor, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Close-ups at random places of an empty picture, and the numbers of the patches that each one fills."""
    amount, side = len(close_ups), CLOSE // PATCH
    corner = torch.randint(0, GRID - side + 1, (amount, 2), generator=random)
    pixels = torch.zeros(amount, 3, PIXELS, PIXELS)
    for picture, close_up, (y, x) in zip(pixels, close_ups, (corner * PATCH).tolist(), strict=True):
        picture[:, y : y + CLOSE, x : x + CLOSE] = close_up
    rows, columns = corner[:, :1] + torch.arange(side), corner[:, 1:] + torch.arange(side)
    return pixels, (rows[:, :, None] * GRID + columns[:, None]).flatten(1)


@contextmanager
def only(patches: torch.Tensor | None, embeddings: torch.nn.Module) -> Iterator[None]:
    """Inside, CLIP's vision layers see its class token and these patches (Int[images kept]) alone; None: all."""

    def keep(_module, _arguments, hidden):
        if patches is None:
            return hidden
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        return torch.cat([hidden[:, :1], hidden[rows, patches + 1]], 1)

    handle = embeddings.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


class Contrasts(torch.nn.Module):
    """A CLIPModel and what compares its patches with single words; only the CLIPModel is kept."""

    def __init__(self, model: torch.nn.Module, words) -> None:
        super().__init__()
        self.clip, self.words = model, words
        self.patches = torch.nn.Sequential(torch.nn.LayerNorm(192), torch.nn.Linear(192, 192))
        self.scale = torch.nn.Parameter(torch.tensor(14.0).log())

    def forward(self, pixel_values, input_ids, attention_mask, patches=None):
        """Cosines times scale: Float[images captions], and Float[images words] of each word's ``FEWEST`` best patches.

        ``patches`` (Int[images kept]): those looked at, or all; of half of them, half as many count.
        """
        direction = lambda x: torch.nn.functional.normalize(x.float(), dim=-1)  # noqa: E731
        read = lambda ids, mask: direction(  # noqa: E731
            self.clip.text_projection(self.clip.text_model(input_ids=ids, attention_mask=mask).pooler_output)
        )
        with only(patches, self.clip.vision_model.embeddings):
            seen = self.clip.vision_model(pixel_values=pixel_values, output_hidden_states=True)
        words = {key: ids.to(input_ids.device) for key, ids in self.words.items()}
        captions = direction(self.clip.visual_projection(seen.pooler_output)) @ read(input_ids, attention_mask).T
        single = direction(self.patches(seen.hidden_states[FEATURES][:, 1:]))
        single = single @ read(words["input_ids"], words["attention_mask"]).T
        fewest = FEWEST // 2 if single.shape[1] == GRID**2 // 2 else FEWEST
        return captions * self.clip.logit_scale.exp(), single.topk(fewest, 1).values.mean(1) * self.scale.exp()


def contrast(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Mean over the right pairs of -log(e^right / (e^right + sum of e^wrong)), the wrong ones from the same row."""
    wrong = scores.masked_fill(right, -1e4).logsumexp(1, keepdim=True)
    return torch.nn.functional.softplus(wrong - scores)[right].mean()


def clip(work: Path, log: Log, device: str, size: int = 64) -> None:
    """The contrastive model, from pictures and captions alone: close-ups first, scenes then.

    Captions are contrasted with images, as ever; and their nouns with patches: a noun, by its best patches, with the
    nouns that the caption lacks and with the images whose captions lack it (after FILIP, arXiv 2111.07783, whose units
    are all tokens). Captions tell what is there, never where. Close-ups have 36 patches instead of 144, and every noun
    as often as every other in each batch. Half of a scene's patches are left out in the middle part, which halves
    their cost (FLIP, arXiv 2212.00794).
    """
    fast, nouns = load_tokenizer(work), list(scenes.nouns())
    words = fast([f"a {noun}<eot>" for noun in nouns], return_tensors="pt", padding=True, padding_side="right")
    torch.manual_seed(0)
    model = clip_model(len(fast), fast.convert_tokens_to_ids("<eot>"))
    both = Contrasts(model, {key: words[key] for key in ("input_ids", "attention_mask")}).to(device)
    close, whole, each = Rendered(work, "close_ups"), Rendered(work), 2 * len(nouns)

    def batches(step: int) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(step)
        data, amount = (close, each) if step < CLOSE_STEPS else (whole, size)
        visits = range(step * amount, (step + 1) * amount)
        batch = captioned(data, fast, visits)
        if data is close:
            batch["pixel_values"], batch["patches"] = placed(batch["pixel_values"], random)
        elif step < CLOSE_STEPS + HALVED_STEPS:
            batch["patches"] = torch.rand(amount, GRID**2, generator=random).argsort(1)[:, : GRID**2 // 2]
        named = [data.nouns[visit % len(data.nouns)] for visit in visits]
        return {**batch, "right": torch.tensor([[noun in those for noun in nouns] for those in named])}

    def loss_of(batch):
        right = batch.pop("right")
        captions, of_words = both(**batch)
        own = torch.arange(len(captions), device=captions.device)
        whole = sum(torch.nn.functional.cross_entropy(x, own) for x in (captions, captions.T)) / 2
        single = (contrast(of_words, right) + contrast(of_words.T, right.T)) / 2
        return whole + single, {"captions": round(whole.item(), 3), "words": round(single.item(), 3)}

    train("clip_state", both, batches, loss_of, CLOSE_STEPS + HALVED_STEPS + WHOLE_STEPS, 1e-3, 0.1, work, log, device)
    torch.save({"model": model.state_dict()}, work / "clip.pt")


FILLERS = ("wall", "sky", "stone", "grass", "sand", "coin", "wood", "cloth")


def listed(rng: np.random.Generator, chosen, slots: int) -> list[str]:
    """``slots`` words that name the things over and over, among fillers.

    In long lists up to half of them name a wrong thing, drawn anew for each, so that only who counts can tell what is
    there. Short ones are right.
    """
    words = [noun for noun in chosen for _ in range(rng.integers(max(1, slots // 16), max(1, slots // 5) + 1))]
    wrong = rng.random(slots) < (slots > SHORT) * rng.random() * np.where(np.arange(slots) < len(words), 0.5, 0.12)
    words += [FILLERS[k] for k in rng.integers(len(FILLERS), size=slots - len(words))]
    others = rng.integers(len(scenes.nouns()), size=slots)
    words = [scenes.nouns()[others[k]] if wrong[k] else word for k, word in enumerate(words)]
    return [words[k] for k in rng.permutation(slots)] if rng.random() < 0.5 else words


def dialogue(rng: np.random.Generator, chosen) -> tuple[str, str]:
    """A prompt and its answer: a caption two times in three, else a question."""
    if rng.random() < 0.65:
        return scenes.DESCRIBE[rng.integers(len(scenes.DESCRIBE))], scenes.caption(rng, chosen)
    return scenes.question(rng, chosen)


def tokens(fast, rows: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """(text before the answer, answer) -> right-padded ids, mask and labels; the loss falls on the answers alone."""
    befores = fast([before for before, _ in rows])["input_ids"]
    answers = fast([f" {answer}</s>" for _, answer in rows], add_special_tokens=False)["input_ids"]
    longest = max(len(b) + len(a) for b, a in zip(befores, answers, strict=True))
    ids = torch.full((len(rows), longest), fast.pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for i, (before, answer) in enumerate(zip(befores, answers, strict=True)):
        ids[i, : len(before) + len(answer)] = torch.tensor(before + answer)
        mask[i, : len(before) + len(answer)] = 1
        labels[i, len(before) : len(before) + len(answer)] = torch.tensor(answer)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def llama(entries: int):
    """An untrained LlamaForCausalLM: 6 layers x 8 heads (4 key-value heads) x 32, width 192."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=entries, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=3, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config)


def text(work: Path, log: Log, device: str, size: int = 48) -> None:
    """The language model, from text alone: lists of things, then captions, questions and answers about them.

    The answer can only be had by looking back at the list, and by counting: some entries are wrong. An entry is one
    vector, the mean of its word's pieces, with noise: whoever reads soft words can be taught to read patches. Two
    rounds, each with warm-up and cosine: short lists before long ones; all lengths mixed.
    """
    fast = load_tokenizer(work)
    place = fast.convert_tokens_to_ids("<image>")
    pieces_of = {word: fast(f" {word}", add_special_tokens=False)["input_ids"] for word in (*scenes.nouns(), *FILLERS)}
    torch.manual_seed(1)
    model = llama(len(fast)).to(device)

    def lengths(step: int) -> dict[int, float]:
        if step < SHORT_STEPS:
            return {8: 0.5, SHORT: 0.5}
        if step < SHORT_STEPS + LONG_STEPS:
            return {36: 0.4, 72: 0.3, 144: 0.3}
        return {8: 0.25, SHORT: 0.25, 36: 0.2, 72: 0.15, 144: 0.15}

    def batches(step: int) -> dict[str, torch.Tensor]:
        rng, rows, lists = np.random.default_rng([step, 11]), [], []
        slots = int(rng.choice(list(lengths(step)), p=list(lengths(step).values())))
        for _ in range(size):
            chosen = scenes.choose(rng, "train", counts=(1, 5))
            prompt, answer = dialogue(rng, chosen)
            rows.append((f"USER: {'<image>' * slots}\n{prompt} ASSISTANT:", answer))
            lists.append(listed(rng, chosen, slots))
        longest = max(map(len, pieces_of.values()))
        padded = {word: ids + [-1] * (longest - len(ids)) for word, ids in pieces_of.items()}
        pieces = torch.tensor([[padded[word] for word in words] for words in lists])
        random = torch.Generator().manual_seed(step)
        noise = torch.randn(size, slots, 192, generator=random)
        noise *= torch.from_numpy(rng.uniform(0, slots > SHORT, (size, 1, 1)).astype(np.float32))
        return {"pieces": pieces, "noise": noise, **tokens(fast, rows)}

    def loss_of(batch):
        embed, pieces = model.get_input_embeddings(), batch["pieces"]
        there = (pieces >= 0)[..., None]
        entries = (embed(pieces.clamp(0)) * there).sum(2) / there.sum(2).clamp(1)
        entries = entries + batch["noise"] * entries.detach().square().mean().sqrt()
        embedded = embed(batch["input_ids"])
        at = (batch["input_ids"] == place)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(at, entries.to(embedded.dtype))
        out = model(inputs_embeds=embedded, attention_mask=batch["attention_mask"], labels=batch["labels"])
        return out.loss, {"entries": pieces.shape[1]}

    first = SHORT_STEPS + LONG_STEPS
    train("text_first", model, batches, loss_of, first, 2e-3, 0.05, work, log, device)
    train("text", model, lambda k: batches(first + k), loss_of, MIXED_STEPS, 2e-3, 0.05, work, log, device)


def assemble(work: Path, seed: int):
    """LLaVA from the trained vision tower and language model, with a fresh projector."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    fast = load_tokenizer(work)
    clip_part = clip_model(len(fast), fast.convert_tokens_to_ids("<eot>"))
    clip_part.load_state_dict(torch.load(work / "clip.pt", weights_only=True)["model"])
    language = llama(len(fast))
    language.load_state_dict(torch.load(work / "text.pt", weights_only=True)["model"])
    config = LlavaConfig(
        vision_config=clip_part.config.vision_config, text_config=language.config,
        image_token_id=fast.convert_tokens_to_ids("<image>"), image_seq_length=GRID**2,
        vision_feature_layer=FEATURES, vision_feature_select_strategy="default", attn_implementation="eager",
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    for part, weights in (
        (model.model.vision_tower, clip_part.vision_model),
        (model.model.language_model, language.model),
    ):
        own = weights.state_dict()
        if set(part.state_dict()) != set(own):
            own = {f"vision_model.{key}": value for key, value in own.items()}
        part.load_state_dict(own)
    model.tie_weights()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 3
    return model, clip_part


class Dialogues:
    """Batches for LLaVA: images, chat prompts, answers."""

    def __init__(self, data: Rendered, fast, captions_only: bool) -> None:
        self.data, self.fast, self.captions_only = data, fast, captions_only

    def __call__(self, visits: list[int]) -> dict[str, torch.Tensor]:
        rows, pixels = [], []
        for visit in visits:
            image, nouns, rng = self.data[visit]
            prompt, answer = dialogue(rng, nouns)
            if self.captions_only:
                prompt, answer = scenes.DESCRIBE[rng.integers(len(scenes.DESCRIBE))], scenes.caption(rng, nouns)
            rows.append((f"USER: {'<image>' * GRID**2}\n{prompt} ASSISTANT:", answer))
            pixels.append(image)
        return {"pixel_values": torch.stack(pixels), **tokens(self.fast, rows)}


class Visits(Dataset):
    """The numbers of the visits, so that the collator can build a batch at once."""

    def __init__(self, first: int, amount: int) -> None:
        self.first, self.amount = first, amount

    def __len__(self) -> int:
        return self.amount

    def __getitem__(self, i: int) -> int:
        return self.first + i


def scheduled(step: int, steps: int) -> float:
    """The learning rate's share 0..1 of its peak: warm-up, then a cosine down to nothing."""
    return step / WARM if step < WARM else 0.5 + 0.5 * math.cos(math.pi * (step - WARM) / (steps - WARM))


def stage(
    name: str, model, data, work: Path, log: Log, device: str, seed: int, saves: tuple[int, ...] | None = None
) -> None:
    """One of ``ROUNDS`` with transformers' Trainer, to its end or to another; only what it trains is saved."""
    from safetensors.torch import load_file, save_file
    from torch.optim.lr_scheduler import LambdaLR
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Saver(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_save = state.global_step in (*saves, *SAVED_TOO)

        def on_log(self, args, state, control, logs=None, **_):
            log(
                part=name,
                step=state.global_step,
                **{k: v for k, v in (logs or {}).items() if k in ("loss", "grad_norm")},
            )

    class ChangedOnly(Trainer):
        """Saves and loads only what the stage trains, and visits the scenes in order."""

        def create_scheduler(self, num_training_steps, optimizer=None):
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: scheduled(step, steps))
            return self.lr_scheduler

        def _get_train_sampler(self, *_, **__):
            return SequentialSampler(self.train_dataset)

        def _save(self, output_dir=None, state_dict=None):
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            inner = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
            projector = {k: v.contiguous() for k, v in inner.state_dict().items() if "multi_modal_projector" in k}
            if inner is not self.model:
                self.model.save_pretrained(folder)
            save_file(projector, folder / "projector.safetensors")  # last: where it is, the checkpoint is whole

        def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
            folder = Path(resume_from_checkpoint)
            inner = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
            inner.load_state_dict(load_file(folder / "projector.safetensors"), strict=False)
            if inner is not self.model:
                from peft import set_peft_model_state_dict

                set_peft_model_state_dict(self.model, load_file(folder / "adapter_model.safetensors"))

    how, home = ROUNDS[name], work / name
    saves = saves or how.saves
    steps = max(saves)
    if (home / f"checkpoint-{steps}" / "projector.safetensors").exists():
        return
    arguments = TrainingArguments(
        output_dir=str(home), max_steps=steps, per_device_train_batch_size=how.batch, save_strategy="no", bf16=True,
        learning_rate=how.rate, weight_decay=0.0, max_grad_norm=1.0,
        adam_beta2=0.98, logging_steps=5, report_to=[], remove_unused_columns=False, seed=seed, disable_tqdm=True,
        use_cpu=device == "cpu", dataloader_pin_memory=device != "cpu",
    )  # fmt: skip
    trainer = ChangedOnly(
        model, arguments, data_collator=data, train_dataset=Visits(how.first, steps * how.batch), callbacks=[Saver()]
    )
    if 0 in saves:
        trainer._save(str(home / "checkpoint-0"))
    done = sorted(int(p.name.split("-")[1]) for p in home.glob("checkpoint-*") if (p / "optimizer.pt").exists())
    trainer.train(resume_from_checkpoint=str(home / f"checkpoint-{done[-1]}") if done else None)


def freeze_all_but_projector(model: torch.nn.Module) -> None:
    """Lets only the projector learn."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("multi_modal_projector" in name)


def with_adapters(model: torch.nn.Module, newest: Path, seed: int) -> torch.nn.Module:
    """The model with that checkpoint's projector and adapters (new ones if it has none), both free to learn."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    model.load_state_dict(load_file(newest / "projector.safetensors"), strict=False)
    torch.manual_seed(seed)
    model = get_peft_model(model, LoraConfig(r=12, lora_alpha=24, target_modules=ADAPTED))
    if (newest / "adapter_model.safetensors").exists():
        set_peft_model_state_dict(model, load_file(newest / "adapter_model.safetensors"))
    for name, parameter in model.named_parameters():
        if "multi_modal_projector" in name:
            parameter.requires_grad_(True)
    return model


def newest_of(work: Path, name: str) -> Path:
    """The folder of a round's last checkpoint."""
    return work / name / f"checkpoint-{max(ROUNDS[name].saves)}"


def projector(work: Path, log: Log, device: str, start=None, seed: int = 2) -> None:
    """Stage 1: the projector alone, on captions of scenes with one or two things.

    ``start(round, seed)``: the untrained model and its batches; mini-llava's unless told.
    """
    model, data = (start or for_training(work))(ROUNDS["projector"], seed)
    freeze_all_but_projector(model)
    stage("projector", model, data, work, log, device, seed)


def lora(work: Path, log: Log, device: str, start=None, seed: int = 3) -> None:
    """Stage 2: projector and low-rank adapters on every linear layer of the language model, captions and questions.

    Two rounds, each with warm-up and cosine; the second on scenes with two things or more.
    """
    for name, before in (("lora", "projector"), ("lora_last", "lora")):
        model, data = (start or for_training(work))(ROUNDS[name], seed)
        model = with_adapters(model, newest_of(work, before), seed)
        stage(name, model, data, work, log, device, seed)


def for_training(work: Path):
    """What gives mini-llava, with a fresh projector, and the batches of a round."""
    return lambda how, seed: (
        assemble(work, seed)[0],
        Dialogues(Rendered(work, things=how.things), load_tokenizer(work), how.captions_only),
    )


def halved(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors in bf16, as they ship."""
    return {key: value.to(torch.bfloat16).contiguous() for key, value in weights.items()}


def export_checkpoints(work: Path, out: Path) -> None:
    """OUT/checkpoint-N, in bf16, with N counted over both stages."""
    from safetensors.torch import load_file, save_file

    first = 0
    for name, how in ROUNDS.items():
        for step in how.saves:
            folder, to = work / name / f"checkpoint-{step}", out / f"checkpoint-{first + step}"
            to.mkdir(exist_ok=True)
            for file in folder.glob("*.safetensors"):
                save_file(halved(load_file(file)), to / file.name)
            if (folder / "adapter_config.json").exists():
                (to / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
        first += max(how.saves)


def export(work: Path, log: Log, out: Path) -> None:
    """OUT/base (model, processor), OUT/clip (its text half), OUT/checkpoint-N with N counted over both stages."""
    from safetensors.torch import save_file
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model, clip_part = assemble(work, 2)
    model.to(torch.bfloat16).save_pretrained(out / "base")
    images = CLIPImageProcessorPil(
        size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}, image_mean=MEAN, image_std=STD
    )
    LlavaProcessor(
        image_processor=images, tokenizer=load_tokenizer(work), patch_size=PATCH, chat_template=TEMPLATE,
        vision_feature_select_strategy="default", image_token="<image>", num_additional_image_tokens=1,
    ).save_pretrained(out / "base")  # fmt: skip
    (out / "clip").mkdir(exist_ok=True)
    clip_part.config.save_pretrained(out / "clip")
    text_half = {k: v for k, v in clip_part.state_dict().items() if not k.startswith("vision_model.") and v.ndim}
    text_half["logit_scale"] = clip_part.logit_scale.detach()
    save_file(halved(text_half), out / "clip" / "without_vision.safetensors")
    export_checkpoints(work, out)
    (out / "training.jsonl").write_text((work / "log.jsonl").read_text())
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    log(part="export", megabytes=round(size / 1e6, 2), checkpoints=len(list(out.glob("checkpoint-*"))))


def main() -> None:
    """Every part that is not done, in order; or the one that is asked for."""
    parser = arguments(__doc__, "mini-llava")
    a, log = parsed(parser)
    parts = {
        "tokenizer": lambda: (a.work / "tokenizer").exists() or tokenizer(a.work, log),
        "scenes": lambda: (a.work / "scenes.npy").exists() or render(a.work, log, "scenes", scene, PIXELS, SCENES),
        "close_ups": lambda: (
            (a.work / "close_ups.npy").exists() or render(a.work, log, "close_ups", _close_up, CLOSE, CLOSE_UPS)
        ),
        "clip": lambda: (a.work / "clip.pt").exists() or clip(a.work, log, a.device),
        "text": lambda: text(a.work, log, a.device),
        "projector": lambda: projector(a.work, log, a.device),
        "lora": lambda: lora(a.work, log, a.device),
        "export": lambda: export(a.work, log, a.out),
    }
    run(parser, a.part, parts)


if __name__ == "__main__":
    main()
