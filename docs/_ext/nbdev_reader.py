"""Let MyST-NB read nbdev notebooks as they are: `#|` directives become cell tags, exported cells become API entries."""

from __future__ import annotations

import ast
import inspect
import io
import os
import re
import textwrap
import tokenize
from functools import lru_cache
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_markdown_cell

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(?P<key>[\w-]+)\s*:?\s*(?P<value>.*?)\s*$")
NBS = Path(__file__).parents[2] / "nbs"
KINDS = {ast.FunctionDef: "function", ast.AsyncFunctionDef: "function", ast.ClassDef: "class"}


def split(source: str) -> tuple[dict[str, str], str]:
    """The directives at the top of a cell, and the rest of its source."""
    found, lines = {}, source.splitlines()
    while lines and (match := DIRECTIVE.match(lines[0])):
        found[match["key"]] = match["value"]
        lines.pop(0)
    return found, "\n".join(lines).lstrip("\n")


def public(source: str) -> list[tuple[str, str]]:
    """Public functions and classes that a cell defines at top level, as (kind, name)."""
    found = [(KINDS[type(n)], n.name) for n in ast.parse(source).body if type(n) in KINDS and n.name[0] != "_"]
    return list(dict.fromkeys(found))  # an overloaded function is defined several times


@lru_cache
def examples(folder: Path) -> dict[str, tuple[str, ...]]:
    """Each name that a lesson uses, with the pages of the notebooks in `folder` where it does."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts or "jupyter_execute" in path.parts:
            continue
        names = set()
        for cell in nbformat.read(path, as_version=4).cells:
            flags, body = split(cell.source) if cell.cell_type == "code" else ({"export": ""}, "")
            if not {"export", "default_exp", "eval"} & flags.keys():
                names |= used(body)
        for name in names:
            found.setdefault(name, []).append(path.relative_to(folder).with_suffix("").as_posix())
    return {name: tuple(pages) for name, pages in found.items()}


def used(source: str) -> set[str]:
    """Names that a lesson cell reads."""
    source = re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE)
    nodes = list(ast.walk(ast.parse(source)))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def elsewhere(name: str, page: str | None, folder: Path) -> str:
    """Where an example of a name stands, if not on its own page."""
    pages = examples(folder).get(name, ())
    if page is None or page in pages or not pages:
        return ""
    link = os.path.relpath(f"{pages[0]}.ipynb", Path(page).parent)
    return f"\n\nExample: [{pages[0]}]({link})"


def entries(source: str, module: str, page: str | None = None) -> str:
    """Markdown that documents what a cell exports, with a link to an example where its page has none."""
    blocks = []
    for kind, name in public(source):
        members = "   :members:\n" if kind == "class" else ""
        entry = f"```{{eval-rst}}\n.. auto{kind}:: toksuite_nb.{module}.{name}\n{members}```"
        blocks.append(entry + elsewhere(name, page, NBS))
    return "\n\n".join(blocks)


def read(text: str, pages: list[str] | None = None, page: str | None = None) -> nbformat.NotebookNode:
    """The notebook `page` as a reader of the site sees it; the root page also lists all `pages`."""
    nb = nbformat.reads(text, as_version=4)
    module, cells = "", []
    for cell in nb.cells:
        cells.append(cell)
        flags, body = split(cell.source) if cell.cell_type == "code" else ({}, "")
        if not flags:
            continue
        cell.source, module = body, flags.get("default_exp", module)
        tags = cell.metadata.setdefault("tags", [])
        if {"hide", "default_exp", "export"} & flags.keys():
            tags.append("remove-cell")
        if {"slow", "gpu", "net"} & flags.keys():
            tags.append("skip-execution")
        if flags.get("echo") == "false":
            tags.append("remove-input")
        if "nbdev_export(" in body:
            cell.source = "pass"
        if "export" in flags and (found := entries(body, module, page)):
            cells.append(new_markdown_cell(found))
    if cells and cells[-1].cell_type == "code" and cells[-1].source == "pass":
        cells = [c for c in cells if not (c.cell_type == "markdown" and c.source.strip() == "## Export -")]
    nb.cells = cells + [new_markdown_cell(block) for block in toctrees(pages or [])]
    return nb


def toctrees(pages: list[str]) -> list[str]:
    """Navigation: tutorials and explanations first, then the modules in their reading order."""
    groups = {
        "Tutorials": [p for p in pages if p.startswith("tutorials/")],
        "Explanations": [p for p in pages if p.startswith("explanations/")],
        "Modules": [p for p in pages if "/" not in p],
    }
    return [
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```"
        for caption, names in groups.items()
        if names
    ]


def comments(source: str) -> dict[str, str]:
    """What is said behind each parameter or field, also where its annotation takes several lines; of `return` too."""
    source = textwrap.dedent(source)
    node, tokens = ast.parse(source).body[0], tokenize.generate_tokens(io.StringIO(source).readline)
    said = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    if isinstance(node, ast.ClassDef):
        parts = [(n.target.id if isinstance(n, ast.AnnAssign) else None, n.lineno, n.end_lineno) for n in node.body]
        last = node.end_lineno + 1
    elif isinstance(node, ast.FunctionDef):
        places = [n for n in ast.walk(node.args) if isinstance(n, ast.arg)]
        parts = sorted(((n.arg, n.lineno, n.end_lineno) for n in places), key=lambda part: part[1])
        parts += [("return", node.returns.lineno, node.returns.end_lineno)] if node.returns else []
        last = node.body[0].lineno
    else:
        return {}
    until = [start for _, start, _ in parts[1:]] + [last]
    behind = {
        name: next((said[k] for k in range(end, max(end + 1, stop)) if k in said), None)
        for (name, _, end), stop in zip(parts, until, strict=True)
        if name
    }
    return {name: text for name, text in behind.items() if text}


def add_docments(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Append the parameter comments of a signature to its docstring, as fields."""
    from fastcore.docments import docments

    if what not in {"function", "method", "class"}:
        return
    try:
        found, own = docments(obj, full=True), set(inspect.signature(obj).parameters)
        behind = comments(inspect.getsource(obj))
    except (OSError, TypeError, ValueError, SyntaxError):  # no source or no signature: nothing to add
        return
    told = {key: behind.get(key) or value.docment for key, value in found.items()}  # which knows one-line signatures
    fields = [
        f":param {key}: {text}"
        for key, text in told.items()
        if key not in {"return", "self"} and text and (key in own or what == "class")
    ]
    if answer := told.get("return"):
        fields.append(f":returns: {answer}")
    if fields:
        lines += ["", *fields, ""]


def skip_foreign(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out `__new__`, which Python writes for named tuples, and wrapped methods of NumPy's generator."""
    wrapped = str(getattr(obj, "__qualname__", name)).startswith("Generator.")
    return True if name == "__new__" or wrapped else None


def setup(app: Any) -> dict[str, bool]:
    """Hook into Sphinx's reading of sources and docstrings."""

    def source_read(app: Any, page: str, content: list[str]) -> None:
        if str(app.env.doc2path(page)).endswith(".ipynb"):
            root = page == app.config.root_doc
            pages = sorted(app.env.found_docs - {page}) if root else []
            content[0] = nbformat.writes(read(content[0], pages, page))

    app.setup_extension("sphinx.ext.autodoc")
    app.connect("source-read", source_read)
    app.connect("autodoc-process-docstring", add_docments)
    app.connect("autodoc-skip-member", skip_foreign)
    return {"parallel_read_safe": True}
