"""METEOR and CIDEr: the published pipeline with Java, a stated stand-in without it."""

import math
import shutil
from collections import Counter

import numpy as np
import pytest

from interp.evaluation import captions

REFERENCES = [
    ["A dog sits on a red chair."],
    ["Two cups stand beside the umbrella."],
    ["The man isn't here, his dog's here."],
]
TOLD = ["A dog is on a chair.", "An umbrella and two cups.", "The man isn't here; his dog's here!"]


def cider_d(told, references, sigma=6.0):
    """CIDEr-D of Vedantam et al. 2015, equations 1 to 4, on tokenised captions, one reference each."""

    def grams(text, n):
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    result = np.zeros(len(told))
    for n in range(1, 5):
        seen = Counter(g for (r,) in references for g in grams(r, n))
        seen = Counter({g: sum(g in grams(r, n) for (r,) in references) for g in seen})
        for i, (hyp, (ref,)) in enumerate(zip(told, references, strict=True)):
            vectors = []
            for text in (hyp, ref):
                counts = grams(text, n)
                vectors.append({g: c * (math.log(len(told)) - math.log(max(1, seen[g]))) for g, c in counts.items()})
            a, b = vectors
            norms = [math.sqrt(sum(v * v for v in x.values())) for x in vectors]
            shared = sum(min(a[g], b.get(g, 0.0)) * b.get(g, 0.0) for g in a)
            gap = len(hyp.split()) - len(ref.split())
            similarity = shared / (norms[0] * norms[1]) if all(norms) else shared
            result[i] += similarity * math.exp(-(gap**2) / (2 * sigma**2))
    return 10 * result / 4


def test_cider_equals_its_formula_without_java():
    made = captions.score(TOLD, REFERENCES, java=False)
    told = [captions.simple_tokens(t) for t in TOLD]
    expected = cider_d(told, [[captions.simple_tokens(r) for r in some] for some in REFERENCES])
    np.testing.assert_allclose(made.each, expected, rtol=1e-9)
    assert made.cider == pytest.approx(expected.mean()) and made.tokeniser == "simple"
    assert math.isnan(made.meteor) and "install a Java runtime" in made.notes["meteor"]


def test_bad_lists_are_refused_and_no_captions_are_nan():
    with pytest.raises(ValueError, match="expected one, not empty, each"):
        captions.score(["a"], [[]], java=False)
    assert math.isnan(captions.score([], [], java=False).cider)


def test_the_simple_tokeniser_cuts_clitics_and_drops_punctuation():
    assert captions.simple_tokens("The man isn't here; his dog's here!") == "the man is n't here his dog 's here"


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
@pytest.mark.slow
def test_java_gives_the_same_tokens_for_plain_captions_and_a_meteor_of_one_for_equal_captions():
    texts = [r[0] for r in REFERENCES]
    tokens = captions._ptb([[t] for t in texts])
    assert [tokens[i][0] for i in range(len(texts))] == [captions.simple_tokens(t) for t in texts]
    equal = captions.score(texts, REFERENCES, java=True)
    other = captions.score(TOLD, REFERENCES, java=True)
    assert equal.meteor == pytest.approx(1, abs=1e-6) and 0 < other.meteor < equal.meteor
    assert equal.tokeniser == "ptb" and not equal.notes
    assert captions.score(["", texts[1], ""], REFERENCES, java=True).each[[0, 2]].tolist() == [0, 0]


class Locked:
    """What of pycocoevalcap's Meteor an error or Ctrl-C leaves behind: its lock taken, its process alive."""

    def __init__(self):
        import subprocess
        import sys
        import threading

        pipe = subprocess.PIPE
        self.lock = threading.Lock()
        self.meteor_p = subprocess.Popen([sys.executable, "-c", "input()"], stdin=pipe, stdout=pipe, stderr=pipe)

    def compute_score(self, *_):
        self.lock.acquire()
        raise KeyboardInterrupt


def test_an_interrupted_meteor_leaves_no_lock_that_the_end_of_the_program_waits_for(monkeypatch):
    made = Locked()
    monkeypatch.setattr(captions, "_modules", lambda: {"meteor": type("M", (), {"Meteor": staticmethod(lambda: made)})})
    with pytest.raises(KeyboardInterrupt):
        captions._meteor({0: ["a dog"]}, {0: ["a dog"]})
    assert not made.lock.locked() and made.meteor_p.poll() is not None


@pytest.mark.parametrize(
    "java", [False, pytest.param(True, marks=pytest.mark.skipif(not shutil.which("java"), reason="no Java"))]
)
def test_captions_without_a_word_are_undefined_and_say_why(java):
    found = captions.score(["A dog.", "A cat."], [["", "  "], ["..."]], java=java)
    assert math.isnan(found.meteor) and math.isnan(found.cider) and np.isnan(found.each).all()
    assert "no reference caption holds a word" in found.notes["cider"]
