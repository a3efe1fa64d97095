"""How fast tokens are prepared for display: against the viewer of `tokenizers`, and against twice the text.

Run by `make bench`; prints medians and ratios, and asserts the thresholds. Times are processor time, all threads of this process together, so that
what else runs on the machine counts for nothing."""

import time
from statistics import median

import polars as pl
import pytest
import test_tokenizer as unit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.tools import EncodingVisualizer

from toksuite_nb.tokenizer import load_tokenizer, tokenize
from toksuite_nb.tokens import strip_rows

SENTENCES = (
    "The capital of Italy is Rome; ",
    "پایتخت ایران تهران است. ",
    "İstanbul'da gökyüzü mavi; ",
    "中国的首都是北京。",
    "ﬁne café, x = 123. ",
)
PROSE = "".join(SENTENCES)
# every cut inside a word needs joiners, so that the letters keep their forms
FARSI = "پایتخت ایران تهران است و آسمان آبی است. می‌خواهم کتاب‌ها را بخوانم؛ "


def trained():
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=800, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([PROSE] * 10, trainer)
    return backend


def prepared(tokenizer, text):
    return strip_rows(tokenize([text], [tokenizer]), text)


def seconds(run, repeats):
    "Median processor time, after one run that fills caches."
    run()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return median(times)


@pytest.fixture(scope="module")
def zoo():
    backend = trained()
    loaded = {
        "bpe-nfkc": load_tokenizer(backend, "bpe-nfkc"),
        **{n: load_tokenizer(n) for n in ("tekken", "mistral-spm", "bytes")},
    }
    return backend, loaded


def sized(n, text=PROSE):
    return (text * (n // len(text) + 1))[:n]


def test_display_of_20000_characters_is_quick_and_beats_the_viewer(zoo):
    backend, loaded = zoo
    viewer = EncodingVisualizer(backend, default_to_notebook=False)
    rows = []
    for script, text in (("mixed", sized(20_000)), ("Farsi", sized(20_000, FARSI))):
        began = time.process_time()
        viewer(text)
        theirs = time.process_time() - began
        for name, tokenizer in loaded.items():
            n = len(tokenizer.encode([text])[0])
            ours = seconds(lambda tokenizer=tokenizer, text=text: prepared(tokenizer, text), 9)
            rows.append((script, name, n, ours, theirs, theirs / ours))
    columns = ["text", "tokenizer", "tokens", "seconds", "viewer_on_bpe_nfkc", "times_faster"]
    table = pl.DataFrame(rows, schema=columns, orient="row")
    print("\n20,000 characters")
    print(table.with_columns(pl.col("seconds", "viewer_on_bpe_nfkc").round(4), pl.col("times_faster").round(1)))
    same = table.filter(tokenizer="bpe-nfkc")
    assert same["times_faster"].min() >= 25, "the display of the same tokenizer is not 25 times faster than the viewer"
    assert table["seconds"].max() <= 0.1, "20,000 characters take longer than 0.1 s"


def test_display_is_linear_to_a_million_characters(zoo):
    rows = []
    for script, prose in (("mixed", PROSE), ("Farsi", FARSI)):
        for name, tokenizer in zoo[1].items():
            times = {
                n: seconds(lambda n=n, tokenizer=tokenizer, prose=prose: prepared(tokenizer, sized(n, prose)), repeats)
                for n, repeats in ((20_000, 5), (100_000, 3), (1_000_000, 1))
            }
            rows.append((script, name, *times.values(), times[1_000_000] / times[100_000] / 10))
    table = pl.DataFrame(rows, schema=["text", "tokenizer", "20k", "100k", "1M", "growth"], orient="row")
    print("\nseconds by characters; growth 1 is linear")
    print(table.with_columns(pl.exclude("text", "tokenizer").round(3)))
    assert table["growth"].max() < 2, "ten times the text takes more than twice ten times as long"


NAMED = ("tekken", "mistral-spm", "bytes", "bpe", "bpe-nfkc-lower", "unigram", "wordpiece-cased", "wordpiece-uncased")


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(unit.TEXTS, min_size=20, max_size=20))
def test_ten_thousand_texts_are_reconstructed_or_their_losses_named(texts):
    "500 lists of 20 texts through eight tokenizers; `make test` sends fewer through more."
    for name in NAMED:
        unit.check_texts(name, texts)
