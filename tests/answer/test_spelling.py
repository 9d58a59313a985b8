"""An answer comes back as it was given, and what a user counts in it are its own characters, whatever the tokenizer."""

import unicodedata

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import interp
from interp.answer.phrases import PhraseError, answer_text, find_phrases
from interp.answer.spelling import found_at, moved
from interp.plots.segments import pieces
from interp.segmentation.exports import gcg

TEXTS = ["A brown dog sits on a red chair by the café with two crêpes.", "A cat and a small table: naïve."] * 20
ANSWER = "A brown dog sits on a red chair."


def byte_level():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return trained(backend, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def prepended():
    """Llama's legacy way: a blank stays at the front of what is decoded."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Replace("▁", " ")
    return trained(backend)


def composing():
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Replace("▁", " ")
    return trained(backend)


def small():
    """One that writes everything small, and without accents."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    steps = [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = decoders.Replace("▁", " ")
    return trained(backend)


def trained(backend, **options):
    special = ["<unk>", "<s>", "</s>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False, **options)
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", extra_special_tokens={"end": "<|im_end|>"}
    )


TOKENIZERS = [byte_level, prepended, composing, small]
GIVEN = [
    ANSWER,
    f"  {ANSWER}\n",
    unicodedata.normalize("NFD", "A brown dog by the café with two crêpes."),
    "A cat.<|im_end|> A brown dog.</s>",
    "A  brown\tdog,  a red   chair",
    "A 日本 brown dog and a 🐶 on a chair",
]


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize("answer", GIVEN)
def test_a_given_answer_comes_back_as_given_and_every_word_has_its_tokens(make, answer):
    tokenizer = make()
    ids = tokenizer(answer, add_special_tokens=False).input_ids
    text, offsets = answer_text(tokenizer, ids, answer)
    assert text == answer
    for word in ("dog", "chair", "café", "cat"):
        for start, end in found_at(word, answer):
            (found,) = find_phrases(text, offsets, [(start, end)])
            assert found.text == answer[start:end]
            said = "".join(tokenizer.decode([ids[t]], skip_special_tokens=True) for t in found.tokens)
            plain = unicodedata.normalize("NFD", word.casefold()).encode("ascii", "ignore").decode()
            assert plain in unicodedata.normalize("NFD", said.casefold()).encode("ascii", "ignore").decode()


@pytest.mark.parametrize("make", TOKENIZERS)
def test_what_a_model_generated_has_no_leading_blank_and_words_keep_their_tokens(make):
    tokenizer = make()
    ids = tokenizer(f" {ANSWER}", add_special_tokens=False).input_ids
    text, offsets = answer_text(tokenizer, ids)
    assert text == text.lstrip() and text.casefold() == ANSWER.casefold()
    (dog,) = find_phrases(text, offsets, ["dog"])
    assert "dog" in "".join(tokenizer.decode([ids[t]]) for t in dog.tokens)


def test_what_decoding_loses_or_changes_belongs_to_the_tokens_that_stand_there():
    assert moved([(0, 1), (1, 5)], "A dog", "A dog") == [(0, 1), (1, 5)]
    assert moved([(0, 2), (2, 6)], " A dog", "A dog") == [(0, 1), (1, 5)]
    assert moved([(0, 1), (1, 5)], "A dog", "  A dog\n") == [(2, 3), (3, 7)]
    assert moved([(0, 1), (1, 1), (1, 5)], "A dog", "A<x> dog") == [(0, 1), (1, 4), (4, 8)]
    assert moved([(0, 4), (4, 8)], "café bar", "cafe\u0301 bar") == [(0, 5), (5, 9)]
    assert moved([(0, 3), (3, 4)], "a ? b"[:4], "a 🐶 b"[:4])[0] == (0, 3)


@pytest.mark.parametrize(
    ("phrase", "answer", "expected"),
    [
        ("cafe\u0301", "The café.", ["café"]),
        ("café", "The cafe\u0301.", ["cafe\u0301"]),
        ("caf", "The cafe\u0301.", []),
        ("cafe", "The cafe\u0301.", []),
        ("DOG", "dog, hotdog, dog_house, Dog", ["dog", "Dog"]),
        ("🐶", "A 🐶 and🐶.", ["🐶", "🐶"]),
    ],
)
def test_a_word_is_found_whatever_its_accents_are_encoded_in(phrase, answer, expected):
    assert [answer[a:b] for a, b in found_at(phrase, answer)] == expected


def by_letter(answer):
    return [(i, i + 1) for i in range(len(answer))]


def test_an_emoji_that_is_in_the_answer_is_a_phrase_and_one_that_is_not_is_said_to_be_missing():
    answer = "A 🐶 on a mat."
    (found,) = find_phrases(answer, by_letter(answer), ["🐶"])
    assert (found.text, found.root, found.start, found.end, found.tokens) == ("🐶", "🐶", 2, 3, (2,))
    with pytest.raises(PhraseError, match="no phrase '🐱' in the answer"):
        find_phrases(answer, by_letter(answer), ["🐱"])
    for nothing in ("", " ", "."):
        with pytest.raises(PhraseError, match="holds no word"):
            find_phrases(answer, by_letter(answer), [nothing])


def test_captures_figures_and_exports_of_a_given_answer_have_its_own_text(tiny_lmm, photo):
    answer = f"\n {ANSWER}"
    at = answer.index("dog")
    found = interp.capture(tiny_lmm, photo, "What is it?", answer, phrases=[(at, at + 3), (at - 7, at + 4)])
    assert found.answer == answer and [p.text for p in found.phrases] == ["dog", "brown dog"]
    assert found.phrases[0].tokens == found.phrases[1].tokens
    made = interp.segment_capture(found, photo, interp.load_segmenter("threshold"))
    assert gcg(made, "x")["caption"] == ANSWER and gcg(made, "x")["phrases"] == ["dog", "brown dog"]
    assert "".join(words for words, _ in pieces(made.answer, made.phrases)) == answer


def test_spans_and_names_of_one_word_have_the_same_rows(tiny_lmm, photo):
    at = ANSWER.index("chair")
    one, two = (interp.capture(tiny_lmm, photo, "What is it?", ANSWER, phrases=p) for p in ([(at, at + 5)], ["chair"]))
    assert one.phrases == two.phrases
    np.testing.assert_array_equal(one.attention.numpy(), two.attention.numpy())
