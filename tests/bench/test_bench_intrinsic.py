"""Speed and memory of the intrinsic metrics, run by `make bench`.

Prints the best and the median of several rounds, in turn and in one process, and asserts ratios of processor time (all threads together), so that
what else runs on the machine counts for little; wall time is printed beside it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from babel import Locale
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

import toksuite_nb
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


def code(n_bytes: int) -> list[str]:
    "Definitions from this package's modules, with the numbers in them drawn anew each time."
    blocks = [
        block
        for path in sorted(Path(toksuite_nb.__file__).parent.glob("*.py"))
        for block in path.read_text(encoding="utf-8").split("\n\n\n")
        if 40 < len(block) < 4000
    ]
    rng = np.random.default_rng(7)
    out: list[str] = []
    size = 0
    while size < n_bytes:
        block = blocks[int(rng.integers(len(blocks)))]
        out.append(re.sub(r"\d+", lambda m: str(int(rng.integers(10 ** min(len(m[0]), 9)))), block))
        size += len(out[-1].encode())
    return out


def mathematics(n_bytes: int) -> list[str]:
    "Questions of the benchmark's mathematics and STEM sets, each with a formula whose numbers and letters are drawn."
    asked = load_benchmark("embedded").filter(pl.col("domain").is_in(["math", "stem"]))["question"].drop_nulls()
    forms = (
        r"$\frac{%s}{%d} + \sqrt{%s^%d}$",
        r"$\int_0^{%d} %s^{%d}\,d%s$",
        "%s² ≤ %d·%s + %d",
        r"$\sum_{%s=1}^{%d} %s_{%d}$",
    )
    rng = np.random.default_rng(8)
    out: list[str] = []
    size = 0
    while size < n_bytes:
        form = forms[int(rng.integers(len(forms)))]
        drawn = tuple(
            int(rng.integers(1, 10**5)) if kind == "d" else "xyzαβθ"[int(rng.integers(6))]
            for kind in re.findall("%([ds])", form)
        )
        out.append(f"{asked[int(rng.integers(len(asked)))]} {form % drawn}")
        size += len(out[-1].encode())
    return out


@pytest.fixture(scope="module")
def corpus() -> pl.DataFrame:
    "5 MB, mixed: 800 kB in each of five languages, half a megabyte of code and half of mathematics."
    parts = [(lang, lang, sentences(lang, 800_000)) for lang in languages]
    parts += [("code", "en", code(500_000)), ("math", "en", mathematics(500_000))]
    rows = [
        (str(k) if name == lang else f"{name} {k}", lang, text)
        for name, lang, texts in parts
        for k, text in enumerate(texts)
    ]
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
    "The published script calls a `transformers` tokenizer with every word of the corpus; the words are found beforehand here."
    transformers = pytest.importorskip("transformers")
    library, tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend), load_tokenizer(backend, "bpe")
    bags = {
        lang: [word for text in corpus.filter(lang=lang)["text"] for word in words(text, lang)] for lang in languages
    }
    found: dict[str, float] = {}

    def published():
        for lang, bag in bags.items():
            found[lang] = sum(len(library.encode(word, add_special_tokens=False)) for word in bag) / len(bag)

    def bare():
        for bag in bags.values():
            for word in bag:
                len(backend.encode(word, add_special_tokens=False).ids)

    def fertility():
        return intrinsic(corpus, [tokenizer], metrics=["fertility"], draws=0)

    taken = in_turn({"fertility, words found too": fertility}, 3)
    taken |= in_turn({"published: transformers, word by word": published, "tokenizers, word by word": bare}, 1)
    show(
        f"the same fertility of {sum(map(len, bags.values())):,} words",
        int(corpus["text"].str.len_bytes().sum()),
        taken,
    )
    ours = fertility()
    for lang, value in found.items():
        assert ours.filter(lang=lang)["value"].item() == pytest.approx(value, abs=1e-12)
    own = best(taken.pop("fertility, words found too"))
    ratios = {name: best(times) / own for name, times in taken.items()}
    print(*(f"  {name} / fertility: {ratio:.1f}" for name, ratio in ratios.items()), sep="\n")
    assert ratios["published: transformers, word by word"] >= 20
    assert ratios["tokenizers, word by word"] >= 4, "even without what transformers adds, word by word is slower"


MEMORY = """
import sys
import polars as pl
from toksuite_nb.intrinsic import intrinsic
from toksuite_nb.tokenizer import load_tokenizer
path, megabytes = sys.argv[1], float(sys.argv[2])
frame = pl.read_parquet(path)
size = int(frame["text"].str.len_bytes().sum())
tokenizer = load_tokenizer(sys.argv[3], "bpe")
def peak():
    # not getrusage, whose peak includes that of the process this one was forked from
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
def stream():
    k = read = 0
    while read < megabytes * 1e6:
        for part in frame.iter_slices(5000):
            # other texts and other sets in every round, so that nothing is known already
            yield part.with_columns(text=pl.col("text") + f" {k}x{k * 7919}", set_id=pl.col("set_id") + f"/{k}")
            read += int(part["text"].str.len_bytes().sum())
            k += 1
intrinsic(frame.head(2000), [tokenizer])
start = peak()
found = intrinsic(stream(), [tokenizer])
assert found.filter(metric="roundtrip_exact")["value"].to_list() == [1.0] * 5
assert found.filter(metric="parity")["value"].null_count() == 0
print(start, peak())
"""


def peak(tmp_path, corpus, backend, megabytes: float) -> list[float]:
    "Resident MB before and at the peak of a stream, in a process of its own."
    corpus.write_parquet(tmp_path / "corpus.parquet")
    backend.save(str(tmp_path / "tokenizer.json"))
    command = [sys.executable, "-c", MEMORY, tmp_path / "corpus.parquet", str(megabytes), tmp_path / "tokenizer.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(x) for x in done.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_stream_of_200_megabytes_stays_under_a_gigabyte(tmp_path, corpus, backend):
    sizes = {megabytes: peak(tmp_path, corpus, backend, megabytes) for megabytes in (10, 200)}
    print("\nresident memory of a stream")
    for megabytes, (start, top) in sizes.items():
        print(f"  {megabytes:4d} MB of text: {start:.0f} MB before, {top:.0f} MB at the peak")
    assert sizes[200][1] < 1000, "the stream keeps more than sums of groups and tokens per set"
