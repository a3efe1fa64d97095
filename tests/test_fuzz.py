"""The fuzzers' targets hold on a few examples, and on every input that once crashed; `make fuzz` runs them for minutes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toksuite_nb.items import load_benchmark

HERE = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(HERE))

import harness  # noqa: E402

words = st.text(min_size=1, max_size=60).map(lambda s: s.encode("utf-8", "surrogatepass"))
inputs = st.tuples(st.binary(min_size=2, max_size=24), words | st.binary(max_size=80)).map(b"".join)


@pytest.mark.parametrize(("target", "examples"), [("text", 150), ("loaders", 120), ("importers", 150)])
def test_no_input_breaks_a_promise(target: str, examples: int) -> None:
    settings(max_examples=examples)(given(inputs)(harness.TARGETS[target]))()


def test_an_error_without_a_clear_message_counts_as_a_crash() -> None:
    for error in (ZeroDivisionError("x"), KeyError("question"), ValueError("could not convert")):
        with pytest.raises((harness.Crash, ZeroDivisionError)), harness.only_clear_errors():
            raise error
    with harness.only_clear_errors():
        raise ValueError("load_benchmark: needs a file, got none. Give one.")


@pytest.mark.parametrize("path", sorted((HERE / "kept").glob("*.parquet")), ids=lambda p: p.stem)
def test_a_parquet_file_that_ends_its_reader_is_refused_and_nothing_else_ends(path: Path) -> None:
    with pytest.raises(ValueError, match=rf"load_benchmark: .*{path.name}"):
        load_benchmark(path)
