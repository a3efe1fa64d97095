"""What the notebook cannot show of items: every embedded row, every file format, hostile records, and the released sample."""

import json
import unicodedata
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toksuite_nb.core import check_frame, item_schema
from toksuite_nb.items import audit, cldr_facts, cldr_sentences, load_benchmark, make_cldr_items, make_items
from toksuite_nb.store import data_path, manifest

LANGUAGES = ["en", "fa", "it", "tr", "zh"]
SHARED = Path(__file__).parents[2] / "shared"
SCRIPT = {"fa": "ARABIC", "zh": "CJK", "en": "LATIN", "it": "LATIN", "tr": "LATIN"}
GOOD = {
    "item_id": "q-1",
    "question": "The sky is",
    "choices": ["blue", "red", "green", "grey"],
    "answer": 0,
    "lang": "en",
}


def fold(text):
    return unicodedata.normalize("NFKC", text).casefold()


def errors(frame):
    return audit(frame).filter(pl.col("severity") == "error")["what"].to_list()


# --- the embedded benchmark -----------------------------------------------------------------------------------------


def test_the_embedded_benchmark_has_no_error_and_no_warning():
    report = audit(load_benchmark("embedded"), refuse=True)
    assert set(report["severity"]) <= {"note"}, f"an embedded item is biased or malformed: {report.head(3).to_dicts()}"


def test_every_set_stands_in_five_languages_with_one_gold_position():
    sets = load_benchmark().group_by("set_id").agg("lang", pl.col("answer").n_unique())
    assert all(sorted(langs) == LANGUAGES for langs in sets["lang"]), "a translation is missing or stands twice"
    assert set(sets["answer"]) == {1}, "translations of a set must share the position of the right option"
    assert load_benchmark(domain="general", lang="en").height >= 24


def test_right_options_stand_evenly_over_the_positions():
    for domain in ("general", "cldr"):
        counts = load_benchmark(domain=domain, lang="en")["answer"].value_counts()["count"]
        assert counts.max() - counts.min() <= 1, f"{domain}: a model with a favourite position would gain"


@pytest.mark.parametrize("row", load_benchmark().to_dicts(), ids=lambda r: r["item_id"])
def test_an_embedded_item_is_well_formed(row):
    options = [fold(o) for o in row["choices"]]
    assert len(set(options)) == 4
    assert not any(a.startswith(b) or b.startswith(a) for a, b in combinations(options, 2)), "an option begins another"
    assert options[row["answer"]] not in fold(row["question"]), "the answer stands in its question"
    for text in (row["question"], *row["choices"]):
        assert text == text.strip() == unicodedata.normalize("NFC", text)
        names = {unicodedata.name(c, "").split()[0] for c in text if c.isalpha()}
        assert names <= {SCRIPT[row["lang"]]}, f"letters of another script in {text!r}"
        if row["lang"] == "fa":
            assert not set(text) & set("يكىة0123456789٠١٢٣٤٥٦٧٨٩"), "Arabic yeh or kaf, or digits that are not Persian"
            assert " \u200c" not in text and "\u200c " not in text and not text.endswith("\u200c")
        else:
            assert "\u200c" not in text


def test_numbers_agree_between_the_translations_of_a_set():
    general = load_benchmark(domain="general")
    for _, rows in general.group_by("set_id"):
        digits = {
            tuple("".join(str(unicodedata.digit(c)) for c in o if c.isdigit()) for o in row["choices"])
            for row in rows.to_dicts()
            if "12月" not in "".join(row["choices"])  # dates: Chinese writes the month as a number
        }
        assert len(digits) == 1, f"set {rows['set_id'][0]}: {digits}"


def test_turkish_copulas_follow_vowel_harmony():
    vowels = {"a": "ı", "ı": "ı", "e": "i", "i": "i", "o": "u", "u": "u", "ö": "ü", "ü": "ü"}
    irregular = {"Einstein": "ı"}  # read with its German vowel
    voiced = ("Gogh", "Monet")  # read without their last letter
    words = dict(
        zip("0123456789", ["sıfır", "bir", "iki", "üç", "dört", "beş", "altı", "yedi", "sekiz", "dokuz"], strict=True)
    )
    tens = {"10": "on", "50": "elli", "90": "doksan", "100": "yüz", "200": "yüz", "360": "altmış", "1950": "elli"}
    for row in load_benchmark(domain="general", lang="tr").to_dicts():
        for option in row["choices"]:
            stem, suffix = option[:-3].rstrip("'"), option[-3:]
            if suffix[0] not in "dt" or suffix[2] != "r" or option.endswith(("yapılır", "kaynar")):
                continue
            word = tens.get(stem) or (words[stem[-1]] if stem[-1].isdigit() else stem)
            last = next(c for c in reversed(word.lower().replace("i̇", "i")) if c in vowels)
            wanted = next((v for name, v in irregular.items() if name in stem), vowels[last])
            assert suffix[1] == wanted, f"{option!r}: the suffix should hold {wanted!r}"
            hard = word[-1] in "çfhkpsşt" and not word.endswith(voiced)
            assert suffix[0] == ("t" if hard else "d"), option


# --- facts from CLDR ------------------------------------------------------------------------------------------------


def test_the_frozen_facts_are_what_babel_gives():
    babel = pytest.importorskip("babel")
    frozen = pl.read_ndjson(data_path("benchmark/cldr_items.jsonl"))
    recorded = frozen["source"][0].split()[-1]
    if babel.__version__ != recorded:
        pytest.skip(f"Babel {babel.__version__} is not the recorded {recorded}")
    assert make_cldr_items().equals(frozen), "make_cldr_items changed: run freeze_cldr_items() and retrain the suite"


def test_no_option_of_a_fact_names_its_subject():
    for row in cldr_facts().to_dicts():
        subject = fold(row["subject"])
        assert not any(subject in fold(o) for o in row["choices"]), row


def test_statements_begin_with_prompt_and_answer():
    said = cldr_sentences()
    assert said["sentence"].null_count() == 0 and not said["sentence"].str.contains(r"[{}]").any()
    first = dict(said.filter(pl.col("form") == 0).select("fact_id", "sentence").iter_rows())
    for row in cldr_facts().to_dicts():
        assert first[row["fact_id"]] == f"{row['question']} {row['choices'][row['answer']]}"
    assert said.group_by("fact_id").len()["len"].min() >= 3


def test_no_two_facts_share_a_prompt():
    assert not cldr_facts().select("lang", "question").is_duplicated().any(), (
        "two facts with one prompt cannot both be learnt"
    )


def test_embedded_items_carry_source_and_licence():
    listed = manifest().filter(pl.col("name").str.starts_with("benchmark/"))
    assert {"benchmark/cldr_items.jsonl", "benchmark/general.jsonl"} <= set(listed["name"])
    assert not (listed["licence"] == "").any()


# --- loading --------------------------------------------------------------------------------------------------------


def test_all_file_formats_load_alike(tmp_path):
    rows = [GOOD, GOOD | {"item_id": "q-2", "question": 'He said "yes"; the sea\u2028is', "answer": 2}]
    pl.DataFrame(rows).write_parquet(tmp_path / "quiz.parquet")
    (tmp_path / "quiz.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "quiz.jsonl").write_text(
        "\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n\n", encoding="utf-8"
    )
    cells = pl.DataFrame([r | {"choices": json.dumps(r["choices"])} for r in rows])
    cells.write_csv(tmp_path / "quiz.csv")
    cells.with_columns(choices=pl.lit("blue|red|green|grey")).write_csv(tmp_path / "quiz.tsv", separator="\t")
    first = load_benchmark(tmp_path / "quiz.parquet")
    check_frame(first, item_schema, "test")
    for ending in ("json", "jsonl", "csv", "tsv"):
        assert load_benchmark(str(tmp_path / f"quiz.{ending}")).equals(first), f"{ending} reads differently"


def test_malformed_rows_are_named_all_at_once(tmp_path):
    rows = [
        {"question": "a", "choices": ["x", "y"], "answer": "E5"},
        {"question": "a", "choices": ["x", "y"], "answer": 0},
        {"choices": ["x", "y"], "answer": 0},
        {"question": "a", "choices": [4, 5], "answer": 0},
        {"question": "a", "choices": ["x", "y"], "answer": True},
        {"question": "a", "choices": ["x", "y"], "answer": float("nan")},
        {"question": "a\ud800", "choices": ["x", "y"], "answer": 0},
        {"question": "a", "choices": ["x", "y"], "answer": 0, "answer_label": "B"},
        "no record",
    ]
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError) as caught:
        load_benchmark(file)
    message = str(caught.value)
    assert message.startswith("load_benchmark: ") and "\n" not in message
    for number in (1, 3, 4, 5, 6, 7, 8, 9):
        assert f"row {number}: " in message
    assert "row 2: " not in message


def test_lines_that_are_no_json_are_named(tmp_path):
    (tmp_path / "bad.jsonl").write_text(json.dumps(GOOD) + "\n{oops\n")
    with pytest.raises(ValueError, match=r"load_benchmark: each line must be a JSON record, .*line 2: "):
        load_benchmark(tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("source", "kind"),
    [("embeded", KeyError), ("no/such.jsonl", FileNotFoundError), ("", KeyError), ("../x/y/z", FileNotFoundError)],
)
def test_an_unknown_source_lists_what_can_be_given(source, kind):
    with pytest.raises(kind, match=r"there is no benchmark .*Give one of: 'embedded'; a file"):
        load_benchmark(source) if source else load_benchmark("nothing")


@pytest.mark.parametrize("rows", [None, 3, GOOD, "a question"])
def test_records_of_another_kind_are_refused(rows):
    with pytest.raises(TypeError, match="needs a polars DataFrame or a list of records"):
        make_items(rows)


def test_a_folder_without_items_is_refused(tmp_path):
    with pytest.raises(ValueError, match="load_benchmark: needs a file with one of the endings"):
        load_benchmark(tmp_path)


def test_an_unknown_filter_lists_the_known_values():
    with pytest.raises(ValueError, match=r"lang must be one of \['en', 'fa', 'it', 'tr', 'zh'\], got 'de'"):
        load_benchmark(lang="de")


def test_the_released_layout_keeps_ids_as_text(tmp_path):
    plain = {
        "question": "7 + 7 is",
        "choices": ["14", "15", "13", "16"],
        "answer": 0,
        "answer_label": "A",
        "lang": "eng_Latn",
        "set_id": "200.0",
    }
    subsets = {
        "canonical": [plain | {"id": "200-1.0", "variation_id": 1.0, "subcategories": "Canonical"}],
        "latex": [
            plain
            | {
                "id": f"200-{v}",
                "variation_id": float(v),
                "question": f"${v} + 7$ is",
                "subcategories": "LaTeX, Spelled out",
                "category": "X",
            }
            for v in ("1.1", "1.10")
        ],
    }
    for name, rows in subsets.items():
        folder = tmp_path / "toksuite_math" / f"toksuite_math_{name}"
        folder.mkdir(parents=True)
        pl.DataFrame(rows).write_parquet(folder / "test-00000-of-00001.parquet")
    items = load_benchmark(tmp_path / "toksuite_math")
    assert items["item_id"].to_list() == ["200-1.0", "200-1.1", "200-1.10"]
    assert (
        set(items["set_id"]) == {"200"}
        and set(items["canonical_id"]) == {"200-1.0"}
        and set(items["domain"]) == {"math"}
    )
    assert items["perturbation"].to_list() == ["canonical", "latex", "latex"] and items["target"].to_list() == [
        None,
        "question",
        "question",
    ]
    assert items["variation_id"].to_list() == ["1.0", "1.1", "1.10"] and items["labels"][1] == "LaTeX, Spelled out"
    assert set(items["lang"]) == {"en"}


# --- the auditor ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"choices": ["blue", "red", "blue", "grey"]}, "A5 duplicate options"),
        ({"choices": ["é", "e\u0301", "a", "b"]}, "A5 duplicate options"),
        ({"answer": 4}, "A6 gold out of range"),
        ({"answer": -1}, "A6 gold out of range"),
        ({"choices": ["blue", " ", "green", "grey"]}, "A15 empty option"),
        ({"choices": ["blue", "\u200b", "green", "grey"]}, "A15 empty option"),
        ({"choices": ["blue"]}, "A15 too few options"),
        ({"question": " "}, "A15 empty question"),
        ({"question": "The #REF! is"}, "A15 spreadsheet error"),
    ],
)
def test_a_malformed_item_is_an_error_and_refused(change, what):
    items = make_items([GOOD | change])
    assert what in errors(items)
    with pytest.raises(ValueError, match="audit: items must be well-formed, got 1 malformed: item 'q-1': A") as caught:
        audit(items, refuse=True)
    assert what in str(caught.value) and "Correct these items" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="load_benchmark: items must be well-formed"):
        load_benchmark([GOOD | change])


def test_a_good_item_has_nothing_against_it():
    assert audit(make_items([GOOD])).is_empty()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"choices": ["blue", "ｂｌｕｅ", "green", "grey"]}, "A5 options equal after NFKC"),
        ({"choices": ["blue", "blueish", "green", "grey"]}, "A19 option begins another"),
        ({"question": "The sky is\u200b"}, "A20 invisible character at the edge"),
        ({"choices": ["𝟙𝟜", "➀➄", "①③", "⑯"]}, "A4 options styled in several alphabets"),
        ({"choices": ["синий", "red", "green", "grey"]}, "A10 gold written unlike its rivals"),
        ({"split": "dev"}, "A9 row of another split"),
        ({"category": "#REF!"}, "A15 spreadsheet error"),
    ],
)
def test_a_biased_item_is_a_warning_and_loads(change, what):
    items = load_benchmark([GOOD | change])
    assert audit(items).filter(pl.col("severity") == "warning")["what"].to_list() == [what]


def test_ids_and_records_that_stand_twice_are_found():
    assert errors(make_items([GOOD, GOOD | {"question": "The sea is"}])) == ["A16 id is not unique"]
    assert (
        "A8 duplicate record"
        in audit(make_items([GOOD | {"set_id": "s"}, GOOD | {"item_id": "q-2", "set_id": "s"}]))["what"].to_list()
    )


def test_a_perturbed_item_is_held_against_its_canonical_item():
    other = GOOD | {
        "item_id": "q-2",
        "set_id": "2",
        "question": "The gas that humans breathe is",
        "choices": ["air", "tar", "ink", "wax"],
    }
    own = GOOD | {"set_id": "1"}
    variant = own | {"item_id": "q-1-x", "perturbation": "ocr_errors", "question": "The sky 1s"}
    cases = [
        ({}, []),
        ({"question": "The sky is"}, ["A2 perturbed item equals its canonical item"]),
        ({"choices": other["choices"]}, ["A1 options of another set"]),
        ({"question": "The gas humans breathe's"}, ["A1 question of another set"]),
        ({"answer": 1}, ["A6 gold is not the canonical gold"]),
        ({"question": "𝖙𝖍𝖊 𝖘𝖐𝖞 𝖎𝖘", "choices": ["BLUE", "RED", "GREEN", "GREY"]}, []),
    ]
    for change, found in cases:
        assert errors(make_items([own, other, variant | change])) == found, change
    alone = audit(make_items([variant]))
    assert alone["what"].to_list() == ["G7 no canonical item"] and alone["severity"].to_list() == ["warning"]


def test_an_item_that_was_not_applicable_is_left_in_peace():
    row = {
        "item_id": "q-1-x",
        "set_id": "q-1",
        "lang": "en",
        "perturbation": "traditional",
        "question": None,
        "choices": None,
        "answer": 0,
        "reason": "Latin text",
    }
    assert audit(make_items([GOOD, row])).is_empty()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.lists(st.text(max_size=12), min_size=1, max_size=6), st.integers(-3, 9))
def test_the_auditor_survives_any_text(question, choices, answer):
    try:
        items = make_items([{"question": question, "choices": choices, "answer": answer}])
    except ValueError as problem:
        assert "surrogate" in str(problem)
        return
    report = audit(items)
    nfc = [unicodedata.normalize("NFC", o) for o in choices]
    bad = len(set(nfc)) < len(nfc) or not 0 <= answer < len(choices) or not question.strip() or len(choices) < 2
    if bad:
        assert "error" in report["severity"].to_list()


@pytest.mark.skipif(
    not (SHARED / "reference" / "toksuite_items_sample.jsonl").exists(), reason="the reference rows are not here"
)
def test_the_known_defects_of_the_released_rows_are_found():
    sample = SHARED / "reference" / "toksuite_items_sample.jsonl"
    items = load_benchmark(sample, refuse=False)
    assert items.height == 445 and set(items["lang"]) == set(LANGUAGES)
    report = audit(items)
    found = (
        report.filter(pl.col("severity") == "error")
        .select("item_id", what=pl.col("what").str.extract(r"^(\w+)"))
        .unique()
        .rows()
    )
    assert sorted(found) == [
        ("302-0.3", "A5"), ("302-2.7", "A5"), ("302-2.9", "A5"), ("312-4.2", "A6"), ("316-0.2", "A1"), ("317-0.2", "A1"),
        ("333-0.2", "A1"), ("335-0.2", "A1"), ("336-0.3", "A1"),
    ]  # fmt: skip
    hits = set(report.select("item_id", pl.col("what").str.extract(r"^(\w+)")).rows())
    assert {("200-1.3", "A4"), ("609-1.3", "A8"), ("300-1.12", "A13")} <= hits
    assert (
        report.filter(pl.col("what").str.starts_with("A3"))["evidence"]
        .str.contains("letter_repetition_for_emphasis")
        .any()
    )
    with pytest.raises(ValueError, match="load_benchmark: items must be well-formed, got 9 malformed"):
        load_benchmark(sample)
