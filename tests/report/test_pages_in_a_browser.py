"""Reports in headless Chromium: what a reader at a usual screen would not see."""

from __future__ import annotations

import os
import shutil

import pytest

from interp import cli

pytestmark = pytest.mark.browser
BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
LONG = ("llava_without_any_hyphen_in_its_very_long_name_0", "llava-v1.5-7b-finetuned-on-many-captions-lora-r128")


@pytest.fixture(scope="module")
def report(make_tiny_llava, tmp_path_factory):
    """The report of two models with long names."""
    home = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(LONG):
        for part in make_tiny_llava(seed):
            part.save_pretrained(home / name)
    words = ["compare", *(str(home / name) for name in LONG), "scenes", "--samples", "4", "--metrics", "pointing_game"]
    assert cli.main([*words, "--device", "cpu", "--no-recall", "--out", str(home / "run")]) == 0
    return home / "run" / "report.html"


def test_every_table_of_a_comparison_is_whole_at_1280_pixels_and_bears_the_models_names(report):
    driver = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no Chromium on the path; name one with CHROMIUM")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(f"file://{report}")
        tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        cut = tab.evaluate(
            "[...document.querySelectorAll('table')].filter(t => t.scrollWidth > t.parentElement.clientWidth + 1)"
            ".map(t => t.querySelector('tr').innerText)"
        )
        heads = tab.locator("h3", has_text="Model against model").locator("xpath=following::tr[1]/th").all_inner_texts()
        wide = tab.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert cut == [] and wide <= 1280
    assert [name for name in heads if name in LONG] == list(LONG)
    assert not {"first", "second"} & set(heads)
