"""Kills, interrupts, damage and full disks: nothing finished is lost or done again, and the end is what an undisturbed run gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from celljobs import squares

from toksuite_nb.core import derive_rng
from toksuite_nb.run import Cell, Processes, ResultStore, run_cells

HERE = Path(__file__).parent
KILLS = int(os.environ.get("TOKSUITE_KILLS", "3"))
SECONDS = "0.01"


def start(executor: str, tmp_path: Path, address: str = "") -> subprocess.Popen[bytes]:
    """A run of 200 cells in a process group of its own."""
    program = "import sys; from celljobs import drive; drive(*sys.argv[1:])"
    arguments = [executor, str(tmp_path / "store"), str(tmp_path / "log"), SECONDS, address]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def begun(log: Path, since: int = 0) -> list[int]:
    """Cells whose work began, in order, from a byte of the log on."""
    return [int(line.split()[0]) for line in log.read_bytes()[since:].splitlines()]


def wait_for(log: Path, size: int, process: subprocess.Popen[bytes]) -> None:
    while log.stat().st_size <= size and process.poll() is None:
        time.sleep(0.002)


def values(cells: Sequence[Cell], folder: Path) -> list[str]:
    """Hash of the stored bytes of each result."""
    store = ResultStore(folder)
    return [store._found[cell.key][3] for cell in cells]


def stored(cells: Sequence[Cell], folder: Path) -> set[int]:
    store = ResultStore(folder)
    return {i for i, cell in enumerate(cells) if cell in store}


def killed_again_and_again(executor: str, workers: int, tmp_path: Path, kills: int, address: str = "") -> None:
    """Kill a run, start it again, and so on; then finish it and compare."""
    log, folder = tmp_path / "log", tmp_path / "store"
    log.touch()
    cells = squares(200, seconds=float(SECONDS), log=str(log))
    rng = derive_rng(0, "kill", executor)
    finished: set[int] = set()
    lost: Counter[int] = Counter()
    for _ in range(kills):
        before = log.stat().st_size
        process = start(executor, tmp_path, address)
        wait_for(log, before, process)
        time.sleep(float(rng.uniform(0, 2 / kills)))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        round_ = begun(log, before)
        assert not finished & set(round_), "a finished cell was computed again"
        finished = stored(cells, folder)
        in_flight = set(round_) - finished
        assert len(in_flight) <= workers, f"{len(in_flight)} cells were lost by one kill"
        lost.update(in_flight)
    before = log.stat().st_size
    process = start(executor, tmp_path, address)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()[-2000:]
    assert not finished & set(begun(log, before)), "a finished cell was computed again"
    times = Counter(begun(log))
    assert set(times) == set(range(200)) and all(times[i] <= 1 + lost[i] for i in times)
    assert ResultStore(folder).damaged().height <= kills * max(1, workers)
    # its own log, but the inputs that name the cells
    quiet = tmp_path / "quiet"
    run_cells(cells, quiet, show_progress=False)
    assert values(cells, folder) == values(cells, quiet)
    print(
        f"{executor}: {kills} kills, {sum(lost.values())} cells in flight begun again, {sum(times.values())} begun in all"
    )


@pytest.mark.parametrize(("executor", "workers"), [("in process", 1), ("processes", 2)])
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one_and_repeats_only_what_was_in_flight(
    tmp_path: Path, executor: str, workers: int
) -> None:
    killed_again_and_again(executor, workers, tmp_path, KILLS)


@pytest.mark.parametrize("executor", ["in process", "processes"])
def test_an_interrupt_keeps_what_is_finished(tmp_path: Path, executor: str) -> None:
    log = tmp_path / "log"
    log.touch()
    process = start(executor, tmp_path)
    wait_for(log, 100, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and b"KeyboardInterrupt" in said
    cells = squares(200, seconds=float(SECONDS), log=str(log))
    kept = stored(cells, tmp_path / "store")
    assert len(kept) >= len(begun(log)) - 2 and len(kept) < 200
    before = log.stat().st_size
    run_cells(cells, tmp_path / "store", show_progress=False)
    assert sorted(begun(log, before)) == sorted(set(range(200)) - kept)


def test_two_runs_of_the_same_cells_at_once_share_a_store(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    runs = [start("in process", tmp_path) for _ in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    cells = squares(200, seconds=float(SECONDS), log=str(tmp_path / "log"))
    store = ResultStore(tmp_path / "store")
    assert len(store) == 200 and store.damaged().is_empty()
    assert store.get(cells[7])["square"][0] == 49


def test_a_full_disk_is_reported_and_the_rest_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(
            f"a small disk cannot be mounted here ({mounted.stderr.strip()[:80]}); test_run has one by file size"
        )
    try:
        cells = squares(400)
        with pytest.raises(OSError, match=r"ResultStore.put: .*No space left.* make room"):
            run_cells(cells, disk, show_progress=False)
        whole = ResultStore(disk)
        some = len(whole)
        assert 10 < some < 400
        assert all(whole.get(cells[i])["square"][0] == i * i for i in stored(cells, disk))
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        report = run_cells(cells, disk, show_progress=False)
        assert dict(report["state"].value_counts().iter_rows()) == {"found": some, "computed": 400 - some}
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_generator_of_cells_is_read_no_faster_than_they_are_computed(tmp_path: Path) -> None:
    made: list[int] = []

    def cells():
        for cell in squares(60):
            made.append(len(made))
            # never more cells out than the look-ahead, the workers and the one being made
            assert len(made) - len(ResultStore(tmp_path)) <= 4 + 2 * 2 + 1
            yield cell

    report = run_cells(cells(), tmp_path, executor=Processes(2), ahead=4, show_progress=False)
    assert report.height == 60 and set(report["state"]) == {"computed"}


def test_an_error_of_the_generator_reaches_the_caller(tmp_path: Path) -> None:
    def cells():
        yield from squares(3)
        raise ZeroDivisionError("while making cells")

    with pytest.raises(ZeroDivisionError, match="while making cells"):
        run_cells(cells(), tmp_path, executor=Processes(2), ahead=2, show_progress=False)
