"""A killed run loses nothing and does nothing twice; writers never disturb each other; damage is found and costs one cell."""

import errno
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from celljobs import die, square, squares, weights
from hypothesis import given
from hypothesis import strategies as st

from toksuite_nb.run import (
    Cell,
    InProcess,
    Processes,
    RayCluster,
    ResultStore,
    _sealed,
    code_version,
    collect,
    decode_value,
    encode_value,
    main,
    read_plan,
    run_cells,
    slurm_script,
    write_plan,
)

HERE = Path(__file__).parent


def plan_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}


def test_eight_writers_lose_and_tear_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from toksuite_nb.run import ResultStore\n"
        "store, w = ResultStore(sys.argv[1]), int(sys.argv[2])\n"
        "for i in range(1250): store.put(f'{w * 1250 + i:032x}', {'i': i, 'text': 'x' * (i % 977)})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(w)]) for w in range(8)]
    assert [writer.wait() for writer in writers] == [0] * 8
    store = ResultStore(tmp_path)
    assert (len(store), store.damaged().height) == (10_000, 0)
    assert all(store.get(f"{k:032x}")["i"] == k % 1250 for k in range(0, 10_000, 97))


def test_overhead_of_a_cell_and_finding_ten_thousand_again(tmp_path: Path) -> None:
    cells = [Cell(square, {"i": i}) for i in range(10_000)]
    began = time.process_time()
    run_cells(cells, tmp_path, show_progress=False)
    assert (time.process_time() - began) / 10_000 < 3e-3
    began = time.process_time()
    report = run_cells([Cell(square, {"i": i}) for i in range(10_000)], tmp_path, show_progress=False)
    assert time.process_time() - began < 2
    assert report["state"].unique().to_list() == ["found"]


def test_all_executors_give_the_same_frame_and_a_dead_worker_fails_only_its_cell(tmp_path: Path) -> None:
    cells = squares(30)
    run_cells(cells, tmp_path / "a", show_progress=False)
    report = run_cells(
        [*cells, Cell(die, {"i": 1})], tmp_path / "b", executor=Processes(2), on_error="keep", show_progress=False
    )
    assert report.filter(pl.col("state") == "failed")["function"].to_list() == ["celljobs:die"]
    assert "exit status -9" in report.filter(pl.col("state") == "failed")["error"][0]
    assert collect(cells, tmp_path / "a").equals(collect(cells, tmp_path / "b"))


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_flipped_byte_costs_one_cell(tmp_path: Path, where: float) -> None:
    cells = squares(20)
    run_cells(cells, tmp_path, show_progress=False)
    part = next(tmp_path.glob("*.cells"))
    data = bytearray(part.read_bytes())
    at = int(len(data) * where)
    data[at + (data[at] == 10)] ^= 0x04
    part.write_bytes(data)
    store = ResultStore(tmp_path)
    assert (len(store), store.damaged().height) == (19, 1)
    report = run_cells(cells, store, show_progress=False)
    assert report["state"].value_counts().sort("state")["count"].to_list() == [1, 19]


def test_a_damaged_line_break_costs_nothing(tmp_path: Path) -> None:
    run_cells(squares(20), tmp_path, show_progress=False)
    part = next(tmp_path.glob("*.cells"))
    lines = part.read_bytes().split(b"\n")
    part.write_bytes(b"\n".join(lines[:5]) + b"\x0e" + b"\n".join(lines[5:]))
    assert collect(squares(20), tmp_path).height == 20


def test_a_truncated_file_costs_one_cell(tmp_path: Path) -> None:
    cells = squares(20)
    run_cells(cells, tmp_path, show_progress=False)
    part = next(tmp_path.glob("*.cells"))
    os.truncate(part, part.stat().st_size - 7)
    store = ResultStore(tmp_path)
    assert (len(store), store.damaged()["what"].to_list()) == (19, ["unfinished line"])
    run_cells(cells, store, show_progress=False)
    assert collect(cells, store).height == 20


def in_child(program: str, folder: Path) -> str:
    """What a program prints that has limits of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], env=plan_environment(), capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr


def test_a_full_disk_is_reported_and_the_rest_is_whole(tmp_path: Path) -> None:
    answer = in_child(
        "import resource, signal, sys; from test_run import run_cells, squares\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "run_cells(squares(200), sys.argv[1], show_progress=False)\n",
        tmp_path,
    )
    assert "ResultStore.put" in answer and "make room" in answer, answer
    store = ResultStore(tmp_path)
    assert 0 < len(store) < 200
    assert run_cells(squares(200), store, show_progress=False)["state"].is_in(["found", "computed"]).all()
    assert collect(squares(200), tmp_path).height == 200


def test_a_store_goes_on_after_a_line_that_was_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real = ResultStore(tmp_path), os.write

    def short(handle: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", full)
        return real(handle, data[:20])

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.put("a" * 32, 1)
    monkeypatch.setattr(os, "write", short)
    with pytest.raises(OSError, match="No space left"):
        store.put("b" * 32, 2)
    monkeypatch.setattr(os, "write", real)
    store.put("c" * 32, 3)
    again = ResultStore(tmp_path)
    assert sorted(again._found) == ["a" * 32, "c" * 32] and again.get("c" * 32) == 3 == store.get("c" * 32)
    assert again.damaged().height == 1


def test_a_read_only_folder_can_be_read_and_says_so_when_written(tmp_path: Path) -> None:
    run_cells(squares(3), tmp_path, show_progress=False)
    os.chmod(tmp_path, 0o555)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == Path.home().owner() and folder != Path("/") and folder != Path("/tmp"):
            os.chmod(folder, folder.stat().st_mode | 0o555)

    answer = in_child(
        "import os, sys; from toksuite_nb.run import ResultStore\n"
        "os.getuid() or os.setuid(65534)\n"
        "store = ResultStore(sys.argv[1]); store.put('d' * 32, len(store))\n",
        tmp_path,
    )
    os.chmod(tmp_path, 0o755)
    assert "ResultStore.put" in answer and "allow writing" in answer, answer
    assert len(ResultStore(tmp_path)) == 3


def test_a_key_with_two_values_is_an_error(tmp_path: Path) -> None:
    first, second = ResultStore(tmp_path / "a"), ResultStore(tmp_path / "b")
    first.put("a" * 32, 1)
    second.put("a" * 32, 2)
    second.put("b" * 32, 3)
    merged = first.merge(tmp_path / "b")
    assert merged.get("b" * 32) == 3
    with pytest.raises(ValueError, match="a key has one value"):
        merged.get("a" * 32)


def test_writers_that_disagree_are_found_out_and_those_that_agree_are_not(tmp_path: Path) -> None:
    writers = [ResultStore(tmp_path) for _ in range(3)]
    for writer, value in zip(writers, (1, 1, 2), strict=True):
        writer.put("a" * 32, value)
        writer.put("b" * 32, 1)
    for store in (ResultStore(tmp_path), writers[0].refresh()):
        assert len(store) == 2 and store.get("b" * 32) == 1
        with pytest.raises(ValueError, match="a key has one value, got two"):
            store.get("a" * 32)


def test_equal_cells_count_once_in_plans_reports_and_collections(tmp_path: Path) -> None:
    cells = [*squares(3), *squares(2)]
    assert len(read_plan(write_plan(cells, tmp_path / "plan.jsonl"))) == 3
    assert run_cells(cells, tmp_path / "s", show_progress=False)["state"].to_list() == ["computed"] * 3
    assert collect(cells, tmp_path / "s")["i"].to_list() == [0, 1, 2]


def test_a_cell_that_fails_stops_the_run_unless_told_otherwise_and_dead_workers_are_tried_again(tmp_path: Path) -> None:
    good, bad = Cell(square, {"i": 2}), Cell(square, {"i": "x"})
    with pytest.raises(RuntimeError, match="every cell must return, got an error for celljobs:square"):
        run_cells([bad, good], tmp_path / "s", show_progress=False)
    report = run_cells([bad, good], tmp_path / "s", on_error="keep", show_progress=False)
    assert report["state"].to_list() == ["failed", "computed"]
    for retries in (0, 2):
        log = tmp_path / f"log-{retries}"
        cell = Cell(die, {"i": 1, "log": str(log)})
        executor = Processes(1, retries=retries)
        assert (
            run_cells([cell], tmp_path / "s", executor=executor, on_error="keep", show_progress=False)["state"][0]
            == "failed"
        )
        assert log.read_text() == "1\n" * (retries + 1), "tried once, and again as often as was said"


@pytest.mark.parametrize("executor", [Processes, RayCluster])
@pytest.mark.parametrize("given", [{"workers": 0}, {"workers": 1.5}, {"threads": 0}, {"retries": -1}])
def test_without_workers_no_cell_is_said_to_be_found(executor: type, given: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match=f"{executor.__name__}: workers and threads must be whole numbers >= 1 .* got {given}"
    ):
        executor(**given)


def test_a_worker_goes_on_with_the_group_that_it_has_loaded(tmp_path: Path) -> None:
    groups = ["a", "b", "a", "b", "b", "a"]
    cells = [Cell(square, {"i": i}, group) for i, group in enumerate(groups)]
    run_cells(cells, tmp_path, show_progress=False)
    assert collect(cells, tmp_path)["i"].to_list() == list(range(6)), "collected in the order of the cells"
    lines = next(tmp_path.glob("*.cells")).read_text().splitlines()
    order = [next(cell.group for cell in cells if cell.key in line) for line in lines]
    assert order in (list("aaabbb"), list("bbbaaa"))


def test_two_models_never_share_a_result(tmp_path: Path) -> None:
    for name, content in (("first", "1"), ("second", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(content)
    first, second = (Cell(weights, {"model": tmp_path / name}) for name in ("first", "second"))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "model.safetensors").write_text("1")
    assert first.key != second.key
    assert first.key == Cell(weights, {"model": tmp_path / "copy"}).key


def test_code_version_follows_the_modules_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "low.py").write_text("def f():\n    return 1\n")
    (package / "other.py").write_text("x = 1\n")
    (package / "high.py").write_text("from pack.low import f\n\n\ndef g():\n    return f()\n")
    monkeypatch.syspath_prepend(tmp_path)
    from pack.high import g

    def version() -> str:
        code_version.cache_clear()
        return code_version(g)

    before = version()
    (package / "other.py").write_text("x = 2\n")
    assert version() == before
    (package / "low.py").write_text("def f():\n    return 2\n")
    assert version() != before


HIGH = """
from toksuite_nb.run import cell_function
from {name}.low import f
SCALE = 1
TABLE = {{}}
TABLE["more"] = 0  # set
def scaled(by):
    return lambda function: lambda **given: by * function(**given)
def helper(x):
    return SCALE * x + TABLE["more"]
def other():
    return 1
@scaled(1)
def inner(x):
    return helper(f(x))
@cell_function
def g(x):
    return inner(x=x)
"""


@pytest.mark.parametrize(
    ("file", "old", "new", "matters"),
    [
        ("high", "SCALE = 1", "SCALE = 2", True),
        ("high", "SCALE * x", "SCALE + x", True),
        ("high", "@scaled(1)", "@scaled(2)", True),
        ("high", "= 0  # set", "= 1  # set", True),
        ("high", "by * function", "by + function", True),
        ("high", "helper(f(x))", "helper(f(x) + 1)", True),
        ("high", "return 1\n@", "return 2\n@", False),
        ("low", "return deep", "return 2 * deep", True),
        ("deep", "+ 0", "+ 1", True),
        ("apart", "1", "2", False),
    ],
)
def test_a_key_follows_the_code_a_result_depends_on_and_no_other(tmp_path, monkeypatch, file, old, new, matters):
    def key(name: str, changed: bool) -> str:
        package = tmp_path / str(changed) / name
        package.mkdir(parents=True)
        sources = {
            "__init__": "", "high": HIGH.format(name=name), "apart": "x = 1\n",
            "low": f"from {name}.deep import deep\ndef f(x):\n    return deep(x)\n", "deep": "def deep(x):\n    return x + 0\n",
        }  # fmt: skip
        for module, source in sources.items():
            assert module != file or source.count(old) == 1
            (package / f"{module}.py").write_text(source.replace(old, new) if changed and module == file else source)
        monkeypatch.syspath_prepend(tmp_path / str(changed))
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        found = importlib.import_module(f"{name}.high").g
        assert not changed or not matters or file == "apart" or found(x=2) != 2
        return Cell(found, {"x": 2}).key

    name = "keypack"
    assert (key(name, False) != key(name, True)) == matters


def test_a_key_follows_the_files_wherever_their_paths_stand(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("2")

    def key(**given: object) -> str:
        return Cell(weights, {"model": folder, **given}).key

    def keys() -> list[str]:
        return [key(), key(model=[folder / "a"]), key(model={"x": (folder / "a",)}), key(model=folder / "a")]

    before = keys()
    assert len(set(before)) == 4 and keys() == before
    (folder / "a").write_text("3")
    changed = keys()
    assert not set(changed) & set(before), "another content of the same size"
    (folder / "a").write_text("1")
    assert keys() == before
    (folder / "sub" / "b").rename(folder / "sub" / "c")
    assert key() != before[0] and keys()[1:] == before[1:], "a name is content of a folder"
    (folder / "sub" / "c").rename(folder / "b")
    (folder / "b").rename(folder / "sub" / "b")
    assert keys() == before
    assert Cell(weights, {"model": folder}, group="x").key == before[0]
    assert Cell(square, {"i": 1}).key != Cell(square, {"i": 1.0}).key != Cell(square, {"i": True}).key


def test_shards_cover_a_plan_once(tmp_path: Path) -> None:
    plan = write_plan(squares(23), tmp_path / "plan.jsonl")
    keys = [cell.key for i in range(1, 6) for cell in read_plan(plan, shard=f"{i}/5")]
    assert len(keys) == 23 and sorted(keys) == sorted(cell.key for cell in squares(23))
    with pytest.raises(ValueError, match="1 <= i <= n"):
        read_plan(plan, shard="6/5")
    assert "#SBATCH --array=1-5" in slurm_script(plan, tmp_path, shards=5)


def test_a_plan_can_only_call_cell_functions(tmp_path: Path) -> None:
    spec = {"key": "0" * 32, "function": "os:system", "group": "", "inputs": {"command": "true"}}
    (tmp_path / "plan.jsonl").write_bytes(_sealed(json.dumps(spec).encode()))
    with pytest.raises(TypeError, match="may only call cell functions"):
        read_plan(tmp_path / "plan.jsonl")


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_paths_arrays_and_frames_come_back_as_what_they_were() -> None:
    given = {
        "p": [Path("a/b")],
        "x": np.array([[1.5, np.nan]], dtype=np.float32),
        "f": pl.DataFrame({"a": [1, None]}),
        "n": np.int64(3),
    }
    back = decode_value(json.loads(json.dumps(encode_value(given))))
    assert back["p"] == [Path("a/b")] and isinstance(back["p"][0], Path) and back["n"] == 3
    assert back["x"].dtype == np.float32 and np.array_equal(back["x"], given["x"], equal_nan=True)
    assert back["f"].equals(given["f"])


@given(plain)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    assert decode_value(json.loads(json.dumps(encode_value(value)))) == value


def test_what_cannot_be_stored_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot store a set"):
        encode_value({"x": {1, 2}})
    for odd, kind in (
        (np.complex128(1), "complex"),
        (np.datetime64("2026-01-01"), "date"),
        (np.longdouble(1), "longdouble"),
    ):
        with pytest.raises(TypeError, match=f"cannot store a {kind}"):
            encode_value(odd)
    with pytest.raises(TypeError, match="Cell: inputs must be a mapping of argument names to values, got list"):
        Cell(square, [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="arrays must hold numbers"):
        encode_value(np.array([object()]))
    with pytest.raises(ValueError, match="on_error"):
        run_cells([], "unused", executor=InProcess(), on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plan", "options", "said"),
    [
        ("nope", [], "read_plan: needs the file of a plan, got "),
        ("torn", [], "run: a line must be a cell as write_plan wrote it, got 'no cell'"),
        ("torn", ["--shard", "3/2"], "read_plan: shard must be 'i/n' with 1 <= i <= n, got '3/2'"),
    ],
)
def test_the_command_line_says_what_is_wrong_with_a_plan(plan, options, said, tmp_path, capsys):
    (tmp_path / "torn").write_text("no cell\n")
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(tmp_path / plan), str(tmp_path / "store"), *options])
    assert ended.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "store").exists(), "nothing is made for a plan that cannot be read"
