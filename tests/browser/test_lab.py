"""The real JupyterLab: open a notebook, run it, type into the explorer, and see what a person would see."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
expect = sync_api.expect

ROOT = Path(__file__).parents[2]
NBS = ROOT / "nbs"
SHOTS = Path(os.environ.get("SHOTS", ROOT / "build" / "shots"))
TOUR = "tutorials/tour.ipynb"
SMALL = "explorer-alone.ipynb"
KERNEL = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
PRINT = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel; let out = '';
  const future = kernel.requestExecute({ code }); future.onIOPub = (m) => { if (m.content.text) out += m.content.text; };
  await future.done; return out.trim();
}"""
ENGLISH, FARSI, CHINESE = "The capital of Turkey is Ankara.", "پایتخت ایران تهران است.", "中国的首都是北京。"
HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "bidi overrides": "abc\u202edef\u202c \u2067ghi\u2069 \u200b",
    "piled marks": "a" + "\u0301" * 10_000,
    "nul": "a\x00b",
    "long word": "x" * 5_000,
}

# a kernel calls itself idle before the page is connected to it, and a command's promise has no time limit: so first wait for the
# connection, then start the run without waiting, and poll
READY = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
}"""
RUN = """() => {
  window.outcome = null;
  window.jupyterapp.commands.execute("notebook:run-all-cells").then(
    (ok) => { window.outcome = ok ? "all cells ran" : "a cell failed"; },
    (error) => { window.outcome = String(error); });
}"""
ERRORS = """() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells
  .flatMap((cell) => (cell.outputs || []).filter((o) => o.output_type === "error").map((o) => o.ename + ": " + o.evalue))"""


def settle(page: Any, expression: str, value: str) -> None:
    """Wait until the kernel has heard of it."""
    for _ in range(150):
        if page.evaluate(PRINT, f"print({expression})") == value:
            return
        page.wait_for_timeout(200)
    pytest.fail(f"{expression} never became {value!r}")


def run_all(page: Any, url: str, theme: str = "JupyterLab Light") -> None:
    """Open a notebook, run every cell, and stop at the first error."""
    page.goto(url)
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext")
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
    page.evaluate(READY)
    page.evaluate(RUN)
    page.wait_for_function("window.outcome", timeout=300_000)
    assert page.evaluate("window.outcome") == "all cells ran", page.evaluate(ERRORS)


class Explorer:
    """The first TokenizerExplorer of a page, as a reader sees it."""

    def __init__(self, page: Any):
        self.page = page
        self.area = page.locator(".tks-area textarea").first
        self.area.scroll_into_view_if_needed()
        # the explorer is the box of widgets around its text area
        self.box = page.locator(".widget-vbox:has(> .tks-area)").first
        self.strips = self.box.locator(".tks").first.locator(".tks-strip")

    def type(self, text: str) -> None:
        """Replace the text by typing."""
        self.area.click()
        self.area.press("Control+A")
        self.area.press_sequentially(text, delay=5)

    def paste(self, text: str) -> None:
        """Replace the text at once."""
        self.area.fill(text)

    def settle(self, text: str) -> list[str]:
        """Tokens of the first strip, once the strips show `text`."""
        end = time.monotonic() + 30
        while True:
            cells = self.cells(0)
            if joined(cells) == text:
                return cells
            assert time.monotonic() < end, f"the strip shows {joined(cells)!r} and not what was typed"
            self.page.wait_for_timeout(100)

    def cells(self, strip: int) -> list[str]:
        """Texts of the tokens of a strip."""
        return self.strips.nth(strip).locator(".tks-t").all_text_contents()

    def choose(self, label: str, option: str) -> None:
        """Pick from the drop-down with that label."""
        self.box.locator(f".widget-dropdown:has(label:text-is('{label}')) select").select_option(label=option)


def joined(cells: list[str]) -> str:
    """Text behind the cells: without joiners and inserted pieces, spaces as spaces, bytes put together again."""
    out = b""
    for cell in cells:
        if not cell.startswith("⟨+"):
            for piece in re.split(r"(⟨[0-9A-F ]+⟩)", cell.replace("\u200d", "").replace("␣", " ")):
                out += bytes.fromhex(piece[1:-1]) if piece.startswith("⟨") else piece.encode()
    return out.decode("utf-8", "replace")


@pytest.fixture(scope="session")
def small(notebooks: Path) -> str:
    """A notebook whose only output is an explorer, for what the tour need not wait for."""
    cells = [
        "from toksuite_nb.explorers import TokenizerExplorer",
        "explorer = TokenizerExplorer({'tekken': 'tekken', 'mistral-spm': 'mistral-spm', 'bytes': 'bytes'}, perturbation='adjacent_swap')",
        "explorer",
    ]
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=KERNEL), notebooks / SMALL)
    return SMALL


@pytest.fixture(params=[TOUR, SMALL], ids=["tour", "alone"])
def notebook(request: pytest.FixtureRequest, small: str) -> str:
    """The tour, and the explorer on its own."""
    if not (NBS / request.param).exists() and request.param != small:
        pytest.skip(f"nbs/{request.param} does not exist")
    return request.param


def test_typing_in_english_and_in_farsi_changes_the_strips(lab, page, notebook):
    run_all(page, lab.url(notebook))
    explorer = Explorer(page)
    before = explorer.cells(0)
    assert before, "the explorer shows no tokens"
    strip = explorer.strips.first.locator(".tks-body")

    explorer.type(ENGLISH)
    english = explorer.settle(ENGLISH)
    assert english != before
    expect(strip).to_have_attribute("dir", "ltr")

    explorer.type(FARSI)
    farsi = explorer.settle(FARSI)
    assert farsi != english
    expect(strip).to_have_attribute("dir", "rtl")
    # the first strip's tokens stand from right to left
    boxes = explorer.strips.first.locator(".tks-t")
    assert boxes.nth(0).bounding_box()["x"] > boxes.nth(1).bounding_box()["x"], "Farsi must run from right to left"
    explorer.area.scroll_into_view_if_needed()
    if notebook == TOUR:
        picture(page, explorer)


def picture(page: Any, explorer: Explorer) -> None:
    """The picture of the README, which `make pictures` takes over: what is seen of three tokenizers, one of which normalises."""
    for name in ("bytes", "bpe-nfkc-lower", "unigram-nfkc", "tekken"):
        page.evaluate(PRINT, f"explorer.remove({name!r})")
    explorer.paste("The month after January is February")
    expect(explorer.strips).to_have_count(3)
    explorer.settle("The month after January is February")
    expect(explorer.box.locator(".tks-edits")).to_contain_text("𝐅𝐞𝐛𝐫𝐮𝐚𝐫𝐲")
    expect(explorer.box.locator(".tks-table tbody tr")).to_have_count(6)
    page.set_viewport_size({"width": 1250, "height": 1600})
    page.mouse.move(0, 0)
    explorer.box.screenshot(path=SHOTS / "readme-explorer.png")


def test_pointing_selecting_and_the_keyboard(lab, page, small):
    run_all(page, lab.url(small))
    explorer = Explorer(page)
    explorer.paste("to be café")
    byte_strip = explorer.strips.nth(2)
    expect(byte_strip.locator(".tks-t")).to_have_count(11)

    # pointing at a byte lights the token that holds it in every strip, and says what it is
    byte_strip.locator(".tks-t").nth(10).hover()
    expect(byte_strip.locator(".tks-lit")).to_have_text("⟨A9⟩")
    expect(explorer.strips.nth(0).locator(".tks-lit")).to_contain_text("é")
    read = explorer.box.locator(".tks-read").first
    expect(read).to_contain_text("bytes 10–11 of the text: A9")
    expect(read).to_contain_text("part of a character")

    # a click selects, and Python can read it
    explorer.strips.nth(2).locator(".tks-t").nth(3).click()
    expect(byte_strip.locator(".tks-picked")).to_have_text("b")
    page.keyboard.press("ArrowRight")
    expect(read).to_contain_text("token 5 of 11")
    page.keyboard.press("Shift+Enter")
    expect(byte_strip.locator(".tks-picked")).to_have_count(2)
    settle(page, "explorer.strip.selection", "[3, 5]")

    # and Python can set it
    page.evaluate(PRINT, "explorer.strip.selection = (0, 2)")
    expect(byte_strip.locator(".tks-picked")).to_have_text(["t", "o"])
    byte_strip.locator(".tks-body").focus()
    page.keyboard.press("Escape")
    expect(byte_strip.locator(".tks-picked")).to_have_count(0)


def test_perturbing_shows_what_moved_and_what_cannot_be_done(lab, page, small):
    run_all(page, lab.url(small))
    explorer = Explorer(page)
    explorer.paste("the quick brown fox")
    explorer.choose("perturbation", "uppercase")
    edits = explorer.box.locator(".tks-edits")
    expect(edits).to_contain_text("Q")
    expect(explorer.box.locator(".tks-touched").first).to_be_visible()
    explorer.paste("")
    expect(explorer.box.locator(".tks-say")).to_contain_text("An empty text has no tokens")
    explorer.paste("123")
    expect(explorer.box.locator(".tks-say")).to_contain_text("uppercase is not applicable")


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_strips_are_legible_in_both_themes(lab, page, small, theme):
    """In three languages and with hostile text; the pictures are kept."""
    run_all(page, lab.url(small), theme)
    explorer = Explorer(page)
    for name, text in {"english": ENGLISH, "farsi": FARSI, "chinese": CHINESE, **HOSTILE}.items():
        explorer.paste(text)
        if text in HOSTILE.values():
            expect(explorer.strips.nth(2).locator(".tks-note")).to_contain_text(f"{len(text.encode()):,} tokens")
        else:
            explorer.settle(text)
        assert explorer.box.locator("img, script").count() == 0, "markup in the text became an element of the page"
        outer = explorer.box.bounding_box()
        for k in range(3):
            inner = explorer.strips.nth(k).locator(".tks-body").bounding_box()
            assert inner["width"] <= outer["width"], f"a strip is wider than its place with {name}"
            assert inner["height"] <= 260, f"a strip is too high with {name}"
        assert explorer.box.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), f"{name} is wider than the explorer"
        ratios = page.evaluate(CONTRAST)
        assert ratios, "no token to look at"
        assert min(ratios) >= 4.5, f"token text has too little contrast: {min(ratios):.2f}"
        explorer.area.scroll_into_view_if_needed()
        explorer.box.screenshot(path=SHOTS / f"explorer-{name.replace(' ', '-')}-{theme.split()[1].lower()}.png")


# contrast of a cell's ink with its tint laid over the page, by the formula of WCAG 2
CONTRAST = """() => {
  const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
  const over = (top, under) => [0, 1, 2].map((k) => top[k] * top[3] + under[k] * (1 - top[3]));
  const lum = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
  return [...document.querySelectorAll(".tks-t")].slice(0, 40).map((e) => {
    const s = getComputedStyle(e), page = ground(e.parentElement), paper = over(parse(s.backgroundColor), page), ink = over(parse(s.color), paper);
    const [a, b] = [lum(ink), lum(paper)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
}"""
