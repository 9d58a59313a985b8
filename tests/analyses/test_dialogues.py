"""Dialogues about one picture that stand behind each other are read as if each were alone."""

import pytest
import torch
from transformers import AutoTokenizer

from interp.plugins import data_folder
from training.dialogues import IGNORED, tokens
from training.text import llama


@pytest.mark.parametrize("entries", [1, 9])
def test_dialogues_that_share_a_picture_teach_what_each_alone_would(entries):
    fast = AutoTokenizer.from_pretrained(data_folder() / "mini-llava" / "base")
    torch.manual_seed(0)
    model = llama(len(fast), layers=2).eval()
    said = [
        ("What is in the image?", "A red cup."),
        ("Is there a frog?", "Yes."),
        ("Describe the image.", "A cup and a dog."),
    ]
    both = [(entries, said), (entries, said[:1])]
    batch = tokens(fast, both)
    labels = batch.pop("labels")
    with torch.no_grad():
        found = _of_answers(model(**batch).logits, labels)
        alone = [_of_answers(model(**one).logits, own) for one, own in (_single(fast, entries, s) for s in said)]
    torch.testing.assert_close(found, torch.cat([*alone, alone[0]]), atol=1e-5, rtol=1e-5)


def _single(fast, entries, dialogue):
    """One dialogue as LLaVA's users write it, without the packed mask and positions."""
    before = fast(f"USER: {'<image>' * entries}\n{dialogue[0]} ASSISTANT:")["input_ids"]
    answer = fast(f" {dialogue[1]}</s>", add_special_tokens=False)["input_ids"]
    labels = torch.tensor([[IGNORED] * len(before) + answer])
    return {"input_ids": torch.tensor([before + answer])}, labels


def _of_answers(logits, labels):
    """The log-probability of each answer's token that follows it."""
    said = labels[:, 1:] != IGNORED
    return logits[:, :-1].log_softmax(-1)[said].gather(1, labels[:, 1:][said][:, None])
