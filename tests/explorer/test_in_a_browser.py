"""The explorer in headless Chromium, driven as a user would: clicks, keys, the slider, links, and what is drawn.

On demand: ``pytest -m browser``. ``CHROMIUM`` names the browser where it is not on the path.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest

import interp
from interp.explorer import packing, page
from interp.explorer.contents import contents
from interp.metrics import image_mass

from .test_explorer import ONE_WAY, wide

pytestmark = pytest.mark.browser
BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def chromium():
    driver = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no Chromium on the path; name one with CHROMIUM")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens a page and fails at the end if the console complained or a request left."""
    opened, wrong = [], []

    def go(path, link="", width=1280, **look):
        tab = chromium.new_page(viewport={"width": width, "height": 900}, **look)
        opened.append(tab)
        tab.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url))
        tab.goto(f"file://{path}{link}")
        tab.wait_for_selector(".ix-caption:not(:empty)")
        return tab

    yield go
    for tab in opened:
        tab.close()
    assert wrong == []


@pytest.fixture(scope="module")
def scene_page(tmp_path_factory):
    """(path, contents) of mini-llava on a scene."""
    from interp.datasets import scenes

    made = interp.explore(interp.load("mini-llava"), scenes.sample("test", 0), segmenter="mini-sam")
    return made.save(tmp_path_factory.mktemp("explorer") / "scene.html"), made.contents


def caption(tab):
    tab.wait_for_selector('.ix[data-state="drawn"]')
    return tab.locator(".ix-caption").first.inner_text()


def pressed(tab):
    tab.wait_for_selector('.ix[data-state="drawn"]')
    return tab.locator('.ix-phrase[aria-pressed="true"]').inner_text()


def at(tab, layer, head):
    """The middle of a head's tile, in the canvas."""
    place = tab.evaluate("() => document.querySelector('.ix-view').layout")
    return {
        "x": place["left"] + place["tile"] * (head + 0.5),
        "y": place["top"] + place["tall"] * (layer + 0.5),
    }


def highest(panel, way, unit, place):
    rows, cols = panel["grid"]
    best = packing.unpacked(panel["ways"][way]["maps"][unit], rows * cols)[place].argmax()
    return f"highest patch: row {best // cols}, column {best % cols}"


def test_a_click_on_a_word_and_on_a_head_shows_that_heads_map_of_that_word(visit, scene_page):
    path, held = scene_page
    (panel,) = held["panels"]
    tab = visit(path)
    tab.locator(".ix-phrase", has_text="a mushroom").click()
    tab.locator(".ix-heads").click(position=at(tab, 3, 5))
    unit = [u["text"] for u in panel["units"]].index("a mushroom")
    assert caption(tab).startswith("L3H5")
    assert highest(panel, 0, unit, 3 * 8 + 5) in caption(tab)
    tab.get_by_role("button", name="scene", exact=True).click()  # a token that names nothing
    assert "specificity of pointing game –" in caption(tab)


def test_keys_move_between_heads_and_between_words(visit, scene_page):
    tab = visit(scene_page[0], "#phrase=1&head=L0H7")
    tab.locator(".ix-heads").focus()
    tab.keyboard.press("ArrowDown")
    assert caption(tab).startswith("L1H7")
    tab.keyboard.press("ArrowRight")  # round the edge
    assert caption(tab).startswith("L1H0")
    tab.keyboard.press("Space")
    assert "--heads 1:0" in tab.locator(".ix-chosen").inner_text()
    tab.locator(".ix-phrase").nth(1).focus()
    tab.keyboard.press("ArrowRight")
    assert pressed(tab) == "a frog"


def test_a_link_reopens_the_view_it_was_copied_from(visit, scene_page):
    tab = visit(scene_page[0], "#phrase=3&head=L2H4&query=self&normalise=none&metric=image_mass&heads=L0H3,L2H4")
    assert caption(tab).startswith("L2H4 · image mass")
    assert pressed(tab) == "a cherry"
    assert "--heads 0:3,2:4" in tab.locator(".ix-chosen").inner_text()
    before, link = caption(tab), tab.evaluate("location.hash")
    again = visit(scene_page[0], link)
    assert caption(again).startswith("L2H4 · image mass")
    assert caption(again) == before and again.evaluate("location.hash") == link


@pytest.mark.parametrize("link", ["#token=999&head=L99H99", "#head=x&phrase=-1&step=3", "#beside=7&metric=none&%%%"])
def test_a_broken_link_opens_the_page_all_the_same(visit, scene_page, link):
    assert "highest patch" in caption(visit(scene_page[0], link))


def test_the_mean_of_picked_heads_is_their_mean(visit, scene_page):
    path, held = scene_page
    (panel,) = held["panels"]
    tab = visit(path, "#phrase=1&head=L0H3&heads=L0H3,L2H4&mean=1")
    maps = packing.unpacked(panel["ways"][0]["maps"][1], 144)[[3, 20]].mean(0)
    row, col = divmod(int(maps.argmax()), 12)
    assert caption(tab).startswith("mean of 2 heads")
    assert f"row {row}, column {col}, {maps.max():.3f}" in caption(tab)


def test_a_pixel_has_the_colour_of_its_patch(visit, tmp_path):
    view = wide(layers=1, heads=1, side=2, words=1)
    view.recordings[0].maps["answer"][0, 0, 0] = 0.0
    view.recordings[0].maps["answer"][0, 0, 0, 1, 0] = 1.0  # one patch of four: its z-score is the root of 3
    path = tmp_path / "known.html"
    path.write_text(page.whole(contents([view], {}, "all", 10**6), "known"))
    tab = visit(path)
    tab.get_by_label("peak", exact=True).uncheck()
    tab.get_by_label("opacity of the map").fill("1")
    tab.wait_for_selector('.ix[data-state="drawn"]')
    read = """() => {
        const canvas = document.querySelector('.ix-image'), n = canvas.width;
        const all = canvas.getContext('2d').getImageData(0, 0, n, n).data;
        return [[n / 4, 3 * n / 4], [3 * n / 4, n / 4]].map(([x, y]) => [...all.slice(4 * (y * n + x)).slice(0, 3)]);
    }"""
    shown, elsewhere = tab.evaluate(read)
    strength = 1.6 * np.sqrt(3) / 4  # a map's opacity grows with its value; the image under it is black
    wanted = np.array(mpl.colormaps["inferno"](round(np.sqrt(3) / 4 * 255))[:3]) * 255 * strength
    np.testing.assert_allclose(shown, wanted, atol=4)
    assert max(elsewhere) < 8


def test_a_slider_goes_through_the_checkpoints_and_keeps_word_and_head(visit, tmp_path):
    from interp.datasets import scenes

    series = interp.series("mini-llava")
    steps = [0, 500, series.points[-1].step]
    made = interp.explore(series, scenes.sample("test", 0), ways=ONE_WAY, steps=steps, progress=False)
    tab = visit(made.save(tmp_path / "series.html"), "#phrase=2&head=L1H1")
    assert f"step {steps[-1]}" in tab.locator(".ix-view h3").inner_text()
    tab.get_by_label("checkpoint", exact=True).press("ArrowLeft")
    tab.wait_for_selector('.ix[data-state="drawn"]')
    assert "step 500" in tab.locator(".ix-view h3").inner_text()
    assert caption(tab).startswith("L1H1")
    assert highest(made.contents["panels"][1], 0, 2, 9) in caption(tab)
    assert pressed(tab) == "a frog"


def test_two_models_side_by_side_are_moved_together(visit, tmp_path):
    from interp.datasets import scenes

    both = [interp.load("mini-llava"), interp.load("mini-difflmm")]
    made = interp.explore(both, scenes.sample("test", 0), ways=ONE_WAY)
    tab = visit(made.save(tmp_path / "both.html"), "#beside=1")
    tab.locator(".ix-view").nth(1).locator(".ix-phrase", has_text="a cherry").click()
    tab.locator(".ix-heads").first.click(position=at(tab, 4, 2))
    tab.wait_for_selector('.ix[data-state="drawn"]')
    captions = [tab.locator(".ix-caption").nth(i).inner_text() for i in (0, 1)]
    for text, panel in zip(captions, made.contents["panels"], strict=True):
        assert text.startswith("L4H2") and highest(panel, 0, 3, 4 * 8 + 2) in text


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_can_be_read_on_it(visit, scene_page, width, scheme):
    tab = visit(scene_page[0], width=width, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ink, ground = tab.evaluate(
        "() => { const s = getComputedStyle(document.querySelector('.ix')); return [s.color, s.backgroundColor] }"
    )

    def light(colour):
        parts = np.array([float(x) for x in colour[colour.index("(") + 1 : -1].split(",")[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((light(ink), light(ground)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 7  # WCAG AAA
    assert (light(ground) < 0.2) == (scheme == "dark")


def test_whoever_cannot_see_it_is_told_what_is_shown(visit, scene_page):
    tab = visit(scene_page[0], "#phrase=1&head=L2H4")
    nameless = """() => [...document.querySelectorAll('button, select, input, canvas')].filter(
        (e) => !(e.textContent || e.getAttribute('aria-label') || e.closest('label'))).length"""
    assert tab.evaluate(nameless) == 0
    assert "a cup: L2H4" in tab.locator('[role="status"]').inner_text()
    assert tab.locator(".ix-image").get_attribute("aria-label").startswith("Map of “a cup”: L2H4")


def test_a_7b_page_opens_in_two_seconds_and_answers_a_click_in_a_tenth(visit, tmp_path):
    path = tmp_path / "wide.html"
    path.write_text(page.whole(contents([wide()], {"image_mass": image_mass}, "all", 15_000_000), "wide"))
    started = time.perf_counter()
    tab = visit(path)
    opened = time.perf_counter() - started
    timed = """async (k) => {
        const button = document.querySelectorAll('.ix-phrase')[k], root = document.querySelector('.ix');
        const drawn = new Promise((done) => root.addEventListener('drawn', done, { once: true }));
        const before = performance.now(); button.click(); await drawn; return performance.now() - before;
    }"""
    clicks = sorted(tab.evaluate(timed, k) for k in range(1, 8))
    print(f"opened in {opened:.2f} s, a new word in {clicks[3]:.0f} ms (median)")
    assert opened < 2 and clicks[3] < 100


def test_a_frame_in_a_report_works_like_the_page(visit, scene_page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(f"<!doctype html><title>r</title><h1>report</h1>{page.piece(scene_page[1])}")
    assert "highest patch" in caption(visit(path))


def test_one_panel_can_have_another_word_only_if_it_says_so(visit, tmp_path):
    other = wide(layers=1, heads=1, side=2, words=1)
    other = replace(other, title="other", answer="else", units=(replace(other.units[0], text="a thing"),))
    path = tmp_path / "two.html"
    first = wide(layers=1, heads=1, side=2, words=1)
    path.write_text(page.whole(contents([first, other], {}, "all", 10**6), "two"))
    tab = visit(path, "#beside=1")
    assert tab.locator(".ix-caption").nth(1).inner_text() == "this answer does not have that word"


def test_in_a_notebook_the_widget_tells_python_which_heads_are_picked(visit, scene_page, tmp_path):
    path = tmp_path / "widget.html"
    path.write_text("<!doctype html><title>w</title><div id='cell'></div><p class='ix-caption'>.</p>")
    tab = visit(path)
    start = """async ([module, contents]) => {
        const { default: widget } = await import(URL.createObjectURL(new Blob([module], { type: "text/javascript" })));
        window.kept = { contents, picked: [] };
        const model = { get: (k) => window.kept[k], set: (k, v) => { window.kept[k] = v; }, save_changes: () => {} };
        window.leave = widget.render({ model, el: document.getElementById("cell") });
    }"""
    tab.evaluate(start, [page.module(), json.dumps(scene_page[1])])
    tab.wait_for_selector('.ix[data-state="drawn"]')
    tab.locator(".ix-heads").click(position=at(tab, 2, 4), modifiers=["Shift"])
    tab.wait_for_selector('.ix[data-state="drawn"]')
    assert tab.evaluate("window.kept.picked") == [[2, 4]]
    assert tab.evaluate("location.hash") == ""  # a notebook's address is not the explorer's
    tab.evaluate("window.leave()")
    assert tab.locator("#cell .ix-heads").count() == 0
