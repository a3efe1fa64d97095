"""The perturbation explorer and the labelling desk in the real JupyterLab: type, slide, label with the keyboard, restart the kernel; and how fast strips follow a key."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from test_lab import CHINESE, CONTRAST, ENGLISH, FARSI, KERNEL, PRINT, SHOTS, run_all, settle

from toksuite_nb.perturb import perturbations
from toksuite_nb.text import languages

sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
expect = sync_api.expect
expect.set_options(timeout=30_000)

HOSTILE = "<img src=x onerror=alert(1)> a\u202eb\u200b" + "\u0301" * 200
TOKENIZERS = "{'tekken': 'tekken', 'bytes': 'bytes'}"
RESTART = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"


def write(folder: Path, name: str, *cells: str) -> str:
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=KERNEL), folder / name)
    return name


@pytest.fixture(scope="module")
def perturber(notebooks: Path) -> str:
    """A notebook with a perturbation explorer."""
    call = f"explorer = PerturbationExplorer({TOKENIZERS}, lang='it', perturbation='ascii_keyboard')"
    return write(
        notebooks, "perturber.ipynb", "from toksuite_nb.explorers import PerturbationExplorer", call, "explorer"
    )


@pytest.fixture(scope="module")
def desks(notebooks: Path) -> str:
    """A notebook with two labelling desks: one with given labels, one for free text."""
    return write(
        notebooks,
        "desks.ipynb",
        "import polars as pl\nfrom toksuite_nb.explorers import EfficiencyExplorer\nfrom toksuite_nb.labeling import LabelingDesk",
        f"prompts = pl.DataFrame({{'prompt': [{ENGLISH!r}, {FARSI!r}, {CHINESE!r}, {HOSTILE!r}]}})\n"
        "end = lambda labelled: EfficiencyExplorer(auc=0.8, zero_shot=0.5, ceiling=0.9)\n"
        "desk = LabelingDesk(prompts, 'answers.jsonl', labels=['yes', 'no', 'unsure'], finish=end)",
        "desk",
        "free = LabelingDesk(prompts, 'free.jsonl')\nfree",
    )


def box_of(page: Any) -> Any:
    box = page.locator(".widget-vbox:has(> .tks-area)").first
    box.scroll_into_view_if_needed()
    return box


def menu(box: Any, label: str) -> Any:
    return box.locator(f".widget-dropdown:has(label:text-is('{label}')) select")


def choose(box: Any, label: str, option: str) -> None:
    menu(box, label).select_option(label=option)


def test_typing_and_sliding_show_what_was_edited(lab, page, perturber):
    run_all(page, lab.url(perturber))
    box = box_of(page)
    area = box.locator("textarea").first
    area.click()
    area.press("Control+A")
    area.press_sequentially("Perché no?", delay=5)
    expect(box.locator(".tks-text ins")).to_have_text(["e"])
    expect(box.locator(".tks-text del")).to_have_text(["é"])
    expect(box.locator(".tks-field .tks-title")).to_contain_text("1 edit on 10% of its characters")
    cuts = box.locator(".tks-table tbody tr")
    expect(cuts).to_have_count(2)
    expect(cuts.nth(1)).to_contain_text("bytes")
    expect(cuts.nth(1).locator("td").first).to_have_text("11")

    handle = box.locator("input[type=range]")
    handle.focus()
    handle.press("Home")
    expect(box.locator(".tks-field .tks-title")).to_contain_text("no edit")
    expect(box.locator(".tks-text ins")).to_have_count(0)
    handle.press("End")
    expect(box.locator(".tks-text ins")).to_have_count(1)
    settle(page, "explorer.state.severity", "1.0")

    area.fill("12")
    expect(box.locator(".tks-say")).to_contain_text("ascii_keyboard is not applicable")
    choose(box, "family", "styling")
    expect(menu(box, "perturbation").locator("option")).to_have_count(
        perturbations("it").filter(category="styling").height
    )
    choose(box, "perturbation", "uppercase")
    area.fill("Che ora è?")
    box.locator("textarea").nth(1).fill("mezzogiorno\nle due")
    choose(box, "target", "choices")
    expect(box.locator(".tks-field .tks-title")).to_contain_text(["question: no edit", "option 1: 1 edit", "option 2"])
    choose(box, "cut of", "option 2")
    expect(box.locator(".tks-strip").first.locator(".tks-t")).not_to_have_count(0)
    expect(box).to_contain_text("LE DUE")


def test_labelling_by_keyboard_survives_a_restart_of_the_kernel(lab, page, desks, notebooks):
    run_all(page, lab.url(desks))
    desk = page.locator(".tkd").first
    desk.scroll_into_view_if_needed()
    text, told = desk.locator(".tkd-text"), desk.locator(".tkd-head span")
    expect(text).to_have_text(ENGLISH)
    desk.focus()
    page.keyboard.press("1")
    expect(text).to_have_text(FARSI)
    expect(text).to_have_attribute("dir", "rtl")
    page.keyboard.press("s")
    expect(text).to_have_text(CHINESE)
    page.keyboard.press("2")
    expect(told).to_have_text("2 of 4 labelled, 1 put off")
    page.keyboard.press("u")
    expect(text).to_have_text(CHINESE)
    page.keyboard.press("3")
    expect(text).to_contain_text("<img src=x onerror=alert(1)> a⟨RLO⟩b")
    assert page.locator(".tkd img").count() == 0, "markup in the text became an element of the page"
    assert text.bounding_box()["height"] < 420, "marks that pile up break the layout"

    page.evaluate(RESTART)
    run_all(page, lab.url(desks))
    desk.scroll_into_view_if_needed()
    expect(told).to_have_text("2 of 4 labelled, 1 put off")
    expect(text).to_contain_text("<img src=x onerror=alert(1)>")
    desk.focus()
    page.keyboard.press("2")
    expect(text).to_have_text(FARSI)
    page.keyboard.press("1")
    expect(text).to_have_text("All examples are labelled.")
    page.keyboard.press("f")
    expect(page.locator(".widget-vbox:has(.tkd)").first).to_contain_text("labelled examples")
    lines = [json.loads(line) for line in (notebooks / "answers.jsonl").read_text().splitlines()]
    assert [line.get("label") or ("skip" if "skip" in line else "undo") for line in lines[1:]] == [
        "yes", "skip", "no", "undo", "unsure", "no", "yes",
    ]  # fmt: skip

    free = page.locator(".tkd").nth(1)
    area = free.locator("textarea")
    area.click()
    area.press_sequentially("u, s and 1 are letters here")
    area.press("Enter")
    expect(free.locator(".tkd-text")).to_have_text(FARSI)
    expect(area).to_be_focused()
    area.press("Enter")
    expect(free.locator(".tkd-say")).to_contain_text("An empty answer is not kept")
    area.press("Control+z")
    expect(free.locator(".tkd-text")).to_have_text(ENGLISH)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_new_views_are_legible_in_both_themes(lab, page, perturber, desks, notebooks, theme):
    """In three languages and with hostile text; the pictures are kept."""
    name = theme.split()[1].lower()
    for journal in ("answers.jsonl", "free.jsonl"):
        (notebooks / journal).unlink(missing_ok=True)
    run_all(page, lab.url(desks), theme)
    desk = page.locator(".tkd").first
    for language in ("english", "farsi", "chinese", "hostile"):
        desk.scroll_into_view_if_needed()
        desk.screenshot(path=SHOTS / f"desk-{language}-{name}.png")
        ratios = page.evaluate(CONTRAST.replace(".tks-t", ".tkd-text, .tkd button, .tkd-head span, .tkd textarea"))
        assert min(ratios) >= 4.5, f"text of the desk has too little contrast: {min(ratios):.2f}"
        assert desk.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), "the text is wider than the desk"
        desk.focus()
        page.keyboard.press("1")
        expect(desk.locator("progress")).to_have_js_property(
            "value", ("english", "farsi", "chinese", "hostile").index(language) + 1
        )
    run_all(page, lab.url(perturber), theme)
    box = box_of(page)
    for language, text, lang, rule in (
        ("english", ENGLISH, "English", "keyboard proximity"),
        ("farsi", FARSI, "Farsi", "keyboard proximity"),
        ("chinese", CHINESE, "Chinese", "romanization"),
        ("hostile", HOSTILE, "English", "character deletion"),
    ):
        choose(box, "language", lang)
        settle(page, "explorer.lang.label", lang)
        # the kernel hears of the language before it has looked up its perturbations
        offered = perturbations(dict(zip(languages.values(), languages, strict=True))[lang]).height
        expect(menu(box, "perturbation").locator("option")).to_have_count(offered)
        choose(box, "perturbation", rule)
        settle(page, "explorer.perturbation.label", rule)
        box.locator("textarea").first.fill(text)
        expect(box.locator(".tks-text ins, .tks-text del").first).to_be_attached()
        page.wait_for_timeout(400)
        expect(box.locator(".tks-text").first).to_have_attribute("dir", "rtl" if language == "farsi" else "ltr")
        box.screenshot(path=SHOTS / f"perturber-{language}-{name}.png")
        ratios = page.evaluate(
            CONTRAST.replace(".tks-t", ".tks-t, .tks-text ins, .tks-text del, .tks-title, .tks-table td, .tks-about")
        )
        assert min(ratios) >= 4.5, f"text of the explorer has too little contrast: {min(ratios):.2f}"
        assert box.locator("img").count() == 0, "markup in the text became an element of the page"
        assert box.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), "the text is wider than the explorer"


# the clock starts in the page at the key, and stops in the frame after the last change that the key brought
CLOCK = """() => {
  const box = document.querySelector(".widget-vbox:has(> .tks-area)");
  window.seen = { start: 0, last: 0 };
  box.querySelector("textarea").addEventListener("keydown", () => { window.seen = { start: performance.now(), last: 0 }; }, true);
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => { window.seen.last = performance.now(); })))
    .observe(box, { subtree: true, childList: true, characterData: true });
}"""
LATENCY = """
from toksuite_nb.explorers import TokenizerExplorer
from toksuite_nb.store import data_dir

suite = {name: data_dir() / 'suite' / name for name in ('bpe', 'unigram-nfkc', 'wordpiece')}
explorer = TokenizerExplorer({**suite, 'tekken': 'tekken', 'bytes': 'bytes'}, text='x', perturbation=None)
explorer
"""
PROSE = (
    "The quick brown fox paid 25 dollars for a café au lait, and nobody in the village could tell why it had done so. "
)


def milliseconds(page: Any, size: int, presses: int) -> list[float]:
    """Times from key presses in the middle of a text to the strips that show it."""
    area = page.locator(".tks-area textarea").first
    area.fill((PROSE * (size // len(PROSE) + 1))[: size - presses])
    page.wait_for_timeout(1500)
    area.click()
    area.evaluate("(e, n) => e.setSelectionRange(n, n)", size // 2)
    times = []
    for k in range(presses):
        page.keyboard.press("etaoinshrdlu"[k % 12])
        page.wait_for_function(
            "quiet => window.seen.last && performance.now() - window.seen.last > quiet", arg=300 if size < 5000 else 500
        )
        times.append(page.evaluate("window.seen.last - window.seen.start"))
    return times


def test_strips_follow_a_key_press(lab, page, notebooks):
    """Five tokenizers, 1,000 and 20,000 characters. The bars of 150 and 600 ms hold under QUIET=1, on a machine that does nothing else; else four times as much."""
    run_all(page, lab.url(write(notebooks, "latency.ipynb", LATENCY)))
    page.evaluate(CLOCK)
    quiet, slow = bool(os.environ.get("QUIET")), []
    for perturbation in ("None", "'keyboard_proximity'") if quiet else ("None",):
        page.evaluate(PRINT, f"explorer.text.value = 'x'; explorer.perturbation.value = {perturbation}")
        for size, limit in ((1_000, 150), (20_000, 600)):
            times = milliseconds(page, size, 15 if quiet else 5)
            median = statistics.median(times)
            print(
                f"{size:,} characters, 5 tokenizers, perturbation {perturbation}: median {median:.0f} ms, from {min(times):.0f} to {max(times):.0f}, n = {len(times)}"
            )
            slow += [(size, perturbation, median)] * (median > limit * (1 if quiet else 4))
    assert not slow
