"""How fast and how small scoring is, against lm-eval on the same model, items and process, and against a bare forward pass.

Run by `make bench`; prints medians and ratios, and asserts the thresholds. Times are processor time of one thread, so that what else runs on the
machine counts for little. The model has random weights: what is scored does not matter here, only how long it takes."""

import gc
import logging
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import pytest
import torch
import transformers as tf

import toksuite_nb.lm as lm_module
from toksuite_nb.core import derive_rng
from toksuite_nb.items import load_benchmark
from toksuite_nb.lm import LM
from toksuite_nb.score import score
from toksuite_nb.suite import load_suite

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

for name in ("transformers", "lm_eval"):
    logging.getLogger(name).setLevel(logging.ERROR)
BATCH = 16  # lm-eval's requests per forward pass; of 4, 16 and 64 the fastest here


def llama(vocab_size=32_000, width=384, layers=6):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = tf.LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            max_position_embeddings=4096,
        )
        return tf.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def suite():
    return load_suite(names=["bpe"])["bpe"]


def sampled(n, domain="general"):
    items = load_benchmark("embedded").filter(domain=domain)
    return items[derive_rng(0, "bench").permutation(items.height)[:n].tolist()]


def with_examples(items, *, shared):
    "Five answered questions before each: the same for all items, or five of its own."
    pool = load_benchmark("embedded").filter(domain="cldr").rows(named=True)
    prompts = []
    for item_id, question in items.select("item_id", "question").rows():
        rng = derive_rng(0, "examples", "all" if shared else item_id)
        shots = [pool[i] for i in rng.choice(len(pool), 5, replace=False)]
        lines = [f"{shot['question']} {shot['choices'][shot['answer']]}.\n" for shot in shots]
        prompts.append("".join(lines) + question)
    return items.with_columns(question=pl.Series(prompts))


def requests(items):
    return [
        Instance("loglikelihood", {}, (question, between + choice), 0)
        for question, choices, between in items.select("question", "choices", "delimiter").rows()
        for choice in choices
    ]


def seconds(*runs, repeats=3):
    "Median processor time of each of `runs`, which take turns; the first turn fills caches."
    times = [[] for _ in runs]
    for turn in range(repeats + 1):
        for i, run in enumerate(runs):
            began = time.process_time()
            run()
            if turn:
                times[i].append(time.process_time() - began)
    return [median(part) for part in times]


def pair(model, suite, items, batch_size=BATCH):
    "Two functions that score the same items with the same model: ours and lm-eval's."
    theirs = HFLM(pretrained=model, tokenizer=tf.AutoTokenizer.from_pretrained(suite.folder), batch_size=batch_size)
    lm, asked = LM(model, suite.tokenizer, name="bench", bos=False), requests(items)
    return lambda: score(lm, None, items, "lm_eval", show_progress=False), lambda: theirs.loglikelihood(
        asked, disable_tqdm=True
    )


def fed(lm, items):
    "Numbers of tokens in each row of each batch that scoring `items` runs; last the stems."
    assert lm.packs and lm.shares and lm.lines  # probed before it is watched
    seen, stems, original = [], set(), lm_module.tree_logprobs

    def spy(model, trees, **settings):
        seen.append([len(tree) for tree in trees])
        if settings.get("stem") is not None:
            stems.add(settings["stem"].ids)
        return original(model, trees, **settings)

    lm_module.tree_logprobs = spy
    try:
        found = score(lm, None, items, "lm_eval", show_progress=False)
    finally:
        lm_module.tree_logprobs = original
    return [*seen, [len(stem) for stem in stems]], found


@pytest.mark.parametrize(
    ("what", "n", "least"),
    [("zero-shot", 64, 2.0), ("five-shot, own examples", 12, 3.5), ("five-shot, shared", 24, 3.5)],
)
def test_scoring_beats_lm_eval(suite, what, n, least):
    items = sampled(n) if what == "zero-shot" else with_examples(sampled(n), shared="shared" in what)
    ours, theirs = pair(llama(), suite, items)
    np.testing.assert_allclose(ours()["loglikelihood"], [value for value, _ in theirs()], atol=1e-4)
    mine, other = seconds(ours, theirs)
    print(
        f"\n{what}, {n} items, 6 layers of 384, 32,000 entries: {mine:.2f} s, lm-eval {other:.2f} s, {other / mine:.1f} times"
    )
    assert other / mine >= least


def test_scoring_the_mini_suite_beats_lm_eval(suite):
    items = load_benchmark("embedded")
    for what, asked, least in (
        ("zero-shot", items, 2.0),
        ("five-shot, own examples", with_examples(items[:60], shared=False), 3.5),
    ):
        ours, theirs = pair(suite.model, suite, asked, batch_size=64)
        mine, other = seconds(ours, theirs)
        print(
            f"\nmini suite, {what}, {asked.height} items: {mine:.2f} s, lm-eval {other:.2f} s, {other / mine:.1f} times"
        )
        assert other / mine >= least


@pytest.mark.parametrize(("what", "n"), [("zero-shot", 160), ("five-shot, own examples", 24)])
def test_scoring_takes_little_longer_than_a_bare_forward_over_the_unique_tokens(suite, what, n):
    items = sampled(n) if what == "zero-shot" else with_examples(sampled(n), shared=False)
    model = llama()
    lm = LM(model, suite.tokenizer, name="bench", bos=False)
    batches, found = fed(lm, items)
    unique, wanted = sum(map(sum, batches)), found["n_tokens"].sum()
    # the same tokens as full rows of the mean length, and the output layer where a token is scored
    width = unique // sum(map(len, batches))
    rows = torch.randint(0, 2000, (max(1, 2048 // width), width))
    passes = unique / rows.numel()
    heads = torch.randn(256, model.config.hidden_size)

    def bare(module, given):
        with torch.inference_mode():
            module(**given, use_cache=False)

    def heading():
        with torch.inference_mode():
            model.lm_head(heads)

    mine, trunk, whole, head = seconds(
        lambda: score(lm, None, items, "lm_eval", show_progress=False),
        lambda: bare(model.model, {"input_ids": rows}),
        lambda: bare(model, {"input_ids": rows}),
        heading,
    )
    sources = len(
        {
            (i, path.ids[:j])
            for i, group in enumerate(paths_of(lm, items))
            for path in group
            for j in range(path.start, len(path.ids))
        }
    )
    strict = trunk * passes + head * sources / len(heads)
    print(
        f"\n{what}, {n} items, {unique} unique tokens, {wanted} scored: {mine:.2f} s; bare forward {whole * passes:.2f} s ({mine / (whole * passes):.2f} of it); "
        f"bare trunk, and output layer at {sources} positions: {strict:.2f} s ({mine / strict:.2f} times)"
    )
    assert mine <= 1.25 * whole * passes
    assert mine <= 1.25 * strict


def paths_of(lm, items):
    "The texts that scoring `items` runs."
    seen, original = [], LM.logprobs

    def spy(self, groups, **settings):
        seen.extend(groups)
        return original(self, groups, **settings)

    LM.logprobs = spy
    try:
        score(lm, None, items, "lm_eval", show_progress=False)
    finally:
        LM.logprobs = original
    return seen


def peak(run):
    "Megabytes that `run` needs on top of what is held before it."
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(what):
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) / 1024


def measured_apart(whose, what, n, batch_size):
    "Peak of scoring in a process of its own, probes of the model included."
    command = [sys.executable, __file__, whose, what, str(n), str(batch_size)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def measure(whose, what, n, batch_size):
    torch.set_num_threads(1)
    items = sampled(int(n)) if what == "zero-shot" else with_examples(sampled(int(n)), shared=False)
    model = llama(vocab_size=131_072, width=128, layers=2)
    ours, theirs = pair(model, load_suite(names=["bpe"])["bpe"], items, batch_size=int(batch_size))
    print(peak(ours if whose == "ours" else theirs))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize(("what", "n"), [("zero-shot", 16), ("five-shot, own examples", 6)])
def test_memory_does_not_grow_with_the_vocabulary_as_lm_evals_does(what, n):
    mine = measured_apart("ours", what, n, BATCH)
    others = {size: measured_apart("theirs", what, n, size) for size in (1, BATCH)}
    said = ", ".join(f"{size} at a time {other:.0f} MB ({other / mine:.1f} times)" for size, other in others.items())
    print(f"\n{what}, 131,072 entries: {mine:.0f} MB on top of the model; lm-eval's requests {said}")
    assert mine <= others[BATCH] / 4


if __name__ == "__main__":
    measure(*sys.argv[1:])
