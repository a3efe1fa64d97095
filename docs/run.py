"""Run notebooks in a kernel and store their small, deterministic outputs; with --check, compare instead of storing."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
# cells that a run leaves alone: those that need more than a CPU and a few seconds, and the export itself
SKIPPED = re.compile(r"^#\s*\|\s*(slow|gpu|net|eval:\s*false)\b|nbdev_export\(", re.MULTILINE)
# a widget's view holds a random model id; its static forms (svg, html, text) are stored where it has them
DROPPED = ("application/vnd.jupyter.widget-view+json",)
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# the last digits of a float differ between processors, so charts are stored in thousandths of a pixel
LONG_FLOAT = re.compile(r"-?\d+\.\d{4,}(?:e-?\d+)?")


def stored(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """What of an output is committed: no widget views, no progress bars, no addresses, no counters."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    if output.output_type not in {"execute_result", "display_data"}:
        return output
    had_view = any(kind in output.data for kind in DROPPED)
    output.data = {kind: value for kind, value in output.data.items() if kind not in DROPPED}
    if had_view and set(output.data) <= {"text/plain"}:
        return None
    output.data = {k: ADDRESS.sub("", v) if isinstance(v, str) else v for k, v in output.data.items()}
    if svg := output.data.get("image/svg+xml"):
        output.data["image/svg+xml"] = LONG_FLOAT.sub(lambda m: f"{round(float(m[0]), 3) + 0.0:.3f}", svg)
    output.metadata = {}
    if "execution_count" in output:
        output.execution_count = None
    return output


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs."""
    nb = nbformat.read(path, as_version=4)
    skipped = {cell.id: cell.source for cell in nb.cells if cell.cell_type == "code" and SKIPPED.search(cell.source)}
    for cell in nb.cells:
        if cell.id in skipped:
            cell.source = "pass"
    resources = {"metadata": {"path": str(path.parent)}}
    with TemporaryDirectory() as sockets:
        # a kernel that talks over files instead of ports needs no network and gives no warning about it
        local = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
        # where a stream is cut into messages is a matter of chance
        NotebookClient(
            nb, timeout=900, kernel_name="python3", resources=resources, config=local, coalesce_streams=True
        ).execute()
    for cell in nb.cells:
        cell.metadata.pop("execution", None)
        if cell.id in skipped:
            cell.source = skipped[cell.id]
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [kept for output in cell.outputs if (kept := stored(output)) is not None]
    nb.metadata = {"kernelspec": nb.metadata.kernelspec}
    return nb


def same(a: object, b: object) -> bool:
    """Whether two outputs agree: text exactly, long floats to a millionth."""
    first, second = (json.dumps(outputs, sort_keys=True, ensure_ascii=False) for outputs in (a, b))
    if first == second:
        return True
    numbers = [[float(x) for x in LONG_FLOAT.findall(text)] for text in (first, second)]
    return LONG_FLOAT.sub("#", first) == LONG_FLOAT.sub("#", second) and all(
        math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(*numbers, strict=True)
    )


def differences(old: nbformat.NotebookNode, new: nbformat.NotebookNode) -> list[str]:
    """Cells whose stored outputs are not what a run gives."""
    return [
        f"cell {a.id}: stored {str(a.get('outputs'))[:300]} but a run gives {str(b.get('outputs'))[:300]}"
        for a, b in zip(old.cells, new.cells, strict=True)
        if not same(a.get("outputs"), b.get("outputs"))
    ]


def work(path: Path, check: bool) -> list[str]:
    """Problems of one notebook."""
    try:
        new = run(path)
    except CellExecutionError as error:
        return [f"{path.relative_to(ROOT)} failed:\n{error}"]
    if check:
        return [f"{path.relative_to(ROOT)} {text}" for text in differences(nbformat.read(path, as_version=4), new)]
    path.write_text(nbformat.writes(new, indent=1) + "\n", encoding="utf-8")
    os.system(f"nbdev_clean --fname {path}")
    return []


def main(args: list[str]) -> int:
    """Run all notebooks, or those named, two at a time."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0", "JUPYTER_PLATFORM_DIRS": "1"}
    paths = [Path(arg).resolve() for arg in args if not arg.startswith("-")]
    paths = paths or sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    with ThreadPoolExecutor(2) as pool:
        problems = [text for found in pool.map(lambda path: work(path, "--check" in args), paths) for text in found]
    print("\n".join(problems) or f"{len(paths)} notebooks run")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
