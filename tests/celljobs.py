"""Cell functions that worker processes can import."""

import os
import time
from pathlib import Path

import polars as pl

from toksuite_nb.run import Cell, InProcess, Processes, RayCluster, cell_function, run_cells


@cell_function
def square(i: int, seconds: float = 0.0, log: Path | None = None) -> pl.DataFrame:
    """The square of `i`; `log` gets a line when the work begins."""
    if log:
        handle = os.open(os.fspath(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, b"%d %d\n" % (i, os.getpid()))
        os.close(handle)
    time.sleep(seconds)
    if i == 0:
        print("what a cell prints must not disturb the worker's answers")
    return pl.DataFrame({"i": [i], "square": [i * i], "root": [i**0.5]})


@cell_function
def die(i: int, log: str = "") -> None:
    """End the process as an out-of-memory killer would; `log` gets a line before."""
    if log:
        with open(log, "a") as lines:
            lines.write(f"{i}\n")
    os.kill(os.getpid(), 9)


@cell_function
def weights(model: Path) -> int:
    """Bytes of a model."""
    return sum(path.stat().st_size for path in model.rglob("*") if path.is_file())


def squares(n: int, **inputs: object) -> list[Cell]:
    """`n` cells in three groups."""
    return [Cell(square, {"i": i, **inputs}, group=str(i % 3)) for i in range(n)]


def drive(executor: str, folder: str, log: str, seconds: str, address: str) -> None:
    """Compute 200 cells, as a process of its own does it."""
    executors = {"in process": InProcess(), "processes": Processes(2), "ray": RayCluster(2, address=address)}
    cells = squares(200, seconds=float(seconds), log=log)
    run_cells(cells, folder, executor=executors[executor], show_progress=False)  # type: ignore[arg-type]
