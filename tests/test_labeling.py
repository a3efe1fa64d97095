"""The labelling desk: nothing that was confirmed is lost, whatever happens to the kernel, and the page can show any text."""

import json
import os
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toksuite_nb.labeling import LabelingDesk, label_forecast, label_queue, read_journal, replay, show_card

POOL = pl.DataFrame({"prompt": [f"question {k}" for k in range(6)]})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


def desk(path, **more):
    return LabelingDesk(POOL, path, labels=["yes", "no"], **more)


def press(desk, what, **more):
    desk._hear(desk.desk, {"do": what, "example": desk.card.example, **more}, [])


def test_a_restart_continues_where_one_was(path):
    first = desk(path)
    press(first, "label", label="yes")
    press(first, "skip")
    press(first, "label", label="no")
    shown = first.card
    del first
    again = desk(path)
    assert again.card == shown
    assert again.data()["label"].to_list() == ["yes", None, "no", None, None, None]
    again.undo()
    again.undo()
    assert again.card.text == "question 1", "what was undone comes back"
    assert desk(path).card == again.card


def test_what_was_confirmed_survives_a_kill(path):
    code = (
        "import sys, polars as pl; from toksuite_nb.labeling import LabelingDesk\n"
        "frame = pl.DataFrame({'prompt': [str(k) for k in range(100000)]})\n"
        "desk = LabelingDesk(frame, sys.argv[1])\n"
        "for k in range(100000): desk._do({'example': desk.queue['example'][k], 'label': 'a'}); print(k, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as child:
        confirmed = [child.stdout.readline() for _ in range(3)]
        time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
        confirmed += child.stdout.readlines()
    done = sum(line.endswith("\n") for line in confirmed)
    assert done >= 3
    assert len(read_journal(path)) >= done


def test_a_line_cut_short_is_dropped_and_the_next_one_is_whole(path):
    one = desk(path)
    one.label("yes")
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        path.write_bytes(whole[:-cut])
        again = desk(path)
        assert again.card.n_labelled == 0
        again.label("no")
        assert [line["label"] for line in read_journal(path)] == ["no"]


def test_a_file_that_is_no_journal_is_left_alone(path):
    path.write_text('{"question": "?"}\nnot json\n')
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"lines \[1, 2\] of answers.jsonl"):
        desk(path)
    assert path.read_bytes() == before


@given(st.lists(st.sampled_from(["a", "b", "skip", "undo"]), max_size=30))
def test_undo_takes_back_exactly_the_last_step(steps):
    lines = [
        {"undo": True} if s == "undo" else {"example": str(k % 3), **({"skip": True} if s == "skip" else {"label": s})}
        for k, s in enumerate(steps)
    ]
    state = replay(lines)
    more = replay([*lines, {"example": "new", "label": "x"}, {"undo": True}])
    assert (more.labels, more.skipped) == (state.labels, state.skipped)
    assert not set(state.labels) & set(state.skipped)


def test_a_second_press_does_not_answer_an_example_nobody_read(path):
    one = desk(path)
    old = one.card.example
    press(one, "label", label="yes")
    one._hear(one.desk, {"do": "label", "example": old, "label": "no"}, [])
    assert one.state.labels == {old: "yes"}
    assert "nothing was kept" in one.desk.message


def test_two_desks_on_one_journal_see_each_other(path):
    one, two = desk(path), desk(path)
    press(one, "label", label="yes")
    press(two, "label", label="no")
    assert "Another desk has answered this example" in two.desk.message
    press(two, "label", label="no")
    assert list(desk(path).state.labels.values()) == ["yes", "no"]


def test_skipped_examples_come_back_at_the_end(path):
    one = desk(path)
    one.skip()
    seen = []
    while one.card.example:
        seen.append(one.card.text)
        one.label("yes")
    assert seen == [f"question {k}" for k in (1, 2, 3, 4, 5, 0)]
    with pytest.raises(ValueError, match="got none left"):
        one.label("yes")


def test_duplicates_share_an_answer_and_empty_texts_are_not_asked(path):
    frame = pl.DataFrame({"prompt": ["a", "", "a", None, " \u200b\u202e", "b"], "number": range(6)})
    one = LabelingDesk(frame, path)
    assert one.card.n == 2
    one.label("first")
    got = one.data()
    assert got["label"].to_list() == ["first", None, "first", None, None, None]
    assert got["status"].to_list() == ["labelled", "empty", "labelled", "empty", "empty", "waiting"]
    assert one.labelled["number"].to_list() == [0], "a duplicate is exported once"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_what_is_exported_reads_back(path, tmp_path, suffix):
    one = LabelingDesk(pl.DataFrame({"prompt": ['line\n"two", é 首', "b"]}), path)
    one.label("an answer,\nof two lines")
    read = {".jsonl": pl.read_ndjson, ".csv": pl.read_csv, ".parquet": pl.read_parquet}[suffix]
    assert read(one.export(tmp_path / f"out{suffix}")).select("prompt", "label").row(0) == (
        'line\n"two", é 首',
        "an answer,\nof two lines",
    )


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a\u202eb\u2066c",
        "a" + "\u0301" * 10_000,
        "a\x00b",
        "x" * 100_000,
        "👨‍👩‍👧 ۱۲ می‌خواهم",
    ],
)
def test_any_text_can_be_asked_and_answered(path, text):
    one = LabelingDesk(pl.DataFrame({"prompt": [text]}), path)
    shown = one.card.text
    assert not {"\u202e", "\u2066", "\x00"} & set(shown), "an invisible character was not named"
    assert len(shown) < 21_000
    assert "<script" not in one._repr_mimebundle_()["text/html"].split("</style>")[1]
    json.dumps(one.desk.get_state(["card", "labels", "message"]))
    press(one, "label", label=text)
    assert read_journal(path)[0]["label"] == text
    assert LabelingDesk(pl.DataFrame({"prompt": [text]}), path).card.n_labelled == 1


def test_farsi_reads_from_the_right_and_keeps_its_joiners(path):
    one = LabelingDesk(pl.DataFrame({"prompt": ["می‌خواهم کتاب بخوانم"]}), path)
    assert (one.card.direction, one.card.text) == ("rtl", "می‌خواهم کتاب بخوانم")


def test_another_selection_of_the_pool_keeps_the_answers(path):
    one = LabelingDesk(pl.DataFrame({"i": [4, 1]}), path, prompts=POOL["prompt"].to_list())
    one.label("yes")
    other = LabelingDesk(pl.DataFrame({"i": [0, 4]}), path, prompts=POOL["prompt"].to_list())
    assert other.data()["label"].to_list() == [None, "yes"]


def test_wrong_arguments_are_explained(path, tmp_path):
    for call, said in (
        (lambda: LabelingDesk(pl.DataFrame({"text": ["a"]}), path), "a text column 'prompt'"),
        (lambda: LabelingDesk(POOL.clear(), path), "at least one row"),
        (lambda: LabelingDesk(pl.DataFrame({"i": [7]}), path, prompts=["a"]), r"position in the 1 prompts, got \[7\]"),
        (lambda: LabelingDesk(POOL, path, labels=["a", "a"]), "labels that differ"),
        (lambda: LabelingDesk(POOL, tmp_path), "got the folder"),
        (lambda: LabelingDesk(POOL, path, show=["nothing"]), r"columns to show out of .* got \['nothing'\]"),
        (
            lambda: LabelingDesk(POOL.with_columns(label=pl.lit("x")), path),
            r"columns \['label'\] are written by the desk",
        ),
        (lambda: desk(path).label("maybe"), r"must be one of \['yes', 'no'\], got 'maybe'"),
        (lambda: LabelingDesk(POOL, path).label("  "), "must be a text that is not blank"),
        (lambda: LabelingDesk(POOL, path).label("\u200b"), "must be a text that is not blank"),
        (lambda: LabelingDesk(POOL, path, labels=["yes", "\u200b "]), "texts with a visible character, got"),
        (lambda: desk(path).export(tmp_path / "a.txt"), "must end in one of"),
        (lambda: LabelingDesk(POOL, path, labels="yes"), "labels must be a list of texts, got 'yes'"),
        (lambda: LabelingDesk(POOL, path, finish="forecast"), "a function to finish with, got 'forecast'"),
        (lambda: LabelingDesk(POOL, path).label("x\ud800"), r"lone surrogate U\+D800"),
        (lambda: LabelingDesk(pl.DataFrame({"i": [0.0]}), path, prompts=["a"]), "i must be whole numbers"),
        (lambda: LabelingDesk(pl.DataFrame({"i": [0]}), path, prompts=[3]), "prompts must be texts, got 3"),
        (
            lambda: LabelingDesk(POOL.with_columns(choices=pl.lit(["a"])), path).export(tmp_path / "a.csv"),
            r"a \.csv holds no lists, got the columns \['choices'\]",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    assert not path.exists(), "a refused call must not write"


def test_an_error_of_the_forecast_is_said_in_the_page(path):
    def broken(labelled):
        raise RuntimeError("no <model>")

    one = desk(path, finish=broken)
    press(one, "finish")
    assert one.desk.message == "RuntimeError: no <model>"


def test_the_module_of_the_page_loads_nothing_and_sets_text_only(path):
    import re

    from toksuite_nb.labeling import _desk_esm

    assert not re.search(r"https?://|import\s*\(|^import |innerHTML", _desk_esm, re.MULTILINE)


def test_the_card_is_a_pure_function_of_queue_and_answers():
    queue = label_queue(POOL)
    assert show_card(queue, replay([])) == show_card(queue, replay([]))
    assert show_card(queue, replay([{"example": "of another pool", "label": "x"}])).n_labelled == 0


def test_labelling_needs_no_torch():
    code = "import sys, toksuite_nb.labeling; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "False", run.stderr[-500:]


@pytest.fixture(scope="module")
def member():
    from toksuite_nb.suite import load_suite

    return load_suite(names=["bpe"])["bpe"]


ENDS = {"calibration": "Llama-3.1-8B", "zero_shot": 0.4, "ceiling": 0.9}


def labelled(labels):
    return pl.DataFrame({"prompt": [f"{k} and {k} is" for k in range(len(labels))], "label": labels})


@pytest.mark.parametrize("bad", ["", "  ", "\u200b"])
def test_labels_of_which_nothing_can_be_seen_are_refused_by_row(member, bad):
    with pytest.raises(ValueError, match=r"label_forecast: every label must be a text .* in rows \[1\]"):
        label_forecast(labelled(["two", bad, "six"]), member.model, member.tokenizer, **ENDS)


@pytest.mark.parametrize("labels", [[None, None], [1, 2]])
def test_labels_that_are_no_texts_are_refused_by_row(member, labels):
    with pytest.raises(ValueError, match=r"got .* in rows \[0, 1\]. Write numbers as text"):
        label_forecast(labelled(labels), member.model, member.tokenizer, **ENDS)


def test_the_calibration_is_named_and_another_model_is_warned_about(member):
    from toksuite_nb.efficiency import Calibration, preset

    few = labelled(["two", "four", "six"])
    with pytest.warns(UserWarning, match=r"line of Llama-3.1-8B is not known to hold .* a llama model of \d+ million"):
        outlook = label_forecast(few, member.model, member.tokenizer, **ENDS)
    assert "Read with the line of Llama-3.1-8B, which is another model: a llama model of" in repr(outlook)
    assert (
        outlook.forecast["calibration"].unique().to_list() == ["Llama-3.1-8B"] and "Llama-3.1-8B" in outlook.view.value
    )
    with pytest.warns(UserWarning, match=r"line of Qwen2.5-14B is not known"):
        label_forecast(few, member.model, member.tokenizer, **{**ENDS, "calibration": preset("Qwen2.5-14B-Instruct")})
    own = Calibration("the suite", 0.5, 0.3)
    with pytest.warns(UserWarning) as caught:
        outlook = label_forecast(few, member.model, member.tokenizer, **{**ENDS, "calibration": own})
    assert not any("not known to hold" in str(w.message) for w in caught) and repr(outlook).endswith("of the suite.")


@pytest.mark.parametrize(
    ("family", "kind", "weights", "fits"),
    [("Llama-3.1-8B", "llama", 8.0e9, True), ("Llama-3.1-8B", "llama", 4.5e9, True), ("Llama-3.1-8B", "llama", 1.2e9, False),
     ("Llama-3.1-8B", "qwen2", 8.0e9, False), ("Mistral-7B-v0.3", "mistral", 7.2e9, True), ("Qwen2.5-14B", "qwen2", 14.8e9, True),
     ("my tasks", "gpt2", 1e6, True)],
)  # fmt: skip
def test_a_model_fits_a_published_family_by_kind_and_size(family, kind, weights, fits):
    from types import SimpleNamespace

    from toksuite_nb.labeling import _misfit

    parameter = SimpleNamespace(numel=lambda: weights)
    model = SimpleNamespace(config=SimpleNamespace(model_type=kind), parameters=lambda: [parameter])
    assert (_misfit(family, model) is None) == fits
