"""The built site, opened from disk with the network cut: charts and widgets draw, links resolve, nothing is asked of any host."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import expect

SITE = Path(__file__).parents[2] / "build/site"
pytestmark = pytest.mark.site


def test_tour_shows_charts_and_widgets(page):
    page.goto((SITE / "tutorials/tour.html").as_uri())
    charts = page.locator(".cell_output svg.marks, .cell_output img[src$='.svg']")
    expect(charts.first).to_be_visible()
    assert charts.count() >= 2, "the tour draws the drops and the data-efficiency curve"
    strips = page.locator(".tks-strip")
    expect(strips.first).to_be_visible()
    assert strips.count() >= 2, "the explorer shows one strip per tokenizer"


def test_saved_views_link_and_open_without_a_kernel(page):
    """Pointing, selecting and picking go on working on a page from disk, where no Python answers."""
    page.goto((SITE / "51_tokens.html").as_uri())
    strip = page.locator(".tks:has(.tks-read):has(.tks-t)").first
    strip.locator(".tks-strip").nth(1).locator(".tks-t").first.hover()
    expect(strip.locator(".tks-strip").nth(0).locator(".tks-lit")).not_to_have_count(0)
    expect(strip.locator(".tks-read")).to_contain_text("token 1 of")
    strip.locator(".tks-strip").nth(1).locator(".tks-t").first.click()
    expect(strip.locator(".tks-strip").nth(1).locator(".tks-picked")).not_to_have_count(0)


def test_search_finds_a_page_from_disk(page):
    page.goto((SITE / "search.html").as_uri() + "?q=fertility")
    expect(page.locator("#search-results li a").first).to_be_visible()


def test_every_page_loads_without_asking_another_host(page):
    pages = [
        *sorted(SITE.glob("*.html")),
        *sorted(SITE.glob("tutorials/*.html")),
        *sorted(SITE.glob("explanations/*.html")),
    ]
    assert len(pages) > 10
    for path in pages:
        page.goto(path.as_uri())


def test_internal_links_resolve():
    broken = []
    for path in SITE.rglob("*.html"):
        if "_static" in path.parts:
            continue
        for link in re.findall(r'(?:href|src)="([^"#?]+)', path.read_text(encoding="utf-8")):
            if re.match(r"^[a-z]+:", link):
                continue
            if not (path.parent / unquote(link)).exists():
                broken.append(f"{path.relative_to(SITE)} -> {link}")
    assert not broken, broken[:20]


def test_every_public_function_has_an_entry():
    import ast

    package = Path(__file__).parents[2] / "toksuite_nb"
    inventory = "".join(p.read_text(encoding="utf-8") for p in SITE.glob("*.html"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    missing = [
        f"{path.stem}.{node.name}"
        for path in sorted(package.glob("[a-z]*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, kinds)
        and node.name[0] != "_"
        and f'id="toksuite_nb.{path.stem}.{node.name}"' not in inventory
    ]
    assert not missing, missing


def test_every_comment_of_a_parameter_is_on_the_site():
    import ast
    import sys

    root = Path(__file__).parents[2]
    sys.path.insert(0, str(root / "docs/_ext"))
    from nbdev_reader import comments

    pages = "".join(p.read_text(encoding="utf-8") for p in SITE.glob("*.html"))
    missing, seen = [], 0
    for path in sorted((root / "toksuite_nb").glob("[a-z]*.py")):
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            entry = f'id="toksuite_nb.{path.stem}.{getattr(node, "name", "_")}"'
            if not isinstance(node, ast.FunctionDef) or entry not in pages:
                continue
            own = pages.split(entry, 1)[1].split('id="toksuite_nb.', 1)[0]
            told = comments(ast.get_source_segment(source, node) or "").keys() - {"return"}
            missing += [f"{path.stem}.{node.name}: {name}" for name in told if f"<strong>{name}</strong>" not in own]
            seen += len(told)
    assert not missing and seen > 500, (seen, missing[:20])


def test_every_public_function_has_an_example_on_the_site():
    import ast
    import sys

    root = Path(__file__).parents[2]
    sys.path.insert(0, str(root / "docs/_ext"))
    from nbdev_reader import examples

    shown = examples(root / "nbs")
    without = [
        f"{path.stem}.{node.name}"
        for path in sorted((root / "toksuite_nb").glob("[a-z]*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name[0] != "_" and node.name not in shown
    ]
    assert not without, f"no lesson, tutorial or explanation uses {without}"
