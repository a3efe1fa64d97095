"Which released pairs of TokSuite the library covers, computed from the registry and checked by applying the rules."

import json

import polars as pl
import pytest

from toksuite_nb.edits import EditedText
from toksuite_nb.notation import coverage
from toksuite_nb.perturb import get_perturbation, perturb
from toksuite_nb.robustness import published_accuracies
from toksuite_nb.store import data_path

LANGS = {"english": "en", "chinese": "zh", "turkish": "tr", "italian": "it", "farsi": "fa", "math": "en", "stem": "en"}
TABLE = coverage()
BY_RULE = TABLE.filter(pl.col("how") == "rule").select("domain", "subset").rows()


def texts(domain: str) -> list[str]:
    "Questions and options of the embedded benchmark in the pair's language or domain."
    name = domain if domain in ("math", "stem") else "general"
    rows = [json.loads(line) for line in data_path(f"benchmark/{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [text for row in rows if row["lang"] == LANGS[domain] for text in (row["question"], *row["choices"])]


TEXTS = {domain: texts(domain) for domain in LANGS}


def test_the_table_has_the_released_pairs():
    assert TABLE.height == 110
    assert TABLE["n"].sum() == 4889 - 265, "4,889 declared items less the 265 canonical ones"
    per_domain = dict(TABLE.group_by("domain").len().iter_rows())
    assert per_domain == {
        "english": 28,
        "chinese": 12,
        "turkish": 16,
        "italian": 17,
        "farsi": 11,
        "math": 8,
        "stem": 18,
    }


def test_four_tasks_declare_more_items_than_evaluations_ran():
    ran = published_accuracies().select("task", "n").unique()
    declared = TABLE.select(pl.format("toksuite_{}_{}", "domain", "subset").alias("task"), declared="n")
    both = declared.join(ran, on="task")
    assert both.height == 110 and both["n"].sum() == 4618
    assert sorted(both.filter(pl.col("declared") != pl.col("n")).rows()) == [
        ("toksuite_chinese_spelled_out", 14, 13),
        ("toksuite_english_grammatical_errors", 41, 40),
        ("toksuite_italian_dialects", 32, 31),
        ("toksuite_stem_character_deletion", 44, 41),
    ]


def test_at_least_104_pairs_are_covered_and_65_by_rule():
    how = dict(TABLE.group_by("how").len().iter_rows())
    open_pairs = TABLE.filter(pl.col("how") == "none").select("domain", "subset").rows()
    assert how.get("rule", 0) >= 65, how
    assert 110 - how.get("none", 0) >= 104, f"not covered: {open_pairs}"
    assert TABLE.filter((pl.col("how") == "none") & (pl.col("reason") == "")).is_empty(), "what is not covered says why"


@pytest.mark.parametrize(("domain", "subset"), BY_RULE)
def test_a_pair_covered_by_rule_changes_a_text_of_its_domain(domain, subset):
    (names,) = TABLE.filter((pl.col("domain") == domain) & (pl.col("subset") == subset))["names"].to_list()
    assert all(LANGS[domain] in get_perturbation(name).langs for name in names)
    applied = [made for name in names for text in TEXTS[domain]
               if isinstance(made := perturb(text, name, lang=LANGS[domain], seed=0, item_id="1"), EditedText)]  # fmt: skip
    assert applied, f"{names} change no text of {domain}: does the table of the rule know the language?"
    assert all(made.text != made.source and made.undo() == made.source for made in applied)
