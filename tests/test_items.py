"""What the notebook cannot show of items: every embedded row, every file format, hostile records, and the released sample."""

import json
import math
import re
import unicodedata
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toksuite_nb import items as items_module
from toksuite_nb.core import check_frame, item_schema
from toksuite_nb.edits import EditedText
from toksuite_nb.items import (
    _at_least,
    audit,
    cldr_facts,
    cldr_sentences,
    edits_between,
    load_benchmark,
    make_cldr_items,
    make_items,
    make_variants,
)
from toksuite_nb.perturb import perturb_items
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


@pytest.mark.parametrize("variants", [False, True])
def test_the_embedded_benchmark_has_no_error_and_no_warning(variants):
    report = audit(load_benchmark("embedded", variants=variants), refuse=True)
    assert set(report["severity"]) <= {"note"}, f"an embedded item is biased or malformed: {report.head(3).to_dicts()}"


def test_every_set_stands_in_five_languages_with_one_gold_position():
    parallel = load_benchmark().filter(pl.col("domain").is_in(["general", "cldr"]))
    sets = parallel.group_by("set_id").agg("lang", pl.col("answer").n_unique())
    assert all(sorted(langs) == LANGUAGES for langs in sets["lang"]), "a translation is missing or stands twice"
    assert set(sets["answer"]) == {1}, "translations of a set must share the position of the right option"


@pytest.mark.parametrize(("domain", "least"), [("general", 40), ("math", 20), ("stem", 40)])
def test_there_are_as_many_sets_as_promised(domain, least):
    assert load_benchmark(domain=domain, lang="en").height >= least


def test_only_canonical_items_are_loaded_unless_variants_are_asked_for():
    assert set(load_benchmark("embedded")["perturbation"]) == {"canonical"}


def test_right_options_stand_evenly_over_the_positions():
    for domain in ("general", "cldr", "math", "stem"):
        counts = load_benchmark(domain=domain, lang="en")["answer"].value_counts()["count"]
        assert counts.max() - counts.min() <= 1, f"{domain}: a model with a favourite position would gain"


def test_neither_length_nor_size_tells_the_right_option():
    rows = load_benchmark().to_dicts()
    for domain in ("general", "cldr", "math", "stem"):
        for lang in LANGUAGES if domain in ("general", "cldr") else ["en"]:
            own = [r for r in rows if r["domain"] == domain and r["lang"] == lang]
            lengths = [[len(o) for o in r["choices"]] for r in own]
            longest = sum(
                (n[r["answer"]] == max(n)) / n.count(max(n)) for r, n in zip(own, lengths, strict=True)
            ) / len(own)
            assert 0.1 < longest < 0.4, f"{domain} {lang}: the right option is the longest in {longest:.0%}"
    ranks = {"general": [], "math": []}
    for r in rows:
        numbers = [re.fullmatch(r"(-?[\d.,]+)( \D+)?", o) for o in r["choices"]]
        if r["lang"] == "en" and r["domain"] in ranks and all(numbers):
            values = [float(m[1].replace(",", "")) for m in numbers]
            ranks[r["domain"]].append(sorted(values).index(values[r["answer"]]))
    for domain, found in ranks.items():
        extreme = sum(rank in (0, 3) for rank in found) / len(found)
        assert len(found) > 15 and 0.35 < extreme < 0.65, (
            f"{domain}: the right number is the largest or smallest in {extreme:.0%}"
        )
        assert 0 in found and 3 in found


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
            if not re.search(r"\d月", "".join(row["choices"]))  # dates: Chinese writes the month as a number
        }
        assert len(digits) == 1, f"set {rows['set_id'][0]}: {digits}"


VOWELS = {"a": "ı", "ı": "ı", "e": "i", "i": "i", "o": "u", "u": "u", "ö": "ü", "ü": "ü"}
UNITS = ["sıfır", "bir", "iki", "üç", "dört", "beş", "altı", "yedi", "sekiz", "dokuz"]
TENS = ["", "on", "yirmi", "otuz", "kırk", "elli", "altmış", "yetmiş", "seksen", "doksan"]


def last_turkish_word(number):
    "The last word of a whole number read aloud, which decides over its suffix."
    if number % 10 or number == 0:
        return UNITS[number % 10]
    if number % 100:
        return TENS[number % 100 // 10]
    return "yüz" if number % 1000 else "bin"


def test_turkish_copulas_follow_vowel_harmony():
    irregular = {"Einstein": "ı"}  # read with its German vowel
    voiced = ("Gogh", "Monet")  # read without their last letter
    for row in load_benchmark(domain="general", lang="tr").to_dicts():
        for option in row["choices"]:
            stem, suffix = option[:-3].rstrip("'"), option[-3:]
            if suffix[0] not in "dt" or suffix[2] != "r" or option.endswith(("yapılır", "kaynar")):
                continue
            plain = stem.replace(".", "")
            word = last_turkish_word(int(plain)) if plain.isdigit() else stem
            last = next(c for c in reversed(word.lower().replace("i̇", "i")) if c in VOWELS)
            wanted = next((v for name, v in irregular.items() if name in stem), VOWELS[last])
            assert suffix[1] == wanted, f"{option!r}: the suffix should hold {wanted!r}"
            hard = word[-1] in "çfhkpsşt" and not word.endswith(voiced)
            assert suffix[0] == ("t" if hard else "d"), option


def test_turkish_suffixes_of_numbers_follow_vowel_harmony():
    asked = load_benchmark(variants=True).filter((pl.col("lang") == "tr") & (pl.col("perturbation") != "dialects"))
    found = {(number, suffix) for text in asked["question"] for number, suffix in re.findall(r"(\d+)'(\w+)", text)}
    assert len(found) >= 10
    for number, suffix in sorted(found):
        word = last_turkish_word(int(number))
        last = next(c for c in reversed(word) if c in VOWELS)
        vowel = next(c for c in suffix if c in VOWELS)
        assert vowel in (VOWELS[last], "a" if last in "aıou" else "e"), f"{number}'{suffix}"
        if suffix[0] in "dt":
            assert suffix[0] == ("t" if word[-1] in "çfhkpsşt" else "d"), f"{number}'{suffix}"


def test_the_right_options_of_the_exercises_are_right():
    right = [8 + 9, 45 - 18, 7 * 6, 96 // 8, Fraction(15, 100) * 60, Fraction(3, 4) * 40, 2**5, 9, 12 - 5, 15, 4 * 5, 6 * 4, Fraction(15, 4),
             Fraction(4 + 6 + 11, 3), Fraction(3, 4), Fraction(50), Fraction(120, 2), 6, 12, (3 + 4) * 5, -4 + 10, 1000 - 375, 150, 180]  # fmt: skip
    items = load_benchmark(domain="math").sort("set_id")
    assert items.height == len(right)
    for row, value in zip(items.to_dicts(), right, strict=True):
        said = [Fraction(re.match(r"-?[\d./]+", o)[0]) for o in row["choices"]]
        assert said.index(value) == row["answer"], row["question"]
        assert len(set(said)) == 4, row["question"]


# --- hand-written variants ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def variants():
    return load_benchmark(variants=True).filter(pl.col("perturbation") != "canonical")


@pytest.fixture(scope="module")
def canonical():
    return {row["item_id"]: row for row in load_benchmark().to_dicts()}


def test_every_variant_has_its_canonical_twin_and_its_right_option(variants, canonical):
    for row in variants.to_dicts():
        twin = canonical[row["canonical_id"]]
        for field in ("set_id", "domain", "category", "answer", "delimiter"):
            assert row[field] == twin[field], f"{row['item_id']}: another {field}"
        assert row["lang"] == twin["lang"] or row["domain"] == "math"
        assert len({fold(o) for o in row["choices"]}) == 4
        assert fold(row["choices"][row["answer"]]) not in fold(row["question"]), (
            f"{row['item_id']} gives its answer away"
        )
        assert (row["severity"], row["seed"], row["reason"]) == (1.0, None, None)


def test_the_edits_of_every_variant_replay_and_undo(variants, canonical):
    for row in variants.to_dicts():
        twin = canonical[row["canonical_id"]]
        before = {"question": twin["question"]} | {f"choices[{i}]": o for i, o in enumerate(twin["choices"])}
        after = {"question": row["question"]} | {f"choices[{i}]": o for i, o in enumerate(row["choices"])}
        assert {e["field"] for e in row["edits"]} <= set(before)
        for field, source in before.items():
            edited = EditedText(source, tuple(e for e in row["edits"] if e["field"] == field))
            assert edited.text == after[field] and edited.undo() == source, f"{row['item_id']}, {field}"
        changed = {
            "question" if field == "question" else "choices" for field in before if before[field] != after[field]
        }
        assert row["target"] == (changed.pop() if len(changed) == 1 else "both")


def test_the_frozen_variants_are_those_of_the_tables():
    frozen = make_items(
        pl.read_ndjson(data_path("benchmark/variants.jsonl"), infer_schema_length=None), name="embedded"
    )
    assert make_variants().equals(frozen), "a table of variants changed: run freeze_variants()"


def test_the_subsets_of_variants_are_those_of_toksuite_and_large_enough(variants):
    released = set(pl.read_csv(data_path("published/toksuite_accuracy.csv")).select("task").to_series())
    names = {"en": "english", "fa": "farsi", "it": "italian", "tr": "turkish", "zh": "chinese"}
    pairs = {}
    for row in variants.to_dicts():
        group = names[row["lang"]] if row["domain"] == "general" else row["domain"]
        pairs.setdefault(f"toksuite_{group}_{row['perturbation']}", []).append(row)
    assert set(pairs) <= released, f"not released: {sorted(set(pairs) - released)}"
    assert len(pairs) >= 50
    for task, rows in pairs.items():
        assert len(rows) >= 10, f"{task} has {len(rows)} variants"
        assert len({row["target"] for row in rows}) == 1, f"{task} mixes targets"
        assert len({row["set_id"] for row in rows}) >= (3 if task.endswith("_formats") else 10), (
            f"{task} leans on few sets"
        )


def test_variants_are_distinct_and_well_formed(variants):
    assert not variants.select("set_id", "lang", "question", "choices").is_duplicated().any()
    mixed = ("code_language_script_switching", "emoji_substitution")
    for row in variants.to_dicts():
        for text in (row["question"], *row["choices"]):
            assert text == text.strip() == unicodedata.normalize("NFC", text), row["item_id"]
            assert "  " not in text or row["perturbation"] == "unusual_formatting", row["item_id"]
            assert "\t" not in text and "⏎" not in text
            if row["lang"] == "fa":
                assert not set(text) & set("يكىة٠١٢٣٤٥٦٧٨٩"), f"{row['item_id']}: Arabic letters or digits"
                assert " \u200c" not in text and "\u200c " not in text and not text.endswith("\u200c"), row["item_id"]
            if row["perturbation"] not in mixed and row["domain"] != "math":
                names = {unicodedata.name(c, "").split()[0] for c in text if c.isalpha()} - {"FEMININE", "MASCULINE"}
                assert names <= {SCRIPT[row["lang"]]}, f"{row['item_id']}: letters of another script in {text!r}"


def test_every_dialect_is_named(variants):
    dialects = variants.filter(pl.col("perturbation") == "dialects")
    assert not (dialects["notes"] == "").any()
    assert dialects.group_by("lang").agg(pl.col("notes").n_unique())["notes"].min() >= 3
    assert (variants.filter(pl.col("perturbation") != "dialects")["notes"] == "").all()


def test_exercises_in_another_language_keep_their_numbers(variants, canonical):
    in_words = {"m-006", "m-015"}  # Farsi writes these fractions in words
    for row in variants.filter(pl.col("domain") == "math").to_dicts():
        if row["lang"] == "fa" and row["set_id"] in in_words:
            continue
        twin = canonical[row["canonical_id"]]
        for mine, its in zip((row["question"], *row["choices"]), (twin["question"], *twin["choices"]), strict=True):
            digits = [sorted(str(unicodedata.digit(c)) for c in text if c.isdigit()) for text in (mine, its)]
            assert digits[0] == digits[1], f"{row['item_id']}: {mine!r} against {its!r}"


def test_a_date_in_another_format_is_the_same_date(variants, canonical):
    dates = {"g-035": (14, 3, 25), "g-036": (14, 3, 15), "g-037": (20, 7, 24)}
    for row in variants.filter(pl.col("perturbation") == "date_formats").to_dicts():
        numbers = [int(n) for n in re.findall(r"\d+", row["question"].replace("10 ", " "))]
        day, month, year = dates[row["set_id"]]
        assert day in numbers and {year, 2000 + year} & set(numbers), row["question"]
        assert set(numbers) <= {day, month, year, 2000 + year}, row["question"]


def test_a_filter_keeps_variants_with_their_canonical_items():
    for chosen in ({"lang": "tr"}, {"domain": "math"}, {"lang": "en", "domain": "stem"}):
        items = load_benchmark(variants=True, **chosen)
        assert set(items["canonical_id"]) <= set(items["item_id"]), chosen
        assert items.filter(pl.col("perturbation") != "canonical").height > 20
    assert "turkish" not in set(load_benchmark(lang="tr", variants=True)["perturbation"])
    assert "turkish" in set(load_benchmark(lang="en", variants=True)["perturbation"])


def test_variants_are_not_perturbed_again(variants):
    with pytest.raises(ValueError, match="items must be canonical"):
        perturb_items(variants, "uppercase", seed=0)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("colloquial\tg-001\tHow many", "needs 5 columns, has 3"),
        ("colloquial\tg-999\tHow many\t\t", "there is no canonical item of set 'g-999'"),
        ("colloquial\tg-001\tHow many\ta|b\t", "has 2 options, its canonical item 4"),
        ("colloquial\tg-001\t\t\t", "changes nothing"),
        ("colloquial\tg-001\tThe number of strings on a violin is\t4|6|5|8\t", "changes nothing"),
    ],
)
def test_a_line_that_varies_nothing_is_refused_by_name(line, problem, monkeypatch, tmp_path):
    table = tmp_path / "variants.tsv"
    table.write_text(f"perturbation\tset_id\tquestion\tchoices\tnotes\n{line}\n", encoding="utf-8")
    items_module._embedded()  # read before the tables are exchanged
    monkeypatch.setattr(items_module, "data_path", lambda name: table)
    with pytest.raises(ValueError, match=f"^make_variants: .*variants_en.tsv, line 2: {re.escape(problem)}"):
        make_variants()


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30), st.text(st.characters(codec="utf-8"), max_size=30))
def test_edits_between_any_two_texts_replay(source, target):
    assert EditedText.replay(source, edits_between(source, target)) == target


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
    files = {"cldr_items.jsonl", "general.jsonl", "math.jsonl", "stem.jsonl", "variants.jsonl", "variants_fa.tsv"}
    assert {f"benchmark/{name}" for name in files} <= set(listed["name"])
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
        {"question": "a", "choices": ["x", "y"], "answer": "0x1"},
    ]
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError) as caught:
        load_benchmark(file)
    message = str(caught.value)
    assert message.startswith("load_benchmark: ") and "\n" not in message
    for number in (1, 3, 4, 5, 6, 7, 8, 9, 10):
        assert f"row {number}: " in message
    assert "row 2: " not in message


def test_lines_that_are_no_json_are_named(tmp_path):
    (tmp_path / "bad.jsonl").write_text(json.dumps(GOOD) + "\n{oops\n")
    with pytest.raises(ValueError, match=r"load_benchmark: each line must be a JSON record, .*line 2: "):
        load_benchmark(tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("embeded", KeyError),
        ("a" * 5000 + ".jsonl", FileNotFoundError),
        ("no/such.jsonl", FileNotFoundError),
        ("", KeyError),
        ("../x/y/z", FileNotFoundError),
    ],
)
def test_an_unknown_source_lists_what_can_be_given(source, kind):
    with pytest.raises(kind, match=r"there is no benchmark .*Give one of: 'embedded'; a file"):
        load_benchmark(source) if source else load_benchmark("nothing")


@pytest.mark.parametrize("rows", [None, 3, GOOD, "a question"])
def test_records_of_another_kind_are_refused(rows):
    with pytest.raises(TypeError, match="needs a polars DataFrame or a list of records"):
        make_items(rows)


@pytest.mark.parametrize("key", [3, None, "fo\ud800"])
def test_names_of_fields_must_be_text(key):
    with pytest.raises(ValueError, match="row 1: names of fields must be text"):
        make_items([GOOD | {key: "x"}])


@pytest.mark.parametrize("records", [[], make_items([GOOD]).clear()])
def test_no_items_are_no_benchmark(records):
    with pytest.raises(ValueError, match=r"^load_benchmark: needs at least one item, got none"):
        load_benchmark(records)


def test_a_number_with_a_point_of_a_table_is_an_index(tmp_path):
    (tmp_path / "quiz.csv").write_text("question,choices,answer\na,x|y,1.0\nb,x|y,0\n")
    assert load_benchmark(tmp_path / "quiz.csv")["answer"].to_list() == [1, 0]


def test_declared_numbers_must_be_a_mapping():
    with pytest.raises(TypeError, match="audit: declared must map tasks to numbers of items, got list"):
        audit([GOOD], declared=["toksuite_stem_latex"])


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
        ({"choices": ["blue", "\u3164", "green", "grey"]}, "A15 empty option"),
        ({"choices": ["blue", "\ufe0f", "green", "grey"]}, "A15 empty option"),
        ({"question": " "}, "A15 empty question"),
        ({"question": "\u200b\u200c"}, "A15 empty question"),
        ({"lang": ""}, "A15 empty lang"),
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
        ({"choices": ["the mat", "the  mat", "a cat", "a rat"]}, "A5 options equal but for spaces"),
        ({"choices": ["Rome", "Ro\u200bme", "Turin", "Milan"]}, "A5 options equal but for spaces"),
        ({"choices": ["Rome", "rome", "Turin", "Milan"]}, "A5 options equal but for case"),
        ({"choices": ["ⒷⓁⓊⒺ", "ＲＥＤ", "green", "grey"]}, "A4 options styled in several alphabets"),
        ({"question": "The sky\0 is"}, "A20 control character"),
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


def test_an_option_that_begins_another_but_for_case_is_noted():
    report = audit([GOOD | {"choices": ["blue", "Blueish", "green", "grey"]}])
    assert report.select("severity", "what").rows() == [("note", "A19 option begins another after case folding")]


@pytest.mark.parametrize("column", ["set_id", "lang", "perturbation"])
def test_a_frame_with_holes_is_refused(column):
    items = make_items([GOOD]).with_columns(pl.lit(None, pl.String).alias(column))
    assert errors(items) == [f"A15 empty {column}"]


def test_a_canonical_item_without_text_is_no_twin():
    rows = [GOOD, GOOD | {"item_id": "q-1-x", "set_id": "q-1", "perturbation": "ocr_errors", "question": "The 5ky is"}]
    items = make_items(rows).with_columns(
        question=pl.when(pl.col("perturbation") == "canonical").then(None).otherwise("question")
    )
    assert audit(items)["what"].to_list() == ["A15 empty question", "G7 no canonical item"]


def test_a_right_answer_that_moved_is_seen_in_the_digits_of_another_script():
    twin = GOOD | {"item_id": "1-c", "set_id": "1", "choices": ["3.75", "3.30", "2.40", "2.75"]}
    farsi = twin | {"item_id": "1-a", "canonical_id": "1-c", "lang": "fa", "perturbation": "farsi", "question": "آسمان"}
    farsi |= {"choices": ["۳٫۷۵", "۳٫۳۰", "۲٫۴۰", "۲٫۷۵"]}
    assert errors(make_items([twin, farsi])) == []
    assert errors(make_items([twin, farsi | {"answer": 1}])) == ["A6 gold is not the canonical gold"]


def test_generated_variants_raise_few_alarms():
    canonical = load_benchmark().filter(pl.col("domain").is_in(["general", "math", "stem"]))
    names = [
        "romanization",
        "optional_diacritics",
        "traditional",
        "uppercase",
        "ocr_errors",
        "homoglyphs",
        "mathematical_script",
    ]
    made = [perturb_items(canonical, name, seed=0).filter(pl.col("reason").is_null()) for name in names]
    items = pl.concat([canonical, *(part.select(canonical.columns) for part in made)])
    flagged = audit(items).filter(pl.col("severity") != "note")["item_id"].n_unique()
    assert flagged <= 0.02 * items.height, f"{flagged} of {items.height}"


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
        ("302-0.3", "A5"), ("302-2.7", "A5"), ("302-2.9", "A5"), ("303-0.38", "A6"), ("312-4.2", "A6"), ("316-0.2", "A1"), ("317-0.2", "A1"),
        ("333-0.2", "A1"), ("335-0.2", "A1"), ("336-0.3", "A1"),
    ]  # fmt: skip
    assert report.filter(pl.col("what").str.contains("another gold|A10 gold is mostly|A10 gold far")).is_empty()
    alone = audit(items.filter(pl.col("perturbation") != "canonical"))
    assert alone.filter(pl.col("what").str.contains("another gold"))["item_id"].to_list() == ["312-4.2"]
    hits = {(row["item_id"], row["what"].split()[0], row["severity"]) for row in report.iter_rows(named=True)}
    named = [  # what the specification names among these rows, besides the errors above
        *((item, "A2") for item in ("604-1.4", "604-1.5", "604-1.6", "640-1.4", "640-1.5", "604-1.22", "640-1.20", "642-1.20", "643-1.21", "644-1.24", "670-1.28")),
        *((item, "A3") for item in ("301-0.16", "301-0.17", "300-0.2", "300-0.3", "302-1.18", "303-1.18")),
        *((item, "A4") for item in ("200-1.3", "202-1.3", "203-1.3", "204-1.3")),
        ("309-0.9", "A6"), ("306-0.4", "A7"), ("609-1.3", "A8"), ("302-1.18", "A10"), ("303-1.18", "A10"), ("303-1.3", "A10"), ("302-2.7", "A11"), ("316-4.4", "A11"),
        ("303-1.3", "A11"), ("304-1.3", "A11"), ("311-4.3", "A11"), ("201-1.1", "A12"), ("300-1.2", "A12"), ("300-0.4", "A12"), ("300-1.12", "A13"),
    ]  # fmt: skip
    missed = [pair for pair in named if (*pair, "warning") not in hits]
    assert not missed, f"named in the specification and not found: {missed}"
    notes = [
        ("303-1.8", "A10"),
        ("333-0.13", "A14"),
        ("337-0.2", "A14"),
        ("300-3.14", "A18"),
        *((f"3{n:02d}-4.3", "A11") for n in (1, 2, 5, 12, 14)),
    ]
    assert not [pair for pair in notes if (*pair, "note") not in hits]
    real = {  # not named there, but true when read
        ("304-fa", "A20"), ("604-1.4", "A19"), ("604-1.5", "A19"), ("604-1.6", "A19"), ("604-1.22", "A19"), ("621-1.6", "A10"), ("670-1.28", "A4"),
        ("202-1.1", "A12"), ("203-1.1", "A12"), ("204-1.1", "A12"), ("300-2.10", "A3"), ("303-0.37", "A3"),
        ("604-1.5", "A4"), ("604-1.6", "A4"),  # "C++" became ⒞②②: a letter in brackets beside digits in circles
    }  # fmt: skip
    unexpected = {h[:2] for h in hits if h[2] == "warning" and h[1] != "G7"} - set(named) - real
    assert len(unexpected) <= 0.02 * items.height, f"false alarms: {unexpected}"
    assert not unexpected, f"new findings, to be read and judged: {unexpected}"


dates = ["29/08/2025", "19/08/2025", "29/09/2025", "26/08/2025"]


def row(item_id, question, perturbation="canonical", lang="en", **fields):
    set_id = item_id.split("-")[0]
    base = {"choices": ["blue", "red", "green", "grey"], "answer": 0, "set_id": set_id, "item_id": item_id}
    return base | {"question": question, "perturbation": perturbation, "lang": lang} | fields


@pytest.mark.parametrize(
    ("rows", "what", "severity"),
    [
        ([row("1-a", "The sky is", choices=["ⒷⓁⓊⒺ", "ⓇⒺⒹ", "ⓉⒶⓃ", "Ⓧ"], perturbation="enclosed_characters")], "A2 only", "warning"),
        ([row("1-c", "The number of minutes in 2 hours is"), row("1-a", "The ⏰ of hours in 2 hours is", "emoji_substitution")], "A6 a word stands", "warning"),
        ([row("1-c", "It is 29/08/2025. It is", choices=dates), row("1-a", "It is 28/09/2025. It is", "ocr_errors", choices=dates)], "A6 question no longer", "error"),
        ([row("1-a", "number of week days", "web_search_query", choices=["7", "5", "6", "8"])], "A7 wording", "warning"),
        ([row("1-a", "امروز 15 است", "number_romanization", "fa", choices=["۱۵ است", "۱۶ است", "۱۷ است", "۱۸ است"])], "A10 digits", "warning"),
        ([row("1-a", "Gokyuzunun rengi", "english_keyboard", "tr", choices=["mavidir", "kırmızıdır", "yesildir", "saridir"])], "A11 edit incomplete", "warning"),
        ([row("1-a", "رنگ آسمان", "arabic_keyboard_for_farsi", "fa")], "A11 edit incomplete", "warning"),
        ([row("1-a", "Range ۷ aseman", "romanization", "fa")], "A11 edit incomplete", "warning"),
        ([row("1-a", "tian的颜色", "romanization", "zh")], "A11 edit incomplete", "warning"),
        ([row("1-a", "天空的颜色是", "traditional", "zh")], "A11 edit incomplete", "warning"),
        ([row("1-c", "牛的腿的条数是", lang="zh"), row("1-a", "一头牛有 几条腿", "word_spacing_zero-width_characters_extra_space", "zh")], "A11 more changed", "warning"),
        ([row("1-a", "天空的 颜色是", "word_spacing_zero-width_characters_extra_space", "zh")], "A11 ordinary spaces", "note"),
        ([row("1-c", "The sky on a good day is"), row("1-a", "the sea in some nights is", "lowercase")], "A11 more changed", "warning"),
        ([row("1-a", "**The sky is**", "latex")], "A12 Markdown", "warning"),
        ([row("1-c", "The occupation of Dr Smith is"), row("1-a", "The occipation of Dr. Smith is", "abbreviations")], "A12 misspelling", "warning"),
        ([row("1-c", "رنگ آسمان. رنگ کیک", lang="fa"), row("1-a", "رَنگ آسمان. رنگ کيک", "optional_diacritics", "fa")], "A12 other letters", "warning"),
        ([row("1-c", "He is a surgeon here. His job in this town is"), row("1-a", "He is a surgeon", "colloquial")], "A13", "warning"),
        ([row("1-a", "The color of the sky's", "contractions")], "A14", "note"),
        ([row("1-a", "The sky is", "colloquial")], "G7 no canonical", "warning"),
        ([row("1-c", "The sky is"), row("1-a", "The sky's", "contractions", answer=1, choices=["red", "blue", "green", "grey"])], "G22", "note"),
        ([row("1-c", "The sky is"), *(row(f"1-{i}", f"The {'s' * i}ky is", "letter_repetition_for_emphasis") for i in range(2, 8))], "A18", "note"),
        ([row("1-c", "The sky is", choices=["blue", "all of the colours", "red"]), row("2-c", "The sky is", choices=["all of the colours", "red", "blue"])], "A6 another gold than its double", "error"),
        ([row("1-c", "A week has", choices=["7", "5", "6"]), row("1-f", "هفته", lang="fa", choices=["۶ روز", "۷ روز", "۵ روز"])], "A6 another gold than its translations", "warning"),
        ([row("1-a", "A wee has", "ocr_errors", choices=["7", "5", "6"]), row("1-b", "a week has", "lowercase", choices=["5", "7", "8"])], "A6 another gold than its siblings", "warning"),
        ([row("1-c", "The sky is", choices=["blue as far as the eye can see", "red", "green", "grey"])], "A10 gold far longer", "note"),
        ([row("1-c", "The sky is", choices=["blue", *(f"{c} as far as the eye can see" for c in ("red", "green", "grey"))])], "A10 gold far shorter", "note"),
        ([row(f"{i}-c", f"Sky {i} is", choices=["light blue", "red", "green", "grey"]) for i in range(7)], "A10 gold is mostly the longest", "warning"),
        ([row(f"{i}-c", f"Sky {i} is", choices=["dim", "blue", "green", "grey"]) for i in range(7)], "A10 gold is mostly the shortest", "warning"),
    ],
)  # fmt: skip
def test_a_planted_defect_is_found(rows, what, severity):
    report = audit(make_items(rows))
    found = report.filter(pl.col("what").str.starts_with(what))
    assert not found.is_empty(), report.rows()
    assert found["severity"].unique().to_list() == [severity]


@pytest.mark.parametrize(
    "rows",
    [
        [row("1-a", "ⓉⒽⒺ ⓈⓀⓎ ⒾⓈ", "enclosed_characters", choices=["ⒷⓁⓊⒺ", "ⓇⒺⒹ", "ⓉⒶⓃ", "ⓍⓎ"])],
        [row("1-c", "The number of legs a cow has is"), row("1-a", "The number of legs a 🐄 has is", "emoji_substitution")],
        [row("1-c", "It is 29/08/2025. It is", choices=dates), row("1-a", "It is 29/O8/2025. T0day it is", "ocr_errors", choices=dates)],
        [row("1-c", "It is 29/08/2025. It is", choices=dates), row("1-a", "It is 29 August 2025. It is", "date_formats", choices=dates)],
        [row("1-a", "number of days in a week", "web_search_query", choices=["7", "5", "6", "8"])],
        [row("1-a", "امروز ۱۵ است", "colloquial", "fa", choices=["۱۵ است", "۱۶ است", "۱۷ است", "۱۸ است"])],
        [row("1-a", "Gokyuzunun rengi", "english_keyboard", "tr", choices=["mavidir", "kirmizidir", "yesildir", "saridir"])],
        [row("1-c", "天空的颜色是", lang="zh", choices=["蓝", "红", "绿", "灰"]), row("1-a", "天空的顏色是", "traditional", "zh", choices=["藍", "紅", "綠", "灰"])],
        [row("1-c", "The sky on a good day is"), row("1-a", "the sky on a good day is", "lowercase")],
        [row("1-c", "رنگ آسمان", lang="fa"), row("1-a", "رَنگِ آسِمانْ", "optional_diacritics", "fa")],
        [row("1-c", "The buildings of Rome are"), row("1-a", "The building of Rome is", "inflections")],
        [row("1-c", "The color of the sky on Monday is"), row("1-a", "The colour of the skie on Mondaye is", "historical_spelling")],
        [row("1-c", "He is a surgeon here. His job is"), row("1-a", "surgeon job", "web_search_query")],
        [row("1-a", "The sky's color is", "contractions")],
        [row("1-c", "The odd one out is", choices=["car", "pear", "apple"]), row("2-c", "The odd one out is", choices=["apple", "car", "bus"])],
        [row("1-c", "It is", choices=["29 August", "28 August"]), row("1-i", "Costa", lang="it", choices=["28 euro", "30 euro"])],
        [row(f"1-{i}", f"Is {i} odd?", choices=[("no", "yes")[i % 2], ("yes", "no")[i % 2]]) for i in range(4)],
        [row(f"{i}-c", f"Sky {i} is", choices=["light blue", "red", "green", "grey"]) for i in range(6)],
        [row(f"1-{i}", f"Sky {'!' * i} is", "ocr_errors", choices=["light blue", "red", "green", "grey"]) for i in range(9)],
        [
            *(row(f"{i}-c", f"Set {i} is", choices=c) for i, c in ((1, ["7", "5", "6", "8"]), (2, ["blue", "red", "tan", "grey"]))),
            row("1-a", "S-E-T 1 I-S", "hyphenated_spelling", choices=["7", "5", "6", "8"]),
            row("2-a", "S-E-T 2 I-S", "hyphenated_spelling", choices=["B-L-U-E", "R-E-D", "T-A-N", "G-R-E-Y"]),
        ],
    ],
)  # fmt: skip
def test_a_near_miss_is_no_alarm(rows):
    report = audit(make_items(rows)).filter(pl.col("severity") != "note", ~pl.col("what").str.starts_with("G7"))
    assert report.is_empty(), report.rows()


def test_lengths_are_counted_once_for_the_variants_of_a_set():
    rows = [row(f"{i}-c", f"Sky {i} is", choices=["light blue", "red", "green", "grey"]) for i in range(7)]
    same = [row(f"{i}-a", f"sky {i} is", "lowercase", choices=["light blue", "red", "green", "grey"]) for i in range(7)]
    own = [row(f"{i}-b", f"SKY {i} IS", "uppercase", choices=["LIGHT BLUE", "RED", "GREEN", "GREY"]) for i in range(7)]
    hits = audit(make_items(rows + same + own)).filter(pl.col("what").str.contains("mostly"))
    assert hits["evidence"].to_list() == [
        f"en {name}: in 7 of 7 sets with one such option, 1.8 by chance" for name in ("canonical", "uppercase")
    ]


@pytest.mark.parametrize("n", [0, 1, 7, 20])
def test_the_chance_of_a_count_is_binomial_for_equal_chances(n):
    for count in range(n + 1):
        tail = sum(math.comb(n, k) * 0.25**k * 0.75 ** (n - k) for k in range(count, n + 1))
        assert _at_least(count, [0.25] * n) == pytest.approx(tail)


@pytest.mark.parametrize(
    ("weights", "effective"),  # (sum of weights)^2 / sum of their squares, by hand
    [([4, 1, 1], 2.0), ([3, 2, 1], 2.6), ([5, 1], 1.4), ([2, 2, 1], 2.8), ([2, 1, 1, 1, 1], None)],
)
def test_a_subset_whose_items_share_sets_tells_its_effective_number_of_sets(weights, effective):
    rows = [
        row(f"{set_id}-{k}", f"Set {set_id} says {'x' * k} is", "ocr_errors")
        for set_id, weight in enumerate(weights)
        for k in range(weight)
    ]
    hits = audit(make_items(rows)).filter(pl.col("what").str.starts_with("A18"))["evidence"].to_list()
    assert hits == ([f"en ocr_errors: {sum(weights)} items, {effective} effective sets"] if effective else [])


@pytest.mark.parametrize(("letter", "index"), [("A", 0), ("B", 1), ("D", 3), (" C ", 2)])
def test_a_letter_names_the_option_at_its_place(letter, index):
    assert make_items([{**GOOD, "answer": letter}])["answer"].item() == index
    assert make_items([{**GOOD, "answer": None, "answer_label": letter}])["answer"].item() == index


@pytest.mark.parametrize(
    ("change", "what", "severity"),
    [
        ({"question": "A hundred blues is"}, "A7", None),
        ({"question": "A blue sky is"}, "A7", "note"),
        ({"question": "The sky is "}, "A20 space that the prompt strips", "note"),
        ({"choices": ["blue ", "red", "green", "grey"]}, "A20 invisible character at the edge", "warning"),
        ({"question": "The sky is\u200b"}, "A20 invisible character at the edge", "warning"),
        ({}, "A20", None),
    ],
)
def test_answers_in_the_question_are_whole_words_and_edges_are_seen(change, what, severity):
    found = audit(make_items([{**GOOD, **change}])).filter(pl.col("what").str.starts_with(what))
    assert found["severity"].to_list() == [severity] * (severity is not None)


def test_declared_numbers_are_those_of_a_domain_or_of_a_language():
    rows = [
        row("1-c", "2 is", domain="stem"),
        row("1-a", "$2$ is", "latex", domain="stem"),
        row("2-c", "The sky is", domain="general"),
    ]
    right = {"toksuite_stem_canonical": 1, "toksuite_stem_latex": 1, "toksuite_english_canonical": 1}
    assert not audit(make_items(rows), declared=right)["what"].str.starts_with("A17").any()
    hits = audit(make_items(rows), declared=right | {"toksuite_english_canonical": 2}).filter(
        pl.col("what").str.starts_with("A17")
    )
    assert hits["evidence"].to_list() == ["toksuite_english_canonical: 1, declared 2"]


def test_a_set_that_a_language_lacks_is_noted():
    rows = [row(f"{i}-{lang}", f"Sky{i} {lang}", lang=lang) for i in (1, 2) for lang in ("en", "it", "tr")][:-1]
    hits = audit(make_items(rows)).filter(pl.col("what") == "set not in all languages")
    assert hits["evidence"].to_list() == ["set 2 lacks tr"]


def test_arrays_and_numbers_of_numpy_are_read_like_lists():
    import numpy as np

    given = make_items([{**GOOD, "choices": np.array(GOOD["choices"]), "answer": np.int64(2)}])
    assert given.equals(make_items([{**GOOD, "answer": 2}]))


@pytest.mark.parametrize("choices", [["blue", "blueberry", "red"], ["blueberry", "blue", "red"]])
def test_an_option_that_begins_another_is_found_in_either_order(choices):
    hits = audit(make_items([{**GOOD, "choices": choices}])).filter(pl.col("what") == "A19 option begins another")
    assert hits["evidence"].to_list() == [
        f"'blue' at {choices.index('blue')} and 'blueberry' at {choices.index('blueberry')}"
    ]


@pytest.mark.parametrize("gold", [0, 2])
def test_options_that_normalisation_makes_one_are_found_whether_or_not_one_is_right(gold):
    report = audit(make_items([{**GOOD, "choices": ["ﬁn", "fin", "tail"], "answer": gold}]))
    assert "A5 options equal after NFKC" in report["what"].to_list()


@pytest.mark.parametrize(
    ("choices", "what", "found"),
    [
        (["blue", "dark red", "light green", "pale grey"], "A10 gold spaced", True),
        (["dark blue", "red", "light green", "grey"], "A10 gold spaced", False),
        (["𝐛𝐥𝐮𝐞", "𝕣𝕖𝕕", "𝐭𝐚𝐧"], "A4", True),
        (["𝐛𝕝𝐮𝐞", "𝐫𝕖𝐝", "𝐭𝕒𝐧"], "A4", False),
    ],
)
def test_options_are_held_against_each_other(choices, what, found):
    report = audit(make_items([{**GOOD, "choices": choices}]))
    assert report["what"].str.starts_with(what).any() == found, report.rows()


def test_options_in_another_order_are_no_other_options():
    rows = [
        row("1-c", "The sky is"),
        row("1-a", "the sky is", "lowercase", choices=["grey", "green", "red", "blue"], answer=3),
    ]
    assert make_items(rows)["target"].to_list() == [None, "question"]


@pytest.mark.parametrize("own", [True, False])
def test_other_options_of_the_variants_are_noted_only_if_none_has_those_of_the_canonical_item(own):
    other = ["azure", "red", "tan"]
    rows = [row("1-c", "The sky is")] + [
        row(f"1-{k}", f"Sky{k} is", k, choices=other) for k in ("inflections", "dialects")
    ]
    rows += [row("1-x", "The ѕky is", "homoglyphs")] * own
    said = audit(make_items(rows)).filter(pl.col("what").str.starts_with("canonical options differ"))
    assert said.height == (0 if own else 1)


def test_units_after_numbers_are_no_options_that_a_subset_left_alone():
    units, words_ = ["700 cm", "500 cm", "600 cm"], ["blue sea", "red sea", "tan sea"]
    loud = ["BLUE SEA", "RED SEA", "TAN SEA"]
    rows = [row(f"{i}-c", f"Question {'x' * i} is", choices=units if i < 3 else words_) for i in range(1, 7)]
    rows += [
        row(f"{i}-a", f"QUESTION {'X' * i} IS", "capitalization", choices=units if i < 3 else loud) for i in range(1, 7)
    ]
    assert not audit(make_items(rows))["what"].str.starts_with("A3").any()
    rows[-1]["choices"], rows[-2]["choices"] = words_, words_
    assert audit(make_items(rows))["what"].str.starts_with("A3").sum() == 2


def test_a_subset_that_mixes_its_targets_names_the_rows():
    loud = ["bluuue", "reddd", "greeen", "greyyy"]
    rows = [row(f"{i}-c", f"Question number {'x' * i} is") for i in range(1, 7)]
    rows += [row(f"{i}-a", f"Questionnn number {'x' * i} is", "letter_repetition_for_emphasis") for i in range(1, 5)]
    rows += [
        row(f"{i}-a", f"Question number {'x' * i} is", "letter_repetition_for_emphasis", choices=loud) for i in (5, 6)
    ]
    hits = audit(make_items(rows)).filter(pl.col("what").str.starts_with("A3"))
    assert set(hits["item_id"]) == {"5-a", "6-a"}
    assert audit(make_items(rows[:10])).filter(pl.col("what").str.starts_with("A3")).is_empty()


def test_declared_counts_are_held_against_the_items():
    rows = [row("1-c", "The sky is"), row("1-a", "The sky's", "contractions")]
    declared = {"toksuite_english_contractions": 2, "toksuite_english_canonical": 1, "toksuite_stem_latex": 68}
    hits = audit(make_items(rows), declared=declared).filter(pl.col("what").str.starts_with("A17"))
    assert hits["evidence"].to_list() == [
        "toksuite_english_contractions: 1, declared 2",
        "toksuite_stem_latex: 0, declared 68",
    ]


def test_a_canonical_row_of_another_version_is_noted_once():
    other = ["red", "azure", "green", "grey"]
    rows = [row("1-c", "The sky is")] + [
        row(f"1-{n}", f"The sky {n}", n, choices=other) for n in ("colloquial", "ocr_errors", "dialects")
    ]
    hits = audit(make_items(rows)).filter(pl.col("what").str.starts_with("canonical options"))
    assert hits.select("severity", "item_id").rows() == [("note", "1-c")]


# --- loading what is partly broken ----------------------------------------------------------------------------------


def test_good_rows_survive_where_asked_for(tmp_path):
    lines = [
        json.dumps(GOOD),
        "{oops",
        json.dumps({"question": "x"}),
        json.dumps(GOOD | {"item_id": "q-2", "answer": 9}),
    ]
    (tmp_path / "quiz.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="each line must be a JSON record"):
        load_benchmark(tmp_path / "quiz.jsonl")
    with pytest.warns(UserWarning) as said:
        kept = load_benchmark(tmp_path / "quiz.jsonl", skip=True)
    assert kept["item_id"].to_list() == ["q-1"]
    text = " ".join(str(w.message) for w in said)
    assert "line 2" in text and "row 2: has no 'choices'" in text and "'q-2': A6 gold out of range" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "utf16.csv",
            "question,choices,answer\nLa città,a|b,0\n".encode("utf-16"),
            "needs a file in UTF-8 that is what its ending says, got 'utf16.csv'",
        ),
        ("broken.json", b"{oops", "needs a file in UTF-8 that is what its ending says, got 'broken.json'"),
        ("broken.parquet", b"junk", "needs a file in UTF-8 that is what its ending says, got 'broken.parquet'"),
        ("empty.jsonl", b"\n", "needs at least one item"),
        ("twice.csv", b"question,choices,choices,answer\na,w|x,y|z,0\n", "its header has ['choices'] more than once"),
        ("twice.jsonl", b'{"question": "a", "choices": ["x", "y"], "answer": 0, "answer": 1}', "a field stands twice"),
        ("ragged.csv", b"question,choices,answer\na,w|x,0,more\n", "row 1: has more cells than the header has columns"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"^load_benchmark: ") as caught:
        load_benchmark(tmp_path / name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_links_may_not_lead_out_of_a_folder(tmp_path):
    (tmp_path / "secret.jsonl").write_text(json.dumps(GOOD))
    folder = tmp_path / "items"
    folder.mkdir()
    (folder / "own.jsonl").write_text(json.dumps(GOOD))
    assert load_benchmark(folder).height == 1
    (folder / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(ValueError, match="files of a folder must lie in it, got links that lead elsewhere"):
        load_benchmark(folder)


def test_a_snapshot_of_the_hub_reads_its_blobs(tmp_path):
    blobs, snapshot = tmp_path / "datasets--x" / "blobs", tmp_path / "datasets--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "1").write_text(json.dumps(GOOD))
    (snapshot / "test.jsonl").symlink_to(blobs / "1")
    assert load_benchmark(snapshot)["item_id"].to_list() == ["q-1"]


@pytest.mark.parametrize("quirk", [{"categories": "Noise"}, {"question_general_category": "Mathematics/Geometry"}, {}])
def test_rows_of_the_hub_load_with_their_quirks(tmp_path, quirk):
    plain = {
        "question": "The sky is",
        "choices": GOOD["choices"],
        "answer": 0.0,
        "answer_label": "A",
        "lang": "tur_Latn",
        "set_id": 301.0,
    }
    rows = [
        plain | quirk | {"id": "301-2.0", "variation_id": 2.0, "subcategories": "Canonical", "perturbed_word": None},
        plain
        | quirk
        | {
            "id": "301-2.1",
            "variation_id": 2.1,
            "subcategories": "OCR Errors, Typographical errors",
            "question": "The 5ky is",
        },
        plain
        | quirk
        | {
            "id": "301-2.10",
            "variation_id": 2.1,
            "subcategories": "OCR Errors",
            "question": "The sKy is",
            "notes": None,
        },
    ]
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(tmp_path / "test.parquet")
    items = load_benchmark(tmp_path / "test.parquet")
    assert items["item_id"].to_list() == ["301-2.0", "301-2.1", "301-2.10"] and set(items["set_id"]) == {"301"}
    assert items["perturbation"].to_list() == ["canonical", "ocr_errors", "ocr_errors"] and set(items["lang"]) == {"tr"}
    assert set(items["category"]) == {next(iter(quirk.values()), "")} and set(items["canonical_id"]) == {"301-2.0"}
