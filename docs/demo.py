"""`make demo`: run the tour without a browser, print its tables, keep its page, and say what to open next."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "nbs/tutorials/tour.ipynb"
PAGE = ROOT / "build/demo/tour.html"
VIEW = "application/vnd.jupyter.widget-view+json"


def static(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with each widget shown in its static form: a page on disk has no kernel."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if VIEW in output.get("data", {}) and "text/html" in output.data:
                del output.data[VIEW]
    nb.metadata.pop("widgets", None)
    return nb


def page(nb: nbformat.NotebookNode) -> str:
    """A page that needs nothing from any host."""
    return HTMLExporter(require_js_url="", mathjax_url="", mermaid_js_url="").from_notebook_node(nb)[0]


def show(cell: nbformat.NotebookNode, index: int) -> None:
    """Print what a cell of the tour printed, as it ends."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stdout":
            print(output.text, flush=True)


def main() -> int:
    """Run, print, write."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    begin = time.perf_counter()
    nb = nbformat.read(TOUR, as_version=4)
    print("Running nbs/tutorials/tour.ipynb on this machine ...\n", flush=True)
    sockets = TemporaryDirectory()
    local = Config(KernelManager={"transport": "ipc", "ip": f"{sockets.name}/kernel"})
    resources = {"metadata": {"path": str(TOUR.parent)}}
    client = NotebookClient(nb, timeout=900, kernel_name="python3", resources=resources, config=local)
    client.on_cell_executed = lambda cell, cell_index, execute_reply: show(cell, cell_index)
    try:
        client.execute()
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        sockets.cleanup()
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(static(nb)), encoding="utf-8")
    print(f"Done in {time.perf_counter() - begin:.0f} s. The executed page: {PAGE.relative_to(ROOT)}")
    print("Open next: `make lab` for the live notebook (type into the explorer), `make docs` for the whole site.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
