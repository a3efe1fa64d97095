"""The rules of the house that no notebook can show: export, layering, light imports, clean notebooks, wheel."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Self

import pytest
from nbdev.showdoc import show_doc
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
NUMBERED = sorted(NBS.glob("[0-9][0-9]_*.ipynb"))
ALL = sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
HEAVY = ("torch", "transformers", "altair", "ipywidgets")
LIGHT = [p.stem[3:] for p in NUMBERED if p.stem[0] in "012" or p.stem.startswith("42")]


def sources(path: Path) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def exported(path: Path) -> str:
    return "\n".join(s for s in sources(path) if re.match(r"#\s*\|\s*export\b", s))


def imported(source: str) -> set[str]:
    "Modules of the package that a source imports by name."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("toksuite_nb."):
            found.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("toksuite_nb.")}
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    "The notebooks and their settings in another folder, to export and clean there."
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(NBS, folder / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints", ".last_checked"))
    shutil.copy(ROOT / "settings.ini", folder)
    (folder / "toksuite_nb").mkdir()
    return folder


def nbdev(command: str, folder: Path) -> None:
    script = Path(sys.executable).with_name(command)
    subprocess.run([script], cwd=folder, check=True, capture_output=True, timeout=120)


def test_package_equals_a_fresh_export(copy):
    nbdev("nbdev_export", copy)
    fresh = {p.name: p.read_text() for p in (copy / "toksuite_nb").glob("*.py")}
    ours = {p.name: p.read_text() for p in (ROOT / "toksuite_nb").glob("*.py")}
    assert fresh.keys() == ours.keys(), "the package has other modules than the notebooks: run nbdev_export and commit"
    stale = [name for name in ours if ours[name] != fresh[name]]
    assert not stale, f"{stale} differ from a fresh export: edit the notebook, run nbdev_export, commit both"


def test_notebooks_are_clean(copy):
    nbdev("nbdev_clean", copy)
    dirty = [str(p.relative_to(ROOT)) for p in ALL if (copy / p.relative_to(ROOT)).read_bytes() != p.read_bytes()]
    assert not dirty, f"{dirty} hold metadata or counters: run nbdev_clean and commit"


def test_imports_point_to_lower_notebooks():
    number = {p.stem[3:]: int(p.stem[:2]) for p in NUMBERED}
    bad = [
        f"{p.stem} imports {name} ({number.get(name, 'unknown')})"
        for p in NUMBERED
        for name in sorted(imported(exported(p)))
        if number.get(name, 100) >= int(p.stem[:2])
    ]
    assert not bad, "; ".join(bad)


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_stay_light(name):
    code = f"import sys, toksuite_nb.{name}; print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "[]", f"importing toksuite_nb.{name} brings {run.stdout} {run.stderr[-800:]}"


@pytest.mark.parametrize("path", NUMBERED, ids=lambda p: p.stem)
def test_module_notebooks_have_the_house_shape(path):
    cells = json.loads(path.read_text())["cells"]
    first, second = "".join(cells[0]["source"]), "".join(cells[1]["source"])
    assert first.startswith(f"#| default_exp {path.stem[3:]}"), (
        "the module's name is the notebook's, without its number"
    )
    assert re.match(rf"# {path.stem[3:]}\n\n> .+", second), "a notebook opens with its name and a line of purpose"
    assert "nbdev_export()" in "".join(cells[-1]["source"]), "the last cell exports"


def test_every_import_stands_in_its_own_cell():
    mixed = []
    for path in ALL:
        for source in sources(path):
            if "nbdev_export(" in source or source.lstrip().startswith("%"):
                continue
            kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source).body}
            if len(kinds) > 1:
                mixed.append(f"{path.stem}: {source[:60]!r}")
    assert not mixed, f"nbdev runs cells that mix imports with code while it only reads them: {mixed}"


def test_exported_modules_have_no_star_import():
    bad = [
        p.name for p in (ROOT / "toksuite_nb").glob("*.py") if re.search(r"^from \S+ import \*", p.read_text(), re.M)
    ]
    assert not bad


def test_readme_says_where_every_module_is():
    "Under *Where to go*: by name, or between two names as in `` `10_text` to `17_notation` ``; the two that all others stand on are not for the reader of that table."
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where to go")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\d\d_\w+)`", table))
    spans = [(int(a), int(b)) for a, b in re.findall(r"`(\d\d)_\w+` to `(\d\d)_\w+`", table)]
    stems = [path.stem for path in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")]
    assert not named - set(stems)
    told = {stem for stem in stems if stem in named or any(a <= int(stem[:2]) <= b for a, b in spans)}
    assert set(stems) - told == {"00_core", "01_store"}


def test_manifest_lists_every_data_file():
    listed = set(json.loads((ROOT / "data/MANIFEST.json").read_text()))
    there = {p.relative_to(ROOT / "data").as_posix() for p in (ROOT / "data").rglob("*") if p.is_file()}
    there -= {"MANIFEST.json"}
    assert there == listed, f"not in the manifest: {sorted(there - listed)}; missing: {sorted(listed - there)}"


def test_every_installed_version_runs_on_the_oldest_python_that_is_promised():
    "As soon as one wants 3.11.5, an installation on Debian 12 fails, whose Python is 3.11.2."
    oldest = re.search(r"^min_python = (\S+)", (ROOT / "settings.ini").read_text(), re.M)[1] + ".0"
    wanted = {d.metadata["Name"]: d.metadata.get("Requires-Python") or "" for d in distributions()}
    assert len(wanted) > 100
    assert not {name: versions for name, versions in wanted.items() if oldest not in SpecifierSet(versions)}


def test_wheel_carries_package_and_data(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", "build", "*.egg-info", "vendor", ".*_cache")
    )
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "from toksuite_nb.store import data_dir, data_path, manifest; d = data_dir(); print(d); [data_path(n) for n in manifest()['name']]"
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert str(tmp_path / "site") in run.stdout, f"the data of the checkout was used, not the wheel's: {run.stdout}"


def test_nbdev_documents_every_public_name(monkeypatch):
    """What `nbdev_docs` does with each of them, which stops at the first that it cannot read."""
    # early releases of Python 3.11 read a widget's `__new__`, whose annotation traitlets imports for type checkers only
    monkeypatch.setattr("traitlets.traitlets.Self", Self, raising=False)
    failed = []
    for module in (
        import_module(f"toksuite_nb.{path.stem}") for path in sorted((ROOT / "toksuite_nb").glob("[!_]*.py"))
    ):
        for name in module.__all__:
            try:
                show_doc(getattr(module, name))._repr_markdown_()
            except Exception as error:
                failed.append(f"{module.__name__}.{name}: {error}")
    assert not failed, "\n".join(failed)
