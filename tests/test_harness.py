"""Against lm-eval itself: the same log-likelihoods, accuracies and files, and where its rule scores another text than was asked for."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from toksuite_nb.harness import (
    _sample,
    compare_runs,
    export_tasks,
    group_totals,
    read_results,
    read_samples,
    run_tasks,
)
from toksuite_nb.items import load_benchmark, make_items
from toksuite_nb.score import predictions, score
from toksuite_nb.suite import load_suite
from toksuite_nb.tokenizer import load_tokenizer

for name in ("transformers", "lm_eval", "datasets"):
    logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def lm_eval():
    return pytest.importorskip("lm_eval", reason="lm-eval is in the extra `harness`")


def theirs(model, tokenizer, items, batch_size=64):
    "lm-eval's own log-likelihood of every option."
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    asked = [
        Instance("loglikelihood", {}, (question, between + choice), 0)
        for question, choices, between in items.select("question", "choices", "delimiter").rows()
        for choice in choices
    ]
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    return np.array([value for value, _ in lm.loglikelihood(asked, disable_tqdm=True)]), lm


def lm_evals_answers(items, values):
    "(acc, acc_norm) of every item as lm-eval's multiple-choice task computes them: first maximum, code points."
    answers, at = [], 0
    for choices, gold in items.select("choices", "answer").rows():
        own, at = values[at : at + len(choices)], at + len(choices)
        answers.append((np.argmax(own) == gold, np.argmax(own / np.array([float(len(c)) for c in choices])) == gold))
    return np.array(answers)


def test_rule_lm_eval_is_lm_evals_loglikelihood_for_every_model_and_embedded_item(lm_eval):
    items = load_benchmark("embedded")
    for name, own in load_suite().items():
        values, _ = theirs(own.model, tf.AutoTokenizer.from_pretrained(own.folder), items)
        scores = score(own.model, own.tokenizer, items, "lm_eval", bos=False, show_progress=False)
        apart = np.abs(scores["loglikelihood"].to_numpy() - values).max()
        assert apart < 1e-4, f"{name}: {apart:.1e} nats from lm-eval"
        found = predictions(scores, norm=("sum", "char")).join(items.select("item_id", "answer"), on="item_id")
        right = found.with_columns(right=pl.col("prediction") == pl.col("answer")).pivot(
            "norm", index="item_id", values="right"
        )
        right = items.select("item_id").join(right, on="item_id", maintain_order="left")
        assert (right.select("sum", "char").to_numpy() == lm_evals_answers(items, values)).all(), (
            f"{name}: other verdicts"
        )


@pytest.mark.parametrize("adds", [False, True], ids=["has BOS", "adds BOS"])
def test_lm_evals_numbers_need_bos_false_where_the_tokenizer_has_a_bos_that_it_does_not_add(lm_eval, bpe, adds):
    raw = Backend.from_file(str(bpe.folder / "tokenizer.json"))
    bos = bpe.tokenizer.specials["bos"]
    token = raw.id_to_token(bos)
    if adds:
        raw.post_processor = processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, bos)])
    fast = tf.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=token, eos_token=token, pad_token=token)
    own, items = load_tokenizer(fast, name="own"), load_benchmark("embedded", domain="math")
    values, _ = theirs(bpe.model, fast, items)
    assert own.wrapping == ([bos] if adds else [], [])

    def apart(**how):
        scores = score(bpe.model, own, items, "lm_eval", show_progress=False, **how)
        return np.abs(scores["loglikelihood"].to_numpy() - values).max()

    same, other = (apart(), apart(bos=False)) if adds else (apart(bos=False), apart())
    assert same < 1e-4 and other > 0.1


@pytest.fixture(scope="module")
def bpe():
    return load_suite(names=["bpe"])["bpe"]


def test_marks_after_a_question_go_where_lm_eval_puts_them(lm_eval, bpe):
    marks = {"\u00a0": True, "\u2009": True, "\u3000": True, "\n": True}
    marks |= dict.fromkeys("\u200c\u200d\u200b\ufeff\u00ad", False)
    items = quiz(
        [{"item_id": f"{ord(m)}", "question": f"The sky is{m}", "choices": ["blue", "red"]} for m in marks]
    ).with_columns(delimiter=pl.lit(" "))
    assert items["question"].to_list() == [f"The sky is{m}" for m in marks]
    values, lm = theirs(bpe.model, tf.AutoTokenizer.from_pretrained(bpe.folder), items)
    found = score(bpe.model, bpe.tokenizer, items, "lm_eval", bos=False, strip=False, show_progress=False)
    assert np.abs(found["loglikelihood"].to_numpy() - values).max() < 1e-4
    for mark, moves in marks.items():
        context, continuation = lm._encode_pair(f"The sky is{mark}", " blue")
        own = found.filter(item_id=f"{ord(mark)}", choice=0).row(0, named=True)
        assert (own["n_context"], own["n_tokens"]) == (len(context), len(continuation))
        assert (context == lm.tok_encode("The sky is")) == moves


def written(lm_eval, own, folder, tasks, out):
    "An lm-eval run with its own files on disk."
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tracker = EvaluationTracker(output_path=str(out))
    lm = HFLM(pretrained=own.model, tokenizer=tf.AutoTokenizer.from_pretrained(own.folder), batch_size=32)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    ran = lm_eval.simple_evaluate(
        lm, tasks=tasks, task_manager=manager, log_samples=True, bootstrap_iters=0, evaluation_tracker=tracker
    )
    samples = ran.pop("samples")
    tracker.save_results_aggregated(results=ran, samples=samples)
    for task, lines in samples.items():
        tracker.save_results_samples(task_name=task, samples=lines)
    return ran


def test_exported_tasks_give_the_same_accuracies_both_ways(lm_eval, bpe, tmp_path):
    everything = load_benchmark("embedded", variants=True)
    some = everything.filter(pl.col("reason").is_null(), pl.col("domain") != "cldr")
    sets = some["set_id"].unique(maintain_order=True).gather_every(6)
    items = some.filter(pl.col("set_id").is_in(sets.implode()))
    assert items["perturbation"].n_unique() > 5 and items["lang"].n_unique() == 5
    table = export_tasks(items, tmp_path / "tasks", prefix="emb")
    assert table["n"].sum() == items.height
    ran = written(lm_eval, bpe, tmp_path / "tasks", ["emb"], tmp_path / "out")

    run = read_samples(tmp_path / "out", model="bpe")
    assert run.checks["agrees"].all() and run.problems.is_empty()
    ours = score(bpe.model, bpe.tokenizer, items, "lm_eval", bos=False, show_progress=False)
    compared = compare_runs(ours, run.scores, items)
    assert compared["changed"].to_list() == [0, 0] and compared["max_difference"].max() < 1e-4
    same = [
        "item_id",
        "set_id",
        "canonical_id",
        "lang",
        "domain",
        "perturbation",
        "question",
        "choices",
        "answer",
        "delimiter",
    ]
    assert run.items.select(same).sort("item_id").equals(items.select(same).sort("item_id")), (
        "an item came back changed"
    )

    results = read_results(tmp_path / "out")
    told = {
        (task, metric): value
        for task, metric, value in results.filter(kind="task").select("task", "metric", "value").rows()
    }
    for (task,), part in run.checks.group_by("task"):
        for (metric,), marks in part.group_by("metric"):
            assert told[task, metric] == pytest.approx(marks["recomputed"].mean(), abs=1e-12)
    assert dict(results.filter(kind="task").select("task", "n").rows()) == dict(table.select("task", "n").rows())
    totals = group_totals(results)
    groups = dict(totals.select("group", "n").rows())
    assert len(groups) > 2 and groups["emb"] == items.height, "the group of groups holds every item"
    assert totals["agrees"].fill_null(False).all()
    assert set(results["canonical_task"].drop_nulls()) <= set(table["task"])
    assert ran["results"].keys() >= set(table["task"])


def test_a_wrong_total_of_a_group_of_groups_is_seen(tmp_path):
    run = {
        "results": {"a": {"acc,none": 1.0}, "b": {"acc,none": 0.25}, "c": {"acc,none": 0.5}},
        "groups": {"all": {"acc,none": 0.45}, "some": {"acc,none": 0.4}},
        "group_subtasks": {"all": ["some", "bare"], "some": ["a", "b"], "bare": ["c", "b"]},
        "n-samples": {"a": {"effective": 1}, "b": {"effective": 4}, "c": {"effective": 5}},
    }
    file = tmp_path / "results_1.json"
    for total, agrees in ((0.45, True), (0.5, False)):  # (1 * 1 + 4 * 0.25 + 5 * 0.5) / 10
        run["groups"]["all"]["acc,none"] = total
        file.write_text(json.dumps(run))
        results = read_results(file)
        told = dict(results.filter(kind="group").select("task", "n").rows())
        assert told == {"all": 10, "some": 5}, (
            "a group in the file that has no total of its own counts too, a task once"
        )
        assert results.filter(task="all")["tasks"].to_list() == [["a", "b", "c"]]
        totals = group_totals(results)
        assert totals["recomputed"].to_list() == pytest.approx([0.45, 0.4])
        assert totals["agrees"].to_list() == [agrees, True]
    circle = run | {"group_subtasks": {"all": ["some"], "some": ["all", "a"]}}
    file.write_text(json.dumps(circle))
    assert read_results(file).filter(task="all")["tasks"].to_list() == [["a"]]


def results_file(path, model, scores, items=(10, 30), shift=0.0):
    "A result file of two tasks under two filters, with the right totals."
    values = [(f, [score + k * shift for score in scores]) for k, f in enumerate(("strict", "loose"))]
    of = {task: {f"acc,{f}": v[i] for f, v in values} for i, task in enumerate("ab")}
    total = {f"acc,{f}": (10 * v[0] + 30 * v[1]) / 40 for f, v in values}
    counts = {task: {"effective": n} for task, n in zip("ab", items, strict=True) if n}
    run = {"results": of | {"both": total}, "groups": {"both": total}, "group_subtasks": {"both": ["a", "b"]}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run | {"n-samples": counts, "config": {"model_args": f"pretrained={model}"}}))


def test_totals_keep_filters_models_and_files_of_one_name_apart(tmp_path):
    for model, scores in (("one", (0.5, 0.25)), ("two", (0.1, 0.25))):
        results_file(tmp_path / model / "results_arc.json", model, scores, shift=0.2)
    results = read_results(tmp_path)
    assert results["file"].unique().sort().to_list() == ["one/results_arc.json", "two/results_arc.json"]
    apart = [read_results(tmp_path / model) for model in ("one", "two")]
    assert apart[0]["file"].unique().to_list() == ["results_arc.json"]
    for totals in (group_totals(results), group_totals(pl.concat(apart))):
        assert totals.select("filter", "n").rows() == [("strict", 40), ("loose", 40)] * 2
        assert totals["recomputed"].to_list() == pytest.approx([0.3125, 0.5125, 0.2125, 0.4125])
        assert totals["agrees"].all()


def test_a_total_over_tasks_of_unknown_size_is_not_recomputed(tmp_path):
    results_file(tmp_path / "results_1.json", "m", (0.5, 0.25), items=(10, None))
    totals = group_totals(read_results(tmp_path))
    assert totals.select("n", "recomputed", "agrees").rows() == [(None, None, None)] * 2


def test_a_run_that_lies_there_twice_is_refused_and_the_newest_is_told_by_its_file_not_by_its_folder(tmp_path):
    for folder, day, value in (("2025-09-20T10-00-00", 1, 0.5), ("2025-09-19T10-00-00", 2, 0.25)):
        results_file(tmp_path / folder / f"results_2025-10-0{day}T10-00-00.1.json", "m", (value, value))
        write(tmp_path / folder, "t", [line(0, filtered_resps=[[f"-{day}", "x"]] * 3)], f"2025-10-0{day}T10-00-00.1")
    assert read_results(tmp_path, duplicates="newest").filter(kind="task")["value"].unique().to_list() == [0.25]
    assert read_samples(tmp_path, model="m", duplicates="newest").scores["loglikelihood"].unique().to_list() == [-2.0]
    for folder in ("first", "copy"):
        results_file(tmp_path / "twice" / folder / "results_1.json", "m", (0.5, 0.25))
    with pytest.raises(ValueError, match=r"got a in copy/results_1\.json and first/results_1\.json"):
        read_results(tmp_path / "twice")


def changed(one, other):
    both = one.join(other, on=["item_id", "choice"])
    return both.filter(pl.col("loglikelihood") != pl.col("loglikelihood_right"))["item_id"].to_list()


def quiz(rows):
    base = {"lang": "en", "answer": 0}
    return make_items([base | row for row in rows], name="quiz")


@pytest.mark.parametrize("strip", [True, False])
def test_dates_spaces_delimiters_and_ragged_options_survive_the_round_trip(lm_eval, bpe, tmp_path, strip):
    items = quiz(
        [
            {
                "item_id": "day",
                "question": "2020-01-01",
                "choices": ["2020-01-02", "2019-12-31", "1999-05-04T00:00:00"],
                "perturbation": "dates",
            },
            {"item_id": "space", "question": " The sky is  ", "choices": ["blue", "red"], "perturbation": "spacing"},
            {
                "item_id": "none",
                "question": "天空是",
                "choices": ["蓝", "红", "绿", "灰的"],
                "lang": "zh",
                "delimiter": "",
            },
            {"item_id": "one", "question": "天空是", "choices": ["蓝", "红色"], "lang": "zh", "delimiter": " "},
            {
                "item_id": "odd/name: *",
                "question": "a {{ b }} {% c %}",
                "choices": ["'x'", '"y"'],
                "perturbation": "odd name: [*]",
            },
        ]
    )
    table = export_tasks(items, tmp_path, prefix="odd", strip=strip)
    assert table["task"].n_unique() == 5, "two delimiters of one subset need two tasks"
    assert [file.rpartition(".")[2] for file in table["file"]] == ["parquet", *["jsonl"] * 4], "only dates need parquet"
    run = run_tasks(bpe.model, tf.AutoTokenizer.from_pretrained(bpe.folder), tmp_path, name="bpe")
    same = ["item_id", "perturbation", "question", "choices", "answer", "delimiter"]
    assert run.items.select(same).sort("item_id").rows() == items.select(same).sort("item_id").rows()
    ours = score(bpe.model, bpe.tokenizer, items, "lm_eval", bos=False, strip=strip, show_progress=False)
    compared = compare_runs(ours, run.scores, items)
    assert compared["changed"].to_list() == [0, 0] and compared["max_difference"].max() < 1e-4
    other = score(bpe.model, bpe.tokenizer, items, "lm_eval", bos=False, strip=not strip, show_progress=False)
    assert set(changed(ours, other)) == {"space"}, "white space at the ends of a question is the only difference"


def llama(vocab_size):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = tf.LlamaConfig(
            vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
        )
        return tf.LlamaForCausalLM(tf.LlamaConfig(**(config.to_dict() | {"initializer_range": 0.3}))).eval()


def test_where_a_closing_token_is_appended_lm_evals_rule_ties_all_options_and_exact_does_not(lm_eval):
    words = {
        w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "sky", "is", "blue", "red", "green"])
    }
    raw = Backend(models.WordPiece(vocab=words, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = tf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
    )
    items, model = (
        quiz([{"item_id": "sky", "question": "the sky is", "choices": ["blue", "red", "green"]}]),
        llama(len(words)),
    )
    values, lm = theirs(model, fast, items)
    context, continuation = lm._encode_pair("the sky is", " red")
    assert (context[-1], continuation) == (3, [3]), "lm-eval reads the question with [SEP] and scores [SEP] alone"
    fed = [lm._encode_pair("the sky is", f" {choice}") for choice in items["choices"][0]]
    assert len({(tuple(c), tuple(k)) for c, k in fed}) == 1, "every option gives the same request"
    assert np.ptp(values) < 1e-6, "and so the same score"
    scores = score(model, load_tokenizer(raw, name="wordpiece"), items, bos=False, show_progress=False)
    assert scores["loglikelihood"].n_unique() == 3
    assert scores["n_tokens"].to_list() == [1, 1, 1]


def test_where_a_token_spans_the_join_lm_evals_rule_scores_another_text_and_exact_the_text_asked_for(lm_eval):
    raw = Backend(models.BPE())
    raw.pre_tokenizer, raw.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["</s>"],
        show_progress=False,
    )
    raw.train_from_iterator(
        ["the colour of the sky is blue", "the colour of the grass is green", "il colore del cielo è blu"] * 20, trainer
    )
    tokenizer = load_tokenizer(raw, name="across")
    items = quiz(
        [
            {"item_id": "sky", "question": "the colour of the sky is", "choices": ["blue", "green", "red"]},
            {"item_id": "grass", "question": "the colour of the grass is", "choices": ["green", "grey", "blue"]},
        ]
    )
    fast = tf.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="</s>")
    model = llama(tokenizer.vocab_size)
    _, lm = theirs(model, fast, items.with_columns(choices=pl.col("choices").list.head(0)))
    wrong = []
    for question, choices in items.select("question", "choices").rows():
        for choice in choices:
            _, continuation = lm._encode_pair(question, f" {choice}")
            scored = b"".join(tokenizer.pieces[i] for i in continuation)
            wrong.append(scored != f" {choice}".encode())
    assert sum(wrong) >= 3, "lm-eval's rule drops or repeats text for a tokenizer that merges across spaces"
    scores = score(model, tokenizer, items, bos=raw.token_to_id("</s>"), show_progress=False)
    for item_id, choice, n_tokens, tail in scores.select("item_id", "choice", "n_tokens", "tail_bytes").rows():
        row = items.row(by_predicate=pl.col("item_id") == item_id, named=True)
        ids = tokenizer.encode([f"{row['question']} {row['choices'][choice]}"])[0]
        scored = b"".join(tokenizer.pieces[i] for i in ids[len(ids) - n_tokens :])
        question = row["question"].encode()
        assert scored == question[len(question) - tail :] + f" {row['choices'][choice]}".encode()
    assert scores.group_by("item_id").agg(pl.col("tail_bytes").n_unique())["tail_bytes"].to_list() == [1, 1]


def line(doc_id=0, k=3, **changes):
    choices = ["blue", "dark red", "green", "grey"][:k]
    sample = {
        "doc_id": doc_id,
        "doc": {"id": f"30{doc_id}", "question": "The sky is", "choices": choices, "answer": 0, "set_id": 300 + doc_id},
        "target": "0",
        "arguments": {f"gen_args_{i}": {"arg_0": "The sky is", "arg_1": f" {c}"} for i, c in enumerate(choices)},
        "resps": [[[str(-2.0 - i), "False"]] for i in range(k)],
        "filtered_resps": [[str(-2.0 - i), "False"] for i in range(k)],
        "acc": 1.0,
        "acc_norm": 0.0,
    }
    return {key: value for key, value in (sample | changes).items() if value is not ...}


def write(folder, task, lines, time="2025-09-19T10-00-00.123456"):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"samples_{task}_{time}.jsonl"
    file.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    return file


def test_older_task_names_and_missing_keys_are_understood(tmp_path):
    old = "tokenizer_robustness_completion_turkish_"
    bare = line(arguments=..., resps=..., acc=..., acc_norm=..., target=...)
    write(tmp_path / "r-three__model", old + "canonical", [line(0), line(1)])
    write(tmp_path / "r-three__model", old + "colloquial", [line(0, filtered_resps=...), bare | {"doc_id": 1}])
    run = read_samples(tmp_path)
    assert run.scores["model"].unique().to_list() == ["r-three__model"]
    assert run.items.select("lang", "perturbation").unique(maintain_order=True).rows() == [
        ("tr", "canonical"),
        ("tr", "colloquial"),
    ]
    perturbed = run.items.filter(perturbation="colloquial")
    canonical = dict(run.items.filter(perturbation="canonical").select("set_id", "item_id").rows())
    assert perturbed["canonical_id"].to_list() == [canonical[s] for s in perturbed["set_id"]]
    assert run.items["item_id"].n_unique() == 4, "the same id in two tasks must stay two items"
    assert run.checks.filter(pl.col("stored").is_null()).height == 2


@pytest.mark.parametrize(
    ("name", "lang", "domain"),
    [("english", "en", "general"), ("farsi", "fa", "general"), ("italian", "it", "general"), ("turkish", "tr", "general"),
     ("chinese", "zh", "general"), ("math", "en", "math"), ("stem", "en", "stem")],
)  # fmt: skip
def test_a_tasks_name_says_set_and_subset(tmp_path, name, lang, domain):
    run = read_samples(write(tmp_path, f"toksuite_{name}_ocr_errors", [line(0)]))
    assert run.items.select("lang", "domain", "perturbation").row(0) == (lang, domain, "ocr_errors")


def test_what_a_sample_says_is_read_from_its_own_place(tmp_path):
    choices = ["mavi", "kırmızı", "天空"]
    tight = {f"gen_args_{i}": {"arg_0": "Gök", "arg_1": c} for i, c in enumerate(choices)}
    doc = {"id": 301.0, "question": "Gök", "choices": choices, "answer": 0}
    again = line(
        0, doc=doc | {"id": "301.5"}, arguments=tight, filtered_resps=..., resps=[[["-1.5", "x"], ["-9", "x"]]] * 3
    )
    run = read_samples(write(tmp_path, "t", [line(0, doc=doc, arguments=tight), again]))
    assert run.items["item_id"].to_list() == ["301", "301.5"], "only what is a whole number loses its point"
    assert run.items["delimiter"].unique().to_list() == [""] == run.scores["delimiter"].unique().to_list()
    assert run.scores.head(3).select("n_chars", "n_bytes").rows() == [(4, 4), (7, 10), (2, 6)]
    assert run.scores.tail(3)["loglikelihood"].to_list() == [-1.5] * 3, "the first of several answers"


def test_a_result_file_is_read_field_by_field(tmp_path):
    figures = {"alias": "a", "sample_len": 9, "acc,none": 0.75, "acc_stderr,none": 0.125, "acc,loose": "0.5"}
    run = {
        "results": {"a": figures}, "config": {"model_args": {"pretrained": "lab/m1/", "tokenizer": "other/t1"}},
        "configs": {"a": {"metadata": {"canonical_task": "c"}}}, "n-samples": {"a": {"original": 9, "effective": 4}},
        "versions": {"a": 1.5}, "n-shot": {"a": 5}, "lm_eval_version": "0.4.13",
    }  # fmt: skip
    (tmp_path / "results_1.json").write_text(json.dumps(run))
    same = ("results_1.json", "m1", "t1", "a", "task", "c", "acc")
    about = (4, None, 5, "1.5", "0.4.13")
    assert read_results(tmp_path).rows() == [(*same, "none", 0.75, 0.125, *about), (*same, "loose", 0.5, None, *about)]


def test_two_runs_by_hand():
    items = make_items(
        [{"id": i, "question": "q", "choices": ["aa", "b", "cccc"], "answer": 0, "lang": "en"} for i in "xyz"], name="q"
    )
    values = {"ours": [-4, -3, -9, -1, -2, -3, -5, -5.5, -6], "theirs": [-4, -5, -4.5, -2, -1, -3, -9, -5, -6]}
    ours, theirs = (
        pl.DataFrame(
            {"model": "m", "tokenizer": "t", "item_id": items["item_id"].repeat_by(3).explode(), "choice": [0, 1, 2] * 3, "loglikelihood": v,
             "n_tokens": 1, "n_chars": [2, 1, 4] * 3, "n_bytes": [2, 1, 4] * 3, "rule": "exact", "boundary": "clean"},
            schema_overrides={"loglikelihood": pl.Float64, "choice": pl.Int64, "n_tokens": pl.Int64, "n_chars": pl.Int64, "n_bytes": pl.Int64},
        )
        for v in values.values()
    )  # fmt: skip
    # sum: ours 1 0 0, theirs 0 1 1; per character: ours 0 0 2 (-2 -3 -2.25, -.5 -2 -.75, -2.5 -5.5 -1.5), theirs 2 2 2
    found = {metric: row for metric, *row in compare_runs(ours, theirs, items).rows()}
    assert found["acc"] == [3, 2 / 3, 1 / 3, 3, 4.5]
    assert found["acc_norm"] == [3, 2 / 3, 0.0, 2, 4.5]
    wrong = items.with_columns(answer=pl.lit(2, pl.Int64))
    assert compare_runs(ours, theirs, wrong).filter(metric="acc")["changed"].to_list() == [3], "from wrong to wrong too"


def test_a_task_counts_its_items_and_its_canonical_task_is_that_of_most_of_them(tmp_path):
    rows = [("c1", "c1", "canonical", "en"), ("c2", "c2", "canonical", "en"), ("c3", "c3", "canonical", "tr")]
    rows += [(f"v{i}", c, "shout", "en") for i, c in enumerate(("c3", "c1", "c2", "c2"))]
    base = {"question": "q", "choices": ["a", "b"], "answer": 0, "domain": "general", "set_id": "s"}
    keys = ("item_id", "canonical_id", "perturbation", "lang")
    items = make_items([base | dict(zip(keys, row, strict=True)) for row in rows], name="q")
    table = export_tasks(items, tmp_path, prefix="p").filter(task="p_general_en_shout")
    assert table.select("canonical_task", "n").row(0) == ("p_general_en_canonical", 4)
    said = (tmp_path / "p_general_en_shout.yaml").read_text()
    assert '"canonical_task": "p_general_en_canonical"' in said and '"num_samples": 4' in said


def test_a_context_free_pass_is_read_as_unconditional():
    values = [[str(-1.0 - i), "False"] for i in range(6)]
    read = _sample(line(filtered_resps=values), "t")
    assert (read["values"], read["alone"]) == ([-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0])


def test_options_are_the_ones_that_were_scored():
    letters = {f"gen_args_{i}": {"arg_0": "Q\nA. blue\nAnswer:", "arg_1": f" {c}"} for i, c in enumerate("ABC")}
    assert _sample(line(arguments=letters), "t")["choices"] == ["A", "B", "C"], (
        "letters were asked for, not what they name"
    )
    doc = line()["doc"]
    named = doc | {"choices": {"text": doc["choices"], "label": ["A", "B", "C"]}}
    assert _sample(line(doc=named), "t")["choices"] == doc["choices"], "the document keeps them under names of its own"
    alone = {f"gen_args_{i + 3}": {"arg_0": "", "arg_1": f" {c}"} for i, c in enumerate(doc["choices"])}
    values = [[str(-1.0 - i), "False"] for i in range(6)]
    read = _sample(line(doc=named, arguments=line()["arguments"] | alone, filtered_resps=values), "t")
    assert (read["choices"], read["alone"]) == (doc["choices"], [-4.0, -5.0, -6.0])


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("{", "Expecting property name"),
        ("[1]", "has no 'doc'"),
        (line(filtered_resps=[["-1", "True"]]), "needs one log-likelihood per option, got 1 for 3"),
        (line(filtered_resps=[["-1", "True"], ["nan", "True"], ["-1", "True"]]), "must be a number <= 0, got 'nan'"),
        (line(filtered_resps=[["-1"], ["oops"], ["-1"]]), "got 'oops'"),
        (line(target="3"), "target must be the index of an option, got '3' for 3 options"),
        (line(target="blue"), "got 'blue'"),
        (line(filtered_resps=..., resps=...), "has no 'resps'"),
        (
            line(doc={"question": "q", "choices": ["a", ""], "answer": 0}, filtered_resps=[["-1"], ["-2"]]),
            "two non-empty options",
        ),
    ],
)
def test_a_bad_line_is_named_and_the_good_ones_survive_where_asked(tmp_path, bad, problem):
    file = write(tmp_path, "toksuite_english_canonical", [line(0), bad, line(2)])
    with pytest.raises(ValueError, match=r"got 1 of 3 that are not: samples_\S+ line 2: ") as caught:
        read_samples(file)
    assert problem in str(caught.value) and "refuse=False" in str(caught.value)
    run = read_samples(file, refuse=False)
    assert run.items["item_id"].to_list() == ["300", "302"] and run.scores.height == 6
    assert run.problems.select("line").rows() == [(2,)] and problem in run.problems["problem"][0]


def test_a_stated_accuracy_that_does_not_follow_is_seen(tmp_path):
    run = read_samples(write(tmp_path, "t", [line(0), line(1, acc=0.0)]))
    assert run.checks.filter(~pl.col("agrees")).select("item_id", "metric", "stored", "recomputed").rows() == [
        ("301", "acc", 0.0, 1.0)
    ]


def test_runs_with_gaps_and_items_that_stand_twice_are_not_compared(tmp_path):
    run = read_samples(write(tmp_path, "t", [line(0), line(1)]))
    assert compare_runs(run.scores, run.scores, run.items, by=("lang",))["n"].to_list() == [2, 2]
    first = run.items["item_id"][0]
    gap = pl.when(pl.col("item_id") != first).then("loglikelihood").alias("loglikelihood")
    for theirs, items, said in (
        (run.scores.with_columns(gap), run.items, f"no log-likelihood for \\['{first}'\\]"),
        (run.scores, run.items[1:], f"no item, or several, for \\['{first}'\\]"),
        (run.scores, pl.concat([run.items, run.items[:1]]), f"no item, or several, for \\['{first}'\\]"),
    ):
        with pytest.raises(ValueError, match=f"compare_runs: every option needs a log-likelihood .* got {said}"):
            compare_runs(run.scores, theirs, items)


def test_a_task_that_was_run_twice_is_refused_with_both_files_named(tmp_path):
    write(tmp_path, "t", [line(0)], "2025-09-19T10-00-00.1")
    write(tmp_path, "t", [line(0, filtered_resps=[["-9", "x"], ["-8", "x"], ["-7", "x"]])], "2025-09-20T10-00-00.1")
    with pytest.raises(ValueError, match=r"t in \S+2025-09-19\S+ and \S+2025-09-20\S+\. Pass duplicates='newest'"):
        read_samples(tmp_path)
    assert read_samples(tmp_path, duplicates="newest").scores["loglikelihood"].to_list() == [-9.0, -8.0, -7.0]
    assert read_samples(tmp_path, duplicates="oldest").scores["loglikelihood"].to_list() == [-2.0, -3.0, -4.0]


def test_nothing_to_read_is_a_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"read_samples: needs a file samples_\*\.jsonl"):
        read_samples(tmp_path)
    (tmp_path / "results_x.json").write_text('{"groups": {}}')
    with pytest.raises(ValueError, match=r"results_x\.json: has no 'results'"):
        read_results(tmp_path)


def test_the_module_imports_without_lm_eval_and_says_how_to_install_it():
    code = (
        "import sys; from toksuite_nb.harness import run_tasks\n"
        "print('lm_eval' in sys.modules); sys.modules['lm_eval'] = None\n"
        "try: run_tasks(None, None, '.')\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.startswith("False\n"), f"importing the module brings lm_eval, or fails: {run.stderr}"
    assert "run_tasks: needs lm-eval 0.4.13" in run.stdout and "pip install 'toksuite_nb[harness]'" in run.stdout
