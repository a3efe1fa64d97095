"Alignment of segmentations and of cuts through edits, and the super-vocabulary."

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from toksuite_nb.alignment import BoundaryAgreement, align, boundary_agreement, cut_shift, cut_shift_tokens, cut_shifts
from toksuite_nb.edits import Edit, EditedText
from toksuite_nb.supervocab import Key, super_vocabulary, token_keys
from toksuite_nb.text import graphemes
from toksuite_nb.tokenizer import HuggingFaceTokenizer, TokenMonsterTokenizer, load_tokenizer

TEXTS = st.lists(
    st.sampled_from(["a", "b", " ", "é", "e\u0301", "中", "👩‍🔬", "می", "İ", "x", "the ", "\n"]),
    min_size=0,
    max_size=14,
).map("".join)


@st.composite
def segmentations(draw):
    size = draw(st.integers(0, 20))

    def spans():
        cuts = sorted(draw(st.lists(st.integers(0, size), max_size=8)))
        return list(pairwise([0, *cuts, size])) if size else []

    return size, spans(), spans()


@settings(max_examples=300)
@given(drawn=segmentations())
def test_blocks_hold_every_token_once_and_nothing_straddles_them(drawn):
    size, a, b = drawn
    blocks = align(a, b)
    for spans, name in ((a, "a"), (b, "b")):
        counted = [
            k
            for first, end in zip(blocks[f"{name}_first"], blocks[f"{name}_end"], strict=True)
            for k in range(first, end)
        ]
        assert counted == list(range(len(spans))), "a token is missing or in two blocks"
    for row in blocks.iter_rows(named=True):
        inside = a[row["a_first"] : row["a_end"]] + b[row["b_first"] : row["b_end"]]
        assert min(s for s, _ in inside) == row["start"] and max(e for _, e in inside) == row["end"]
    assert sum(e - s for s, e in zip(blocks["start"], blocks["end"], strict=True)) == size
    common = boundary_agreement(a, b, size).shared
    assert blocks.filter(pl.col("end") > pl.col("start")).height == (common + 1 if size else 0), (
        "blocks are not the smallest ones"
    )


def test_aligning_a_segmentation_with_itself_gives_only_same():
    spans = load_tokenizer("tekken").spans("La capitale d'Italia è Roma 👩‍🔬.")
    assert set(align(spans, spans)["relation"]) == {"same"}
    found = boundary_agreement(spans, spans, spans[-1][1])
    assert (found.precision, found.recall, found.jaccard) == (1.0, 1.0, 1.0)


def test_relations_and_agreement_are_read_from_a_to_b():
    a, b = [(0, 4), (4, 6), (6, 8), (8, 9)], [(0, 1), (1, 4), (4, 8), (8, 9)]
    assert align(a, b)["relation"].to_list() == ["split", "merged", "same"]
    found = boundary_agreement([(0, 4), (4, 9)], b, 9)
    assert (found.n_a, found.n_b, found.shared) == (1, 3, 1)
    assert (found.precision, found.recall, found.jaccard) == (1 / 3, 1.0, 1 / 3)
    # a token of no byte amid what no token keeps is no boundary
    assert boundary_agreement([(0, 1), (2, 2), (3, 4)], [(0, 1), (1, 4)], 4) == BoundaryAgreement(2, 1, 1)


def test_tokens_without_a_partner_are_told():
    assert align([(0, 2), (2, 3)], [(0, 2)])["relation"].to_list() == ["same", "only a"]
    assert align([], [(0, 2)])["relation"].to_list() == ["only b"]
    assert align([], []).height == 0
    with pytest.raises(ValueError, match=r"align: spans must be in reading order with start <= end, got \(3, 2\)"):
        align([(3, 2)], [])


@st.composite
def edited_texts(draw):
    source = draw(TEXTS)
    n = len(graphemes(source))
    edits, at = [], 0
    for _ in range(draw(st.integers(0, 3))):
        if at > n:
            break
        start = draw(st.integers(at, n))
        end = draw(st.integers(start, min(n, start + 2)))
        content = "".join(graphemes(source)[start:end])
        target = draw(st.sampled_from(["", "z", "𝐛", " ", "ﬁ", "qq"]))
        if content != target:
            edits.append(Edit(start, end, content, target))
            at = end + 1
    return EditedText(source, tuple(edits))


@settings(max_examples=300)
@given(edited=edited_texts())
def test_kept_tokens_are_twins_and_touched_ones_meet_an_edit(edited):
    for name in ("bytes", "mistral-spm", "tekken"):
        shift = cut_shift(edited, name)
        source, target = shift.tokens.filter(side="source"), shift.tokens.filter(side="target")
        assert source.height == len(load_tokenizer(name).encode([edited.source])[0])
        assert shift.count("source", "kept") == shift.count("target", "kept")
        for row in source.filter(status="kept").iter_rows(named=True):
            twin = target.row(row["twin"], named=True)
            assert twin["id"] == row["id"] and twin["twin"] == row["i"] and twin["status"] == "kept"
            raw = edited.source.encode()[row["start"] : row["end"]], edited.text.encode()[twin["start"] : twin["end"]]
            assert raw[0] == raw[1], "a kept token stands for other bytes"
        assert shift.tokens.filter((pl.col("status") == "kept") != pl.col("twin").is_not_null()).height == 0
        if not edited.edits:
            assert set(shift.tokens["status"]) <= {"kept"} and shift.boundaries.jaccard in (None, 1.0)
        if name == "bytes":
            assert shift.count("source", "moved") == shift.count("target", "moved") == 0, "a byte token moved"
            spans = edited.spans
            changed = (
                sum(spans["end_byte"] - spans["start_byte"]),
                sum(spans["target_end_byte"] - spans["target_start_byte"]),
            )
            assert (shift.count("source", "touched"), shift.count("target", "touched")) == changed
            assert shift.boundaries.jaccard in (None, 1.0)


def test_an_insertion_touches_only_the_token_it_splits():
    edited = EditedText("salt and pepper", (Edit(6, 6, "", "\u200b"),))  # inside " and"
    shift = cut_shift(edited, "tekken")
    broken = shift.tokens.filter(side="source", status="touched")
    assert broken["bytes"].to_list() == [b" and"]
    between = EditedText("salt and pepper", (Edit(4, 4, "", "!"),))  # between "salt" and " and"
    assert cut_shift(between, "tekken").count("source", "touched") == 0


def test_summaries_of_many_texts_have_one_row_per_text_and_tokenizer():
    edited = {"a": EditedText("blue", (Edit(0, 1, "b", "B"),)), "b": EditedText("", ())}
    table = cut_shifts(edited, {"x": "bytes", "y": "tekken"})
    assert table.select("tokenizer", "text_id").rows() == [("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")]
    assert table.filter(text_id="b")["token_ratio"].null_count() == 2, "an unmeasured ratio must be null"
    assert cut_shifts({}, ["bytes"]).height == 0
    assert cut_shifts({}, ["bytes"]).schema == table.schema


@settings(max_examples=100)
@given(edited=edited_texts())
def test_each_broken_token_names_the_edit_that_touches_it_or_the_nearest(edited):
    spans = edited.spans
    places = {
        "source": list(zip(spans["start_byte"], spans["end_byte"], strict=True)),
        "target": list(zip(spans["target_start_byte"], spans["target_end_byte"], strict=True)),
    }
    for name in ("bytes", "tekken"):
        tokens = cut_shift(edited, name).tokens
        assert tokens.filter((pl.col("status") == "kept") != pl.col("edit").is_null()).height == 0
        for row in tokens.filter(pl.col("edit").is_not_null()).iter_rows(named=True):
            away = [max(a - row["end"], row["start"] - b, 0) for a, b in places[row["side"]]]
            assert away[row["edit"]] == min(away), f"{name}: {row} blames a farther edit"
            if row["status"] == "touched":
                a, b = places[row["side"]][row["edit"]]
                assert a < row["end"] and (b > row["start"]), f"{name}: {row} is not touched by the edit it names"


def test_the_tokens_an_edit_broke_are_one_query():
    edited = EditedText("the brown fox and the brown dog", (Edit(5, 6, "r", ""), Edit(28, 29, "d", "dz")))
    tokens = cut_shift_tokens({"a": edited}, {"t": "tekken", "b": "bytes"})
    assert tokens.columns[:2] == ["tokenizer", "text_id"]
    broken = tokens.filter(pl.col("side") == "source", pl.col("status") != "kept")
    by_edit = {key: part["bytes"].to_list() for key, part in broken.group_by("tokenizer", "edit", maintain_order=True)}
    assert by_edit == {("t", 0): [b" brown"], ("t", 1): [b" dog"], ("b", 0): [b"r"], ("b", 1): [b"d"]}
    assert cut_shift_tokens({}, ["bytes"]).columns == tokens.columns


def test_fertility_needs_a_language_and_follows_the_token_ratio():
    edited = EditedText("salt and pepper", (Edit(0, 1, "s", "z"),))
    without, within = cut_shift(edited, "tekken"), cut_shift(edited, "tekken", lang="en")
    assert without.fertility("source") is None and without.summary["fertility_change"].null_count() == 1
    row = within.summary.row(0, named=True)
    assert row["fertility_source"] == row["n_source"] / 3 and row["fertility_target"] == row["n_target"] / 3
    assert row["fertility_change"] == row["fertility_target"] - row["fertility_source"]
    assert row["fertility_target"] / row["fertility_source"] == pytest.approx(row["token_ratio"])
    assert cut_shift(EditedText("..."), "bytes", lang="en").fertility("source") is None, "no words: null, not infinity"
    with pytest.raises(KeyError, match="cut_shift: lang must be a known language, got 'xx'"):
        cut_shift(edited, "bytes", lang="xx")
    table = cut_shifts({"a": edited, "b": EditedText("")}, ["bytes"], lang={"a": "en"})
    assert table["fertility_source"].to_list() == [5.0, None]


def test_a_summary_reads_from_the_text_to_its_perturbed_version():
    row = cut_shift(EditedText("cat", (Edit(3, 3, "", "s"),)), "bytes", lang="en").summary.row(0, named=True)
    assert (row["token_ratio"], row["fertility_source"], row["fertility_target"]) == (4 / 3, 3.0, 4.0)
    assert row["fertility_change"] == 1.0
    joined = cut_shift(EditedText("a cat", (Edit(1, 2, " ", ""),)), "bytes", lang="en")
    assert (joined.fertility("source"), joined.fertility("target")) == (5 / 2, 4 / 1)

    def pairs_or_letters(text):
        size = 1 if text.startswith("x") else 2
        pieces = [text[k : k + size].encode() for k in range(0, len(text), size)]
        return [int.from_bytes(piece, "big") for piece in pieces], pieces

    # aa|bc|de has two boundaries beyond the edit, x|a|b|c|d|e four, and both of the former are among them
    shift = cut_shift(EditedText("aabcde", (Edit(0, 1, "a", "x"),)), pairs_or_letters)
    assert shift.boundaries == BoundaryAgreement(2, 4, 2)
    assert shift.summary.select("precision", "recall", "jaccard", "token_ratio").row(0) == (1 / 2, 1.0, 1 / 2, 2.0)


def test_texts_and_languages_may_be_numbered():
    edited = {1: EditedText("cat"), "2": EditedText("a cat", (Edit(0, 1, "a", "the"),))}
    found = cut_shifts(edited, "bytes", lang={1: "en", "2": "en"})
    assert found.select("text_id", "fertility_source", "fertility_target").rows() == [("1", 3.0, 3.0), ("2", 2.5, 3.5)]
    assert cut_shift_tokens(edited, "bytes")["text_id"].unique(maintain_order=True).to_list() == ["1", "2"]
    with pytest.raises(ValueError, match=r"cut_shifts: text_id must be unique as written, got \[1, '1'\]"):
        cut_shifts({1: EditedText("a"), "1": EditedText("b")}, "bytes")


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda shift: shift.count("before"), KeyError, r"unknown side 'before'. Known are \['source', 'target'\]"),
        (lambda shift: shift.count("source", "Kept"), KeyError, "unknown status 'Kept'"),
        (lambda shift: shift.count("source", kind="partial"), KeyError, "unknown kind 'partial'"),
        (lambda shift: shift.fertility("after"), KeyError, "unknown side 'after'"),
        # characters are fewer than bytes, and boundaries behind the size would go uncounted
        (lambda _: boundary_agreement([(0, 2), (2, 4)], [(0, 4)], len("éé")), ValueError, r"got \(2, 4\) for 2 bytes"),
    ],
)
def test_a_question_that_has_no_answer_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call(cut_shift(EditedText("a cat"), "bytes", lang="en"))


def test_long_texts_shift_quickly():
    source = "the brown fox jumps " * 2000
    edited = EditedText(source, tuple(Edit(k, k + 1, source[k], "z") for k in range(0, len(source), 40)))
    shift = cut_shift(edited, "bytes")
    assert shift.count("source", "touched") == len(edited.edits)


# super-vocabulary


def wordpiece(tokens):
    backend = Backend(models.WordPiece({t: i for i, t in enumerate(["[UNK]", *tokens])}, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return backend


def byte_level(tokens):
    backend = Backend(models.BPE({t: i for i, t in enumerate(tokens)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return backend


def test_keys_are_bytes_whatever_the_family_writes():
    assert token_keys(byte_level(["Ã©", "Ġthe", "é"])) == [
        Key("piece", "é".encode()),
        Key("piece", b" the"),
        Key("piece", b"\xe9"),
    ]
    assert token_keys(wordpiece(["the", "##the", "é"])) == [
        Key("role", b"unk"),
        Key("initial", b"the"),
        Key("piece", b"the"),
        Key("initial", "é".encode()),
    ]
    keys = token_keys("mistral-spm")
    assert keys[0:3] == [Key("role", b"unk"), Key("role", b"bos"), Key("role", b"eos")]
    assert keys[load_tokenizer("mistral-spm").processor.piece_to_id("<0xE4>")] == Key("piece", b"\xe4")
    assert token_keys("tekken")[3].kind == "own"


def test_maps_are_total_sorted_and_independent_of_order():
    tokenizers = {"w": wordpiece(["the", "##the"]), "b": byte_level(["t", "Ġthe", "the"]), "bytes": "bytes"}
    union = super_vocabulary(tokenizers)
    for name, spec in tokenizers.items():
        assert [union.keys[row] for row in union.rows(name)] == token_keys(load_tokenizer(spec, name))
    pieces = [key.value for key in union.keys if key.kind == "piece"]
    assert pieces == sorted(pieces)
    turned = super_vocabulary(dict(reversed(tokenizers.items())))
    assert turned.keys == union.keys and all(np.array_equal(turned.rows(n), union.rows(n)) for n in tokenizers)
    # ##the and the byte-level "the" are the same bytes; the word-initial one is not
    assert union.rows("w")[2] == union.rows("b")[2] != union.rows("w")[1]
    assert union.rows("b")[0] == union.rows("bytes")[ord("t") + 3]
    # the unknown tokens of both share the role
    assert union.rows("w")[0] == union.rows("bytes")[2]


def test_ids_with_the_same_bytes_share_a_row_and_are_counted():
    counts = super_vocabulary(["mistral-spm"]).counts
    assert counts["merged"].item() > 0
    assert counts["ids"].item() - counts["rows"].item() == counts["merged"].item()
    assert counts["shared"].item() == 0


def test_an_id_of_two_roles_has_the_first_of_them():
    tokenizer = HuggingFaceTokenizer(byte_level(["</s>", "a"]), "both", {"eos": 0, "bos": 0, "pad": 0})
    assert token_keys(tokenizer) == [Key("role", b"bos"), Key("piece", b"a")]


def test_overlap_is_that_of_sets():
    union = super_vocabulary({"x": byte_level(["a", "b", "c"]), "y": byte_level(["b", "c", "d", "e"])})
    row = union.overlap().row(by_predicate=(pl.col("a") == "x") & (pl.col("b") == "y"), named=True)
    assert (row["shared"], row["jaccard"], row["coverage"]) == (2, 2 / 5, 2 / 4)


def test_published_overlaps_count_the_shared_start_and_ours_do_not():
    pair = [HuggingFaceTokenizer(byte_level(["<s>", letter]), letter, {"bos": 0}) for letter in "xy"]
    for keys, wanted in (("published", [1, 1 / 3, 1 / 2]), ("bytes", [0, 0, 0])):
        row = super_vocabulary(pair, keys=keys).overlap().row(1, named=True)
        assert [row[name] for name in ("a", "b", "shared", "jaccard", "coverage")] == ["x", "y", *wanted]


def coverage(union, a, b):
    return union.overlap().row(by_predicate=(pl.col("a") == a) & (pl.col("b") == b), named=True)["coverage"]


def test_published_keys_are_the_strings_of_the_reference():
    def strings(spec):
        return [key.value.decode() if key.kind == "string" else key.kind for key in token_keys(spec, keys="published")]

    assert strings(byte_level(["Ã©", "Ġthe", "é", "中 "])) == ["Ã©", " the", "é", "中 "]
    assert strings(wordpiece(["the", "##the", "###", "#", "!"])) == [" [UNK]", " the", "the", " ###", " #", " !"]
    spm = load_tokenizer("mistral-spm")
    keys = strings("mistral-spm")
    assert keys[spm.specials["bos"]] == "role" and keys[spm.specials["eos"]] == "</s>"
    assert keys[spm.processor.piece_to_id("<0xE4>")] == "<0xE4>" and keys[spm.processor.piece_to_id("▁the")] == " the"
    ours, theirs = token_keys("bytes"), token_keys("bytes", keys="published")
    assert theirs[:3] == [Key("string", b"<pad>"), Key("string", b"</s>"), Key("string", b"<unk>")]
    assert theirs[3 + 0x80] == Key("integer", b"128") and theirs[3 + 0x7F] == Key("string", b"\x7f")
    assert ours[3 + 0x80] == Key("piece", b"\x80")
    ranks = {bytes([b]): b for b in range(256)} | {"é".encode(): 256}
    encoding = tiktoken.Encoding("t", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
    assert token_keys(encoding, keys="published")[256] == Key("string", "Ã©".encode())
    assert token_keys(encoding)[256] == Key("piece", "é".encode())
    with pytest.raises(KeyError, match=r"token_keys: unknown keys 'strings'. Known are 'bytes' and 'published'"):
        super_vocabulary(["bytes"], keys="strings")


def test_published_overlaps_have_their_known_fingerprints():
    transformers = pytest.importorskip("transformers")
    backend = byte_level(sorted(pre_tokenizers.ByteLevel.alphabet()))
    ranks = {bytes([b]): b for b in range(256)}
    encoding = tiktoken.Encoding("t", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
    both = {"byt5": transformers.ByT5Tokenizer(), "bpe": backend, "tiktoken": encoding, "tekken": "tekken"}
    published, exact = super_vocabulary(both, keys="published"), super_vocabulary(both)
    assert coverage(published, "bpe", "byt5") == coverage(published, "tiktoken", "byt5") == 0.5, "the ASCII half"
    assert coverage(exact, "bpe", "byt5") == coverage(exact, "tekken", "byt5") == 1.0
    assert len(set(published.rows("tekken").tolist())) == 130_044, "distinct strings of Tekken in the published sheet"
    assert coverage(published, "tekken", "byt5") == 131 / 256
    assert published.counts.filter(tokenizer="tekken")["merged"].item() == 131_072 - 130_044
    # mojibake: the same piece in true Unicode and in Latin-1 never meet
    words = {"bpe": byte_level(["Ã©", "Ġthe"]), "wordpiece": wordpiece(["the", "##é"])}
    apart, together = super_vocabulary(words, keys="published"), super_vocabulary(words)
    assert (
        apart.rows("bpe")[0] != apart.rows("wordpiece")[2] and together.rows("bpe")[0] == together.rows("wordpiece")[2]
    )
    assert apart.rows("bpe")[1] == apart.rows("wordpiece")[1], "a word-initial piece gets a space in the published keys"


def test_published_overlaps_equal_the_reference_figures():
    file = Path(__file__).parents[2] / "shared" / "reference" / "toksuite_intrinsic.json"
    if not file.exists():
        pytest.skip("the reference figures are not here")
    transformers = pytest.importorskip("transformers")
    figures = json.loads(file.read_text())
    union = super_vocabulary({"ByT5": transformers.ByT5Tokenizer(), "Tekken": "tekken"}, keys="published")
    covers = figures["vocab_overlap_asymmetric_row_covers_col"]["rows"]
    for a, b in (("ByT5", "Tekken"), ("Tekken", "ByT5")):
        assert coverage(union, a, b) == pytest.approx(covers[a][b], abs=5.1e-5), f"{a} covers {b}"
    jaccard = union.overlap().filter(pl.col("a") != pl.col("b"))["jaccard"]
    assert jaccard.to_list() == pytest.approx(
        [figures["vocab_overlap_symmetric_jaccard"]["rows"]["ByT5"]["Tekken"]] * 2, abs=5.1e-5
    )
    assert (
        figures["tokenizer_meta"]["rows"]["Tekken"]["learnable_vocab"]
        == union.counts.filter(tokenizer="Tekken")["rows"].item()
    )


def test_tokenmonster_marks_are_keys_of_their_own():
    class Vocab:
        rows = ((" cat", " cat"), ("D cat", "cat"), (" catC", " cat"), ("C", ""), ("W", ""), (" the", " the"))

        def get_dictionary(self):
            return {
                i: {"id": i, "token": t, "token_decoded": d, "type": "regular"} for i, (t, d) in enumerate(self.rows)
            }

        def unk_token_id(self):
            return None

        def normalization(self):
            return "NFD"

        def capcode(self):
            return 2

        def tokenize(self, text):
            return [] if isinstance(text, bytes) else [[] for _ in text]

    tokenizer = TokenMonsterTokenizer(Vocab(), "monster")
    own = Key("own", b"monster/2"), Key("own", b"monster/3"), Key("own", b"monster/4")
    assert token_keys(tokenizer) == [Key("piece", b" cat"), Key("piece", b"cat"), *own, Key("piece", b" the")]
    strings = [key.value for key in token_keys(tokenizer, keys="published")]
    assert strings == [b" cat", b"D cat", b" catC", b"C", b"W", b" the"], "the published keys keep the marks"
    union = super_vocabulary([tokenizer, "tekken"])
    assert coverage(union, "tekken", "monster") == 1.0


def test_bad_names_are_named():
    with pytest.raises(ValueError, match="needs at least one tokenizer"):
        super_vocabulary([])
    with pytest.raises(KeyError, match="unknown tokenizer 'z'"):
        super_vocabulary(["bytes"]).rows("z")


# intrinsic metrics


def test_metrics_equal_a_plain_count():
    from toksuite_nb.intrinsic import intrinsic
    from toksuite_nb.text import words

    texts = {"en": ["the cat sat", "a blue sky"], "tr": ["kedi oturdu", "mavi bir gökyüzü"], "zh": ["猫坐着。", "蓝天"]}
    frame = pl.DataFrame(
        [(str(k), lang, text) for lang, part in texts.items() for k, text in enumerate(part)],
        schema=["set_id", "lang", "text"],
        orient="row",
    )
    measured = intrinsic(frame, ["mistral-spm", "tekken", "bytes"])
    assert not measured.select("tokenizer", "lang", "metric", "aggregation").is_duplicated().any()
    for name in ("mistral-spm", "tekken", "bytes"):
        tokenizer = load_tokenizer(name)
        count = lambda text, tokenizer=tokenizer: len(tokenizer.encode([text])[0])  # noqa: E731
        for lang, part in texts.items():
            value = {
                (r["metric"], r["aggregation"]): r["value"]
                for r in measured.filter(tokenizer=name, lang=lang).iter_rows(named=True)
            }
            bag = [count(word) for text in part for word in words(text, lang)]
            assert value["fertility", "mean"] == pytest.approx(sum(bag) / len(bag), abs=1e-12)
            assert value["pcw", "mean"] == pytest.approx(sum(n >= 2 for n in bag) / len(bag), abs=1e-12)
            ratios = [count(text) / count(reference) for text, reference in zip(part, texts["en"], strict=True)]
            assert value["parity", "mean_of_ratios"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-12)
            total = sum(len(text.encode()) for text in part) / sum(map(count, part))
            assert value["bytes_per_token", "ratio_of_sums"] == pytest.approx(total, abs=1e-12)
            assert value["roundtrip_exact", "mean"] == 1.0
            if name == "bytes":
                assert value["fertility_in_context", "ratio_of_sums"] == pytest.approx(sum(bag) / len(bag), abs=1e-12)
