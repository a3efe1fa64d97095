"The study of what one choice costs: its facts, its pairs, its intervals, and that the shipped verdicts are those of the shipped models."

import json
import re
import unicodedata
from dataclasses import replace
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from scipy.stats import t as student

torch = pytest.importorskip("torch")

import toksuite_nb.ablations as ablations  # noqa: E402
from toksuite_nb.ablations import (  # noqa: E402
    StudyRun,
    _study_run,
    budget_effects,
    compare_seeds,
    crossed_interval,
    factor_effects,
    recipe_pairs,
    study_families,
    study_items,
    study_losses,
    study_questions,
    study_runs,
    study_verdicts,
)
from toksuite_nb.core import derive_rng  # noqa: E402
from toksuite_nb.items import audit  # noqa: E402
from toksuite_nb.robustness import verdicts  # noqa: E402
from toksuite_nb.score import score  # noqa: E402
from toksuite_nb.store import data_dir  # noqa: E402
from toksuite_nb.suite import (  # noqa: E402
    SuiteConfig,
    load_suite,
    notation_facts,
    notation_items,
    suite_corpus,
    suite_scales,
)

SHIPPED = [("small", 0), ("large", 0), ("large", 1), ("large", 2)]
UNDONE = "styles that NFKC undoes"


@pytest.fixture(scope="module")
def found():
    return study_verdicts()


@pytest.fixture(scope="module")
def questions():
    return study_questions()


# ---- facts on notation


def test_twins_differ_before_nfkc_and_not_after():
    twins = notation_facts().filter(kind="twin")
    for subject, twin in twins.select("subject", "twin").iter_rows():
        assert subject != twin
        assert unicodedata.normalize("NFKC", subject) == unicodedata.normalize("NFKC", twin)
    answers = dict(twins.select("subject", "answer").iter_rows())
    assert all(answers[row["twin"]] != row["answer"] for row in twins.to_dicts())


def test_every_computed_answer_is_right():
    raised = str.maketrans("²³⁴⁵⁶", "23456")
    for relation, subject, answer in notation_facts().select("relation", "subject", "answer").iter_rows():
        if relation == "after":
            if power := re.fullmatch(r"(\d)([²³⁴⁵⁶])", subject):
                value = int(power[1]) ** int(power[2].translate(raised))
            elif subject.endswith("₂"):
                value = int(subject[:-1], 2)
            else:
                value = int(subject)
            assert int(answer) == value + 1, subject
        if relation == "value":
            mixed = re.fullmatch(r"(\d)([½¼¾])", subject)
            parts = {"½": Fraction(1, 2), "¼": Fraction(1, 4), "¾": Fraction(3, 4)}
            value = int(mixed[1]) + parts[mixed[2]] if mixed else Fraction(*map(int, subject.split("⁄")))
            assert Fraction(answer) == value, subject


def test_a_twins_question_offers_the_answer_of_its_other_half():
    items, facts = notation_items(), notation_facts()
    assert audit(items).filter(severity="error").is_empty()
    answers = dict(facts.select("subject", "answer").iter_rows())
    for row, fact in zip(items.to_dicts(), facts.to_dicts(), strict=True):
        assert row["choices"][row["answer"]] == fact["answer"]
        assert len(set(row["choices"])) == 4
        if fact["twin"]:
            assert answers[fact["twin"]] in row["choices"]


def test_the_old_corpus_is_a_part_of_the_new_one():
    old, new = suite_corpus(), suite_corpus(SuiteConfig(data="cldr+notation"))
    assert new.head(old.height).equals(old)
    assert new.height - old.height == 3 * notation_facts().height
    with pytest.raises(ValueError, match="data must be 'cldr' or 'cldr\\+notation'"):
        suite_corpus(SuiteConfig(data="wiki.jsonl"))


# ---- pairs and intervals


def test_pairs_differ_in_one_word_or_in_the_algorithm():
    pairs = recipe_pairs(suite_scales["small"].names)
    for factor, base, changed, _ in pairs.iter_rows():
        one, other = base.split("-"), changed.split("-")
        if " to " in factor:
            assert [one[0], other[0]] == factor.split(" to ") and one[1:] == other[1:]
        else:
            assert [w for w in other if w != factor] == one and other.count(factor) == 1
    assert pairs.filter(factor="nfkc").height == 4 and pairs.filter(factor="lower")["base"].to_list() == ["bpe-nfkc"]
    assert recipe_pairs(["bpe", "bpe-nfkc-lower"]).is_empty(), "two words are two choices"


def test_every_named_choice_has_a_pair():
    factors = set(recipe_pairs(suite_scales["small"].names)["factor"])
    assert {"nfc", "nfkc", "lower", "strip", "v600", "digits", "triples", "spaces"} <= factors
    assert {"bytes to bpe", "bpe to unigram", "bpe to wordpiece"} <= factors


@pytest.mark.parametrize(("seed_sd", "item_sd"), [(0.0, 0.2), (0.05, 0.2), (0.15, 0.05), (0.0, 0.0)])
def test_the_interval_covers_what_it_says(seed_sd, item_sd):
    rng, held = derive_rng(0, "coverage test", str(seed_sd), str(item_sd)), 0
    for _ in range(600):
        shape = (3, 56)
        chance = 0.7 + rng.normal(0, item_sd, 56) + rng.normal(0, seed_sd, 3)[:, None]
        lost = rng.random(shape) < np.clip(chance, 0, 1)
        seen = lost.astype(float)
        true = 0.7
        low, high = crossed_interval(seen.mean(1), (seen - seen.mean(1, keepdims=True)) / 56, step=1 / 56)
        held += low <= true <= high
    # with three seeds that differ more than the questions do, the interval is known to be a little short
    assert held / 600 >= (0.91 if seed_sd > item_sd else 0.93), held / 600


def test_an_effect_without_any_difference_has_a_width():
    low, high = crossed_interval(np.zeros(3), np.zeros((3, 56)), step=1 / 56)
    assert low < 0 < high and high < 0.1
    assert np.isnan(crossed_interval(np.zeros(3), np.zeros((3, 1)))).all()


def test_seeds_that_differ_widen_the_interval():
    shifts = derive_rng(0, "shifts").normal(0, 0.002, (3, 40))
    shifts -= shifts.mean(1, keepdims=True)
    widths = [np.ptp(crossed_interval(np.array([0.5 - d, 0.5, 0.5 + d]), shifts)) for d in (0.0, 0.05, 0.2)]
    assert widths[0] < widths[1] < widths[2]


def test_effects_are_what_a_plain_loop_gives(found, questions):
    names = study_families[UNDONE]
    canonical = dict(questions.select("item_id", "canonical_id").iter_rows())
    asked = questions.filter(pl.col("perturbation").is_in(names))["item_id"].to_list()
    effects = []
    for seed in (0, 1, 2):
        drop = {}
        for name in ("bpe", "bpe-nfkc"):
            own = found.filter(scale="small", budget="text", seed=seed, tokenizer=name)
            correct = dict(own.select("item_id", "correct").iter_rows())
            before, after = sum(correct[canonical[i]] for i in asked), sum(correct[i] for i in asked)
            drop[name] = (before - after) / before
        effects.append(drop["bpe"] - drop["bpe-nfkc"])
    row = factor_effects(found, questions).row(
        by_predicate=(pl.col("scale") == "small") & (pl.col("base") == "bpe") & (pl.col("changed") == "bpe-nfkc")
        & (pl.col("group") == UNDONE),
        named=True,
    )  # fmt: skip
    assert row["effect"] == pytest.approx(np.mean(effects), abs=1e-6)
    assert row["seed_sd"] == pytest.approx(np.std(effects, ddof=1), abs=1e-6)
    assert row["n"] == len(asked) and row["clusters"] == 56 and row["low"] < row["effect"] < row["high"]


def toy(seeds=(0, 1, 2), budgets=("text",), clusters=9):
    "Verdicts of four recipes on questions in clusters of unequal size, and the questions."
    rng = np.random.default_rng(len(seeds))
    questions = [
        {"item_id": f"{c}-{i}{mark}", "canonical_id": f"{c}-{i}", "cluster": f"c{c}", "domain": "cldr", "category": "x", "lang": "en",
         "perturbation": name}
        for c in range(clusters) for i in range(1 + c % 3) for mark, name in (("", "canonical"), ("-bold", "mathematical_bold"))
    ]  # fmt: skip
    level = {"bpe": 0.3, "bpe-nfkc": 0.8, "unigram": 0.4, "unigram-nfkc": 0.9}
    found = [
        {"scale": "small", "budget": budget, "seed": seed, "tokenizer": name, "item_id": q["item_id"],
         "correct": float(rng.random() < (share if q["perturbation"] != "canonical" else 0.95 - share / 4))}
        for budget in budgets for seed in seeds for name, share in level.items() for q in questions
    ]  # fmt: skip
    return pl.DataFrame(found), pl.DataFrame(questions)


def weighed(found, questions, name, seed, weights, measure, budget="text"):
    "Drop or accuracy of a model if the questions of each cluster count so often."
    right = dict(found.filter(tokenizer=name, seed=seed, budget=budget).select("item_id", "correct").iter_rows())
    asked = [q for q in questions.to_dicts() if (q["perturbation"] == "canonical") == (measure == "accuracy")]
    before, after, n = (
        sum(weights[q["cluster"]] * f(q) for q in asked)
        for f in (lambda q: right[q["canonical_id"]], lambda q: right[q["item_id"]], lambda q: 1)
    )
    return before / n if measure == "accuracy" else 1 - after / before


@pytest.mark.parametrize("measure", ["relative_drop", "accuracy"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_intervals_of_effects_come_from_what_each_cluster_moves(measure, seeds):
    verdicts, asked = toy(seeds)
    names, sign = sorted(set(asked["cluster"])), 1 if measure == "relative_drop" else -1

    def effect(base, changed, seed, **weights):
        weights = dict.fromkeys(names, 1.0) | weights
        before, after = (weighed(verdicts, asked, name, seed, weights, measure) for name in (base, changed))
        return np.array([sign * (before - after), before, after])

    pairs = {base: [effect(base, f"{base}-nfkc", seed) for seed in seeds] for base in ("bpe", "unigram")}
    step = 1e-6
    moved = {
        base: [[(effect(base, f"{base}-nfkc", seed, **{c: 1 + step}) - own)[0] / step for c in names] for seed, own in zip(seeds, values, strict=True)]
        for base, values in pairs.items()
    }  # fmt: skip
    pairs["all"], moved["all"] = (np.mean([told["bpe"], told["unigram"]], axis=0) for told in (pairs, moved))
    n = asked.height // 2
    right = (
        verdicts.join(asked.filter(perturbation="canonical"), on="item_id")
        .group_by("tokenizer")
        .agg(pl.col("correct").sum() / len(seeds))
    )
    credit = dict(right.iter_rows())
    steps = {base: 1 / (n if measure == "accuracy" else credit[base]) for base in ("bpe", "unigram")}
    steps["all"] = np.mean(list(steps.values()))
    table = factor_effects(verdicts, asked, measure=measure).filter(factor="nfkc")
    assert table["base"].to_list() == ["bpe", "unigram", "all"]
    for row in table.iter_rows(named=True):
        theta, before, after = np.array(pairs[row["base"]]).T
        shifts, S, k = np.array(moved[row["base"]]), len(seeds), len(names)
        assert (row["n"], row["clusters"], row["seeds"]) == (n, k, S)
        assert [row[c] for c in ("effect", "before", "after")] == pytest.approx(
            [theta.mean(), before.mean(), after.mean()]
        )
        items = k / (k - 1) * (shifts.mean(0) ** 2).sum() + 2 * steps[row["base"]] ** 2
        seed_part = 0.0
        if S > 1:
            both = k / (k - 1) * ((shifts - shifts.mean(0)) ** 2).sum() / (S * (S - 1))
            seed_part = student.ppf(0.975, S - 1) ** 2 * max(0.0, theta.var(ddof=1) / S - both)
        half = np.sqrt(student.ppf(0.975, k - 1) ** 2 * items + seed_part)
        assert [row["low"], row["high"]] == pytest.approx([theta.mean() - half, theta.mean() + half], abs=1e-4)


def test_the_interaction_of_seeds_and_clusters_is_taken_off_once():
    shifts = derive_rng(0, "crossed").normal(0, 0.01, (4, 30))
    effects, k, S = np.array([0.1, 0.5, 0.2, 0.6]), 30, 4
    items = k / (k - 1) * (shifts.mean(0) ** 2).sum() + 2 * 0.02**2
    both = k / (k - 1) * ((shifts - shifts.mean(0)) ** 2).sum() / (S * (S - 1))
    assert both > 0.03 * effects.var(ddof=1) / S
    for level in (0.8, 0.95):
        many, few = (student.ppf((1 + level) / 2, f) for f in (k - 1, S - 1))
        half = np.sqrt(many**2 * items + few**2 * (effects.var(ddof=1) / S - both))
        assert crossed_interval(effects, shifts, step=0.02, level=level) == pytest.approx([0.35 - half, 0.35 + half])
        one = many * np.sqrt(k / (k - 1) * (shifts[0] ** 2).sum() + 2 * 0.02**2)
        assert crossed_interval(effects[:1], shifts[:1], step=0.02, level=level) == pytest.approx(
            [0.1 - one, 0.1 + one]
        )


def test_verdicts_that_stand_twice_or_are_missing_are_no_evidence():
    verdicts, asked = toy()
    gap = verdicts.with_columns(correct=pl.when(pl.col("item_id") != "1-0").then("correct"))
    for found, questions, what in (
        (pl.concat([verdicts, verdicts]), asked, "some that stand twice"),
        (verdicts, pl.concat([asked, asked[:1]]), "some that stand twice"),
        (gap, asked, "12 verdicts without a credit"),
    ):
        with pytest.raises(
            ValueError, match=f"factor_effects: every model must have one verdict on a question, .* got {what}"
        ):
            factor_effects(found, questions)


def test_a_budget_of_tokens_is_compared_with_that_of_text():
    verdicts, asked = toy(budgets=("text", "tokens"))
    told = dict.fromkeys(asked["cluster"].unique(), 1.0)
    for measure, sign in (("accuracy", 1), ("relative_drop", -1)):
        row = budget_effects(verdicts, asked, measure=measure).row(by_predicate=pl.col("base") == "bpe", named=True)
        before, after = (
            np.mean([weighed(verdicts, asked, "bpe", seed, told, measure, budget) for seed in (0, 1, 2)])
            for budget in ("text", "tokens")
        )
        assert [row["before"], row["after"], row["effect"]] == pytest.approx([before, after, sign * (after - before)])


def test_the_margin_of_retrained_accuracies_is_that_of_two_means_over_seeds(found):
    names = ["bpe", "bpe-nfkc", "unigram"]
    part = found.filter(pl.col("tokenizer").is_in(names), scale="large", budget="text")
    table = compare_seeds(part, part).filter(group="facts")
    facts = study_items().filter(domain="cldr", perturbation="canonical")["item_id"]
    right = (
        part.filter(pl.col("item_id").is_in(facts.to_list()))
        .group_by("tokenizer", "seed")
        .agg(pl.col("correct").cast(pl.Float64).mean())
    )
    own = {name: right.filter(tokenizer=name)["correct"].to_numpy() for name in table["tokenizer"]}
    assert all(len(values) == 3 for values in own.values()) and len(own) > 1
    spread = np.sqrt(np.mean([values.var(ddof=1) for values in own.values()]))
    margin = student.ppf(0.975, 2 * len(own)) * spread * np.sqrt(2 / 3) + 1 / len(facts)
    assert table["margin"].to_list() == pytest.approx([margin] * len(own), abs=6e-5)
    assert table["n"].to_list() == [len(facts)] * len(own)


def test_wrong_names_are_said(found, questions):
    with pytest.raises(ValueError, match="by must be 'perturbation'"):
        factor_effects(found, questions, by="colour")
    with pytest.raises(ValueError, match="measure 'relative_drop' or 'accuracy'"):
        budget_effects(found, questions, measure="loss")


# ---- what the study has to show


@pytest.mark.parametrize("scale", ["small", "large"])
def test_nfkc_takes_away_half_of_the_drop_under_unicode_styling(scale, found, questions):
    rows = factor_effects(found, questions).filter(factor="nfkc", group=UNDONE, scale=scale)
    assert rows.height == {"small": 5, "large": 3}[scale]
    assert rows["seeds"].to_list() == [3] * rows.height
    mean = rows.filter(base="all")
    assert mean["effect"].item() >= 0.5 and mean["low"].item() > 0.3, mean
    assert (rows["low"] > 0.3).all(), rows


def test_what_nfkc_costs_is_reported_with_an_interval(found, questions):
    cost = factor_effects(found, questions, by="category", measure="accuracy").filter(
        factor="nfkc", group="twin", base="all"
    )
    assert sorted(cost["scale"]) == ["large", "small"]
    assert (cost["low"] < cost["effect"]).all() and (cost["effect"] < cost["high"]).all()
    assert cost["clusters"].to_list() == [49, 49]


def test_each_budget_holds_what_it_names(found):
    read = study_losses().filter(pl.col("scale") == "small")
    text = read.filter(budget="text")
    assert text.group_by("seed").agg(pl.col("bytes").n_unique())["bytes"].to_list() == [1, 1, 1]
    tokens = read.filter(budget="tokens")
    step = suite_scales["small"]
    # a document more or less per step; every document has one token that is not predicted
    read_tokens = tokens["tokens"] + tokens["documents"]
    assert (read_tokens >= step.steps * step.step_tokens).all()
    assert (read_tokens <= step.steps * (step.step_tokens + 256)).all()
    assert set(tokens["tokenizer"]) == {run.tokenizer for run in study_runs() if run.budget == "tokens"}


# ---- what is shipped


def test_the_shipped_suites_have_the_promised_size():
    assert len(suite_scales["small"].names) >= 10 and len(suite_scales["large"].names) >= 4
    assert all(len(load_suite(scale=scale, seed=seed, names=["bpe"])) == 1 for scale, seed in SHIPPED)
    assert suite_scales["large"].hidden_size > suite_scales["small"].hidden_size
    files = [p for p in (data_dir() / "suite").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 60e6
    with pytest.raises(KeyError, match=r"no shipped models of scale 'small' and seed 1. Known are \['large/seed-0'"):
        load_suite(scale="small", seed=1)


@pytest.mark.parametrize(("scale", "seed"), SHIPPED, ids=lambda value: str(value))
def test_every_shipped_model_has_a_card_and_its_configuration(scale, seed):
    home = data_dir() / "suite" / scale / f"seed-{seed}"
    config = replace(suite_scales[scale], seed=seed)
    assert json.loads((home / "suite.json").read_text())["config_hash"] == config.hash
    for name in config.names:
        card = (home / name / "README.md").read_text(encoding="utf-8")
        assert f"# {name}\n" in card and "notation" in card and f"Seed {seed}." in card
        assert json.loads((home / name / "training.json").read_text())["config_hash"] == config.hash
        assert pl.read_csv(home / name / "curve.csv").height == config.steps


@pytest.mark.parametrize(("scale", "seed"), SHIPPED, ids=lambda value: str(value))
def test_shipped_models_load_with_transformers_and_agree(scale, seed):
    from transformers import AutoTokenizer, LlamaForCausalLM

    for name, own in load_suite(scale=scale, seed=seed).items():
        theirs, tokenizer = LlamaForCausalLM.from_pretrained(own.folder), AutoTokenizer.from_pretrained(own.folder)
        for text, ids in zip(["The number after 5² is", "Gökyüzü 𝐓𝐡𝐞 🙂"], own.tokenizer.encode(["The number after 5² is", "Gökyüzü 𝐓𝐡𝐞 🙂"]), strict=True):  # fmt: skip
            assert tokenizer(text, add_special_tokens=False).input_ids == ids, name
            with torch.no_grad():
                assert torch.equal(
                    theirs(torch.tensor([[1, *ids]])).logits, own.model(torch.tensor([[1, *ids]])).logits
                )


@pytest.mark.parametrize(("scale", "seed", "name"), [("small", 0, "bpe-strip"), ("large", 2, "unigram-nfkc")])
def test_shipped_verdicts_are_those_of_the_shipped_models(scale, seed, name, found):
    items = study_items().filter(
        pl.col("perturbation").is_in(["canonical", "mathematical_bold", "superscript_subscript"])
    )
    own = load_suite(scale=scale, seed=seed, names=[name])[name]
    scores = score(own.model, own.tokenizer, items, name=name, show_progress=False)
    made = verdicts(scores, items, norm="char").select("item_id", "correct", "margin")
    stored = found.filter(scale=scale, budget="text", seed=seed, tokenizer=name)
    both = made.join(stored, on="item_id", suffix="_stored")
    assert both.height == items.height
    assert (both["margin"] - both["margin_stored"]).abs().max() < 1e-3
    assert (both["correct"] - both["correct_stored"]).abs().sum() <= 1


def test_the_questions_are_those_that_are_stored(questions):
    made = study_items().select(questions.columns)
    assert made.equals(questions), "perturbations or items changed: run make suite ARGS=--ship"


def test_models_of_the_study_know_the_facts(found, questions):
    facts = questions.filter(domain="cldr", perturbation="canonical")
    known = (
        found.filter(budget="text")
        .join(facts, on="item_id")
        .group_by("scale", "tokenizer")
        .agg(pl.col("correct").mean())
    )
    subwords = known.filter(~pl.col("tokenizer").str.starts_with("bytes"))
    assert (subwords["correct"] >= 0.9).all(), subwords.filter(pl.col("correct") < 0.9)
    assert (known["correct"] >= 0.7).all(), known.filter(pl.col("correct") < 0.7)


# ---- making it again


def test_a_study_run_is_found_again(tmp_path, monkeypatch):
    tiny = replace(
        suite_scales["small"],
        tokenizers=("bpe-v600",),
        hidden_size=16,
        heads=2,
        layers=1,
        intermediate_size=24,
        steps=3,
    )
    monkeypatch.setitem(ablations.suite_scales, "small", tiny)
    monkeypatch.setattr(ablations, "study_items", lambda: study_items().head(40))
    run = StudyRun("small", "text", 1, "bpe-v600")
    first = _study_run(run, tmp_path, show_progress=False)
    assert first["seed"].unique().to_list() == [1] and first.height == 40
    monkeypatch.setattr(ablations, "train_suite", None)
    assert _study_run(run, tmp_path).equals(first)


def test_a_retrained_study_that_differs_by_more_than_seeds_is_noticed(found):
    assert compare_seeds(found, found)["inside"].all()
    part = found.filter(scale="first")
    assert compare_seeds(part, found)["tokenizer"].n_unique() == 6
    off = part.with_columns(
        pl.when(pl.col("tokenizer") == "bytes").then(0.5).otherwise("correct").cast(pl.Float32).alias("correct")
    )
    table = compare_seeds(off, found)
    assert table.filter(~pl.col("inside"))["tokenizer"].unique().to_list() == ["bytes"]
