"""Scoring rules against hand-made forwards and real tokenizers; malformed input; equal results for any batch."""

from __future__ import annotations

import copy
from typing import get_args

import numpy as np
import polars as pl
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer as Backend
from tokenizers import decoders as backend_decoders
from tokenizers import models, pre_tokenizers, processors, trainers

from toksuite_nb.core import check_frame, item_schema, score_schema
from toksuite_nb.items import load_benchmark
from toksuite_nb.lm import LM, load_lm
from toksuite_nb.robustness import verdicts
from toksuite_nb.score import (
    Rule,
    audit_specials,
    choice_scores,
    predictions,
    rule_changes,
    score,
    score_rules,
    split_options,
)
from toksuite_nb.suite import load_suite
from toksuite_nb.tokenizer import load_tokenizer

CORPUS = [
    "the colour of the sky is blue",
    "the colour of the grass is green",
    "the capital of Italy is Rome",
    "gökyüzünün rengi mavi",
    "il colore del cielo è blu",
    "天空的颜色是蓝色",
    "رنگ آسمان آبی است",
] * 20


def bpe(across_spaces: bool, closing: bool = False):
    backend = Backend(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across_spaces)
    backend.decoder = backend_decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    if closing:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return backend


def llama(vocab_size=420, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tf.LlamaForCausalLM(
            tf.LlamaConfig(
                vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
            )
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make(rows):
    base = {
        "lang": "en",
        "domain": "toy",
        "category": "toy",
        "perturbation": "canonical",
        "answer": 0,
        "delimiter": " ",
        "source": "test",
    }
    full = [base | {"set_id": row["item_id"], "canonical_id": row["item_id"]} | row for row in rows]
    return pl.DataFrame(full, schema={c.name: c.dtype for c in item_schema.columns})


ITEMS = make(
    [
        {"item_id": "en", "question": "the colour of the sky is", "choices": ["blue", "blue green", "green", "Rome"]},
        {
            "item_id": "tr",
            "lang": "tr",
            "question": "gökyüzünün rengi",
            "choices": ["mavi", "yeşil", "kırmızı", "sarı"],
            "answer": 2,
        },
        {
            "item_id": "fa",
            "lang": "fa",
            "question": "رنگ آسمان",
            "choices": ["آبی", "سبز", "زرد", "می‌شود"],
            "answer": 1,
        },
        {
            "item_id": "zh",
            "lang": "zh",
            "question": "天空的颜色是",
            "choices": ["蓝色", "蓝", "红色", "👨‍👩‍👧"],
            "answer": 3,
        },
    ]
)


def total(model, ids, start):
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(logprobs[i - 1, ids[i]].item() for i in range(start, len(ids)))


@pytest.mark.parametrize("across_spaces", [False, True])
def test_scores_equal_a_naive_forward_over_each_full_string(across_spaces):
    model, tokenizer = llama(), load_tokenizer(bpe(across_spaces), name="bpe")
    scores = check_frame(score(model, tokenizer, ITEMS, show_progress=False), score_schema, "test")
    for row in scores.iter_rows(named=True):
        item = ITEMS.row(by_predicate=pl.col("item_id") == row["item_id"], named=True)
        text = item["question"] + " " + item["choices"][row["choice"]]
        bos = [] if row["bos"] is None else [row["bos"]]
        ids = bos + tokenizer.encode([text])[0]
        assert row["n_tokens"] + row["n_context"] == len(ids)
        assert abs(row["loglikelihood"] - total(model, ids, row["n_context"])) < 1e-5


def test_the_scored_text_is_delimiter_and_option_and_the_same_tail_of_the_question():
    tokenizer = load_tokenizer(bpe(True), name="across")
    scores = score(llama(), tokenizer, ITEMS, show_progress=False)
    assert "merged" in scores["boundary"].to_list(), "this tokenizer merges across spaces: some join must be spanned"
    for row in scores.iter_rows(named=True):
        item = ITEMS.row(by_predicate=pl.col("item_id") == row["item_id"], named=True)
        ids = tokenizer.encode([item["question"] + " " + item["choices"][row["choice"]]])[0]
        scored = b"".join(tokenizer.pieces[i] for i in ids[len(ids) - row["n_tokens"] :])
        asked = tokenizer.encode([item["question"]])[0]
        tail = b"".join(tokenizer.pieces[i] for i in asked[len(asked) - row["tail"] :] if row["tail"])
        assert scored == tail + b" " + item["choices"][row["choice"]].encode(), "text was dropped, repeated or altered"
        whole = "clean" if row["tail"] < len(asked) else "special"
        assert row["boundary"] == (whole if ids[: len(asked)] == asked else "merged"), "said of each option for itself"
        assert row["tail_bytes"] == len(tail)
    mixed = scores.group_by("item_id").agg(pl.col("boundary").n_unique())["boundary"]
    assert mixed.max() == 2, "some item must have options of both kinds"


CUTS = {  # a question [1, 2, 3], whole strings, and options alone; what each rule takes as context and scores, by the table of the specification
    "clean": ([[1, 2, 3, 7, 8], [1, 2, 3, 9]], [[7, 8], [9]]),
    "a token spans the join of one option": ([[1, 2, 5, 8], [1, 2, 3, 9]], [[7, 8], [9]]),
    "a token spans the join of both": ([[1, 2, 5, 8], [1, 2, 5, 9]], [[7, 8], [9]]),
    "the question is cut anew and shorter": ([[1, 6], [1, 6, 4]], [[7, 8], [9]]),
    "an option begins the other": ([[1, 2, 3, 7], [1, 2, 3, 7, 8]], [[7], [7, 8]]),
}
EXPECTED = {
    ("clean", "exact"): [([1, 2, 3], [7, 8]), ([1, 2, 3], [9])],
    ("clean", "lm_eval"): [([1, 2, 3], [7, 8]), ([1, 2, 3], [9])],
    ("a token spans the join of one option", "exact"): [([1, 2], [5, 8]), ([1, 2], [3, 9])],
    ("a token spans the join of one option", "lm_eval"): [([1, 2, 3], [8]), ([1, 2, 3], [9])],
    ("a token spans the join of one option", "separate"): [([1, 2, 3], [7, 8]), ([1, 2, 3], [9])],
    ("a token spans the join of one option", "fixed_split"): [([1, 2, 5], [8]), ([1, 2, 3], [9])],
    ("a token spans the join of one option", "last_n"): [([1, 2], [5, 8]), ([1, 2, 3], [9])],
    ("a token spans the join of both", "exact"): [([1, 2], [5, 8]), ([1, 2], [5, 9])],
    ("the question is cut anew and shorter", "exact"): [([1], [6]), ([1], [6, 4])],
    ("the question is cut anew and shorter", "lm_eval"): [([1, 2, 3], []), ([1, 2, 3], [])],
    ("the question is cut anew and shorter", "fixed_split"): [([1], [6]), ([1, 6], [4])],
    ("the question is cut anew and shorter", "last_n"): [([], [1, 6]), ([1, 6], [4])],
    ("an option begins the other", "exact"): [([1, 2, 3], [7]), ([1, 2, 3], [7, 8])],
}


@pytest.mark.parametrize(("case", "rule"), EXPECTED)
def test_each_rule_cuts_as_its_definition_says(case, rule):
    wholes, options = CUTS[case]
    assert split_options([1, 2, 3], wholes, options, rule=rule) == EXPECTED[case, rule]


def hand_scores(values, rule="exact", boundary="clean", **columns):
    "Scores of items with two options."
    rows = [(item, choice, v) for item, options in values.items() for choice, v in enumerate(options)]
    frame = pl.DataFrame(
        rows, schema={"item_id": pl.String, "choice": pl.Int64, "loglikelihood": pl.Float64}, orient="row"
    )
    fixed = (
        {"model": "m", "tokenizer": "t", "rule": rule, "boundary": boundary}
        | {"n_tokens": 1, "n_chars": 1, "n_bytes": 1}
        | columns
    )
    return frame.with_columns(
        (v if isinstance(v, pl.Expr) else pl.lit(v, pl.Int64 if isinstance(v, int) else None)).alias(k)
        for k, v in fixed.items()
    ).select(c.name for c in score_schema.columns)


def test_changed_answers_are_counted_among_the_items_that_both_rules_score():
    home = hand_scores({"a": [-1, -2], "b": [-2, -1], "c": [-1, -2], "d": [None, None], "e": [-3, -1]})
    home = home.with_columns(
        boundary=pl.when(pl.col("item_id").is_in(["a", "c"]) & (pl.col("choice") == 1))
        .then(pl.lit("merged"))
        .otherwise("boundary")
    )
    other = hand_scores(
        {"a": [-2, -1], "b": [-2, -1], "c": [None, None], "d": [-1, -2], "e": [-1, -3]}, "lm_eval", "merged"
    )
    found = rule_changes(pl.concat([home, other]), norm="sum")
    assert found.select("rule", "n", "unscored", "changed", "share", "merged").rows() == [
        ("lm_eval", 3, 1, 2, 2 / 3, 2)
    ]


def test_an_answer_is_disputed_where_norms_of_the_same_rule_differ():
    sizes = {"n_chars": 1 + 3 * pl.col("choice")}
    one = hand_scores({"a": [-1, -2], "b": [-1, -9]}, **sizes)  # per character -1 and -.5, -1 and -2.25
    other = hand_scores({"a": [-1, -9], "b": [-9, -1]}, "lm_eval", **sizes)
    found = predictions(pl.concat([one, other]), norm=("sum", "char"))
    told = {
        (r, i): (p, d)
        for r, i, p, d in found.filter(norm="char").select("rule", "item_id", "prediction", "disputed").rows()
    }
    assert told == {
        ("exact", "a"): (1, True),
        ("exact", "b"): (0, False),
        ("lm_eval", "a"): (0, False),
        ("lm_eval", "b"): (1, False),
    }


@pytest.mark.parametrize(("tolerance", "tied", "prediction"), [(1e-9, 1, 1), (0.0, 1, 1), (0.5, 2, 0), (1.0, 2, 0)])
def test_values_closer_than_the_tolerance_tie_and_the_first_is_told(tolerance, tied, prediction):
    found = predictions(hand_scores({"a": [-1.25, -1.0]}), norm="sum", tolerance=tolerance)
    assert found.select("tied", "prediction").row(0) == (tied, prediction)
    equal = predictions(hand_scores({"a": [-1.0, -1.0]}), norm="sum", tolerance=tolerance)
    assert equal.select("tied", "prediction").row(0) == (2, 0)
    item = make([{"item_id": "a", "question": "q", "choices": ["x", "y"], "answer": 1}])
    row = verdicts(hand_scores({"a": [-1.0, -1.0]}), item, norm="sum", tolerance=tolerance).row(0, named=True)
    assert (row["correct"], row["tie"]) == (0.5, True)
    with pytest.raises(ValueError, match="predictions: needs scores and a tolerance >= 0"):
        predictions(hand_scores({"a": [-1.0, -1.0]}), tolerance=-tolerance - 1)


def test_rule_last_n_counts_the_tokens_of_a_space_and_the_option_whatever_the_delimiter():
    tokenizer = load_tokenizer("bytes")
    items = make([{"item_id": "a", "question": "the sky", "choices": ["is", "was"], "delimiter": ""}])
    found = score(llama(tokenizer.vocab_size), tokenizer, items, "last_n", bos=False, show_progress=False)
    assert found.select("n_context", "n_tokens").rows() == [(6, 3), (6, 4)]
    unsaid = score(
        llama(tokenizer.vocab_size),
        tokenizer,
        items.with_columns(delimiter=pl.lit(None, pl.String)),
        bos=False,
        show_progress=False,
    )
    assert unsaid.select("delimiter", "n_context", "n_tokens", "n_bytes").rows() == [(" ", 7, 3, 2), (" ", 7, 4, 3)], (
        "a space if nothing is said"
    )


def test_lm_eval_rule_scores_what_follows_the_questions_token_count():
    model, tokenizer = llama(), load_tokenizer(bpe(True), name="across")
    items = make(
        [{"item_id": "x", "question": "il colore del cielo  ", "choices": ["azzurro", "verde"], "delimiter": " "}]
    )
    scores = score(model, tokenizer, items, "lm_eval", strip=False, show_progress=False)
    context = tokenizer.encode(["il colore del cielo"])[0]
    bos = [tokenizer.specials["bos"]] if "bos" in tokenizer.specials else []
    for choice, found in zip(["azzurro", "verde"], scores["loglikelihood"], strict=True):
        whole = tokenizer.encode(["il colore del cielo   " + choice])[0]
        fed = bos + context + whole[len(context) :]
        assert abs(found - total(model, fed, len(bos + context))) < 1e-5


def test_rules_agree_where_no_token_spans_the_join():
    model, tokenizer = llama(), load_tokenizer(bpe(False), name="words")
    reference = score(model, tokenizer, ITEMS, show_progress=False)
    assert reference["boundary"].unique().to_list() == ["clean"]
    for rule in ("lm_eval", "separate", "fixed_split", "last_n"):
        other = score(model, tokenizer, ITEMS, rule, show_progress=False)
        np.testing.assert_allclose(other["loglikelihood"], reference["loglikelihood"], atol=1e-5, err_msg=rule)
        assert other["rule"].unique().to_list() == [rule]


def test_batch_size_and_packing_change_no_score_and_no_verdict():
    model, tokenizer = llama(), load_tokenizer("bytes")
    model = llama(tokenizer.vocab_size)
    reference = score(model, tokenizer, ITEMS, show_progress=False)
    answers = verdicts(reference, ITEMS).drop("margin")
    for lm in (LM(model, tokenizer), LM(model, tokenizer, packing=False)):
        for batch_tokens in (1, 90, 4096):
            found = score(lm, None, ITEMS, batch_tokens=batch_tokens, show_progress=False)
            np.testing.assert_allclose(found["loglikelihood"], reference["loglikelihood"], atol=1e-4)
            assert verdicts(found, ITEMS).drop("margin", "model").equals(answers.drop("model"))


class Closing:
    """A tokenizer as users pass it: special tokens come with every text."""

    def __init__(self):
        self.backend = bpe(False, closing=True)
        self.name, self.specials, self.vocab_size = "closing", {"bos": 0, "eos": 1}, self.backend.get_vocab_size()

    def encode(self, texts):
        return [self.backend.encode(text).ids for text in texts]


def test_a_closing_token_is_found_and_refused():
    found = audit_specials(Closing(), bos=0)
    assert found.filter("refused").select("check", "id").rows() == [("appended", 1), ("double BOS", 0)]
    with pytest.raises(
        ValueError, match=r"got appended 1 and double BOS 0 for tokenizer 'closing'\. A closing token would be scored"
    ):
        score(llama(), Closing(), ITEMS)


def test_the_toolkits_own_wrapper_encodes_text_only():
    tokenizer = load_tokenizer(bpe(False, closing=True), name="wrapped")
    assert not audit_specials(tokenizer, bos=tokenizer.specials.get("bos"))["refused"].any()


@pytest.mark.parametrize("name", ["bytes", "tekken", "mistral-spm"])
def test_real_tokenizers_pass_the_audit(name):
    tokenizer = load_tokenizer(name)
    assert not audit_specials(tokenizer, bos=tokenizer.specials.get("bos"))["refused"].any()


def test_rows_with_a_reason_are_skipped():
    items = ITEMS.with_columns(reason=pl.when(pl.col("item_id") == "zh").then(pl.lit("no such letter")))
    assert score(llama(), load_tokenizer(bpe(False)), items, show_progress=False)[
        "item_id"
    ].unique().sort().to_list() == ["en", "fa", "tr"]
    with pytest.raises(ValueError, match="needs at least one item with a text, got 4 rows, all with a reason"):
        score(llama(), load_tokenizer(bpe(False)), ITEMS.with_columns(reason=pl.lit("none")))


def test_malformed_items_are_refused_in_one_message():
    items = make(
        [
            {"item_id": "twins", "question": "q", "choices": ["a", "a"]},
            {"item_id": "lonely", "question": "q", "choices": ["a"]},
            {"item_id": "far", "question": "q", "choices": ["a", "b"], "answer": -1},
            {"item_id": "void", "question": "q", "choices": ["a", ""]},
            {"item_id": "null", "question": None, "choices": ["a", "b"]},
            {"item_id": "null", "question": "q", "choices": ["a", "b"]},
        ]
    )
    with pytest.raises(ValueError) as caught:
        score(llama(), load_tokenizer(bpe(False)), items)
    message = str(caught.value)
    for part in (
        "'twins': duplicate options ['a']",
        "'lonely': 1 option(s)",
        "'far': answer -1 for 2 options",
        "'void': an empty option",
        "'null': question or options are null without a reason",
        "and 1 more",
        "audit(items)",
    ):
        assert part in message
    assert "\n" not in message


def test_an_empty_question_needs_bos():
    items = make([{"item_id": "bare", "question": "", "choices": ["yes", "no"]}])
    tokenizer = load_tokenizer("bytes")
    with pytest.raises(
        ValueError, match=r"a token must stand before the scored ones, got none for item 'bare'.* pass bos=<token id>"
    ):
        score(llama(tokenizer.vocab_size), tokenizer, items, bos=False, show_progress=False)
    scores = score(llama(tokenizer.vocab_size), tokenizer, items, bos=tokenizer.specials["eos"], show_progress=False)
    assert scores["boundary"].to_list() == ["special"] * 2
    assert scores["n_tokens"].to_list() == [4, 3]


def test_a_model_smaller_than_its_tokenizer_is_refused():
    with pytest.raises(
        ValueError, match="the model's vocabulary must cover the tokenizer's, got 100 embeddings and token ids up to"
    ):
        score(llama(100), load_tokenizer("bytes"), ITEMS)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (lambda text: np.array([5, 6]), "must give lists of whole numbers, got ndarray"),
        (lambda text: ["a"], "must give lists of whole numbers, got list"),
        (lambda text: [3.0], "must give lists of whole numbers, got list"),
        (None, "must encode every text it is given, got 0 results"),
    ],
)
def test_a_tokenizer_that_gives_no_lists_of_ids_is_refused(encoded, message):
    class Odd:
        name, specials, vocab_size = "odd", {"bos": 1}, 420

        def encode(self, texts):
            return [encoded(text) for text in texts] if encoded else None

    with pytest.raises((TypeError, ValueError), match=f"score: the tokenizer {message}"):
        score(llama(), Odd(), ITEMS, show_progress=False)


def test_what_would_be_ignored_or_misread_is_refused():
    model, tokenizer = llama(), load_tokenizer(bpe(False))
    lm = LM(model, tokenizer)
    with pytest.raises(
        ValueError, match="an LM is scored with its own tokenizer and BOS, got bos=5 and another tokenizer"
    ):
        score(lm, load_tokenizer("bytes"), ITEMS, bos=5)
    # as given, since BOS may have the id 0
    assert score(lm, tokenizer, ITEMS, bos=lm.bos, show_progress=False).height == 16
    with pytest.raises(ValueError, match="a delimiter must be text in valid Unicode"):
        score(lm, None, ITEMS, delimiter="\ud800")
    with pytest.raises(ValueError, match=r"rule must be one of .*, got None"):
        score_rules(lm, None, ITEMS, [])
    with pytest.raises(ValueError, match="got None: no item_id"):
        score(lm, None, ITEMS.with_columns(item_id=pl.lit(None, pl.String)))


def test_a_norm_without_its_length_is_refused():
    scores = score(llama(), load_tokenizer(bpe(False)), ITEMS, show_progress=False)
    with pytest.raises(
        ValueError, match=r"norm 'token' needs the length of every option.*norm=\['sum', 'char', 'byte'\]"
    ):
        choice_scores(scores.with_columns(n_tokens=pl.lit(None, pl.Int64)))


def test_delimiters_can_differ_by_language():
    model, tokenizer = llama(), load_tokenizer(bpe(False))
    scores = score(model, tokenizer, ITEMS, delimiter={"en": " ", "tr": " ", "fa": " ", "zh": ""}, show_progress=False)
    assert scores.group_by("item_id", maintain_order=True).agg(pl.col("delimiter").first())["delimiter"].to_list() == [
        " ",
        " ",
        " ",
        "",
    ]
    with pytest.raises(
        ValueError, match=r"delimiter must name every language of the items, got none for \['fa', 'tr', 'zh'\]"
    ):
        score(model, tokenizer, ITEMS, delimiter={"en": " "})


def test_options_that_normalise_to_the_same_tokens_tie_exactly():
    class Lower:
        name, specials, vocab_size = "lower", {"bos": 1}, 259

        def encode(self, texts):
            return [[b + 3 for b in text.lower().encode()] for text in texts]

    items = make([{"item_id": "case", "question": "which?", "choices": ["Blue", "blue", "red"]}])
    scores = score(llama(259), Lower(), items, show_progress=False)
    assert scores["loglikelihood"][0] == scores["loglikelihood"][1]


def test_an_option_the_tokenizer_drops_still_leaves_a_token_to_score():
    class NoMarks:
        name, specials, vocab_size = "no marks", {"bos": 1}, 259

        def encode(self, texts):
            return [[b + 3 for b in text.replace("\u200c", "").rstrip().encode()] for text in texts]

    items = make([{"item_id": "marks", "question": "which?", "choices": ["\u200c", "no"]}])
    scores = score(llama(259), NoMarks(), items, show_progress=False)
    assert scores["n_tokens"].to_list() == [1, 4]
    assert scores["tail"].to_list() == [1, 1]


def test_lengths_are_code_points_and_bytes_of_the_option_alone():
    scores = score(llama(), load_tokenizer(bpe(False)), ITEMS, show_progress=False).filter(item_id="zh")
    assert scores["n_chars"].to_list() == [2, 1, 2, 5]
    assert scores["n_bytes"].to_list() == [6, 3, 6, 18]
    values = choice_scores(scores, norm=["sum", "byte"])
    assert values["norm"].unique(maintain_order=True).to_list() == ["sum", "byte"]
    np.testing.assert_allclose(values.filter(norm="byte")["value"], scores["loglikelihood"] / scores["n_bytes"])


def zoo():
    "Tokenizers of every kind: bytes, real ones, learnt ones, one that merges across spaces, one whose library appends a token."
    yield from (load_tokenizer(name) for name in ("bytes", "tekken", "mistral-spm"))
    yield from (own.tokenizer for own in load_suite().values())
    yield load_tokenizer(bpe(True), name="across spaces")
    yield load_tokenizer(bpe(False, closing=True), name="closing")


def test_exact_scores_exactly_the_bytes_of_delimiter_and_option_for_every_tokenizer_of_the_zoo():
    items = load_benchmark("embedded").gather_every(17)
    questions = {row["item_id"]: row for row in items.iter_rows(named=True)}
    merged = {}
    for tokenizer in zoo():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = tf.LlamaConfig(
                vocab_size=tokenizer.vocab_size,
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
            )
            model = tf.LlamaForCausalLM(config)
        scores = score(model, tokenizer, items, name="tiny", show_progress=False)
        merged[tokenizer.name] = (scores["boundary"] == "merged").any()
        for row in scores.iter_rows(named=True):
            item = questions[row["item_id"]]
            question, option = item["question"].encode(), (item["delimiter"] + item["choices"][row["choice"]]).encode()
            cut = tokenizer.cut(item["question"] + item["delimiter"] + item["choices"][row["choice"]])
            first = row["n_context"] - (row["bos"] is not None)
            assert len(cut.ids) == first + row["n_tokens"], "tokens were dropped or added"
            begin = len(question) - row["tail_bytes"]
            assert max(cut.end[:first], default=0) <= begin, (
                f"{tokenizer.name}: a byte of the scored text is in the context"
            )
            # a space that the tokenizer keeps in no token is in no scored token either
            assert (question + option)[begin : cut.start[first]].strip() == b"", (
                f"{tokenizer.name}: scoring begins too late"
            )
        tails = scores.group_by("item_id").agg(pl.col("tail_bytes").n_unique())
        assert (tails["tail_bytes"] == 1).all(), (
            f"{tokenizer.name}: options of one item are scored with different tails"
        )
    assert merged["across spaces"] and not merged["closing"] and not merged["bytes"]


def test_batches_of_1_7_and_64_items_and_packing_agree_in_every_number_and_verdict():
    items = load_benchmark("embedded").gather_every(12)
    for own in load_suite(names=["bpe", "wordpiece"]).values():
        reference = score(own.model, own.tokenizer, items, show_progress=False)
        answers = predictions(reference)
        for packing in (True, False):
            lm = LM(own.model, own.tokenizer, packing=packing, name=reference["model"][0])
            for size in (1, 7, 64):
                found = score(lm, None, items, batch_size=size, show_progress=False)
                apart = (found["loglikelihood"] - reference["loglikelihood"]).abs().max()
                assert apart < 1e-4, f"{own.name}, batches of {size}, packing {packing}: {apart:.1e} nats apart"
                assert predictions(found).equals(answers), f"{own.name}: another verdict in batches of {size}"


def test_pmi_is_the_difference_of_two_plain_forwards():
    model, tokenizer = llama(), load_tokenizer(bpe(False), name="bpe")
    bos = tokenizer.specials["bos"]
    scores = score(model, tokenizer, ITEMS, pmi=True, show_progress=False)
    values = choice_scores(scores, norm="pmi")["value"]
    for row, value in zip(scores.iter_rows(named=True), values, strict=True):
        item = ITEMS.row(by_predicate=pl.col("item_id") == row["item_id"], named=True)
        option = tokenizer.encode([" " + item["choices"][row["choice"]]])[0]
        whole = [bos, *tokenizer.encode([item["question"] + " " + item["choices"][row["choice"]]])[0]]
        expected = total(model, whole, row["n_context"]) - total(model, [bos, *option], 1)
        assert abs(value - expected) < 1e-5
    assert verdicts(scores, ITEMS, norm=["sum", "pmi"])["norm"].unique(maintain_order=True).to_list() == ["sum", "pmi"]
    with pytest.raises(
        ValueError, match=r"needs the options scored without the question.* Call score\(\.\.\., pmi=True\)"
    ):
        choice_scores(score(model, tokenizer, ITEMS, show_progress=False), norm="pmi")


@pytest.mark.parametrize(
    ("mark", "moves"),
    [(c, True) for c in "\u00a0\u2009\u3000\n"] + [(c, False) for c in "\u200c\u200d\u200b\ufeff\u00ad"],
    ids=lambda x: f"U+{ord(x):04X}" if isinstance(x, str) else None,
)
def test_rule_lm_eval_moves_what_python_calls_space_into_the_option_and_leaves_what_it_does_not(mark, moves):
    tokenizer = load_tokenizer("bytes")
    bare = "the sky is"
    items = make([{"item_id": "sky", "question": bare + mark, "choices": ["blue", "red"]}])
    found = score(llama(tokenizer.vocab_size), tokenizer, items, "lm_eval", bos=False, strip=False, show_progress=False)
    stays, goes = ("", mark) if moves else (mark, "")
    assert found["n_context"].to_list() == [len((bare + stays).encode())] * 2
    assert found["n_tokens"].to_list() == [len(f"{goes} {choice}".encode()) for choice in ("blue", "red")]
    exact = score(llama(tokenizer.vocab_size), tokenizer, items, bos=False, strip=False, show_progress=False)
    assert exact["n_context"].to_list() == [len((bare + mark).encode())] * 2, "rule exact scores the option alone"


def test_a_model_is_taken_by_its_folder_from_a_suite_from_load_lm_and_bare():
    own, items = load_suite(names="bpe")["bpe"], load_benchmark("embedded", lang="en").head(3)
    given = {"folder": (own.folder, None), "path as text": (str(own.folder), None), "of a suite": (own, None), "LM": (load_lm(own.folder), None)}  # fmt: skip
    bare = score(own.model, own.tokenizer, items, show_progress=False)
    for kind, (model, tokenizer) in given.items():
        found = score(model, tokenizer, items, show_progress=False)
        assert found["loglikelihood"].to_list() == bare["loglikelihood"].to_list(), kind
        assert found["model"].unique().to_list() == ["bpe"], kind
    with pytest.raises(TypeError, match="a bare model needs its tokenizer, got None"):
        score(own.model, None, items)
    other = score(own, load_tokenizer("bytes"), items.head(1), show_progress=False)
    assert other["tokenizer"].unique().to_list() == ["bytes"], "a tokenizer that is given is taken"


def test_white_space_at_the_ends_of_a_question_is_taken_off_as_the_released_template_does():
    model, tokenizer = llama(), load_tokenizer(bpe(False), name="words")
    rows = [
        {"item_id": k, "question": q, "choices": ["blue", "red"]}
        for k, q in (("a", "the sky is"), ("b", "\n the sky is \u3000"))
    ]
    for rule in get_args(Rule):
        scores = score(model, tokenizer, make(rows), rule, show_progress=False)
        one, other = (scores.filter(item_id=k).drop("item_id") for k in "ab")
        assert one.equals(other), rule
    kept = score(model, tokenizer, make(rows), strip=False, show_progress=False)
    assert kept.filter(item_id="a")["loglikelihood"].to_list() != kept.filter(item_id="b")["loglikelihood"].to_list()


def test_an_empty_question_under_rule_lm_eval_follows_bos_or_eos():
    tokenizer = load_tokenizer("bytes")
    items, model = make([{"item_id": "bare", "question": "", "choices": ["yes", "no"]}]), llama(tokenizer.vocab_size)
    scores = score(model, tokenizer, items, "lm_eval", bos=False, show_progress=False)
    ids = [tokenizer.specials["eos"], *tokenizer.encode([" yes"])[0]]
    assert abs(scores["loglikelihood"][0] - total(model, ids, 1)) < 1e-5


def test_an_empty_question_under_rule_lm_eval_prefers_bos_to_eos_and_does_not_say_it_twice():
    items, model = make([{"item_id": "bare", "question": "", "choices": ["<yes", "no"], "delimiter": ""}]), llama()

    class Marks:
        "Letters as tokens, `<` as BOS."

        name, specials, vocab_size = "marks", {"bos": 1, "eos": 2}, 420

        def encode(self, texts):
            return [[1 if c == "<" else 3 + ord(c) for c in text] for text in texts]

    scores = score(model, Marks(), items, "lm_eval", bos=False, show_progress=False)
    assert scores.select("n_context", "n_tokens").rows() == [(1, 3), (1, 2)]
    for found, text in zip(scores["loglikelihood"], ("yes", "no"), strict=True):
        assert abs(found - total(model, [1, *(3 + ord(c) for c in text)], 1)) < 1e-5
    asked = items.with_columns(question=pl.lit("q"))
    alone = score(model, Marks(), asked, bos=False, pmi=True, show_progress=False)["unconditional"]
    np.testing.assert_allclose(alone, scores["loglikelihood"], atol=1e-5)


def test_an_option_that_begins_another_is_flagged():
    items = make([{"item_id": "b", "question": "the sky is", "choices": ["blue", "blue green", "green"]}])
    scores = score(llama(), load_tokenizer(bpe(False)), items, show_progress=False)
    assert scores["begins_another"].to_list() == [True, False, False]
    assert scores["loglikelihood"][0] >= scores["loglikelihood"][1], "the beginning of a text is at least as probable"


def test_options_may_differ_in_number_between_items():
    items = make(
        [{"item_id": str(k), "question": "the sky", "choices": [f"is {i}" for i in range(k)]} for k in (2, 5, 3)]
    )
    scores = score(llama(), load_tokenizer(bpe(False)), items, show_progress=False)
    assert scores.group_by("item_id", maintain_order=True).len()["len"].to_list() == [2, 5, 3]


def test_what_cannot_be_scored_is_named_or_null():
    model, tokenizer = llama(), load_tokenizer(bpe(False))
    model.config.max_position_embeddings = 40
    items = pl.concat(
        [ITEMS, make([{"item_id": f"long {i}", "question": "sky " * 99, "choices": ["a", "b"]} for i in (1, 2)])]
    )
    with pytest.raises(
        ValueError,
        match=r"at most 40 tokens of a text, got \d+ for item 'long 1'.*another problem has \['long 2'\]",
    ):
        score(model, tokenizer, items, show_progress=False)
    found = score(model, tokenizer, items, unscorable="null", show_progress=False)
    assert found.filter(pl.col("problem").is_not_null())["item_id"].unique(maintain_order=True).to_list() == [
        "long 1",
        "long 2",
    ]
    alone = score(model, tokenizer, ITEMS, show_progress=False)
    assert found.head(16)["loglikelihood"].equals(alone["loglikelihood"])
    answers = predictions(found, norm="sum")
    assert answers["prediction"].null_count() == 2
    with pytest.raises(ValueError, match="log-likelihoods that are no numbers for \\['long 1', 'long 2'\\]"):
        verdicts(found, items)


class Reluctant:
    """Letters as tokens; a text that begins with the word `no` gives none."""

    name, specials, vocab_size = "reluctant", {"eos": 2}, 400

    def encode(self, texts):
        return [[] if text.strip().startswith("no") else [3 + ord(c) % 397 for c in text] for text in texts]


def test_an_option_that_is_nothing_alone_loses_its_pmi_and_keeps_its_score():
    items = make(
        [
            {"item_id": "whether", "question": "is it so", "choices": ["yes", "no"]},
            {"item_id": "colour", "question": "the sky is", "choices": ["blue", "red"]},
        ]
    )
    model, tokenizer = llama(), Reluctant()
    with pytest.raises(
        ValueError, match=r"score: pmi=True needs a token in each option alone, got none for item 'whether'"
    ):
        score(model, tokenizer, items, pmi=True, show_progress=False)
    plain = score(model, tokenizer, items, show_progress=False)
    found = score(model, tokenizer, items, pmi=True, unscorable="null", show_progress=False)
    assert found["loglikelihood"].equals(plain["loglikelihood"])
    lacking = found.filter(item_id="whether")
    assert lacking["unconditional"].null_count() == 2 and lacking["problem"].str.contains("pmi=True needs").all()
    assert found.filter(item_id="colour").select("unconditional", "problem").null_count().row(0) == (0, 2)
    answers = predictions(found, norm=["sum", "pmi"])
    assert answers.filter(pl.col("prediction").is_null()).select("item_id", "norm").rows() == [("whether", "pmi")]
    assert not answers.filter(item_id="whether")["disputed"].any(), "an answer that is missing disputes nothing"
    assert verdicts(found, items).height == 8
    with pytest.raises(
        ValueError, match="verdicts: every option needs a value, got none under norm 'pmi' for 'whether'"
    ):
        verdicts(found, items, norm=["sum", "pmi"])


def test_pmi_without_any_token_to_begin_with_says_so():
    bare = type("Bare", (Reluctant,), {"specials": dict[str, int]()})()
    items = make([{"item_id": "colour", "question": "the sky is", "choices": ["blue", "red"]}])
    with pytest.raises(ValueError, match=r"pmi=True needs a token before each option alone.* Pass bos=<token id>"):
        score(llama(), bare, items, pmi=True, show_progress=False)
    found = score(llama(), bare, items, pmi=True, unscorable="null", show_progress=False)
    assert found["loglikelihood"].null_count() == 0 and found["unconditional"].null_count() == 2


def test_nan_logits_are_refused_and_never_a_verdict():
    model = llama()
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(ValueError, match=r"log-likelihoods must be numbers, got NaN for item 'en'.*float16 overflows"):
        score(model, load_tokenizer(bpe(False)), ITEMS, show_progress=False)
    found = score(model, load_tokenizer(bpe(False)), ITEMS, unscorable="null", show_progress=False)
    assert found["loglikelihood"].null_count() == 16 and found["problem"].null_count() == 0


def test_rules_are_counted_against_exact_and_equal_requests_run_once():
    model, tokenizer = llama(), load_tokenizer(bpe(True), name="across")
    scores = score_rules(model, tokenizer, ITEMS, show_progress=False)
    for (rule,), part in scores.group_by("rule"):
        single = score(model, tokenizer, ITEMS, rule, unscorable="null", show_progress=False)
        np.testing.assert_allclose(part["loglikelihood"].to_numpy(), single["loglikelihood"].to_numpy(), atol=1e-5)
    changes = rule_changes(scores, norm="char")
    answers = {
        rule: part["prediction"].to_list()
        for (rule,), part in predictions(scores, norm="char").group_by("rule", maintain_order=True)
    }
    for rule, n, changed in changes.select("rule", "n", "changed").rows():
        pairs = [(a, b) for a, b in zip(answers[rule], answers["exact"], strict=True) if a is not None]
        assert (n, changed) == (len(pairs), sum(a != b for a, b in pairs))
    same = rule_changes(score_rules(model, load_tokenizer(bpe(False), name="words"), ITEMS, show_progress=False))
    assert same["changed"].sum() == same["merged"].sum() == same["unscored"].sum() == 0


def test_the_audit_reports_marks_losses_and_what_the_library_would_add():
    found = {row["check"]: row for row in audit_specials(load_tokenizer("mistral-spm")).iter_rows(named=True)}
    assert found["prefix mark"]["id"] is not None and not found["prefix mark"]["refused"]
    closing = {
        row["check"]: row for row in audit_specials(load_tokenizer(bpe(False, closing=True))).iter_rows(named=True)
    }
    assert closing["wrapping"]["evidence"] == "[0] before, [1] after" and not closing["appended"]["refused"]
    words = load_suite(names=["wordpiece"])["wordpiece"].tokenizer
    assert (
        "unknown" in audit_specials(words, options=["𝐛𝐨𝐥𝐝"]).filter(pl.col("evidence").is_not_null())["check"].to_list()
    )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-3), (torch.bfloat16, 0.5)])
def test_batches_change_scores_by_their_rounding_and_single_unpacked_items_by_nothing(dtype, bound):
    items, own = load_benchmark("embedded").gather_every(4), load_suite(names=["bpe"])["bpe"]
    assert items.height == 142

    def scored(kind, rows=items, packing=True, **how):
        lm = LM(copy.deepcopy(own.model).to(kind), own.tokenizer, packing=packing)
        found = score(lm, None, rows, show_progress=False, **how).sort("item_id", "choice")
        return found["loglikelihood"].to_numpy()

    alone = scored(dtype, packing=False, batch_size=1)
    others = [scored(dtype), scored(dtype, batch_size=3), scored(dtype, packing=False, batch_size=16)]
    assert max(np.abs(other - alone).max() for other in others) < bound
    if dtype is torch.bfloat16:
        rounding = np.abs(alone - scored(torch.float32)).max()
        apart = [np.abs(other - alone).max() for other in others]
        assert 0 < max(apart) < rounding, "half precision itself costs more than another batch"
    for rows in (items.reverse(), items.sort("question")):
        assert (scored(dtype, rows, packing=False, batch_size=1) == alone).all()
    few = items.head(5)
    part = scored(dtype, few, packing=False, batch_size=1)
    whole = dict(zip(items.sort("item_id")["item_id"], _by_item(items, alone), strict=True))
    assert np.concatenate([whole[i] for i in few.sort("item_id")["item_id"]]).tolist() == part.tolist()


def _by_item(items, values):
    """Values of each item, in the order of the items' names."""
    return np.split(values, np.cumsum(items.sort("item_id")["choices"].list.len().to_numpy())[:-1])
