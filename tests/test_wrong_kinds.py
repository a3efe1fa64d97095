"""Arguments of a wrong kind meet the functions' own messages. A process of its own asks, without the shape checks that would answer first."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).parents[1]
NAN = float("nan")


def calls() -> dict[str, tuple[Callable[[], Any], str]]:
    """What is asked, by name, and a part of the answer."""
    from toksuite_nb.ablations import budget_effects, study_questions
    from toksuite_nb.alignment import align, boundary_agreement, cut_shifts
    from toksuite_nb.cells import suite_cells
    from toksuite_nb.charts import beside_chart, comparison_chart, tokenizer_colours
    from toksuite_nb.core import item_schema, score_schema, verdict_schema
    from toksuite_nb.coslow import chat_prompts, confidence, cos_low, select_low_confidence
    from toksuite_nb.efficiency import (
        CeilingCurve,
        CeilingPrior,
        EfficiencyCurve,
        calibrate,
        ceiling_errors,
        ceiling_prior,
        crossing,
        efficiency_auc,
        efficiency_table,
        fit_ceiling,
        fit_power,
        forecast,
        held_out_errors,
        interval_coverage,
        labels_needed,
        preset,
        published_curves,
    )
    from toksuite_nb.explorers import (
        Scene,
        TokenizerExplorer,
        before_after_html,
        edits_html,
        render_scene,
        render_trial,
    )
    from toksuite_nb.finetune import FinetuneConfig, Task, finetune, measure_curve, pool_order
    from toksuite_nb.gradients import Gram, examples_from_text, gradient_gram
    from toksuite_nb.harness import compare_runs, read_results, read_samples
    from toksuite_nb.intrinsic import compare, fertility, gini, lorenz, parity
    from toksuite_nb.items import load_benchmark
    from toksuite_nb.labeling import LabelingDesk, label_forecast, replay
    from toksuite_nb.lm import length_buckets, load_lm
    from toksuite_nb.noise import choose_edits, compile_rewritings, read_xkb, scan_confusions
    from toksuite_nb.notation import date_forms, fraction_words, spoken_number, to_latex
    from toksuite_nb.perturb import nested_sample, perturb, perturb_items, sample_places, side_by_side
    from toksuite_nb.register import phrase_table
    from toksuite_nb.robustness import (
        attribution,
        beside_published,
        column_drops,
        compare_models,
        drops,
        holm,
        minimum_detectable_drop,
        partial_pooling,
        published_accuracies,
        robustness_table,
        task_drops,
    )
    from toksuite_nb.run import ResultStore, collect, read_plan, run_cells, write_plan
    from toksuite_nb.score import audit_specials, predictions, rule_changes
    from toksuite_nb.store import data_path, register_data
    from toksuite_nb.study import compare_predictors, load_study_model
    from toksuite_nb.styling import math_letter
    from toksuite_nb.suite import (
        SuiteConfig,
        TextReader,
        initial_model,
        load_suite,
        pack,
        read_config,
        step_documents,
        step_learning_rate,
        suite_corpus,
        train_suite,
    )
    from toksuite_nb.supervocab import super_vocabulary
    from toksuite_nb.text import clusters, graphemes, skeleton, user_spans, visible
    from toksuite_nb.tokenizer import load_tokenizer
    from toksuite_nb.tokens import show_bytes, text_direction

    class Model:
        config = None

        def get_input_embeddings(self):
            return SimpleNamespace(weight=np.zeros((259, 2)))

    class Bytes:
        specials, pieces = {"eos": 1}, [None] * 3 + [bytes([b]) for b in range(256)]

        def encode(self, texts):
            return [[b + 3 for b in t.encode()] for t in texts]

    items = load_benchmark(lang="en").head(2)

    def perturbed(**options):
        return lambda: perturb_items(items, "uppercase", **options)

    other = Bytes()
    other.pieces = other.pieces * 2
    unscored, no_items = verdict_schema.empty(), item_schema.empty()
    changes = pl.DataFrame({"tokenizer": ["t"], "item_id": ["a"], "tokens": [0.0]})
    pairs = [([1], [2]), ([1, 3], [2])]
    chat = SimpleNamespace(chat_template="x", apply_chat_template=lambda messages, **_: messages[-1]["content"])
    curve, whole, rows = (
        {0: 0.2, 50: 0.3, 100: 0.45, 200: 0.5},
        Gram(np.eye(9), np.zeros(9), "full"),
        np.full((8, 7), 0.5),
    )
    small = Task("t", ["a"], ["b"], ["q"], ["r"])
    x, y = np.linspace(0, 0.7, 8), np.linspace(0.3, 0.6, 8)
    return {
        "one question": (
            lambda: chat_prompts(chat, "abc"),
            "questions must be a list of texts, and system a text or None, got 'abc'",
        ),
        "numbers as questions": (
            lambda: chat_prompts(chat, ["a", 3]),
            "a list of texts, and system a text or None, got 3",
        ),
        "no questions": (lambda: chat_prompts(chat, None), "a list of texts, and system a text or None, got None"),
        "a number as system": (lambda: chat_prompts(chat, ["a"], system=3), "and system a text or None, got 3"),
        "a text as an example": (
            lambda: gradient_gram(Model(), ["ab"]),
            "(prompt ids, answer ids), got 'ab' in place 0",
        ),
        "texts as a pair": (lambda: gradient_gram(Model(), [([1], [2]), ("a", "b")]), "got ('a', 'b') in place 1"),
        "three in a pair": (lambda: gradient_gram(Model(), [([1], [2], [3])]), "got ([1], [2], [3]) in place 0"),
        "a number as an example": (lambda: gradient_gram(Model(), [3]), "(prompt ids, answer ids), got 3 in place 0"),
        "one text as examples": (
            lambda: gradient_gram(Model(), "ab"),
            "must be a list of `Example` or of pairs of ids, got str",
        ),
        "no examples": (lambda: gradient_gram(Model(), None), "of pairs of ids, got NoneType"),
        "no model of a Gram": (
            lambda: gradient_gram(None, []),
            "gradient_gram: the model must be a causal LM in Hugging Face form, got NoneType",
        ),
        "a word as a rank": (lambda: gradient_gram(Model(), pairs, rank="x"), "alpha a number, got rank='x'"),
        "words as sizes": (
            lambda: gradient_gram(Model(), pairs, batch_tokens="x", seed=0.5),
            "got seed=0.5, batch_tokens='x'",
        ),
        "a word as alpha": (lambda: gradient_gram(Model(), pairs, alpha="x"), "alpha a number, got alpha='x'"),
        "no prompts": (lambda: confidence(Model(), Bytes(), None), "list of texts or of token ids, got NoneType"),
        "one flat list of ids": (lambda: confidence(Model(), Bytes(), [1, 2]), "whole numbers, got [1, 2]"),
        "ids with fractions": (lambda: confidence(Model(), Bytes(), [[1.5]]), "whole numbers, got [[1.5]]"),
        "no model": (
            lambda: confidence(None, Bytes(), ["a"]),
            "must be a causal LM in Hugging Face form, got NoneType",
        ),
        "half a token": (lambda: confidence(Model(), Bytes(), ["a"], max_new_tokens=2.5), "at least 1, got 2.5 and 16"),
        "a text to exclude": (
            lambda: confidence(Model(), Bytes(), ["a"], exclude="x"),
            "collection of token ids, got 'x'",
        ),
        "an id to exclude": (lambda: confidence(Model(), Bytes(), ["a"], exclude=5), "collection of token ids, got 5"),
        "words for confidences": (lambda: select_low_confidence(["a"] * 400), "one number for each prompt, got list"),
        "a table of confidences": (lambda: select_low_confidence(np.zeros((20, 20))), "each prompt, got ndarray"),
        "a lazy frame": (lambda: select_low_confidence(pl.LazyFrame({"i": [1]})), "each prompt, got LazyFrame"),
        "half an example": (
            lambda: select_low_confidence(np.zeros(400), n=2.5),
            "a whole n >= 2, got fraction=0.1, n=2.5",
        ),
        "a bare matrix": (lambda: cos_low(np.eye(4)), "needs a polars DataFrame, got ndarray"),
        "half a draw": (lambda: cos_low(whole, draws=2.5), "draws a whole number of at least 1, got 0.95 and 2.5"),
        "a list as a curve": (lambda: efficiency_auc([0.1, 0.2]), "a curve is a mapping or a frame, got list"),
        "a word as human score": (lambda: efficiency_auc(curve, "x"), "human='x'"),
        "truth values as metrics": (lambda: efficiency_auc({0: False, 50: True}), "metric False at n=0"),
        "a list of human scores": (
            lambda: efficiency_table(published_curves(), [0.9]),
            "human must map tasks to scores",
        ),
        "no area": (lambda: EfficiencyCurve(None), "auc must be strictly between 0 and 1, got None"),
        "a word as an area": (lambda: EfficiencyCurve("x"), "auc must be strictly between 0 and 1, got x"),
        "largest of no number": (lambda: EfficiencyCurve(0.5, NAN), "largest must be a whole number of at least 2"),
        "largest with a fraction": (lambda: EfficiencyCurve(0.5, 2.5), "largest must be a whole number of at least 2"),
        "words as budgets": (lambda: EfficiencyCurve(0.5).share(["a"]), "budgets must be numbers, got ['a']"),
        "budgets as positions": (
            lambda: EfficiencyCurve(0.5)([50, 500]),
            "positions must lie in [0, 1], got [50.0, 500.0]",
        ),
        "no share": (lambda: EfficiencyCurve(0.5).examples(None), "share must be in [0, 1], got None"),
        "a word as a ceiling": (
            lambda: CeilingCurve(0.1, "x", 5),
            "0 <= zero_shot < ceiling <= 1 and half > 0, got 0.1, x",
        ),
        "words as budgets of a ceiling": (
            lambda: CeilingCurve(0.1, 0.5, 5).metric(["a"]),
            "must be numbers, got ['a']",
        ),
        "no end of budgets": (lambda: CeilingCurve(0.1, 0.5, 5).metric([np.inf]), "finite numbers >= 0, got [inf]"),
        "no target of a ceiling": (lambda: CeilingCurve(0.1, 0.5, 5).examples(None), "metric in [0, 1], got None"),
        "words as curves": (lambda: ceiling_prior(["x"] * 4), "needs a list of CeilingCurve, got ['x', 'x'"),
        "a prior without spread": (
            lambda: CeilingPrior(0.5, 0, 5, 0, 0.003),
            "spreads > 0 and strength >= 0, got (0.5, 0",
        ),
        "a word as a prior": (lambda: fit_ceiling(curve, prior="x"), "prior must be a CeilingPrior or None, got 'x'"),
        "a word as a power's ceiling": (
            lambda: fit_power(curve, "x"),
            "not below the best metric 0.5, and be at most 1",
        ),
        "seen of no number": (lambda: held_out_errors(published_curves(), seen=NAN), "seen must be a whole number"),
        "words as CoS-Low": (lambda: calibrate(["a"] * 9, ["b"] * 9), "cos_low must be numbers, got ['a', 'a'"),
        "no tasks": (lambda: calibrate(None, None), "one CoS-Low and one AUC per task, got shapes () and ()"),
        "a word as one CoS-Low": (lambda: forecast("x", calibration="Llama-3.1-8B"), "a cosine in [-1, 1], got 'x'"),
        "a list as one CoS-Low": (
            lambda: forecast([0.3], calibration="Llama-3.1-8B"),
            "a cosine in [-1, 1], got [0.3]",
        ),
        "a word as a forecast's area": (lambda: forecast(auc="x"), "auc must be strictly between 0 and 1, got x"),
        "half a budget": (lambda: forecast(auc=0.5, budgets=[1.5]), "list of whole numbers of examples, got [1.5]"),
        "one budget": (lambda: forecast(auc=0.5, budgets=5), "list of whole numbers of examples, got 5"),
        "no number as a budget": (lambda: forecast(auc=0.5, budgets=[NAN]), "whole numbers of examples, got [nan]"),
        "budgets in a table": (
            lambda: forecast(auc=0.5, budgets=np.array([[50]])),
            "list of whole numbers of examples",
        ),
        "a word as a budget": (lambda: forecast(auc=0.5, budgets=["a"]), "budgets must be numbers, got ['a']"),
        "a number as a calibration": (
            lambda: forecast(0.3, calibration=5),
            "a Calibration or the name of a preset, got 5",
        ),
        "no level": (lambda: forecast(auc=0.5, level=None), "level must be in (0, 1), got None"),
        "a budget as text": (lambda: held_out_errors(published_curves(), seen="10"), "two budgets from 50 to seen=10"),
        "a word as level of CoS-Low": (lambda: cos_low(whole, level="x"), "level must be in (0, 1) and draws a whole"),
        "a word as a share of the pool": (
            lambda: select_low_confidence([0.5] * 400, fraction="x"),
            "needs fraction in (0, 1] and a whole n >= 2, got fraction='x', n=32",
        ),
        "no level of a comparison": (
            lambda: compare_predictors(pl.DataFrame({"auc": x, "p": y}), ["p"], seed=0, level=None),
            "level in (0, 1) and draws of at least 1, got None",
        ),
        "a set as prompts": (lambda: Task("t", {"a"}, ["b"], ["q"], ["r"]), "got a set in prompts of 't'"),
        "no pool": (lambda: Task("t", None, ["b"], ["q"], ["r"]), "needs lists of texts, got a NoneType"),
        "a number as name of a task": (lambda: Task(3, ["a"], ["b"], ["q"], ["r"]), "name must be a text, got int"),
        "an array as budgets": (
            lambda: FinetuneConfig(1e-3, budgets=np.array([0, 50])),
            "budgets that are whole numbers >= 0, got [ 0 50]",
        ),
        "a text as a number of examples": (
            lambda: finetune(Model(), Bytes(), small, FinetuneConfig(1e-3), n="1", seed=0),
            "n must be from 1 to the pool's 1, got '1'",
        ),
        "one seed": (
            lambda: measure_curve(Model(), Bytes(), small, FinetuneConfig(1e-3), seeds=0),
            "measure_curve: seeds must be a list of whole numbers, got int",
        ),
        "half a seed": (
            lambda: measure_curve(Model(), Bytes(), small, FinetuneConfig(1e-3), seeds=[0, 0.5]),
            "measure_curve: seed must be a whole number >= 0, got 0.5",
        ),
        "words as ends": (
            lambda: labels_needed(0.7, "x", 0.9, auc=0.5),
            "0 <= zero_shot < ceiling <= 1, got zero_shot=x",
        ),
        "a word as errors": (
            lambda: labels_needed(0.7, measured=curve, errors="x"),
            "stand alone, got errors='x' and []",
        ),
        "a word as first budgets": (
            lambda: labels_needed(0.7, measured="x", errors=ceiling_errors(published_curves())),
            "a curve is a mapping or a frame, got str",
        ),
        "a word as a strength": (
            lambda: ceiling_errors(published_curves(), strength="x"),
            "strength >= 0, got 39 curves and x",
        ),
        "a truth value as a target": (lambda: labels_needed(True, 0.5, 0.9, auc=0.5), "metric in [0, 1], got True"),
        "no target": (lambda: labels_needed(None, 0.5, 0.9, auc=0.5), "metric in [0, 1], got None"),
        "no family": (lambda: preset(None), "no published coefficients for None"),
        "an unknown basis": (
            lambda: interval_coverage(x, y, rows, level=0.8, basis="x"),
            "basis must be 'measured shares'",
        ),
        "one text as prompts": (lambda: Task("t", "abc", "xyz", ["q"], ["r"]), "lists of texts, got a str in prompts"),
        "numbers as prompts": (lambda: Task("t", [1], ["2"], ["q"], ["r"]), "lists of texts, got 1 in prompts"),
        "a word as a rate": (lambda: FinetuneConfig("x"), "learning_rate > 0, got 'x'"),
        "one number as budgets": (
            lambda: FinetuneConfig(1e-3, budgets=5),
            "budgets that are whole numbers >= 0, got 5",
        ),
        "a word as a warm-up": (
            lambda: FinetuneConfig(1e-3, warmup="x"),
            "warmup in [0, 1) and weight_decay >= 0, got 'x'",
        ),
        "no clip": (lambda: FinetuneConfig(1e-3, clip=None), "clip > 0, got None"),
        "an answer that is none": (
            lambda: examples_from_text("bytes", ["a"], [None]),
            "answers must be a sequence of strings, got None",
        ),
        "a number as an answer": (
            lambda: examples_from_text("bytes", ["a"], [3]),
            "answers must be a sequence of strings, got 3",
        ),
        "ids for spans": (
            lambda: align([464, 3], [(0, 1)]),
            "align: spans must be pairs (start, end) of byte offsets, got 464 for token 0 of a. Give tokenizer.spans(text)",
        ),
        "lists of ids for spans": (lambda: align([(0, 1)], [[464, 3, 5]]), "got [464, 3, 5] for token 0 of b"),
        "ids for boundaries": (
            lambda: boundary_agreement([(0, 1)], [464], 3),
            "boundary_agreement: spans must be pairs (start, end) of byte offsets, got 464 for token 0 of b.",
        ),
        "one number for spans": (
            lambda: align(5, []),
            "align: spans must be pairs (start, end) of byte offsets, got 5",
        ),
        "no variants": (perturbed(variants=0), "whole number >= 1, got 0. Ask for one or more variants."),
        "no workers": (perturbed(workers=0), "whole number >= 1, got 0. Ask for one or more workers."),
        "an unknown target": (perturbed(target="x"), "got 'x'. Pass 'question' for the question alone, 'choices' for"),
        "a number to protect": (perturbed(protect=[5]), "got 5. Give the words to keep, or re.compile(...) of them."),
        "a bare number to protect": (
            perturbed(protect=5),
            "got 5. Give the words to keep, or re.compile(...) of them.",
        ),
        "a perturbation twice": (
            lambda: perturb_items(items, ["uppercase", "uppercase"]),
            "got ['uppercase', 'uppercase']. Name each perturbation once.",
        ),
        "perturbed items": (
            lambda: perturb_items(perturb_items(items, "uppercase"), "lowercase"),
            "Pass canonical items that toksuite_nb.items.audit accepts",
        ),
        "a number as a text": (lambda: graphemes(5), "graphemes: text must be a str, got int. Decode bytes"),
        "bytes as a text": (lambda: visible(b"ab"), "visible: text must be a str, got bytes"),
        "no text of clusters": (lambda: clusters(None), "clusters: text must be a str, got NoneType"),
        "no text of a skeleton": (lambda: skeleton(None), "skeleton: text must be a str, got NoneType"),
        "a number as a span": (lambda: user_spans("ab", 5, "f"), "f: protect must hold strings, compiled patterns and"),
        "a number as counts": (lambda: fertility(5), "fertility: needs a list or an array of numbers, got 5."),
        "words as values": (lambda: gini(["a"]), "gini: needs a list or an array of numbers, got ['a']."),
        "nulls as counts": (
            lambda: parity([1, None], [1, 1], aggregation="ratio_of_sums"),
            "parity: needs a list or an array of numbers, got [1, None]. Pass one number each, and leave nulls out",
        ),
        "a list as a Lorenz curve": (lambda: lorenz([1.0]), "lorenz: values must be a mapping of languages to numbers"),
        "one edited text": (lambda: cut_shifts(5, "bytes"), "cut_shifts: edited must be a list of EditedText"),
        "a number as a folder": (lambda: ResultStore(5), "ResultStore: needs the path of a file or folder, got int."),
        "half a character as a folder": (lambda: ResultStore("\ud800"), "which no file can have as a name"),
        "a null in a folder's name": (lambda: ResultStore("a\0b"), "got 'a\\x00b', which no file can have as a name"),
        "a list as a name of data": (lambda: data_path([]), "data_path: name must be a text, got list"),
        "a number as a data file": (
            lambda: register_data(5, source="", licence="", made_by=""),
            "register_data: needs the path of a file or folder, got int",
        ),
        "a number as a stream": (lambda: TextReader(5), "TextReader: stream must be a TextStream, got int"),
        "half a character in a task": (
            lambda: Task("t", ["a", "\ud800"], ["b", "c"], ["q"], ["r"]),
            "Task, prompts of 't': text must have a UTF-8 form, got the lone surrogate U+D800",
        ),
        "a number as cells": (lambda: run_cells(5, ROOT), "run_cells: cells must be a list or a generator of Cell"),
        "words as cells": (lambda: write_plan(["x"], "x"), "write_plan: cells must be a list or a generator of Cell"),
        "numbers as cells": (lambda: collect([5], 5), "ResultStore: needs the path of a file or folder, got int."),
        "a word as an executor": (lambda: run_cells([], 5, executor="ray"), "run_cells: executor must be InProcess(),"),
        "no plan": (lambda: read_plan("nope"), "read_plan: needs the file of a plan, got 'nope'. Write one with"),
        "a number as results": (lambda: read_results(5), "read_results: needs the path of a file or folder, got int."),
        "no samples": (lambda: read_samples(None), "read_samples: needs the path of a file or folder, got NoneType."),
        "a number as a model": (lambda: load_lm(5), "load_lm: needs a folder or a name on the hub, got int."),
        "a number as scores": (lambda: predictions(5), "predictions: needs a polars DataFrame, got int."),
        "no scores": (lambda: rule_changes(None), "rule_changes: needs a polars DataFrame, got NoneType."),
        "no draws to compare by": (
            lambda: compare_models(unscored, no_items, seed=0, draws=0),
            "compare_models: draws must be >= 1, got 0",
        ),
        "no draws of ranks": (
            lambda: beside_published(published_accuracies(), items="other", draws=0),
            "beside_published: draws must be >= 1, got 0",
        ),
        "fewer draws than none": (
            lambda: robustness_table(published_accuracies(), "paper", draws=-1),
            "robustness_table: draws must be >= 0, got -1",
        ),
        "half a draw of columns": (
            lambda: column_drops(published_accuracies(), {"a": ["toksuite_math_latex"]}, draws=0.5),
            "column_drops: draws must be >= 0, got 0.5",
        ),
        "a prior without width": (
            lambda: partial_pooling([0.1, 0.2], np.eye(2), scale=0),
            "partial_pooling: needs finite estimates, a covariance of as many rows and columns and scale > 0, got shapes (2,) and (2, 2), scale=0",
        ),
        "no estimates to pool": (lambda: partial_pooling([], np.zeros((0, 0))), "partial_pooling: needs finite"),
        "a gap among estimates": (lambda: partial_pooling([NAN], [[1.0]]), "partial_pooling: needs finite"),
        "one feature as a text": (
            lambda: attribution(unscored, no_items, changes, features="tokens"),
            "attribution: by, within and features must be lists that name a column once, at least one feature",
        ),
        "no feature": (lambda: attribution(unscored, no_items, changes, features=()), "at least one feature"),
        "changes of no item": (
            lambda: attribution(unscored, no_items, changes.drop("item_id")),
            "attribution: frame does not match the 'changes of the cut' schema: 'item_id' is missing",
        ),
        "budgets of numpy, which are no wrong kind": (
            lambda: length_buckets([], batch_tokens=np.int64(64), batch_targets=np.int32(2), batch_size=np.int64(1)),
            "no error: []",
        ),
        "no scores to predict from": (
            lambda: predictions(score_schema.empty()),
            "predictions: needs scores and a tolerance >= 0, got 0 rows",
        ),
        "one column to part by": (
            lambda: compare_runs(score_schema.empty(), score_schema.empty(), no_items, by="lang"),
            "compare_runs: by must be a list of columns of items, got lang",
        ),
        "a number as a table": (lambda: robustness_table(5, "paper"), "robustness_table: needs a polars DataFrame"),
        "a file as accuracies": (lambda: task_drops("a.csv"), "task_drops: needs a polars DataFrame, got str."),
        "no accuracies": (
            lambda: column_drops(None, {"x": []}),
            "column_drops: needs a polars DataFrame, got NoneType",
        ),
        "accuracies in a list": (lambda: beside_published([], items="other"), "beside_published: needs a polars Data"),
        "a number as a chart": (lambda: beside_chart(5), "beside_chart: needs a polars DataFrame, got int."),
        "a frame as a comparison": (
            lambda: comparison_chart(pl.DataFrame()),
            "comparison_chart: needs a Comparison, got DataFrame. Make one with compare(tokenizers, texts).",
        ),
        "a number as a configuration": (
            lambda: train_suite(5, "x"),
            "train_suite: config must be a SuiteConfig, got int. Make one with SuiteConfig(...), or read one",
        ),
        "no configuration": (lambda: suite_corpus(None), "suite_corpus: config must be a SuiteConfig, got NoneType"),
        "a word as a configuration": (
            lambda: initial_model("x", Bytes()),
            "initial_model: config must be a SuiteConfig",
        ),
        "cells of no configuration": (
            lambda: suite_cells({}, pl.DataFrame()),
            "suite_cells: config must be a SuiteConf",
        ),
        "a number as recipes": (lambda: SuiteConfig(5), "SuiteConfig: tokenizers must be a list of recipes, got 5."),
        "one recipe": (lambda: SuiteConfig("bpe"), "SuiteConfig: tokenizers must be a list of recipes, got 'bpe'."),
        "a number as a suite": (lambda: load_suite(5), "load_suite: needs the path of a file or folder, got int."),
        "no file of a configuration": (lambda: read_config(None), "read_config: needs the path of a file or folder"),
        "a number as a task": (
            lambda: finetune(Model(), Bytes(), 5, FinetuneConfig(1e-3), n=1, seed=0),
            "finetune: task must be a Task, got int. Make one with Task(",
        ),
        "a rate as a recipe": (
            lambda: measure_curve(Model(), Bytes(), small, 1e-3, seeds=(0,)),
            "measure_curve: config must be a FinetuneConfig, got float.",
        ),
        "a number as a study": (lambda: load_study_model(5), "load_study_model: needs the path of a file or folder"),
        "no measures": (lambda: compare_predictors(None, seed=0), "compare_predictors: needs a polars DataFrame, got"),
        "a number as answers": (
            lambda: budget_effects(5, study_questions()),
            "budget_effects: needs a polars DataFrame",
        ),
        "no prior curves": (lambda: ceiling_prior(5), "ceiling_prior: needs a list of CeilingCurve, got 5."),
        "a number as a desk": (lambda: LabelingDesk(5, "x"), "LabelingDesk: needs a polars DataFrame, got int."),
        "a number as a journal": (
            lambda: LabelingDesk(pl.DataFrame({"prompt": ["a"]}), 5),
            "LabelingDesk: needs the path of a file or folder, got int.",
        ),
        "nothing labelled": (
            lambda: label_forecast(pl.DataFrame(), Model(), Bytes(), calibration="x", zero_shot=0.1, ceiling=0.9),
            "label_forecast: needs the columns 'prompt' and 'label', got [] without ['prompt', 'label'].",
        ),
        "a tokenizer of another model": (
            lambda: confidence(Model(), other, ["a"]),
            "needs a tokenizer whose tokens of text lie below the model's 259 ids, got others up to 517. Correct the prompts, or check that",
        ),
        "a seed of drops": (
            lambda: drops(unscored, no_items, seed=-1),
            "drops: seed must be a whole number >= 0, got -1",
        ),
        "a seed of a comparison": (
            lambda: compare_models(unscored, no_items, seed=0.5),
            "compare_models: seed must be a whole number >= 0, got 0.5",
        ),
        "a seed of a table": (
            lambda: robustness_table(published_accuracies(), "paper", seed="x"),
            "robustness_table: seed must be",
        ),
        "a seed of columns": (
            lambda: column_drops(published_accuracies(), {"x": []}, seed=None),
            "column_drops: seed must be a whole",
        ),
        "a seed of CoS-Low": (lambda: cos_low(whole, seed=True), "cos_low: seed must be a whole number >= 0, got True"),
        "a seed of a draw": (
            lambda: select_low_confidence(np.zeros(400), seed=-1),
            "select_low_confidence: seed must be a whole number >= 0, got -1",
        ),
        "a seed of a pool": (
            lambda: pool_order(small, seed="x"),
            "pool_order: seed must be a whole number >= 0, got 'x'",
        ),
        "a seed of a perturbation": (
            lambda: perturb("a text", "adjacent_swap", "en", seed=-1),
            "perturb: seed must be a whole number >= 0, got -1",
        ),
        "a seed of perturbed items": (
            perturbed(seed=None),
            "perturb_items: seed must be a whole number >= 0, got None",
        ),
        "a seed of metrics": (lambda: compare("bytes", ["a"], seed=1.0), "compare: seed must be a whole number >= 0"),
        "a text as bytes": (lambda: show_bytes("x"), "show_bytes: piece must be bytes, got str. Encode a text"),
        "no cells": (lambda: collect([], ROOT), "collect: needs at least one cell, got none. Pass those that"),
        "a name as a tokenizer": (
            lambda: audit_specials("bytes"),
            "audit_specials: needs a tokenizer with name, specials",
        ),
        "one text beside another": (
            lambda: side_by_side("a text", "uppercase", seed=0),
            "side_by_side: texts must be a mapping of languages to texts, got str.",
        ),
        "a word as items": (
            lambda: minimum_detectable_drop("x"),
            "minimum_detectable_drop: needs a whole number n >= 1",
        ),
        "words as p-values": (lambda: holm(["x"]), "holm: p-values must lie in [0, 1], got ['x']. Leave out tests"),
        "a list as a measured curve": (lambda: crossing([0.1], 0.1), "crossing: curve must be a mapping of budgets to"),
        "no configuration there": (
            lambda: read_config("nope"),
            "read_config: needs the file of a configuration, got 'nope'",
        ),
        "a number as a tokenizer's name": (
            lambda: load_tokenizer("bytes", 5),
            "load_tokenizer: name must be a str or None",
        ),
        "a word as ids": (
            lambda: load_tokenizer("bytes").decode("x"),
            "decode: ids must be a list of whole numbers, got str 'x' from 'bytes'. Pass ids as encode gives them.",
        ),
        "a number as tokenizers": (lambda: super_vocabulary(5), "super_vocabulary: needs a name, a path or an object"),
        "a number to compare": (lambda: compare(5, ["a"], seed=0), "compare: needs a name, a path or an object"),
        "an unknown name to compare": (lambda: compare(["nope"], ["a"], seed=0), "compare: unknown tokenizer 'nope'"),
        "a word as a row length": (
            lambda: pack([[1]], "x"),
            "pack: context must be a whole number of at least 1, got 'x'",
        ),
        "numbers as documents": (lambda: pack([1], 8), "pack: documents must be a list of lists of token ids, got [1]"),
        "no schedule": (lambda: step_learning_rate(None, 0), "step_learning_rate: config must be a SuiteConfig"),
        "no documents to read": (
            lambda: list(step_documents(None, [1])),
            "step_documents: config must be a SuiteConfig",
        ),
        "a number as loaded": (lambda: SuiteConfig(loaded=5), "SuiteConfig: loaded must be a mapping of names"),
        "no steps between checkpoints": (
            lambda: train_suite(SuiteConfig(), "x", every=0),
            "train_suite: every must be a whole number of at least 1, got 0",
        ),
        "a text as edits": (
            lambda: choose_edits("abc", "abc", np.random.default_rng(0), 1.0, "none"),
            "choose_edits: places must be a list of edits, got NoneType",
        ),
        "a number as an edit": (
            lambda: nested_sample("abc", [3], np.random.default_rng(0), 1.0),
            "nested_sample: candidates must be a list of edits, got [3]",
        ),
        "no generator": (lambda: sample_places(3, None, 1.0), "sample_places: severity and most must be numbers"),
        "a number as names": (
            lambda: perturb_items(items, 5, seed=0),
            "perturb_items: names must be a perturbation or a list",
        ),
        "a text as rewritings": (
            lambda: compile_rewritings("ab"),
            "compile_rewritings: rules must be pairs of a pattern",
        ),
        "a folder of layouts": (
            lambda: read_xkb(5, "tr(basic)"),
            "read_xkb: needs the path of a file or folder, got int",
        ),
        "an unknown language": (
            lambda: scan_confusions("xx"),
            "scan_confusions: lang must be a known language, got 'xx'",
        ),
        "a pair without a form": (
            lambda: phrase_table("a=b; c"),
            "phrase_table: each pair must be phrase=form, got 'c'",
        ),
        "two letters": (lambda: math_letter("ab", "BOLD"), "math_letter: letter must be one ASCII letter or digit"),
        "a number as a numeral": (lambda: spoken_number(5, "en"), "spoken_number: numeral must be a str, got int"),
        "a fraction that has no words": (
            lambda: fraction_words(1, 11, "en"),
            "fraction_words: denominator must be a whole",
        ),
        "month 13": (
            lambda: date_forms(2020, 13, 1, "en"),
            "date_forms: month must be a whole number from 1 to 12, got 13",
        ),
        "a number as an expression": (lambda: to_latex(5), "to_latex: expression must be a str, got int"),
        "a text as an edited one": (lambda: edits_html("a"), "edits_html: edited must be an EditedText, got str"),
        "no edited text": (
            lambda: before_after_html(None),
            "before_after_html: edited must be an EditedText, got NoneType",
        ),
        "no scene": (lambda: render_scene(3, {}), "render_scene: scene must be a Scene, got int"),
        "no trial": (lambda: render_trial(3, {}), "render_trial: trial must be a Trial, got int"),
        "a name for a loaded tokenizer": (
            lambda: render_scene(Scene("a", "en"), {"bytes": "bytes"}),
            "render_scene: tokenizers must be a mapping of names to what load_tokenizer returns, got str",
        ),
        "a number as tokenizers to explore": (
            lambda: TokenizerExplorer(5),
            "TokenizerExplorer: needs a name, a path or",
        ),
        "no journal": (lambda: replay(5), "replay: lines must be the lines of a journal, got 5"),
        "one name to colour": (
            lambda: tokenizer_colours("abc"),
            "tokenizer_colours: names must be a list of names, got 'abc'",
        ),
        "a number's direction": (lambda: text_direction(5), "text_direction: text must be a str, got int"),
        "one text for prompts and answers": (
            lambda: examples_from_text("bytes", "ab", ["a", "b"]),
            "prompts must be a sequence of strings, got 'ab'",
        ),
    }


def answer(call: Callable[[], Any]) -> str:
    try:
        return f"no error: {call()!r}"
    except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
        return str(error)


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=env, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("name", "part"), [pytest.param(name, part, id=name) for name, (_, part) in calls().items()])
def test_wrong_kinds_are_named(name, part, answers):
    assert part in answers[name]


def test_advice_belongs_to_the_argument_that_is_wrong(answers):
    names = ("no variants", "no workers", "an unknown target", "a number to protect", "a perturbation twice")
    assert not [name for name in names if "canonical items" in answers[name]]


if __name__ == "__main__":
    print(json.dumps({name: answer(call) for name, (call, _) in calls().items()}))
