"""Every kind of cell gives the same bytes in this process, in worker processes, as a shard of a plan and on a Ray cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from test_faults import values

from toksuite_nb.cells import _tokenizer_libraries, curve_cells, gram_cells, perturb_cells, score_cells, suite_cells
from toksuite_nb.finetune import FinetuneConfig, Task
from toksuite_nb.items import load_benchmark
from toksuite_nb.run import Cell, Processes, RayCluster, collect, run_cells, write_plan
from toksuite_nb.store import data_dir
from toksuite_nb.suite import SuiteConfig


def cells_of(kind: str) -> list[Cell]:
    """A few cells of one kind."""
    models = {name: data_dir() / "suite" / name for name in ("bpe", "bytes")}
    items = load_benchmark("embedded", domain="math").head(6)
    if kind == "score":
        return score_cells(models, items, shard=3)
    if kind == "perturb":
        return perturb_cells(items, ["uppercase", ("keyboard_proximity", "fullwidth")], shard=4, seed=0)
    if kind == "gram":
        rng = np.random.default_rng(0)
        pairs = [(rng.integers(5, 200, 6).tolist(), rng.integers(5, 200, 2).tolist()) for _ in range(5)]
        return gram_cells(models["bpe"], pairs, block=2)
    if kind == "curve":
        task = Task(
            "sum", [f"{i} + 1 =" for i in range(1, 9)], [f" {i + 1}" for i in range(1, 9)], ["9 + 1 ="], [" 10"]
        )
        recipe = FinetuneConfig(learning_rate=1e-3, budgets=(0, 4), steps=2, max_new_tokens=3)
        return curve_cells(models["bpe"], task, recipe, seeds=(0,))
    names = ("bytes", "bpe")
    small = SuiteConfig(tokenizers=names, hidden_size=16, intermediate_size=16, layers=1, heads=2, steps=2, warmup=1)
    return suite_cells(small, pl.DataFrame({"text": [f"{i} is {i}" for i in range(400)]}))


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    """A few cells of every kind."""
    return [cell for kind in ("score", "perturb", "gram", "curve", "suite") for cell in cells_of(kind)]


def test_every_seed_of_a_curve_has_its_zero_shot(tmp_path: Path) -> None:
    task = Task("letters", ["a:", "b:"], [" a", " b"], ["c:"], [" c"])
    recipe = FinetuneConfig(learning_rate=1e-3, budgets=(0, 2), steps=1, max_new_tokens=3)
    points = curve_cells(data_dir() / "suite" / "bpe", task, recipe, seeds=(3, 5))
    assert len(points) == 3, "zero-shot does not depend on the seed, and is one cell"
    run_cells(points, tmp_path, show_progress=False)
    curve = collect(points, tmp_path)
    assert sorted(curve.select("seed", "n").rows()) == [(3, 0), (3, 2), (5, 0), (5, 2)]
    assert curve.filter(n=0)["cell"].n_unique() == 1
    for seeds, said in (((), "one or more different"), ((1, 1), "one or more different"), ((0.5,), "whole number")):
        with pytest.raises(ValueError, match=f"curve_cells: .*{said}"):
            curve_cells(data_dir() / "suite" / "bpe", task, recipe, seeds=seeds)


@pytest.fixture(scope="module")
def alone(cells: list[Cell], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """What one thread of this process computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        folder = tmp_path_factory.mktemp("alone")
        run_cells(cells, folder, show_progress=False)
        return named(cells, folder)
    finally:
        torch.set_num_threads(threads)


def named(cells: list[Cell], folder: Path) -> list[tuple[str, str]]:
    """Function and hash of the stored bytes of each result."""
    return list(zip([cell.name for cell in cells], values(cells, folder), strict=True))


def test_worker_processes(cells: list[Cell], alone: list[tuple[str, str]], tmp_path: Path) -> None:
    run_cells(cells, tmp_path, executor=Processes(2), show_progress=False)
    assert named(cells, tmp_path) == alone


def test_the_command_of_a_slurm_array(cells: list[Cell], alone: list[tuple[str, str]], tmp_path: Path) -> None:
    write_plan(cells, tmp_path / "plan")
    for shard, more in (("1/2", []), ("2/2", ["--workers", "1"])):
        command = [sys.executable, "-m", "toksuite_nb.run", "plan", str(tmp_path / "plan"), str(tmp_path / "store")]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--shard", shard, *more], check=True, env=environment)
    assert named(cells, tmp_path / "store") == alone


def test_a_ray_cluster(cells: list[Cell], alone: list[tuple[str, str]], tmp_path: Path) -> None:
    # Ray is imported by run_cells alone, which first tells it to listen on loopback
    if find_spec("ray") is None:
        pytest.skip("Ray is in the extra `ray`")
    try:
        run_cells(cells, tmp_path, executor=RayCluster(2, threads=1), show_progress=False)
    finally:
        import_module("ray").shutdown()
    assert named(cells, tmp_path) == alone


@pytest.fixture
def tok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `tok` of a tokenizer, beside which this process stands."""
    monkeypatch.chdir(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "tok").mkdir(exist_ok=True)
        shutil.copy(data_dir() / "suite" / "bpe" / name, tmp_path / "tok" / name)
    return tmp_path / "tok"


@pytest.mark.parametrize("given", ["./tok", "tok", Path("tok"), "tok/tokenizer.json", Path("tok/tokenizer.json")])
def test_another_tokenizer_in_the_same_place_is_another_cell(given: Path | str, tok: Path) -> None:
    items = load_benchmark("embedded", domain="math").head(2)
    models = {"bpe": data_dir() / "suite" / "bpe"}

    def scored() -> tuple[int, pl.DataFrame]:
        cells = score_cells(models, items, tokenizers={"bpe": given})
        return run_cells(cells, "store", show_progress=False)["state"].to_list().count("found"), collect(cells, "store")

    first, again = scored(), scored()
    assert (first[0], again[0]) == (0, 1) and first[1].equals(again[1])
    shutil.copy(data_dir() / "suite" / "bpe-nfkc" / "tokenizer.json", tok / "tokenizer.json")
    found, second = scored()
    assert found == 0, "the store answers with the numbers of the tokenizer that was there before"
    assert not second["loglikelihood"].equals(first[1]["loglikelihood"])


def test_a_named_tokenizer_goes_by_the_versions_of_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    items = load_benchmark("embedded", domain="math").head(2)
    models = {"bpe": data_dir() / "suite" / "bpe"}

    def inputs(**how: Any) -> Any:
        return score_cells(models, items, **how)[0]

    named, own = inputs(tokenizers={"bpe": "bytes"}), inputs()
    assert set(own.inputs["libraries"]) == {"numpy", "tokenizers", "torch", "transformers"}
    assert set(named.inputs["libraries"]) > {"mistral-common", "sentencepiece", "tiktoken"}
    monkeypatch.setattr("toksuite_nb.cells.version", lambda name: "0.0.1")
    _tokenizer_libraries.cache_clear()
    try:
        assert inputs(tokenizers={"bpe": "bytes"}).key != named.key
        assert inputs().key == own.key
    finally:
        _tokenizer_libraries.cache_clear()
