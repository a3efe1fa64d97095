"""Every explorer in JupyterLab, Notebook 7 and Voila: what a person types, points at, slides, clicks and labels; accessibility; and a saved notebook without a kernel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_notebook
from test_explorers_lab import SHOTS
from test_lab import CHINESE, CONTRAST, ENGLISH, FARSI, KERNEL, READY, ROOT, run_all

sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
expect = sync_api.expect

AXE = Path(__file__).parent / "vendor/axe.min.js"
EVERYTHING = [
    """
import polars as pl
from toksuite_nb.core import drop_schema
from toksuite_nb.explorers import EfficiencyExplorer, PerturbationExplorer, RobustnessExplorer, TokenizerExplorer
from toksuite_nb.items import make_items
from toksuite_nb.labeling import LabelingDesk
from toksuite_nb.perturb import perturb_items
two = {'tekken': 'tekken', 'bytes': 'bytes'}
""",
    "explorer = TokenizerExplorer(two, text='to be', perturbation='uppercase')\nexplorer",
    "perturber = PerturbationExplorer(two, text='Perché no?', lang='it', perturbation='ascii_keyboard')\nperturber",
    """
texts = {'en': 'the sky is', 'fa': 'رنگ آسمان چیست', 'zh': '天空的颜色是'}
asked = make_items([{'item_id': k, 'question': q, 'choices': ['blue', 'a very green field'], 'answer': 0, 'lang': k} for k, q in texts.items()])
items = pl.concat([asked, perturb_items(asked, ['zero_width', 'uppercase'], seed=0)])
items = items.filter(pl.col('question').is_not_null())
scores, judged, cells = [], [], []
for row in items.iter_rows(named=True):
    lost = row['perturbation'] != 'canonical'
    for k, (ll, n) in enumerate(((-12.0 if lost else -4.0, 4), (-40.0, 18))):
        scores.append({'model': 'm', 'tokenizer': 'bytes', 'item_id': row['item_id'], 'choice': k, 'loglikelihood': ll, 'n_tokens': n, 'n_chars': n,
                       'n_bytes': n, 'rule': 'exact', 'boundary': 'clean'})
    judged.append({'model': 'm', 'tokenizer': 'bytes', 'item_id': row['item_id'], 'norm': 'char', 'prediction': int(lost), 'correct': float(not lost),
                   'margin': 1.0, 'tie': False})
    if lost:
        cells.append({'model': 'm', 'tokenizer': 'bytes', 'perturbation': row['perturbation'], 'lang': row['lang'], 'norm': 'char', 'n': 40, 'n_sets': 40,
                      'canonical': 0.9, 'perturbed': 0.45, 'drop': 0.45, 'relative_drop': 0.5, 'chance_corrected': 0.6, 'lost': 19, 'gained': 1, 'p': 0.001,
                      'p_adjusted': 0.001 if row['lang'] == 'en' else 0.2, 'low': 0.3, 'high': 0.7, 'mde': 0.15})
drops = pl.DataFrame(cells, schema={c.name: c.dtype for c in drop_schema.columns})
robust = RobustnessExplorer(drops, items=items, scores=pl.DataFrame(scores), verdicts=pl.DataFrame(judged), tokenizers={'bytes': 'bytes'})
robust
""",
    """
pairs = [(i, j, (-1) ** (i * j) * 0.9 / (1 + j - i)) for j in range(8) for i in range(j)]
gram = pl.DataFrame([{'i': i, 'j': j, 'layer': layer, 'dot': c, 'cosine': c} for layer in ('all', 'layers.0') for i, j, c in pairs])
forecast = EfficiencyExplorer(auc=0.8, zero_shot=0.5, ceiling=0.9, gram=gram, examples=[f'<b>{k}</b> + {k}' for k in range(8)])
forecast
""",
    f"""
prompts = pl.DataFrame({{'prompt': [{ENGLISH!r}, {FARSI!r}, {CHINESE!r}]}})
desk = LabelingDesk(prompts, JOURNAL, labels=['yes', 'no'], finish=lambda labelled: EfficiencyExplorer(auc=0.8, zero_shot=0.5, ceiling=0.9))
desk
""",
]


def write(folder: Path, name: str, journal: str) -> str:
    cells = [cell.replace("JOURNAL", repr(journal)).strip() for cell in EVERYTHING]
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=KERNEL), folder / name)
    return name


def forgive(watch: Any) -> None:
    """Voila's template asks content networks for icons and formulas, and Notebook 7 misses a command of JupyterLab; neither is ours, and nothing needs them."""
    watch.outside[:] = [url for url in watch.outside if not re.search("fontawesome|mathjax", url)]
    watch.console.clear()
    watch.errors[:] = [e for e in watch.errors if not re.search(r"filebrowser:open-path|reading 'schema'", e)]


def settle(page: Any, locator: Any, text: str) -> None:
    expect(locator).to_have_text(text, timeout=20_000)


def use(page: Any) -> None:
    """Type, point, select, slide, click and label; each step says what a person must then see."""
    # the tokenizer explorer
    box = page.locator(".widget-vbox:has(> .tks-area)").first
    area = box.locator("textarea").first
    area.scroll_into_view_if_needed()
    area.click()
    area.press("Control+A")
    area.press_sequentially("fox é", delay=5)
    byte_strip = box.locator(".tks").first.locator(".tks-strip").nth(1)
    expect(byte_strip.locator(".tks-t")).to_have_text(["f", "o", "x", "␣", "⟨C3⟩", "⟨A9⟩"])
    expect(box.locator(".tks-edits ins").first).to_have_text("FOX")
    byte_strip.locator(".tks-t").nth(4).hover()
    expect(box.locator(".tks").first.locator(".tks-strip").nth(0).locator(".tks-lit")).to_contain_text("é")
    byte_strip.locator(".tks-t").nth(1).click()
    expect(byte_strip.locator(".tks-picked")).to_have_text("o")
    expect(box.locator(".tks").nth(1).locator(".tks-strip").nth(1).locator(".tks-picked")).to_have_text(["F", "O", "X"])
    tints = byte_strip.locator(".tks-t").evaluate_all("cells => cells.map((e) => getComputedStyle(e).backgroundColor)")
    assert all(a != b for a, b in pairwise(tints)), "neighbours must differ in tint however the text was typed"
    expect(byte_strip.locator(".tks-body")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(box.locator(".tks-read").first).to_contain_text("token 3 of 6")
    box.locator("button:has-text('vocabulary overlap')").click()
    expect(box.locator(".tks-table")).to_contain_text("tokens")
    expect(box.locator(".tks-table tbody tr")).to_have_count(2)
    box.locator("button:has-text('counts')").click()
    box.locator(".widget-text:has(label:text-is('add')) input").fill("mistral-spm")
    box.locator("button:has-text('add tokenizer')").click()
    expect(box.locator(".tks").first.locator(".tks-strip")).to_have_count(3)

    # the perturbation explorer
    perturber = page.locator(".widget-vbox:has(> .tks-area)").nth(1)
    perturber.scroll_into_view_if_needed()
    expect(perturber.locator(".tks-text ins")).to_have_text(["e"])
    handle = perturber.locator("input[type=range]")
    handle.focus()
    handle.press("Home")
    expect(perturber.locator(".tks-field .tks-title")).to_contain_text("no edit")
    handle.press("End")
    expect(perturber.locator(".tks-text ins")).to_have_text(["e"])

    # the robustness explorer: a cell by mouse, its neighbour by keyboard
    robust = page.locator(".widget-vbox:has(> .tkg), .widget-vbox:has(> * > .tkg)").first
    grid = page.locator(".tkg").first
    grid.scroll_into_view_if_needed()
    cell = grid.locator("td[aria-label*='English']").first
    cell.click()
    expect(cell).to_have_attribute("aria-selected", "true")
    expect(page.locator(".tks-choices").first).to_contain_text("chosen")
    expect(page.locator(".tks-choices").first.locator("tbody tr")).to_have_count(2)
    expect(robust).to_contain_text("19 lost and 1 gained of n = 40 items")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(grid.locator("td[aria-selected=true]")).to_have_count(1)
    expect(cell).not_to_have_attribute("aria-selected", "true")
    expect(robust).to_contain_text("THE SKY IS")

    # the efficiency explorer
    forecast = page.locator(".tkg").nth(1)
    answer = page.locator("[role=status]:has-text('labelled examples')").first
    before = answer.text_content()
    handle = page.get_by_label("target", exact=True).and_(page.locator("input[type=range]")).first
    handle.scroll_into_view_if_needed()
    handle.focus()
    for _ in range(3):
        handle.press("PageDown")
    expect(answer).not_to_have_text(before)
    forecast.locator("td[tabindex]").nth(1).click()
    expect(page.locator(".tks-about:has-text('<b>0</b> + 0')")).to_be_visible()

    # the labelling desk, by keyboard alone
    desk = page.locator(".tkd").first
    desk.scroll_into_view_if_needed()
    desk.focus()
    page.keyboard.press("1")
    settle(page, desk.locator(".tkd-text"), FARSI)
    page.keyboard.press("u")
    settle(page, desk.locator(".tkd-text"), ENGLISH)
    page.keyboard.press("2")
    settle(page, desk.locator(".tkd-head span"), "1 of 3 labelled")


@pytest.mark.parametrize("where", ["lab", "notebook", "voila"])
def test_every_explorer_does_what_is_asked_of_it(lab, page, watch, notebooks, where):
    name = write(notebooks, f"everything-{where}.ipynb", f"{where}.jsonl")
    url = lab.url(name, where)
    if where == "voila":
        page.goto(url)
        page.locator(".tkd").first.wait_for(timeout=120_000)
    else:
        run_all(page, url)
    try:
        use(page)
    finally:
        if where != "lab":
            forgive(watch)
    lines = [json.loads(line) for line in (notebooks / f"{where}.jsonl").read_text().splitlines()[1:]]
    assert [line.get("label") or "undo" for line in lines] == ["yes", "undo", "no"]
    if where == "lab":
        reopened_without_a_kernel(lab, page, notebooks, name)


def reopened_without_a_kernel(lab: Any, page: Any, notebooks: Path, name: str) -> None:
    """The notebook as saved: nothing is run, and the kernel that JupyterLab starts with it is shut down before anybody looks."""
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    path = notebooks / name
    saved = nbformat.read(path, as_version=4)
    assert "widgets" in saved.metadata, "the saved notebook holds no widget state"
    size = path.stat().st_size
    print(f"a notebook saved with every explorer: {size / 1e6:.2f} MB")
    assert size < 2_000_000
    nbformat.write(saved, notebooks / "reopened.ipynb")
    # a reader trusts what they saved themselves; what is not trusted shows its static form
    NotebookNotary(data_dir=str(lab.data)).sign(saved)
    page.goto(lab.url("reopened.ipynb"))
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext")
    page.evaluate(READY)
    page.locator(".tkd").first.wait_for()
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    box = page.locator(".widget-vbox:has(> .tks-area)").first
    byte_strip = box.locator(".tks").first.locator(".tks-strip").nth(1)
    expect(byte_strip.locator(".tks-t")).to_have_text(["f", "o", "x", "␣", "⟨C3⟩", "⟨A9⟩"])
    byte_strip.locator(".tks-t").nth(4).hover()
    expect(box.locator(".tks").first.locator(".tks-strip").nth(0).locator(".tks-lit")).to_contain_text("é")
    expect(page.locator(".tkg").first.locator("td[aria-selected=true]")).to_have_count(1)
    expect(page.locator(".tkd-head span").first).to_have_text("1 of 3 labelled")


LOOK = """async (only) => {
  const found = await axe.run(only, { resultTypes: ["violations"] });
  return found.violations.filter((v) => ["serious", "critical"].includes(v.impact)).map((v) =>
    v.id + ": " + v.nodes.slice(0, 3).map((n) => n.target.join(" ") + " " + n.html.slice(0, 160) + " | " + n.failureSummary.slice(0, 200)).join(" || "));
}"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_nothing_serious_is_found_by_axe(lab, page, notebooks, theme):
    """Every explorer, with a cell open; contrast of what it shows; the pictures are kept."""
    if not AXE.exists():
        if os.environ.get("CI"):
            pytest.fail("axe-core is not there: run docs/assets.py --tests")
        pytest.skip("axe-core is not there: run docs/assets.py --tests")
    name = theme.split()[1].lower()
    run_all(page, lab.url(write(notebooks, f"axe-{name}.ipynb", f"axe-{name}.jsonl")), theme)
    page.locator(".tkg").first.locator("td[aria-label*='English']").first.click()
    expect(page.locator(".tks-choices").first).to_contain_text("chosen")
    page.locator(".tkg").nth(1).locator("td[tabindex]").nth(1).click()
    page.locator("button:has-text('card findings')").click()
    expect(page.locator(".tks-findings")).to_contain_text("✓")
    page.add_script_tag(path=AXE)
    found = []
    outputs = page.locator(".jp-OutputArea-output:has(.widget-vbox)")
    assert outputs.count() == 5
    for k, what in enumerate(("tokenizer", "perturbation", "robustness", "efficiency", "desk")):
        output = outputs.nth(k)
        output.scroll_into_view_if_needed()
        output.evaluate("(e, k) => { e.id = 'look-' + k; }", k)
        output.screenshot(path=SHOTS / f"{what}-{name}.png")
        found += [f"{what}, {name}: {line}" for line in page.evaluate(LOOK, f"#look-{k}")]
    assert not found, "\n".join(found)
    ratios = page.evaluate(
        CONTRAST.replace(".tks-t", ".tkg td, .tkg th, .tks-table td, .tks-about, .tks-title").replace(
            "slice(0, 40)", "slice(0, 400)"
        )
    )
    assert min(ratios) >= 4.5, f"too little contrast: {min(ratios):.2f}"


BROKEN = """(selector) => [...document.querySelectorAll(selector)].flatMap((table) => {
  const broken = [], walk = document.createTreeWalker(table, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode()); )
    for (const word of node.data.matchAll(/[\\p{L}\\p{N}.]{2,16}/gu)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const tops = [...range.getClientRects()].map((r) => Math.round(r.top));
      if (Math.max(...tops) - Math.min(...tops) > 8 && !/\\p{Script=Han}/u.test(word[0])) broken.push(word[0]);
    }
  return broken;
})"""


def shown(page: Any, label: str) -> str:
    """What a drop-down of this label shows; nothing where its box is empty."""
    boxes = page.locator(f".widget-dropdown:has(label:text-is('{label}')) select")
    return boxes.last.evaluate(
        "e => e.selectedIndex < 0 ? '' : e.options[e.selectedIndex].text.replace('\\u00a0', ' ')"
    )


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_a_drop_is_legible_in_three_languages_and_both_themes(lab, page, notebooks, theme):
    """Cells of three languages beside a narrow screen; no word is broken, and no box is empty; the pictures are kept."""
    name = theme.split()[1].lower()
    page.set_viewport_size({"width": 1250, "height": 1000})
    cells = [new_code_cell(EVERYTHING[k].strip()) for k in (0, 1, 3)]
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), notebooks / f"drops-{name}.ipynb")
    run_all(page, lab.url(f"drops-{name}.ipynb"), theme)
    grid = page.locator(".tkg").first
    robust = page.locator(".jp-OutputArea-output:has(.tkg)").first
    for language, text in (("English", "en/"), ("Farsi", "fa/"), ("Chinese", "zh/")):
        grid.locator(f"td[aria-label*='{language}']").last.click()
        expect(robust.locator("select").nth(4)).to_contain_text(text)
        assert shown(page, "language") == "each language"
        robust.screenshot(path=SHOTS / f"drop-{language.lower()}-{name}.png")
        assert not page.evaluate(BROKEN, ".tks-choices, .tkg table, .tks-counts"), "words are broken"
        table = robust.locator(".tks-choices")
        inside = "e => { const o = e.closest('.jp-OutputArea-output').getBoundingClientRect(); return e.getBoundingClientRect().right <= o.right + 1; }"
        assert table.evaluate(inside), "the options run out of the page"
    choices = page.locator(".widget-dropdown:has(label:text-is('language')) select").last
    choices.select_option(label="Farsi")
    expect(grid.locator("td[aria-label*='English']")).to_have_count(0)
    choices.select_option(label="each language")
    expect(grid.locator("td[aria-label*='English']")).not_to_have_count(0)
    perturbation = page.locator(".widget-dropdown:has(label:text-is('perturbation')) select").first
    perturbation.select_option(label="none")
    expect(page.locator(".tks-title:text-is('perturbed')").first).to_be_hidden()
    page.wait_for_timeout(500)
    assert shown(page, "language") == "each language"
    assert perturbation.evaluate("e => e.selectedIndex") == 0, "the box of the perturbation is empty"


def test_the_app_follows_typing_and_listens_to_this_machine_alone(page, watch, browser, tmp_path):
    from conftest import answers, free_port

    port = free_port()
    recipe = (ROOT / "Makefile").read_text().split("\napp:")[1].splitlines()[1]
    command = recipe.strip().removeprefix("$(BIN)/voila").replace("$(ARGS)", "").split()
    env = os.environ | {"HOME": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "voila", *command, f"--port={port}", "--no-browser"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 60
        while not answers(port):
            assert server.poll() is None, "voila did not start"
            assert time.monotonic() < end, "voila did not start"
            time.sleep(0.2)
        page.goto(f"http://127.0.0.1:{port}/")
        area = page.locator(".tks-area textarea").first
        area.wait_for(timeout=120_000)
        area.fill("سلام دنیا")
        expect(page.locator(".tks-strip .tks-body").first).to_have_attribute("dir", "rtl")
        listening = Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else ""
        bound = {
            line.split()[1].split(":")[0]
            for line in listening.splitlines()[1:]
            if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
        }
        assert bound <= {"0100007F"}, f"the app listens beyond loopback: {bound}"
    finally:
        # the page must not see its server go
        page.goto("about:blank")
        server.terminate()
        server.wait(20)
    forgive(watch)
