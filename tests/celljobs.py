"""Cell functions that worker processes can import."""

import os
import time
from pathlib import Path

import polars as pl

from toksuite_nb.run import cell_function


@cell_function
def square(i: int, seconds: float = 0.0, log: Path | None = None) -> pl.DataFrame:
    """The square of `i`; `log` gets a line when the work begins."""
    if log:
        handle = os.open(os.fspath(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, b"%d\n" % i)
        os.close(handle)
    time.sleep(seconds)
    if i == 0:
        print("what a cell prints must not disturb the worker's answers")
    return pl.DataFrame({"i": [i], "square": [i * i], "root": [i**0.5]})


@cell_function
def die(i: int) -> None:
    """End the process as an out-of-memory killer would."""
    os.kill(os.getpid(), 9)


@cell_function
def weights(model: Path) -> int:
    """Bytes of a model."""
    return sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
