"""Whatever a model says or a user counts: phrases lie where they are said to lie, and no answer breaks the reading."""

import unicodedata

from hypothesis import assume, given
from hypothesis import strategies as st

from interp.answer.language import lines_of
from interp.answer.nouns import spaced, words_of
from interp.answer.phrases import PhraseError, answer_text, find_phrases
from interp.answer.spelling import moved
from interp.answer.targets import targets_named
from interp.plots.segments import pieces
from interp.types import Phrase

WORDS = ["a dog", "two cats", " on ", "the red car", "**", "- ", "\n", "| ", "</s>", "<p>", "[SEG]", "🐶", "cafe\u0301"]
WORDS += ["$5", "`x`", "1. ", "[0.1, 0.2]", " ", "\t", "\u2028", "。", "日本", "\ufffd", "(", "# ", "it"]
WORDS += ["traffic_light"]
ANSWERS = st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=14).map("".join)


def bare(word):
    return "".join(c for c in word if c not in "*_`~")


def letters(answer):
    return [(i, i + 1) for i in range(len(answer))]


@given(ANSWERS)
def test_noun_phrases_have_a_word_for_a_root_in_one_line_at_its_place(answer):
    found = find_phrases(answer, letters(answer))
    for phrase in found:
        assert bare(answer[phrase.start : phrase.end]) == bare(phrase.root)
        assert any(c.isalpha() or c == "\ufffd" for c in phrase.root)
        assert phrase.tokens == tuple(range(phrase.start, phrase.end))
        assert phrase.text == phrase.text.strip() and len(phrase.text.splitlines()) == 1
    assert "".join(words for words, _ in pieces(answer, found)) == answer


@given(ANSWERS, st.integers(-2, 60), st.integers(-2, 60))
def test_the_characters_that_a_user_counts_are_the_phrase_or_an_error_says_why(answer, start, end):
    try:
        (found,) = find_phrases(answer, letters(answer), [(start, end)])
    except PhraseError as error:
        assert "is not a stretch of words" in str(error)
        return
    assert found.text == answer[start:end].strip() and found.tokens
    assert bare(answer[found.start : found.end]) == bare(found.root)


@given(ANSWERS, st.text(max_size=5) | st.sampled_from(WORDS))
def test_a_named_phrase_is_found_wherever_it_stands_or_an_error_says_that_it_does_not(answer, phrase):
    try:
        found = find_phrases(answer, letters(answer), [phrase])
    except PhraseError as error:
        assert "no phrase" in str(error) or "holds no word" in str(error)
        return
    assert found and all(_same(p.text, phrase.strip()) for p in found)


def _same(a, b):
    return unicodedata.normalize("NFKC", a).casefold() == unicodedata.normalize("NFKC", b).casefold()


@given(ANSWERS)
def test_every_character_of_a_line_is_that_of_its_place(answer):
    for line in lines_of(answer):
        assert len(line.text) == len(line.places) and line.text == line.text.strip()
        assert all(c in (answer[i], " ") for c, i in zip(line.text, line.places, strict=True))
        assert list(line.places) == sorted(set(line.places))


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=5), min_size=1, max_size=6))
def test_words_keep_their_tokens_when_blanks_and_accents_are_encoded_otherwise(words):
    decoded = " ".join(unicodedata.normalize("NFC", w) for w in words)
    given_text = "  " + " \n ".join(unicodedata.normalize("NFD", w) for w in words) + "</s>"
    assume(unicodedata.normalize("NFC", given_text).split() == [*decoded.split()[:-1], decoded.split()[-1] + "</s>"])
    offsets, at = [], 0
    for word in decoded.split():
        at = decoded.index(word, at)
        offsets.append((at, at + len(word)))
        at += len(word)
    for (a, b), (x, y) in zip(offsets, moved(offsets, decoded, given_text), strict=True):
        assert _same(unicodedata.normalize("NFC", given_text[x:y]), decoded[a:b])


class Letters:
    """A tokenizer of single characters that writes everything small and loses what it does not know."""

    def decode(self, ids, **_):
        return "".join(chr(i) for i in ids if 31 < i < 1000).lower()


@given(ANSWERS)
def test_a_given_answer_comes_back_and_offsets_stay_inside_it_in_order(answer):
    assume(answer)
    text, offsets = answer_text(Letters(), [ord(c) for c in answer], answer)
    assert text == answer and len(offsets) == len(answer)
    assert all(0 <= a <= b <= len(answer) for a, b in offsets)
    words = [(i, a, b) for i, (a, b) in enumerate(offsets) if not answer[i].isspace()]
    assert [a for _, a, _ in words] == sorted(a for _, a, _ in words)
    known = [(i, a, b) for i, a, b in words if 31 < ord(answer[i]) < 1000 and not unicodedata.combining(answer[i])]
    assert all(a <= i < b for i, a, b in known)


@given(st.text(max_size=12) | st.sampled_from(WORDS), st.sampled_from(["dog", "traffic light", "people", "_", "🐶"]))
def test_names_of_any_spelling_are_compared_without_an_error(name, said):
    import numpy as np

    from interp.types import Target

    assert spaced(spaced(name)) == spaced(name) or words_of(name) is not None
    phrase = Phrase(said, said, said, 0, len(said), (0,))
    assert targets_named([phrase], [Target(name, np.ones((1, 1), bool))]) in ([[]], [[0]])
