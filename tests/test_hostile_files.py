"""Every malformed benchmark, result file, plan, store and journal gets a clear error, and the good rows of a partly bad one survive."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from toksuite_nb.harness import read_results, read_samples
from toksuite_nb.items import load_benchmark
from toksuite_nb.labeling import read_journal
from toksuite_nb.run import ResultStore, _sealed, read_plan
from toksuite_nb.tokenizer import load_tokenizer

FORM = re.compile(r"([A-Z]\w+\.[a-z]\w*|[A-Z]\w+|[a-z]\w*): \S.{20,}")

GOOD = {
    "item_id": "a-1",
    "question": "The sky is",
    "choices": ["blue", "green", "red"],
    "answer": 0,
    "lang": "en",
    "domain": "custom",
}
OTHER = GOOD | {"item_id": "a-2", "question": "Grass is", "answer": 1}
ABSENT = object()
DEEP = "[" * 100_000

# field, and what makes a record with it malformed
FIELDS: dict[str, list[Any]] = {
    "question": [ABSENT, None, 5, 1.5, True, [], ["The sky is"], {"text": "x"}, "\ud800", "", "  "],
    "choices": [
        ABSENT,
        None,
        [],
        ["one"],
        [1, 2],
        ["a", None],
        [["a"], ["b"]],
        ["same", "same"],
        ["", "b"],
        ["a", " "],
        ["a", "\udfff"],
        "one",
        7,
        {"a": "b"},
    ],
    "answer": [
        ABSENT,
        None,
        -1,
        3,
        1.5,
        "x",
        "blue",
        "Z",
        True,
        [],
        {},
        10**30,
        math.nan,
        math.inf,
        -math.inf,
        "٣",
        "1e2",
    ],
    "target": ["answer", 1, []],
    "severity": ["strong", [], True],
    "seed": ["one", 1.5, 2**70, True],
    "delimiter": [3, [], {}],
    "perturbation": [3, ["uppercase"], {"name": "x"}],
    "domain": [3, ["x"]],
    "edits": ["none", 3, ["x"], [{"field": "question"}], [{"start": "0"}]],
    "item_id": ["\ud800"],
    "answer_label": ["C", "B"],
}
RECORDS: dict[str, Any] = {
    f"{field} {i} {'absent' if bad is ABSENT else str(bad)[:12]!r}": {
        key: value for key, value in (GOOD | {"item_id": "bad", field: bad}).items() if value is not ABSENT
    }
    for field, options in FIELDS.items()
    for i, bad in enumerate(options)
}
RECORDS |= {f"row is {type(bad).__name__}": bad for bad in (None, 3, "x", ["x"], True)}


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def clear(kind: str, case: str, read: Callable[[], Any], *errors: type[Exception]) -> str:
    """The message of the error that `read` must end with."""
    with pytest.raises(errors or (ValueError, TypeError, KeyError)) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read()
    said = str(caught.value.args[-1])
    assert FORM.match(said), f"{kind} {case}: {said[:300]!r}"
    return said


def survivors(read: Callable[[], pl.DataFrame]) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted(read()["item_id"].to_list())


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_each_malformed_record_is_refused_by_name_and_its_neighbours_survive(tmp_path: Path, suffix: str) -> None:
    for case, record in RECORDS.items():
        path = tmp_path / f"a.{suffix}"
        rows = [GOOD, record, OTHER]
        path.write_bytes(b"\n".join(map(dumped, rows)) if suffix == "jsonl" else dumped(rows))
        said = clear(suffix, case, lambda path=path: load_benchmark(path))
        assert "load_benchmark: " in said and re.search(r"row 2|'bad'|a-3|a-0002|audit|\\ud800|dfff", said), (
            f"{case}: {said}"
        )
        assert survivors(lambda path=path: load_benchmark(path, skip=True)) == ["a-1", "a-2"], case


def test_a_line_in_another_encoding_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([dumped(GOOD), WHOLE["Latin-1"], WHOLE["bytes"].replace(b"\n", b""), dumped(OTHER)]))
    assert "line 2" in clear("jsonl", "a line in Latin-1", lambda: load_benchmark(path))
    assert survivors(lambda: load_benchmark(path, skip=True)) == ["a-1", "a-2"]


def as_csv(rows: list[list[str]], sep: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=sep).writerows(rows)
    return out.getvalue().encode()


@pytest.mark.parametrize(("suffix", "sep"), [("csv", ","), ("tsv", "\t")])
def test_each_malformed_row_of_a_table_is_refused_and_its_neighbours_survive(
    tmp_path: Path, suffix: str, sep: str
) -> None:
    head = ["item_id", "question", "choices", "answer"]
    good = [["a-1", "The sky is", "blue|green", "0"], ["a-2", "Grass is", '["blue", "green"]', "B"]]
    cases = {
        "no question": ["bad", "", "a|b", "0"],
        "no options": ["bad", "Q", "", "0"],
        "one option": ["bad", "Q", "a", "0"],
        "options alike": ["bad", "Q", "a|a", "0"],
        "empty option": ["bad", "Q", "a||b", "0"],
        "no answer": ["bad", "Q", "a|b", ""],
        "answer out of range": ["bad", "Q", "a|b", "2"],
        "answer below 0": ["bad", "Q", "a|b", "-1"],
        "answer a word": ["bad", "Q", "a|b", "a b"],
        "answer a fraction": ["bad", "Q", "a|b", "0.5"],
        "options a number": ["bad", "Q", "7", "0"],
        "options of numbers": ["bad", "Q", "[1, 2]", "0"],
        "options nested deeply": ["bad", "Q", "[" * 5000, "0"],
        "more cells than columns": ["bad", "Q", "a|b", "0", "surplus"],
        "fewer cells": ["bad", "Q"],
    }
    for case, row in cases.items():
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(as_csv([head, good[0], row, good[1]], sep))
        clear(suffix, case, lambda path=path: load_benchmark(path, lang="en"))
        assert survivors(lambda path=path: load_benchmark(path, lang="en", skip=True)) == ["a-1", "a-2"], case


def test_malformed_parquet_is_refused_even_where_it_would_end_the_reader(tmp_path: Path) -> None:
    frame = pl.DataFrame([GOOD, OTHER])
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    whole = buffer.getvalue()
    # a length in the footer that asks for more memory than there is ends the process that believes it
    cases = {
        "empty": b"",
        "text": b"The sky is blue",
        "half": whole[: len(whole) // 2],
        "no end": whole[:-4],
        "no head": whole[8:],
        "footer length": whole[:-8] + b"\xff\xff\xff\x7f" + whole[-4:],
        "zeros inside": whole[:20] + bytes(200) + whole[220:],
        "ones inside": whole[:12] + b"\xff" * 120 + whole[132:],
        "footer flipped": whole[:-60] + bytes(b ^ 0x55 for b in whole[-60:-8]) + whole[-8:],
    }
    for case, content in cases.items():
        path = tmp_path / "a.parquet"
        path.write_bytes(content)
        assert "a.parquet" in clear("parquet", case, lambda path=path: load_benchmark(path))
    for case in ("answer 2 '-1'", "choices 2 '[]'", "question 0 'absent'"):
        pl.DataFrame([GOOD, RECORDS[case], OTHER], strict=False).write_parquet(tmp_path / "a.parquet")
        clear("parquet", case, lambda: load_benchmark(tmp_path / "a.parquet"))
        assert survivors(lambda: load_benchmark(tmp_path / "a.parquet", skip=True)) == ["a-1", "a-2"]


WHOLE = {
    "empty": b"",
    "blank lines": b"\n\n \n",
    "not JSON": b"the sky is blue\n",
    "cut short": dumped(GOOD)[:40],
    "two records in a line": dumped(GOOD) + dumped(GOOD),
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "Latin-1": json.dumps(GOOD | {"question": "città"}, ensure_ascii=False).encode("latin-1"),
    "bytes": bytes(range(256)),
    "null bytes": bytes(100),
    "nested deeply": DEEP.encode(),
    "nested deeply in a field": b'{"question": ' + DEEP.encode(),
    "a number with 5,000 digits": b'{"question": "Q", "answer": ' + b"9" * 5000 + b"}",
    "a number": b"5",
    "a string": b'"question"',
    "null": b"null",
    "an archive": b"PK\x03\x04" + bytes(60),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "the same id twice": dumped(GOOD) + b"\n" + dumped(GOOD | {"question": "Another"}),
}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
def test_files_that_are_no_benchmark_are_refused(tmp_path: Path, suffix: str) -> None:
    for case, content in WHOLE.items():
        if suffix == "json" and case == "the same id twice":
            content = dumped([GOOD, GOOD | {"question": "Another"}])
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(content)
        clear(suffix, f"file: {case}", lambda path=path: load_benchmark(path))


def test_paths_that_are_no_benchmark_are_refused(tmp_path: Path) -> None:
    outside, folder = tmp_path / "secret.jsonl", tmp_path / "set"
    outside.write_bytes(dumped(GOOD))
    folder.mkdir()
    clear("path", "empty folder", lambda: load_benchmark(folder))
    (folder / "a.txt").write_text("x")
    clear("path", "another ending", lambda: load_benchmark(folder / "a.txt"))
    (folder / "a.jsonl").symlink_to(outside)
    assert "lead elsewhere" in clear("path", "link out of the folder", lambda: load_benchmark(folder))
    clear("path", "absent", lambda: load_benchmark(folder / "b.jsonl"), FileNotFoundError)
    clear("path", "unknown name", lambda: load_benchmark("embeded"), KeyError)
    clear("path", "name that climbs", lambda: load_benchmark("../../owner/name"), FileNotFoundError, KeyError)


SAMPLE = {
    "doc_id": 0,
    "doc": {"id": "a-1", "question": "The sky is", "choices": ["blue", "green"], "answer": 0},
    "target": "0",
    "arguments": {
        "gen_args_0": {"arg_0": "The sky is", "arg_1": " blue"},
        "gen_args_1": {"arg_0": "The sky is", "arg_1": " green"},
    },
    "resps": [[["-1.5", "True"]], [["-2.5", "False"]]],
    "filtered_resps": [["-1.5", "True"], ["-2.5", "False"]],
    "acc": 1.0,
    "acc_norm": 1.0,
}
NAMED = "samples_t_a_2025-09-19T10-00-00.000000.jsonl"


def changed(**fields: Any) -> dict[str, Any]:
    out = json.loads(json.dumps(SAMPLE))
    for name, value in fields.items():
        inner = out["doc"] if name.startswith("doc_") and name != "doc_id" else out
        key = name.removeprefix("doc_") if inner is not out else name
        if value is ABSENT:
            del inner[key]
        else:
            inner[key] = value
    return out


SAMPLES: dict[str, Any] = {
    f"{field} {i}": changed(**{field: bad})
    for field, options in {
        "doc": [ABSENT, None, [], "x", 3],
        "target": [-1, 2, "2", "x", "", 1.5, [], True],
        "filtered_resps": [
            [["-1", "True"]],
            [["x", "True"]] * 2,
            [["nan", 0]] * 2,
            [["1.5", 0]] * 2,
            [[], []],
            5,
            "ab",
            [None] * 2,
        ],
        "doc_choices": [["one"], [1, 2], ["a", None], ["", "b"], "ab", [["a"], ["b"]], 5, ["a", "\ud800"]],
        "doc_question": ["\ud800"],
        "doc_domain": [5, ["x"]],
        "doc_perturbation": [5, ["x"]],
        "doc_seed": ["x", 2**70],
        "doc_edits": ["x", [1]],
        "doc_target": ["answer"],
    }.items()
    for i, bad in enumerate(options)
}
SAMPLES |= {
    "no answers at all": {k: v for k, v in SAMPLE.items() if k not in ("resps", "filtered_resps")},
    "no question anywhere": changed(doc_question=ABSENT, arguments={}),
    "question a number, no requests": changed(doc_question=5, arguments=[]),
    "no options anywhere": changed(doc_choices=ABSENT, arguments=None),
    "requests of another kind": changed(doc_choices=ABSENT, arguments=[1, 2]),
    "row is a list": [SAMPLE],
    "row is null": None,
    "row is a number": 7,
}


def test_each_malformed_sample_is_refused_by_line_and_its_neighbours_survive(tmp_path: Path) -> None:
    other = changed(doc_id=1) | {"doc": SAMPLE["doc"] | {"id": "a-2"}}  # type: ignore[operator]
    for case, sample in SAMPLES.items():
        path = tmp_path / NAMED
        path.write_bytes(b"\n".join(map(dumped, (SAMPLE, sample, other))))
        said = clear("samples", case, lambda path=path: read_samples(path))
        assert "line 2" in said, f"{case}: {said}"
        run = read_samples(path, refuse=False)
        assert sorted(run.items["item_id"]) == ["a-1", "a-2"] and run.problems["line"].to_list() == [2], case
    for case in (
        "not JSON",
        "cut short",
        "UTF-16",
        "Latin-1",
        "bytes",
        "null bytes",
        "nested deeply",
        "an archive",
        "a pickle",
    ):
        path.write_bytes(dumped(SAMPLE) + b"\n" + WHOLE[case])
        clear("samples", f"file: {case}", lambda: read_samples(path))
        assert "a-1" in read_samples(path, refuse=False).items["item_id"]
    clear("samples", "no file", lambda: read_samples(tmp_path / "none"), FileNotFoundError)


RESULTS = {"results": {"t": {"acc,none": 0.5}}, "n-samples": {"t": {"effective": 2}}, "versions": {"t": 1.0}}
NOT_RESULTS: dict[str, Any] = {
    f"{field} {i}": RESULTS | {field: bad}
    for field, options in {
        "results": [None, [], "x", 5, {"t": 5}, {"t": [1]}, {"t": None}, {"t": "acc"}],
        "groups": [5, "x", [1], {"g": 5}],
        "group_subtasks": [5, "x", {"t": 5}, {"t": [5]}, {"t": "ab"}],
        "n-samples": [
            5,
            "x",
            {"t": 5},
            {"t": {"effective": "two"}},
            {"t": {"effective": 1.5}},
            {"t": {"effective": 2**70}},
        ],
        "configs": [5, "x", {"t": 5}, {"t": {"metadata": 5}}],
        "versions": [5, "x"],
        "n-shot": [5, "x", {"t": "none"}, {"t": [1]}],
        "config": [5, "x", {"model_args": 5}, {"model_args": [1]}],
        "lm_eval_version": [[1], {"a": 1}],
    }.items()
    for i, bad in enumerate(options)
}


def test_each_malformed_result_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "results_2025-09-19T10-00-00.000000.json"
    for case, content in {**{case: dumped(value) for case, value in NOT_RESULTS.items()}, **WHOLE}.items():
        path.write_bytes(content)
        assert path.name in clear("results", case, lambda: read_results(path)), case
    path.write_bytes(dumped(RESULTS))
    assert read_results(path)["value"].to_list() == [0.5]
    clear("results", "no file", lambda: read_results(tmp_path / "none"), FileNotFoundError)


def test_each_malformed_plan_store_and_journal_is_refused_or_set_aside(tmp_path: Path) -> None:
    spec = {"key": "0" * 32, "function": "celljobs:weights", "group": "", "inputs": {"model": 1}}
    plans = {
        "key": {**spec, "key": 5},
        "no key": {k: v for k, v in spec.items() if k != "key"},
        "inputs": {**spec, "inputs": [1]},
        "function of another kind": {**spec, "function": 5},
        "a function that is no cell": {**spec, "function": "os:system"},
        "a module that is a path": {**spec, "function": "../../evil:run"},
        "no module": {**spec, "function": ":weights"},
        "a damaged frame": {**spec, "inputs": {"model": {"__frame__": "AAAA"}}},
        "a pickled array": {**spec, "inputs": {"model": {"__array__": base64.b64encode(WHOLE["a pickle"]).decode()}}},
        "a list": [spec],
        "other inputs than the key says": spec,
    }
    for case, content in plans.items():
        (tmp_path / "plan.jsonl").write_bytes(_sealed(dumped(content)))
        clear("plan", case, lambda: read_plan(tmp_path / "plan.jsonl"))
    for case, content in WHOLE.items():
        if case not in ("empty", "blank lines"):
            (tmp_path / "plan.jsonl").write_bytes(content)
            clear("plan", f"file: {case}", lambda: read_plan(tmp_path / "plan.jsonl"))
            journal = tmp_path / "journal.jsonl"
            journal.write_bytes(content + b"\n")
            clear("journal", f"file: {case}", lambda journal=journal: read_journal(journal))
        folder = tmp_path / case
        folder.mkdir()
        (folder / "part-x.cells").write_bytes(content + b"\n")
        store = ResultStore(folder)
        store.put("a" * 32, 1)
        assert ResultStore(folder).get("a" * 32) == 1 and (store.damaged().height or case in ("empty", "blank lines"))
    (tmp_path / "file").write_text("x")
    clear("store", "a file", lambda: ResultStore(tmp_path / "file"), OSError)


def test_each_malformed_tokenizer_file_is_refused(tmp_path: Path) -> None:
    rows = [f"{base64.b64encode(bytes([i])).decode()} {i}" for i in range(256)]
    tiktoken = {
        "no rank": [rows[0].split()[0], *rows[1:]],
        "a rank that is a word": ["AA== x", *rows[1:]],
        "a token twice": [*rows, rows[0]],
        "not base64": ["%% 0", *rows[1:]],
        "a byte missing": rows[:-1],
    }
    for case, lines in tiktoken.items():
        path = tmp_path / "a.tiktoken"
        path.write_text("\n".join(lines))
        clear("tokenizer", case, lambda path=path: load_tokenizer(path, pattern="cl100k_base"))
    for case, content in WHOLE.items():
        for name in ("tokenizer.json", "a.model"):
            (tmp_path / name).write_bytes(content)
            clear("tokenizer", f"{name}: {case}", lambda name=name: load_tokenizer(tmp_path / name))


def test_the_tables_above_hold_at_least_two_hundred_malformed_files() -> None:
    records, whole = 2 * len(RECORDS), 4 * len(WHOLE)
    results = len(SAMPLES) + len(NOT_RESULTS) + len(WHOLE)
    assert records + whole + results >= 200
