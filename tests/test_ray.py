"""A Ray cluster gives what one process gives, survives dead workers and drivers, and listens on loopback only."""

from __future__ import annotations

import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from celljobs import die, squares
from test_faults import begun, killed_again_and_again, values

from toksuite_nb.run import Cell, RayCluster, run_cells

# not imported here: Ray reads at import that it shall listen on loopback
if find_spec("ray") is None:
    pytest.skip("Ray is in the extra `ray`", allow_module_level=True)
KILLS = int(os.environ.get("TOKSUITE_KILLS", "1"))


@pytest.fixture(scope="module", autouse=True)
def address(tmp_path_factory: pytest.TempPathFactory):
    """One local cluster for all tests of this file: it takes seconds to start."""
    folder = tmp_path_factory.mktemp("start")
    run_cells(squares(1), folder, executor=RayCluster(2), show_progress=False)
    import ray

    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def test_the_cluster_gives_the_same_bytes_as_one_process(tmp_path: Path) -> None:
    cells = squares(40)
    run_cells(cells, tmp_path / "one", show_progress=False)
    report = run_cells(cells, tmp_path / "ray", executor=RayCluster(2), show_progress=False)
    assert set(report["state"]) == {"computed"}
    assert values(cells, tmp_path / "one") == values(cells, tmp_path / "ray")
    again = run_cells(cells, tmp_path / "ray", executor=RayCluster(2), show_progress=False)
    assert set(again["state"]) == {"found"}


def test_a_cell_that_kills_its_actor_fails_alone(tmp_path: Path) -> None:
    cells = [*squares(10), Cell(die, {"i": 1})]
    report = run_cells(cells, tmp_path, executor=RayCluster(2), on_error="keep", show_progress=False)
    failed = report.filter(state="failed")
    assert failed["function"].to_list() == ["celljobs:die"] and "the Ray actor died" in failed["error"][0]


def test_a_worker_killed_in_mid_cell_costs_that_cell_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    cells = squares(30, seconds=0.1, log=str(log))
    victims: list[int] = []

    def one_by_one():
        for cell in cells:
            lines = log.read_text().split("\n")
            if len(lines) > 8 and not victims:
                victims.append(int(lines[-2].split()[1]))
                os.kill(victims[0], signal.SIGKILL)
            yield cell

    report = run_cells(one_by_one(), tmp_path / "ray", executor=RayCluster(2), ahead=1, show_progress=False)
    assert victims and set(report["state"]) == {"computed"} and report.height == 30
    run_cells(cells, tmp_path / "quiet", show_progress=False)
    assert values(cells, tmp_path / "ray") == values(cells, tmp_path / "quiet")
    # 30 here, 30 in the quiet run, and the one that was in flight
    assert len(begun(log)) <= 61


def test_a_driver_killed_at_random_moments_goes_on_where_it_was(tmp_path: Path, address: str) -> None:
    killed_again_and_again("ray", 2, tmp_path, KILLS, address)


def test_the_local_cluster_listens_on_loopback_and_reports_to_nobody(address: str) -> None:
    assert address.startswith("127.0.0.1:") and os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    deadline, family = time.monotonic() + 10, set[int]()
    while not family and time.monotonic() < deadline:
        family = {child.pid for child in psutil.Process().children(recursive=True)}
    open_ports = [
        found.laddr.ip
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.pid in family | {os.getpid()}
    ]
    assert open_ports and set(open_ports) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
