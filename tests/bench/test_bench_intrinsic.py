"""Speed and memory of the intrinsic metrics, run by `make bench`.

Prints the best and the median of several rounds, in turn and in one process, and asserts ratios of processor time (all threads together), so that
what else runs on the machine counts for little; wall time is printed beside it."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
from babel import Locale
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from toksuite_nb.intrinsic import intrinsic
from toksuite_nb.items import load_benchmark
from toksuite_nb.text import languages, words
from toksuite_nb.tokenizer import load_tokenizer

ROUNDS = 5


def sentences(lang: str, n_bytes: int, seed: int = 0) -> list[str]:
    "Sentences of words of the benchmark and of CLDR, with numbers and marks, words by Zipf's law."
    items, locale = load_benchmark("embedded").filter(lang=lang), Locale(lang)
    texts = [
        *items["question"],
        *(c for choices in items["choices"] for c in choices),
        *(
            name
            for names in (locale.territories, locale.languages, locale.currencies, locale.scripts)
            for name in names.values()
        ),
    ]
    known = list(dict.fromkeys(word for text in texts for word in words(text, lang)))
    rng = np.random.default_rng([seed, sorted(languages).index(lang)])
    weights = 1 / (rng.permutation(len(known)) + 10.0)
    drawn = rng.choice(len(known), size=n_bytes // 2, p=weights / weights.sum())
    out, at, size = [], 0, 0
    while size < n_bytes:
        n = int(rng.integers(5, 40))
        part = [known[i] for i in drawn[at : at + n]]
        if rng.random() < 0.3:
            part[n // 2] = str(int(10 ** (rng.random() * 7)))
        out.append(("" if lang == "zh" else " ").join(part) + ("。" if lang == "zh" else "."))
        at, size = at + n, size + len(out[-1].encode())
    return out


@pytest.fixture(scope="module")
def corpus() -> pl.DataFrame:
    "5 MB in five languages, mixed."
    rows = [(str(k), lang, text) for lang in languages for k, text in enumerate(sentences(lang, 1_000_000))]
    return pl.DataFrame(rows, schema=["set_id", "lang", "text"], orient="row").sample(fraction=1, shuffle=True, seed=0)


@pytest.fixture(scope="module")
def backend(corpus) -> Backend:
    "A byte-level BPE of 16,000 ids, as most current models have one."
    made = Backend(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        corpus["text"].head(5_000).to_list(),
        trainers.BpeTrainer(vocab_size=16_000, initial_alphabet=alphabet, show_progress=False),
    )
    return made


def in_turn(calls: dict, rounds: int = ROUNDS) -> dict[str, np.ndarray]:
    "Processor and wall seconds of each call, rounds x 2, one call after the other."
    taken: dict[str, list] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            call()
            taken[name].append((time.process_time() - processor, time.perf_counter() - wall))
    return {name: np.array(times) for name, times in taken.items()}


def best(times: np.ndarray) -> float:
    "Least processor time."
    return float(times[:, 0].min())


def show(title: str, n_bytes: int, taken: dict[str, np.ndarray]) -> None:
    print(f"\n{title}")
    for name, times in taken.items():
        (low, wall), median = times.min(axis=0), np.median(times[:, 0])
        print(
            f"  {name:40s} processor {low:7.3f} s (median {median:.3f}), wall {wall:7.3f} s, {n_bytes / low / 1e6:7.2f} MB/s"
        )


def test_the_whole_pass_keeps_up_with_bare_encoding(corpus, backend):
    texts, tokenizer = corpus["text"].to_list(), load_tokenizer(backend, "bpe")
    n_bytes = sum(len(text.encode()) for text in texts)
    intrinsic(corpus.head(500), [tokenizer])
    taken = in_turn(
        {
            "encode_batch": lambda: backend.encode_batch(texts, add_special_tokens=False),
            "every metric": lambda: intrinsic(corpus, [tokenizer]),
        }
    )
    show(f"whole metric pass over {n_bytes / 1e6:.1f} MB", n_bytes, taken)
    ratio = best(taken["encode_batch"]) / best(taken["every metric"])
    wall = taken["encode_batch"][:, 1].min() / taken["every metric"][:, 1].min()
    print(f"  speed of the pass / speed of encode_batch: {ratio:.2f}, by wall {wall:.2f}")
    assert ratio >= 0.7, f"the pass reaches {ratio:.0%} of bare encoding; profile intrinsic with one thread"


def test_fertility_is_much_faster_than_word_by_word(corpus, backend):
    texts, tokenizer = corpus, load_tokenizer(backend, "bpe")
    bags = {
        lang: [word for text in texts.filter(lang=lang)["text"] for word in words(text, lang)] for lang in languages
    }
    found: dict[str, float] = {}

    def word_by_word():
        for lang, bag in bags.items():
            found[lang] = sum(len(backend.encode(word, add_special_tokens=False).ids) for word in bag) / len(bag)

    whole = in_turn({"every metric": lambda: intrinsic(texts, [tokenizer])}, 1)
    taken = in_turn(
        {
            "words one by one, already segmented": word_by_word,
            "fertility, words found too": lambda: intrinsic(texts, [tokenizer], metrics=["fertility"], draws=0),
        },
        3,
    )
    n_bytes = int(texts["text"].str.len_bytes().sum())
    show("the same fertility", n_bytes, taken | whole)
    ours = intrinsic(texts, [tokenizer], metrics=["fertility"], draws=0)
    for lang, value in found.items():
        assert ours.filter(lang=lang)["value"].item() == pytest.approx(value, abs=1e-12)
    ratio, pass_ratio = (
        min(taken["words one by one, already segmented"]) / min(t)
        for t in (taken["fertility, words found too"], whole["every metric"])
    )
    print(f"  word by word / fertility alone: {ratio:.1f}; word by word / every metric: {pass_ratio:.1f}")
    assert ratio >= 20, f"fertility is {ratio:.1f} times as fast as the published per-word method"


def test_the_published_script_takes_longer_than_every_metric(corpus, backend):
    transformers = pytest.importorskip("transformers")
    library, tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend), load_tokenizer(backend, "bpe")
    part = corpus.head(2_000)
    bag = [word for lang, text in part.select("lang", "text").iter_rows() for word in words(text, lang)]
    intrinsic(part, [tokenizer])
    taken = in_turn(
        {
            "transformers, word by word": lambda: [len(library.encode(word)) for word in bag],
            "every metric": lambda: intrinsic(part, [tokenizer], draws=0),
        },
        3,
    )
    show("as the published script encodes", int(part["text"].str.len_bytes().sum()), taken)
    ratio = best(taken["transformers, word by word"]) / best(taken["every metric"])
    print(f"  the published loop / every metric: {ratio:.1f}")
    assert ratio >= 5


MEMORY = """
import resource, sys
from itertools import islice
import polars as pl
from toksuite_nb.intrinsic import intrinsic
from toksuite_nb.tokenizer import load_tokenizer
path, megabytes = sys.argv[1], float(sys.argv[2])
frame = pl.read_parquet(path)
size = int(frame["text"].str.len_bytes().sum())
tokenizer = load_tokenizer(sys.argv[3], "bpe")
def stream():
    k = read = 0
    while read < megabytes * 1e6:
        for part in frame.iter_slices(5000):
            # other texts and other sets in every round, so that nothing is known already
            yield part.with_columns(text=pl.col("text") + f" {k}x{k * 7919}", set_id=pl.col("set_id") + f"/{k}")
            read += int(part["text"].str.len_bytes().sum())
            k += 1
intrinsic(frame.head(2000), [tokenizer])
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
found = intrinsic(stream(), [tokenizer])
assert found.filter(metric="roundtrip_exact")["value"].to_list() == [1.0] * 5
assert found.filter(metric="parity")["value"].null_count() == 0
print(start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak(tmp_path, corpus, backend, megabytes: float) -> list[float]:
    "Resident MB before and at the peak of a stream, in a process of its own."
    corpus.write_parquet(tmp_path / "corpus.parquet")
    backend.save(str(tmp_path / "tokenizer.json"))
    command = [sys.executable, "-c", MEMORY, tmp_path / "corpus.parquet", str(megabytes), tmp_path / "tokenizer.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(x) for x in done.stdout.split()]


def test_memory_does_not_grow_with_the_stream(tmp_path, corpus, backend):
    sizes = {megabytes: peak(tmp_path, corpus, backend, megabytes) for megabytes in (10, 40)}
    print("\nresident memory of a stream")
    for megabytes, (start, top) in sizes.items():
        print(f"  {megabytes:4d} MB of text: {start:.0f} MB before, {top:.0f} MB at the peak")
    grown = (sizes[40][1] - sizes[10][1]) / 30
    print(f"  {grown:.2f} MB more per MB of text; 200 MB would peak at {sizes[40][1] + 160 * max(grown, 0):.0f} MB")
    assert sizes[40][1] + 160 * max(grown, 0) < 1000, "the stream keeps more than sums of groups and tokens per set"
