"""A long answer is read in time that grows with its length, and to the same character as token by token."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from interp.answer.decoding import BLOCK, beginnings, decoded
from interp.answer.replay import CaptureError


class Counting:
    """A tokenizer that counts the ids that it decodes."""

    def __init__(self, tokenizer):
        self.tokenizer, self.ids = tokenizer, 0

    def decode(self, ids, **how):
        self.ids += len(ids)
        return self.tokenizer.decode(ids, **how)


TEXTS = {
    "words": "A brown dog sits on a red chair beside a small table. " * 24,
    "emoji": "Two 🦊 and a 🐶🏽 — naïve café, 東京の犬 " * 24,
    "newlines": "A dog.\n\n  A cat.\n" * 60,
    "special": "A dog</s> and <pad> a cat <image> here. " * 24,
}


@pytest.fixture(scope="module")
def bytes_tokenizer():
    """Byte-level: a character may take several tokens, of which none is a text by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kind", ["pieces", "bytes"])
def test_every_beginning_reads_as_decoded_by_itself(tiny_tokenizer, bytes_tokenizer, name, kind):
    tokenizer = tiny_tokenizer if kind == "pieces" else bytes_tokenizer
    ids = tokenizer(TEXTS[name], add_special_tokens=False).input_ids
    assert len(ids) > 3 * BLOCK
    assert [*beginnings(tokenizer, ids)] == [decoded(tokenizer, ids[:n]) for n in range(1, len(ids) + 1)]


def test_random_ids_read_as_decoded_one_by_one(tiny_tokenizer):
    ids = np.random.default_rng(0).integers(0, len(tiny_tokenizer), 4 * BLOCK).tolist()
    assert [*beginnings(tiny_tokenizer, ids)] == [decoded(tiny_tokenizer, ids[:n]) for n in range(1, len(ids) + 1)]


def test_an_answer_of_thousands_of_tokens_is_not_decoded_anew_for_each(tiny_tokenizer):
    counting = Counting(tiny_tokenizer)
    ids = tiny_tokenizer("a dog and " * 1000, add_special_tokens=False).input_ids
    assert len([*beginnings(counting, ids)]) == len(ids) > 3000
    assert counting.ids < len(ids) ** 2 / 40  # half of the square when each is decoded anew


@pytest.mark.parametrize("given", ["answer", "prompt"])
def test_a_text_that_is_longer_than_the_model_has_positions_for_is_told_so(tiny_lmm, photo, given):
    text = {"prompt": "Hi", "answer": "A dog."} | {given: "a dog and " * 2000}
    with pytest.raises(CaptureError, match=r"positions for 2048 .max_position_embeddings.*shorter"):
        interp.capture(tiny_lmm, photo, text["prompt"], text["answer"])


def test_a_sample_that_is_too_long_costs_itself_and_no_other(tiny_lmm, photo):
    from interp.types import Sample, Skip

    samples = [Sample(str(i), photo, "Hi", answer) for i, answer in enumerate(["A dog.", "dog " * 5000, "A cat."])]
    found = [*interp.captures(tiny_lmm, samples)]
    assert [isinstance(one, Skip) for one in found] == [False, True, False] and "positions for" in found[1].reason
