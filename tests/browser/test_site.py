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


def test_every_page_loads_without_asking_another_host(page):
    pages = sorted(SITE.glob("*.html")) + sorted(SITE.glob("tutorials/*.html"))
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
