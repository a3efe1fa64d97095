"""Intrinsic metrics against plain re-implementations, on hostile text, in pages and streams of any size."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import polars as pl
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

import toksuite_nb.intrinsic as module
from toksuite_nb.core import progress
from toksuite_nb.intrinsic import compare, fertility, gini, intrinsic, lorenz, overlap, parity, pcw, renyi_efficiency
from toksuite_nb.items import load_benchmark
from toksuite_nb.text import graphemes, languages, words
from toksuite_nb.tokenizer import BytesTokenizer, Tokenizer, load_tokenizer

SENTENCES = {
    "en": ["The cat's well-known hat cost $1,234,567.89!", "It's 2024; she paid 1000 for 12345678 files.\nReally?"],
    "fa": ["می‌خواهم ۱۲۳۴ کتاب بخرم.", "پایتخت ایران، تهران است؛ نه رم!"],
    "it": ["L'acqua dell'isola è po' fredda: 20 gradi.", "C'è un'altra città-stato nell'800."],
    "tr": ["İstanbul'un ışıkları IŞIL ışıl.", "Ankara'nın 1923 yılındaki nüfusu 35000'di."],
    "zh": ["伊朗的首都是德黑兰。", "他花了1234567元买iPhone，对吗？"],
}
ZOO = ("bytes", "mistral-spm", "tekken", "bpe", "bpe-nfkc-lower", "unigram", "metaspace", "llama-style", "wordpiece", "wordpiece-cased", "object")  # fmt: skip

# letters of five languages, joiners, marks, digits, emoji families, flags, conjuncts, Hangul parts, controls
ALPHABET = (
    "aZéİıßſﬁ'’-\u200c\u200d\u0301\u064b\u0327\u0600می۱۲3٤5汉字々〇⺀\u3099\u20dd 　\t\n\r\u0085\u00a0\x00.,!$€%_#؟،。"
    "👩👧🇮🇹🏽❤\ufe0f\u1100\u1161\u11a8각\u0915\u094d\u0937\u093e\u0e33𐍈𝐓\U000e0061\ufeff\u200e½²"
)
hostile = st.text(st.sampled_from(ALPHABET), min_size=1, max_size=14) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12
)


class Chunks:
    "An object with encode and decode: pairs of letters of a small alphabet."

    vocab_size = 1 + 26 + 26 * 26
    unk_token_id = 0

    def __init__(self):
        self.threads = set()

    def encode(self, text):
        self.threads.add(threading.get_ident())
        ids = []
        for word in regex.findall(r"[a-z]+|[^a-z]+", text):
            for k in range(0, len(word), 2):
                pair = [ord(c) - 97 for c in word[k : k + 2]]
                known = all(0 <= c < 26 for c in pair)
                ids.append(0 if not known else 1 + pair[0] if len(pair) == 1 else 27 + 26 * pair[0] + pair[1])
        return ids

    def decode(self, ids):
        out = []
        for i in ids:
            out.append("?" if i == 0 else chr(96 + i) if i < 27 else chr(97 + (i - 27) // 26) + chr(97 + (i - 27) % 26))
        return "".join(out)


def trained(model, trainer, normalizer=None, byte_level=True):
    backend = Backend(model)
    if normalizer is not None:
        backend.normalizer = normalizer
    if byte_level:
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.decoder = decoders.WordPiece()
    backend.train_from_iterator([s for part in SENTENCES.values() for s in part] * 20, trainer)
    return backend


def metaspace():
    made = Backend(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False
    )
    made.train_from_iterator([s for part in SENTENCES.values() for s in part] * 20, trainer)
    return made


def llama_style():
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)], "▁", *"abehlotn", "▁t", "he", "▁the"]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    made = Backend(
        models.BPE({t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<s>", "</s>"])
    return made


@pytest.fixture(scope="module")
def zoo() -> dict[str, Tokenizer]:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe = {"vocab_size": 500, "initial_alphabet": alphabet, "show_progress": False}
    lower = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made = {
        "bpe": trained(models.BPE(), trainers.BpeTrainer(**bpe)),
        "bpe-nfkc-lower": trained(models.BPE(), trainers.BpeTrainer(**bpe), lower),
        "unigram": trained(
            models.Unigram(),
            trainers.UnigramTrainer(
                vocab_size=400,
                initial_alphabet=alphabet,
                unk_token="<unk>",
                special_tokens=["<unk>"],
                show_progress=False,
            ),
            normalizers.NFKC(),
        ),
        "wordpiece": trained(
            models.WordPiece(unk_token="[UNK]"),
            trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False),
            normalizers.BertNormalizer(strip_accents=True),
            byte_level=False,
        ),
        "object": Chunks(),
        "metaspace": metaspace(),
        "llama-style": llama_style(),
        "wordpiece-cased": trained(
            models.WordPiece(unk_token="[UNK]"),
            trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]", "[SEP]"], show_progress=False),
            normalizers.BertNormalizer(lowercase=False, strip_accents=False),
            byte_level=False,
        ),
    }
    builtin = {name: name for name in ("bytes", "mistral-spm", "tekken")}
    return {name: load_tokenizer(spec, name) for name, spec in (builtin | made).items()}


def corpus(parts=SENTENCES) -> pl.DataFrame:
    rows = [(str(k), lang, text) for lang, part in parts.items() for k, text in enumerate(part)]
    return pl.DataFrame(rows, schema=["set_id", "lang", "text"], orient="row")


def table(frame: pl.DataFrame, **where) -> dict[tuple[str, str], float | None]:
    return {(r["metric"], r["aggregation"]): r["value"] for r in frame.filter(**where).iter_rows(named=True)}


def close(found, wanted, what):
    if wanted is None or found is None:
        assert found is None and wanted is None, (
            f"{what}: {found} instead of {wanted}; unmeasured is null, and only that"
        )
    else:
        assert abs(found - wanted) <= 1e-12 * max(1, abs(wanted)), f"{what}: {found} instead of {wanted}"


# the published definitions, written down once more as loops over words and sentences


def published_fertility(bag, n_tokens):
    return sum(n_tokens(word) for word in bag) / len(bag) if bag else None


def published_pcw(bag, n_tokens):
    return sum(n_tokens(word) >= 2 for word in bag) / len(bag) if bag else None


def published_parity(pairs, n_tokens):
    return sum(n_tokens(text) / n_tokens(english) for text, english in pairs) / len(pairs) if pairs else None


@pytest.mark.parametrize("name", ZOO)
def test_fertility_pcw_and_parity_equal_the_published_definitions(zoo, name):
    tokenizer = zoo[name]

    def n_tokens(text):
        return len(tokenizer.encode([text])[0])

    def segment(text, lang):
        # as spaCy does: punctuation counts, words come with white space that is stripped, empty strings are dropped
        return [" " + part + " " for part in regex.findall(r"[\p{L}\p{M}\p{N}\u200c'’]+|[\p{P}\p{S}]", text)] + [
            " ",
            "",
        ]

    measured = intrinsic(corpus(), [tokenizer], segmenter=segment, draws=0)
    for lang, part in SENTENCES.items():
        bag = [word for text in part for raw in segment(text, lang) if (word := raw.strip())]
        found = table(measured, lang=lang)
        close(found["fertility", "mean"], published_fertility(bag, n_tokens), f"fertility of {lang}")
        close(found["pcw", "mean"], published_pcw(bag, n_tokens), f"pcw of {lang}")
        pairs = list(zip(part, SENTENCES["en"], strict=True))
        close(found["parity", "mean_of_ratios"], published_parity(pairs, n_tokens), f"parity of {lang}")


def test_special_tokens_count_in_parity_and_compression_only(zoo):
    plain, special = (intrinsic(corpus(), [zoo["bpe"]], special_tokens=s, draws=0) for s in (None, {"bpe": 2}))
    n = {text: len(zoo["bpe"].encode([text])[0]) for part in SENTENCES.values() for text in part}
    for lang, part in SENTENCES.items():
        pairs = list(zip(part, SENTENCES["en"], strict=True))
        before, after = table(plain, lang=lang), table(special, lang=lang)
        changed = {key for key in before if before[key] != after[key]}
        assert {name for name, _ in changed} <= {"parity", "compression_rate"}
        close(after["parity", "mean_of_ratios"], published_parity(pairs, lambda t: n[t] + 2), f"parity of {lang}")
        bits = math.ceil(math.log2(zoo["bpe"].vocab_size + 1))
        size = sum(len(t.encode()) for t in part)
        close(
            after["compression_rate", "ratio_of_sums"], size / (sum(n[t] + 2 for t in part) * bits / 8), "compression"
        )


def test_the_embedded_benchmark_gives_the_published_numbers(zoo):
    items = load_benchmark("embedded").select("set_id", "lang", text="question")
    measured = intrinsic(items, [zoo["tekken"]], draws=0)
    english = dict(items.filter(lang="en").select("set_id", "text").iter_rows())

    def n_tokens(text):
        return len(zoo["tekken"].encode([text])[0])

    for lang in languages:
        part = items.filter(lang=lang)
        bag = [word for text in part["text"] for word in words(text, lang)]
        pairs = [(text, english[key]) for key, text in part.select("set_id", "text").iter_rows() if key in english]
        found = table(measured, lang=lang)
        close(found["fertility", "mean"], published_fertility(bag, n_tokens), f"fertility of {lang}")
        close(found["pcw", "mean"], published_pcw(bag, n_tokens), f"pcw of {lang}")
        close(found["parity", "mean_of_ratios"], published_parity(pairs, n_tokens), f"parity of {lang}")


# text as arrays


def page_of(texts, lang, punctuation=False):
    lexicon = module._Lexicon(1)
    sets = pl.Series([None] * len(texts), dtype=pl.String)
    return module._page(lang, texts, sets, None, punctuation, lexicon, True), list(lexicon)


@settings(max_examples=150)
@given(st.lists(hostile, min_size=1, max_size=4), st.sampled_from(sorted(languages)), st.booleans())
@example(["a'", "b'c-d'", "'e"], "it", False)
@example(["汉\u0301\u0301a\u0301'b汉'c", "\u0301汉"], "zh", True)
@example(["🇮🇹🇮", "🇹🇷\u200d👩\u200d👧", "\r", "\n\r\n"], "en", False)
@example(["क्\u200dष", "क", "्ष"], "en", False)
def test_pages_find_the_words_and_graphemes_of_the_text_module(texts, lang, punctuation):
    page, known = page_of(texts, lang, punctuation)
    layout, at, offset = page.layout, 0, 0
    starts = np.flatnonzero(layout.begins)
    for k, text in enumerate(texts):
        n = int(page.words.per_text[k])
        found = [known[code] for code in page.words.codes[at : at + n]]
        inside = [m.span() for m in module_words(text, lang)]
        plain = [text[a:b] for a, b in inside]
        if punctuation:
            covered = {i for a, b in inside for i in range(a, b)}
            marks = [(i, i + 1) for i, c in enumerate(text) if i not in covered and regex.match(r"[\p{P}\p{S}]", c)]
            plain = [text[a:b] for a, b in sorted(inside + marks)]
        assert found == plain, f"words of {text!r} in {lang}"
        raw = text.encode()
        spans = (layout.word_at[:, at : at + n] - offset).T.tolist()
        assert [raw[a:b].decode() for a, b in spans] == plain, f"places of the words of {text!r}"
        clusters = graphemes(text)
        wanted = np.cumsum([0, *(len(g.encode()) for g in clusters)])
        own = starts[(starts >= offset) & (starts < offset + len(raw))] - offset
        assert own.tolist() == wanted[:-1].tolist() and layout.graphemes[k] == len(clusters), f"graphemes of {text!r}"
        at, offset = at + n, offset + len(raw)


def module_words(text, lang):
    import toksuite_nb.text as text_module

    return text_module._words[lang].finditer(text)


# tokens as arrays


def plainly(tokenizer, texts, lang):
    "Every additive metric once more, from the cuts, one text at a time."
    sums = Counter()
    splits = {}
    unknown = tokenizer.specials.get("unk")
    for text in texts:
        cut, raw = tokenizer.cut(text), text.encode()
        spans = cut.spans()
        edges = {edge for span in spans for edge in span}
        offsets = np.cumsum([0, *(len(g.encode()) for g in graphemes(text))]).tolist()
        places = [[len(text[:i].encode()) for i in m.span()] for m in module_words(text, lang)]
        reach = [[k for k, (a, b) in enumerate(spans) if a < high and b > low and a < b] for low, high in places]
        sums["words"] += len(places)
        sums["inside"] += len({k for hits in reach for k in hits})
        sums["cut_words"] += sum(len(hits) > 1 for hits in reach)
        sums["graphemes"] += len(offsets) - 1
        sums["cut_graphemes"] += sum(any(a < e < b for e in edges) for a, b in pairwise(offsets))
        back = tokenizer.decode(cut.ids)
        sums["exact"] += back == text
        sums["errors"] += Levenshtein.distance(text, back)
        sums["chars"], sums["bytes"], sums["tokens"] = (
            sums["chars"] + len(text),
            sums["bytes"] + len(raw),
            sums["tokens"] + len(cut.ids),
        )
        sums["unknown"] += sum(i == unknown for i in cut.ids)
        sums["fallback"] += sum(tokenizer.kinds[i] == "fallback" for i in cut.ids)
        sums["complete"] += sum(whole(tokenizer.pieces[i]) and i != unknown for i in cut.ids)
        sums["lines"] += len(text.removesuffix("\n").split("\n"))
        for match in regex.finditer(r"\p{Nd}{2,}", text):
            gaps = [len(text[: match.start() + j].encode()) for j in range(1, len(match[0]))]
            made = [gap in edges for gap in gaps]
            gold = [(len(match[0]) - j) % 3 == 0 for j in range(1, len(match[0]))]
            for m, g in zip(made, gold, strict=True):
                sums["hit"] += m and g
                sums["extra"] += m and not g
                sums["missed"] += g and not m
            splits.setdefault(len(match[0]), []).append(tuple(made))
    pairs = [a != b for same in splits.values() for a, b in combinations(same, 2)]
    return sums, sum(pairs) / len(pairs) if pairs else None


def whole(piece):
    try:
        return bool(piece) and bool(piece.decode())
    except UnicodeDecodeError:
        return False


RATIOS = {
    "bytes_per_token": ("bytes", "tokens"), "chars_per_token": ("chars", "tokens"), "tokens_per_line": ("tokens", "lines"),
    "unk_rate": ("unknown", "tokens"), "byte_fallback_rate": ("fallback", "tokens"), "utf8_complete": ("complete", "tokens"),
    "char_split_rate": ("cut_graphemes", "graphemes"), "cer": ("errors", "chars"),
    "fertility_in_context": ("inside", "words"), "pcw_in_context": ("cut_words", "words"),
}  # fmt: skip


def check_against_plain(tokenizer, texts, lang):
    found = {
        m: v
        for (m, _), v in table(intrinsic(texts, [tokenizer], lang=lang, draws=0), lang=lang).items()
        if m != "parity"
    }
    sums, variability = plainly(tokenizer, texts, lang)
    for name, (part, over) in RATIOS.items():
        close(found[name], sums[part] / sums[over] if sums[over] else None, f"{name} of {tokenizer.name} on {texts}")
    close(found["roundtrip_exact"], sums["exact"] / len(texts), f"round trip of {tokenizer.name} on {texts}")
    gaps = 2 * sums["hit"] + sums["extra"] + sums["missed"]
    close(found["digit_boundary_f1"], 2 * sums["hit"] / gaps if gaps else None, f"digit F1 on {texts}")
    close(found["digit_split_variability"], variability, f"digit variability on {texts}")


@pytest.mark.parametrize("name", ZOO)
def test_metrics_of_texts_equal_a_plain_count(zoo, name):
    for lang, part in SENTENCES.items():
        check_against_plain(zoo[name], part, lang)


@settings(max_examples=20)
@given(texts=st.lists(hostile, min_size=1, max_size=3), lang=st.sampled_from(sorted(languages)))
@example(texts=[" a", "  a  b ", "a "], lang="en")
@example(texts=["ﬁ½ İI", "e\u0301\u0301x"], lang="tr")
@example(texts=["12345 12345 12345", "1 22 333\n4444\n"], lang="zh")
@example(texts=["</s> <unk> [UNK]", "▁a Ġb ##s"], lang="en")
@pytest.mark.parametrize("name", ZOO)
def test_metrics_of_hostile_text_equal_a_plain_count(zoo, name, texts, lang):
    check_against_plain(zoo[name], texts, lang)


def test_entropy_and_utilisation_count_over_the_declared_vocabulary(zoo):
    measured = intrinsic(corpus(), [zoo["tekken"]], alphas=(0, 1, 2.5), draws=0)
    for lang, part in [*SENTENCES.items(), ("all", [t for p in SENTENCES.values() for t in p])]:
        counts = Counter(i for ids in zoo["tekken"].encode(part) for i in ids)
        p = np.array(list(counts.values())) / counts.total()
        found = table(measured, lang=lang)
        size = math.log(zoo["tekken"].vocab_size)
        close(
            found["renyi_efficiency(0)", "pooled"], math.log(len(counts)) / size, "order 0 is the log of the ids seen"
        )
        close(found["renyi_efficiency(1)", "pooled"], -math.fsum(p * np.log(p)) / size, "order 1 is Shannon's")
        close(found["renyi_efficiency(2.5)", "pooled"], math.log(math.fsum(p**2.5)) / -1.5 / size, "order 2.5")
        close(found["vocab_utilisation", "pooled"], len(counts) / zoo["tekken"].vocab_size, "utilisation")
    assert renyi_efficiency(np.array([3, 3, 3, 3]), 4, 2) == pytest.approx(1, abs=1e-15)


def test_overlap_is_on_bytes_and_not_on_strings(zoo):
    found = {(r["a"], r["b"]): r for r in overlap(zoo).iter_rows(named=True)}
    assert len(found) == len(zoo) ** 2
    sets = {name: {piece for piece in t.pieces if piece} for name, t in zoo.items()}
    for (a, b), row in found.items():
        assert row["shared"] == len(sets[a] & sets[b]) == found[b, a]["shared"]
        assert row["jaccard"] == found[b, a]["jaccard"] == len(sets[a] & sets[b]) / len(sets[a] | sets[b])
        assert row["coverage"] == len(sets[a] & sets[b]) / len(sets[b])
    assert found["mistral-spm", "bytes"]["coverage"] == 1, "fallback pieces are their bytes"
    assert found["bpe", "bytes"]["coverage"] == 1, "high bytes of a byte-level vocabulary are bytes, not Latin-1"


# spread, nulls, intervals


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=6).filter(any))
def test_gini_is_the_mean_difference_and_the_lorenz_area(values):
    x = np.array(values, dtype=float)
    plain = np.abs(x[:, None] - x[None, :]).sum() / (2 * len(x) ** 2 * x.mean())
    assert gini(x) == pytest.approx(plain, abs=1e-12)
    assert gini(x) == gini(x[::-1]), "the order of the languages must not change a digit"
    curve = lorenz({str(k): v for k, v in enumerate(values)})
    area = np.trapezoid(curve["share"], curve["languages"])
    assert 1 - 2 * area == pytest.approx(plain, abs=1e-9)


def test_spread_uses_only_sets_that_have_every_language(zoo):
    frame = pl.concat([corpus(), pl.DataFrame({"set_id": ["9"], "lang": ["fa"], "text": ["تنها فارسی " * 40]})])
    measured = table(intrinsic(frame, [zoo["tekken"]], draws=0), lang="all")
    means = [np.mean([len(ids) for ids in zoo["tekken"].encode(SENTENCES[lang])]) for lang in sorted(SENTENCES)]
    close(measured["gini", "languages"], gini(np.array(means)), "gini")
    close(measured["cv", "languages"], float(np.std(means) / np.mean(means)), "cv")
    without = table(intrinsic(frame.drop("set_id"), [zoo["tekken"]], draws=0), lang="all")
    assert without["gini", "languages"] is None and without["cv", "languages"] is None


def test_what_cannot_be_measured_is_null_and_what_is_zero_is_zero(zoo):
    found = table(intrinsic(["?!"], [zoo["tekken"]], lang="en"), lang="en")
    for key in [("fertility", "mean"), ("pcw", "mean"), ("fertility_in_context", "ratio_of_sums"), ("digit_boundary_f1", "ratio_of_sums"),
                ("digit_split_variability", "mean"), ("parity", "mean_of_ratios"), ("parity", "ratio_of_sums")]:  # fmt: skip
        assert found[key] is None, f"{key} has nothing to measure in '?!'"
    for key in [("unk_rate", "mean"), ("char_split_rate", "mean"), ("cer", "ratio_of_sums")]:
        assert found[key] == 0.0
    assert (
        intrinsic(["12"], [zoo["tekken"]], lang="en").filter(metric="digit_split_variability")["value"].item() is None
    )


def test_a_reference_without_tokens_leaves_the_mean_of_ratios_unmeasured(zoo):
    frame = pl.DataFrame({"set_id": ["1", "1"], "lang": ["en", "tr"], "text": ["  ", "kedi"]})
    found = table(intrinsic(frame, [zoo["wordpiece"]]), lang="tr")
    assert found["parity", "mean_of_ratios"] is None


def test_intervals_are_seeded_and_shared_between_tokenizers(zoo):
    lines = [f"{k} bottles of beer number {k * k * k} on the wall" + "!" * (k % 5) for k in range(50)]
    first, again, other = (intrinsic(lines, [zoo["bpe"], zoo["tekken"]], lang="en", seed=seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first["low"].equals(other["low"]) and first["value"].equals(other["value"])
    assert first.filter(pl.col("low").is_not_null())["seed"].unique().to_list() == [1]
    twin = intrinsic(lines, {"a": zoo["bpe"], "b": zoo["bpe"]}, lang="en", seed=1)
    assert twin.filter(tokenizer="a")["low"].equals(twin.filter(tokenizer="b")["low"])
    assert intrinsic(lines, [zoo["bpe"]], lang="en", draws=0)["low"].null_count() == first.height / 2
    # the same by a plain bootstrap over texts
    n = np.array([[len(zoo["bpe"].encode([t])[0]), len(t.encode())] for t in lines])
    drawn = n[np.random.default_rng(0).integers(0, 50, (4000, 50))].sum(axis=1)
    plain = np.quantile(drawn[:, 1] / drawn[:, 0], [0.025, 0.975])
    row = first.row(by_predicate=(pl.col("metric") == "bytes_per_token") & (pl.col("tokenizer") == "bpe"), named=True)
    assert abs(row["low"] - plain[0]) + abs(row["high"] - plain[1]) < 0.2 * (plain[1] - plain[0])


def test_groups_of_texts_keep_the_width_of_the_interval():
    rng = np.random.default_rng(3)
    texts = ["a" * int(rng.integers(1, 40)) + " b" * int(rng.integers(1, 9)) for _ in range(4000)]
    row = intrinsic(texts, ["bytes"], lang="en", draws=2000).row(
        by_predicate=pl.col("metric") == "fertility", named=True
    )
    part = np.array([[len(t.replace(" ", "")), len(t.split())] for t in texts], dtype=float)
    residual = part[:, 0] - row["value"] * part[:, 1]
    wanted = 2 * 1.96 * residual.std() / part[:, 1].mean() / math.sqrt(len(texts))
    assert row["high"] - row["low"] == pytest.approx(wanted, rel=0.15), "groups must vary as the texts they hold"


# streams


@pytest.mark.parametrize("size", [1, 30, 10**9])
def test_the_division_into_pages_changes_nothing(zoo, size, monkeypatch):
    frame = pl.concat([corpus()] * 12).with_columns(set_id=pl.int_range(pl.len()).cast(pl.String))
    tokenizers = [zoo["bpe-nfkc-lower"], zoo["mistral-spm"], zoo["object"]]
    whole = intrinsic(frame, tokenizers)
    monkeypatch.setattr(module, "_page_bytes", size)
    monkeypatch.setattr(module, "_slice_rows", 1 + size % 7)
    monkeypatch.setattr(module, "_lexicon_words", 5)
    assert intrinsic(frame, tokenizers).equals(whole)
    assert intrinsic((frame[k : k + 5] for k in range(0, frame.height, 5)), tokenizers).equals(whole)


def test_the_corpus_hash_names_texts_languages_and_sets():
    frame = pl.DataFrame({"text": ["ab", "c"], "lang": ["en", "it"], "set_id": ["1", None]})
    variants = [
        frame, frame.with_columns(text=pl.Series(["a", "bc"])), frame.with_columns(lang=pl.lit("en")), frame.drop("set_id"),
        frame.with_columns(set_id=pl.Series([None, "1"])), frame.reverse(),
    ]  # fmt: skip
    hashes = [intrinsic(v, ["bytes"], metrics=["fertility"])["corpus"][0] for v in variants]
    assert len(set(hashes)) == len(variants)


def test_only_words_are_encoded_where_only_words_are_asked_for():
    asked = []

    class Listening(Chunks):
        def encode(self, text):
            asked.append(text)
            return super().encode(text)

    tokenizer = load_tokenizer(Listening(), "listening")
    asked.clear()
    found = intrinsic(["the cat the cat"] * 3, [tokenizer], lang="en", metrics=["fertility", "pcw"])
    assert sorted(text for text in asked if text in ("the", "cat", "the cat the cat")) == ["cat", "the"]
    assert found.select("metric", "value", "n").rows() == [("fertility", 2.0, 12), ("pcw", 1.0, 12)]


def test_an_object_is_called_from_one_thread():
    library = Chunks()
    intrinsic(corpus(), [load_tokenizer(library, "chunks")], draws=0)
    assert library.threads == {threading.get_ident()}, (
        "an object of the user's may not be safe to call from two threads"
    )


def test_results_do_not_depend_on_the_hash_seed():
    code = (
        "import polars as pl; from toksuite_nb.intrinsic import intrinsic, overlap\n"
        "f = pl.DataFrame({'text': ['one two', 'uno due', 'bir iki'] * 12, 'lang': ['en', 'it', 'tr'] * 12,"
        " 'set_id': [str(k // 3) for k in range(36)]})\n"
        "print(intrinsic(f, ['bytes', 'mistral-spm']).write_json(), overlap(['bytes', 'mistral-spm']).write_json())"
    )
    outs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    ]
    assert outs[0] == outs[1] and len(outs[0]) > 1000


# definitions, counted by hand


def by_metric(frame, column, lang="en"):
    return dict(frame.filter(lang=lang).select("metric", column).iter_rows())


def test_each_metric_says_how_many_units_it_was_measured_on():
    found = by_metric(intrinsic(["ab 12", "c\nd"], ["bytes"], lang="en", draws=0), "n")
    words, tokens = ("fertility", "pcw", "fertility_in_context", "pcw_in_context"), 5 + 3
    per_token = ("bytes_per_token", "chars_per_token", "unk_rate", "byte_fallback_rate", "utf8_complete")
    wanted = dict.fromkeys(words, 4) | dict.fromkeys((*per_token, "compression_rate", "vocab_utilisation"), tokens)
    wanted |= {"tokens_per_line": 3, "char_split_rate": 8, "roundtrip_exact": 2, "cer": 8, "digit_boundary_f1": 1}
    wanted |= {"digit_split_variability": 1, "parity": 0} | {f"renyi_efficiency({a})": tokens for a in (1, 2, 2.5)}
    assert found == wanted


def test_an_id_takes_the_bits_that_the_published_formula_gives_it():
    # one more value than there are ids is counted: 256 ids take nine bits, not eight
    tokenizer = BytesTokenizer("full", offset=0, vocab_size=256, specials={})
    assert by_metric(intrinsic(["eight by"], [tokenizer], lang="en", draws=0), "value")["compression_rate"] == 8 / 9


def test_long_numbers_are_compared_with_those_of_their_length():
    twos = Backend(models.BPE({"1": 0, "2": 1, " ": 2, "11": 3}, [("1", "1")]))
    text = " ".join(["1" * 12, "2" * 12, "1" * 12, "2" * 51])
    found = intrinsic([text], {"twos": twos}, lang="en", draws=0)
    # of the three pairs of twelve digits two are unlike; more than 50 digits are left out
    assert (by_metric(found, "value")["digit_split_variability"], by_metric(found, "n")["digit_split_variability"]) == (
        2 / 3,
        3,
    )
    # groups of three begin at 3, 6, 9: twos meet 6, and 2, 4, 8, 10 are extra; single digits meet all, and 8 are extra
    found = intrinsic([" ".join(["1" * 12, "2" * 12])], {"twos": twos}, lang="en", draws=0)
    assert by_metric(found, "value")["digit_boundary_f1"] == 2 * 4 / (2 * 4 + 12 + 2)


def test_the_spread_over_languages_is_that_of_mean_tokens():
    rows = [("en", "ab"), ("en", "ab"), ("en", "a" * 26), ("tr", "abcd"), ("tr", "abcd"), ("tr", "abcd")]
    frame = pl.DataFrame(rows, schema=["lang", "text"], orient="row").with_columns(
        set_id=pl.Series(["1", "2", "3"] * 2)
    )
    found = by_metric(intrinsic(frame, ["bytes"], draws=0), "value", "all")
    assert (found["gini"], found["cv"]) == pytest.approx(((10 - 4) / (2 * 14), 3 / 7), abs=1e-12)


def test_given_words_stand_one_behind_the_other():
    frame = pl.DataFrame({"text": ["aa a"], "lang": ["en"], "words": [["aa", "a"]]})
    found = by_metric(intrinsic(frame, ["bytes"], draws=0), "value")
    assert (found["fertility_in_context"], found["pcw_in_context"]) == (3 / 2, 1 / 2)


def test_a_word_that_is_not_in_its_text_leaves_its_language_without_words_in_text(monkeypatch):
    monkeypatch.setattr(module, "_page_bytes", 1)
    monkeypatch.setattr(module, "_slice_rows", 1)
    words = [["cat"], ["dog"], ["cat"]]
    for order in ([0, 1, 2], [1, 0, 2], [2, 0, 1]):
        frame = pl.DataFrame({"text": ["a cat"] * 3, "lang": ["en"] * 3, "words": [words[k] for k in order]})
        found = by_metric(intrinsic(frame, ["bytes"], draws=0), "value")
        assert (found["fertility_in_context"], found["pcw_in_context"], found["fertility"]) == (None, None, 3)


def test_a_metric_that_one_language_lacks_has_no_mean_over_all():
    frame = pl.DataFrame({"text": ["1234 cats", "kediler"], "lang": ["en", "tr"]})
    rows = {row["lang"]: row for row in compare(["bytes"], frame, draws=0).summary.iter_rows(named=True)}
    assert [rows[lang]["digit_boundary_f1"] for lang in ("en", "tr", "all")] == [0.5, None, None]
    assert rows["all"]["fertility"] == (4 + 7) / 2, "the mean of languages, not of their words"


def test_intervals_hold_their_values_and_units_say_what_is_counted():
    rows = [(str(k), lang, "word " * (1 + k % 4) * times) for k in range(12) for lang, times in (("en", 1), ("tr", 3))]
    frame = pl.DataFrame(rows, schema=["set_id", "lang", "text"], orient="row")
    for special, unit in ((None, "sentence"), ({"bytes": 2}, "sentence with special tokens")):
        found = intrinsic(frame, ["bytes"], special_tokens=special, draws=200)
        held = found.filter(pl.col("low").is_not_null())
        assert held.filter(~pl.col("value").is_between(pl.col("low") - 1e-12, pl.col("high") + 1e-12)).is_empty()
        assert set(held["metric"]) >= {"parity", "gini", "cv", "fertility", "compression_rate"}
        assert found.filter(metric="parity")["unit"].unique().to_list() == [unit]


def test_languages_that_cost_the_same_are_named_in_order():
    assert lorenz({"tr": 2, "it": 1, "en": 2, "zh": 1})["lang"].to_list() == [None, "it", "zh", "en", "tr"]


def test_an_interval_needs_ten_texts():
    for n, without in ((9, True), (10, False)):
        lines = ["a b" * k for k in range(1, n + 1)]
        assert (by_metric(intrinsic(lines, ["bytes"], lang="en", draws=20), "low")["fertility"] is None) == without


# orders of entropies


def test_entropies_fall_with_their_order_to_that_of_the_most_frequent_id():
    counts, orders = np.array([50, 30, 15, 5]), [0, 0.5, 1 - 1e-9, 1, 1 + 1e-9, 2, 2.5, 50, 1e4, 1e9, math.inf]
    found = [renyi_efficiency(counts, 8, alpha) for alpha in orders]
    assert found[0] == pytest.approx(math.log(4) / math.log(8), abs=1e-12), "order 0 counts the ids"
    assert found[-1] == pytest.approx(-math.log(0.5) / math.log(8), abs=1e-12), "infinite order sees the most frequent"
    assert found[2:5] == pytest.approx([found[3]] * 3, abs=1e-9) and found[-2] == pytest.approx(found[-1], abs=1e-8)
    assert found == sorted(found, reverse=True)
    for alpha in (0.5, 2, 2.5, 50):
        plain = math.log(sum((n / 100) ** alpha for n in counts)) / (1 - alpha) / math.log(8)
        assert renyi_efficiency(counts, 8, alpha) == pytest.approx(plain, abs=1e-12)
    assert renyi_efficiency(np.ones(7), 7, math.inf) == renyi_efficiency(np.ones(7), 7, 1e300) == 1


# compare, and bad input


def test_compare_has_a_row_per_tokenizer_and_language_and_one_over_all(zoo):
    wide = compare([zoo["bpe"], zoo["tekken"]], corpus(), draws=0).summary
    assert wide.select("tokenizer", "lang").rows() == [
        (t, lang) for t in ("bpe", "tekken") for lang in (*SENTENCES, "all")
    ]
    long = intrinsic(corpus(), [zoo["bpe"], zoo["tekken"]], draws=0)
    for row in wide.filter(pl.col("lang") != "all").iter_rows(named=True):
        found = table(long, tokenizer=row["tokenizer"], lang=row["lang"])
        assert row["fertility"] == found["fertility", "mean"] and row["parity"] == found["parity", "mean_of_ratios"]
        assert row["parity_ratio_of_sums"] == found["parity", "ratio_of_sums"]
    every = wide.filter(lang="all", tokenizer="tekken").row(0, named=True)
    close(every["pcw"], wide.filter(pl.col("lang") != "all", tokenizer="tekken")["pcw"].mean(), "macro mean")
    close(every["gini"], table(long, tokenizer="tekken", lang="all")["gini", "languages"], "gini")
    close(
        every["vocab_utilisation"], table(long, tokenizer="tekken", lang="all")["vocab_utilisation", "pooled"], "pooled"
    )
    assert compare(["bytes"], ["a"], lang="en", metrics=["fertility"]).summary.columns == [
        "tokenizer",
        "lang",
        "vocab_size",
        "fertility",
    ]


def test_compare_gives_the_frames_that_its_charts_draw(zoo):
    named = {"bpe": zoo["bpe"], "tekken": zoo["tekken"]}
    found = compare(named, corpus(), seed=3)
    assert found.metrics.equals(intrinsic(corpus(), named, seed=3)) and found.overlap.equals(overlap(named))
    gini_of = {r["tokenizer"]: r["value"] for r in found.metrics.filter(metric="gini").iter_rows(named=True)}
    for (name,), curve in found.lorenz.group_by("tokenizer"):
        tokens = dict(curve.drop_nulls("lang").select("lang", "tokens").iter_rows())
        for lang, part in SENTENCES.items():
            close(tokens[lang], float(np.mean([len(ids) for ids in zoo[name].encode(part)])), f"tokens of {lang}")
        close(1 - 2 * float(np.trapezoid(curve["share"], curve["languages"])), gini_of[name], "area under the curve")
    assert found.lorenz["tokenizer"].unique(maintain_order=True).to_list() == ["bpe", "tekken"]
    alone = compare(named, corpus().drop("set_id"), draws=0)
    assert alone.lorenz.is_empty() and alone.lorenz.columns == found.lorenz.columns
    assert "tekken" in found._repr_html_() and "tekken" in repr(found)


def test_words_are_told_apart_by_more_than_their_ends():
    lexicon = module._Lexicon(1)
    rng = np.random.default_rng(0)
    known = ["".join(rng.choice(list("aé中🇮"), size=n)) for n in [2, 3, 5, 64, 65, 200] * 400]
    for _ in range(2):
        text = " ".join(known)
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ends = np.cumsum([len(w) + 1 for w in known]) - 1
        codes = lexicon.codes_of(text, points, np.stack((ends - [len(w) for w in known], ends)))
        order = list(lexicon)
        assert [order[code] for code in codes] == known


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: intrinsic(["a", "\ud800"], ["bytes"], lang="en"), ValueError, "lone surrogate U\\+D800"),
        (lambda: intrinsic(["a", 1], ["bytes"], lang="en"), TypeError, "text must be a str, got int"),
        (lambda: intrinsic(["a"], ["bytes"], lang="english"), ValueError, "For english|known language"),
        (lambda: intrinsic(["a"], ["bytes"], lang="en", reference="xx"), ValueError, "got 'xx'"),
        (lambda: intrinsic(["a"], [], lang="en"), ValueError, "intrinsic: needs at least one tokenizer, got none"),
        (lambda: intrinsic(["a"], ["bytes", "bytes"], lang="en"), ValueError, "intrinsic: tokenizer names must be distinct"),
        (lambda: intrinsic({"a": "b"}, ["bytes"], lang="en"), TypeError, "got dict"),
        (lambda: intrinsic(["a"], ["bytes"], lang="en", segmenter="spacy"), TypeError, "segmenter must be a function"),
        (lambda: intrinsic(["a"], ["bytes"], lang="en", alphas=[-1]), ValueError, "alphas and draws must be >= 0"),
        (lambda: intrinsic(["a"], ["bytes"], lang="en", special_tokens={"byte": 1}), ValueError, "got \\['byte'\\]"),
        (lambda: intrinsic(["a"], ["bytes"], lang="en", special_tokens={"bytes": -1}), ValueError, "numbers >= 0, got -1"),
        (lambda: intrinsic(["a"], ["bytes"], lang="en", special_tokens=2), TypeError, "special_tokens must map names .* got int"),
        (lambda: intrinsic(["a"], ["bytes"], lang="en", alphas=2), TypeError, "alphas must be a list of numbers, got 2"),
        (lambda: intrinsic(["a"], ["bytes"], lang="en", alphas=[2, 2.0]), ValueError, "alphas must differ .* got \\[2, 2.0\\]"),
        (lambda: intrinsic(["a b"], ["bytes"], lang="en", segmenter=lambda t, _: t), TypeError, "list of strings, got str for 'a b'"),
        (lambda: intrinsic(["a b"], ["bytes"], lang="en", segmenter=lambda t, _: [1]), TypeError, "list of strings, got int in it"),
        (lambda: intrinsic({"a", "b"}, ["bytes"], lang="en"), TypeError, "iterable of frames or of texts, got set"),
        (lambda: fertility(pl.Series([1, None])), ValueError, "fertility: numbers must be finite and >= 0, got nan at position 1"),
        (lambda: parity([1], [math.inf], aggregation="mean_of_ratios"), ValueError, "parity: numbers must be finite"),
        (lambda: gini([3, -3]), ValueError, "gini: numbers must be finite and >= 0, got -3 at position 1"),
        (lambda: lorenz({"en": 1, "tr": -1}), ValueError, "lorenz: numbers must be finite and >= 0, got -1"),
        (lambda: renyi_efficiency([1, 1, 1], 2, 2), ValueError, "vocab_size must count every id, got 2 for 3 ids"),
        (lambda: renyi_efficiency([1, 1], 2, -1), ValueError, "alpha must be a number >= 0, got -1"),
        (lambda: intrinsic(pl.DataFrame({"text": ["a"], "lang": ["en"], "words": ["a"]}), ["bytes"]), ValueError, "words must be a list"),
        (
            lambda: intrinsic(iter([pl.DataFrame({"text": ["a"], "lang": ["en"]}),
                                    pl.DataFrame({"text": ["a"], "lang": ["en"], "words": [["a"]]})]), ["bytes"]),
            ValueError, "for all frames or for none",
        ),
        (lambda: compare(["bytes", "bytes"], ["a"], lang="en"), ValueError, "compare: tokenizer names must be distinct"),
        (lambda: overlap([]), ValueError, "overlap: needs at least one tokenizer"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_empty_corpus_has_no_rows():
    assert intrinsic(pl.DataFrame(schema={"text": pl.String, "lang": pl.String}), ["bytes"]).height == 0
    assert intrinsic([], ["bytes"], lang="en").columns == [c.name for c in module.metric_schema.columns]


def test_long_texts_and_empty_words_pass(zoo):
    text = "x" * 300_000 + " " + "7" * 200 + " é" * 1000
    found = table(intrinsic([text], [zoo["bpe-nfkc-lower"], zoo["tekken"]], lang="en"), tokenizer="tekken", lang="en")
    assert found["roundtrip_exact", "mean"] == 1 and found["digit_split_variability", "mean"] is None
    assert (
        fertility(np.array([])),
        pcw(np.array([])),
        parity(np.array([]), np.array([]), aggregation="ratio_of_sums"),
    ) == (None,) * 3


def test_other_languages_are_measured_where_words_are_given():
    frame = pl.DataFrame(
        {
            "text": ["Der blaue Himmel", "Gökyüzü mavi", "Der Hund", "köpek"],
            "lang": ["de", "tr"] * 2,
            "set_id": ["1", "1", "2", "2"],
            "words": [["Der", "blaue", "Himmel"], ["Gökyüzü", "mavi"], ["Der", "Hund"], ["köpek"]],
        }
    )
    found = intrinsic(frame, ["bytes"], metrics=["bytes_per_token", "fertility"], draws=0)
    assert found.filter(lang="de", metric="bytes_per_token")["value"].item() == 1.0
    assert found.filter(lang="de", metric="fertility")["value"].item() == 21 / 5
    against = intrinsic(frame, ["bytes"], metrics=["parity"], reference="de", draws=0)
    assert against.filter(lang="tr", aggregation="ratio_of_sums")["value"].item() == 21 / 24
    text = frame.select("text", lang=pl.lit("de"))
    split = intrinsic(text, ["bytes"], segmenter=lambda text, lang: text.split(), metrics=["fertility"], draws=0)
    assert split["lang"].unique().to_list() == ["de"]
    lone = intrinsic(frame.select("text", "words"), ["bytes"], lang="de", metrics=["bytes_per_token"])
    assert lone["value"].item() == 1.0


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"lang": ["de"]}, {}, "lang must be a known language, got 'de'"),
        ({"lang": ["en"], "words": [["a"]]}, {"reference": "dde"}, "lang must be a known language, got 'dde'"),
        ({"lang": ["all"], "words": [["a"]]}, {}, "lang must name the language of each text, got 'all'"),
        ({"lang": [None], "words": [["a"]]}, {}, "lang must name the language of each text, got None"),
    ],
)
def test_a_language_that_no_rule_serves_is_named(columns, options, said):
    frame = pl.DataFrame({"text": ["a"], **columns}, schema_overrides={"lang": pl.String})
    with pytest.raises((ValueError, KeyError)) as caught:
        intrinsic(frame, ["bytes"], **options)
    assert str(caught.value).strip("\"'").startswith("intrinsic: " + said)


def test_a_long_pass_shows_how_many_texts_are_done_and_a_short_one_nothing(monkeypatch, capsys):
    texts = pl.DataFrame({"text": ["one text", "un testo", "altro"], "lang": ["en", "it", "it"]})
    intrinsic(texts, "bytes", draws=0)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "progress", lambda *given, **options: progress(*given, **options | {"delay": 0}))
    intrinsic(texts, "bytes", draws=0)
    assert "0/3" in capsys.readouterr().err
    intrinsic(iter(["one", "two"]), "bytes", lang="en", draws=0)
    assert "0it" in capsys.readouterr().err, "no end is known of what is streamed"
    intrinsic(texts, "bytes", draws=0, show=False)
    assert capsys.readouterr().err == ""


def test_parts_of_a_corpus_are_measured_as_if_they_were_alone():
    frame = corpus().with_row_index("row").with_columns(part=pl.when(pl.col("row") % 3 > 0).then(pl.col("row") % 3))
    found = intrinsic(frame, ["bytes", "tekken"], by="part", draws=50, seed=4)
    assert found.columns[0] == "part" and found["part"].unique(maintain_order=True).to_list() == [None, 1, 2]
    for part in (None, 1, 2):
        own = pl.col("part").eq_missing(pl.lit(part))
        alone = intrinsic(frame.filter(own), ["bytes", "tekken"], draws=50, seed=4)
        assert found.filter(own).drop("part").equals(alone)
    assert intrinsic(frame.clear(), ["bytes"], by="part").columns == found.columns


@pytest.mark.parametrize("by", ["absent", "text", "lang", "seed"])
def test_a_column_that_cannot_divide_a_corpus_is_named(by):
    frame = corpus().with_columns(seed=pl.lit(1))
    with pytest.raises(ValueError, match=f"intrinsic: by must name a column of a frame of texts.*got '{by}' for"):
        intrinsic(frame, ["bytes"], by=by)


def test_a_fault_in_a_part_is_named_with_its_row_in_the_whole_frame():
    frame = pl.DataFrame({"text": ["a", "b", "", "d"], "lang": "en", "part": ["x", "y", "y", "x"]})
    with pytest.raises(ValueError, match="got 1 empty or null of 4, the first at row 2"):
        intrinsic(frame, ["bytes"], by="part")
    with pytest.raises(ValueError, match="'lang' is missing"):
        intrinsic(frame.drop("lang").filter(pl.col("text") != ""), ["bytes"], by="part")
