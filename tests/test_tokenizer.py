"The tokenizer floor: ids of the original libraries, spans that reconstruct the text, losses that are named, errors that help."

import base64
import io
import json
import os
import pickle
import sys
import time
import types
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

import mistral_common
import numpy as np
import polars as pl
import pytest
import sentencepiece
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from toksuite_nb.alignment import cut_shift_tokens, cut_shifts
from toksuite_nb.card import compare_cards
from toksuite_nb.edits import Edit, EditedText
from toksuite_nb.intrinsic import compare, intrinsic, overlap
from toksuite_nb.items import load_benchmark
from toksuite_nb.perturb import perturb_items
from toksuite_nb.robustness import cut_changes
from toksuite_nb.supervocab import super_vocabulary, token_keys
from toksuite_nb.text import graphemes
from toksuite_nb.tokenizer import HuggingFaceTokenizer, load_tokenizer, losses, source_map, tokenize

MISTRAL = Path(mistral_common.__path__[0]) / "data"
CORPUS = [
    "The capital of Italy is Rome, and the sky is blue.",
    "پایتخت ایران تهران است و آسمان آبی است. می‌خواهم",
    "La capitale d'Italia è Roma, perché il cielo è blu.",
    "İstanbul'un rengi mavidir, gökyüzü güzeldir. ILIK ışık",
    "中国的首都是北京，天空是蓝色的。",
    "x = 12345 + 6.78; naïve café ﬁne ½ 𝐛𝐨𝐥𝐝 Ａｂ",
] * 4
SPECIALS = ["<s>", "</s>", "<pad>", "<unk>"]


def trained(model, trainer, normalizer=None, pre=None, decoder=None):
    backend = Backend(model)
    for part, value in (("normalizer", normalizer), ("pre_tokenizer", pre), ("decoder", decoder)):
        if value is not None:
            setattr(backend, part, value)
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def byte_bpe(normalizer=None, prefix=False, alphabet=True, size=420):
    initial = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    return trained(
        models.BPE(),
        trainers.BpeTrainer(vocab_size=size, initial_alphabet=initial, special_tokens=SPECIALS, show_progress=False),
        normalizer,
        pre_tokenizers.ByteLevel(add_prefix_space=prefix),
        decoders.ByteLevel(),
    )


def unigram(normalizer=None, unknown="<unk>"):
    return trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=240, special_tokens=SPECIALS, unk_token=unknown, show_progress=False),
        normalizer,
        pre_tokenizers.Metaspace(),
        decoders.Metaspace(),
    )


def wordpiece(lower):
    names = ["[CLS]", "[SEP]", "[PAD]", "[UNK]"]
    return trained(
        models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=30),
        trainers.WordPieceTrainer(vocab_size=260, special_tokens=names, show_progress=False),
        normalizers.BertNormalizer(lowercase=lower, strip_accents=lower),
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
    )


def llama_style():
    vocabulary = {
        token: i
        for i, token in enumerate(
            ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)], "▁", *"abehlot", "▁t", "he", "▁the"]
        )
    }
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    backend = Backend(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


def char_bpe():
    return trained(
        models.BPE(unk_token="<unk>"),
        trainers.BpeTrainer(vocab_size=150, special_tokens=SPECIALS, limit_alphabet=40, show_progress=False),
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Strip()]),
        pre_tokenizers.Whitespace(),
    )


def with_added():
    backend = byte_bpe(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]))
    backend.add_tokens([AddedToken("<Tag>", normalized=False, lstrip=True), AddedToken("WORD", normalized=True)])
    return backend


def sp_model(**options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, minloglevel=2, hard_vocab_limit=False, **options
    )
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def precompiled_charsmap(processor):
    "The normalisation table in a SentencePiece model file: field 2 of field 3 of the message."

    def fields(data):
        at = 0

        def number():
            nonlocal at
            value = shift = 0
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value

        while at < len(data):
            key = number()
            if key & 7 == 2:
                size = number()
                yield key >> 3, data[at : at + size]
                at += size
            elif key & 7 == 5:
                at += 4
            else:
                number()

    spec = next(value for key, value in fields(processor.serialized_model_proto()) if key == 3)
    return next(value for key, value in fields(spec) if key == 2)


def zoo():
    nfkc, lower = normalizers.NFKC(), normalizers.Lowercase()
    sp_unigram = sp_model(vocab_size=200, model_type="unigram")
    sheet = normalizers.Precompiled(precompiled_charsmap(sp_unigram))
    collapse = normalizers.Sequence([sheet, normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()])
    return {
        "bpe": byte_bpe(),
        "bpe-prefix": byte_bpe(prefix=True),
        "bpe-nfc": byte_bpe(normalizers.NFC()),
        "bpe-nfkc": byte_bpe(nfkc),
        "bpe-nfkc-lower": byte_bpe(normalizers.Sequence([nfkc, lower])),
        "bpe-nfd-prefix": byte_bpe(normalizers.NFD(), prefix=True),
        "bpe-holes": byte_bpe(alphabet=False, size=160),
        "bpe-added": with_added(),
        "unigram": unigram(),
        "unigram-nfkc": unigram(nfkc),
        "unigram-sheet": unigram(collapse),
        "wordpiece-cased": wordpiece(False),
        "wordpiece-uncased": wordpiece(True),
        "llama-style": llama_style(),
        "char-bpe": char_bpe(),
        "sp-unigram": sp_unigram,
        "sp-bpe-fallback": sp_model(
            vocab_size=420,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
        ),
        "sp-suffix": sp_model(vocab_size=200, model_type="unigram", treat_whitespace_as_suffix=True),
        "sp-casefold": sp_model(
            vocab_size=200, model_type="unigram", normalization_rule_name="nfkc_cf", add_dummy_prefix=False
        ),
    }


@cache
def libraries():
    return zoo()


@cache
def tokenizer_named(name):
    return load_tokenizer(libraries()[name], name) if name in libraries() else load_tokenizer(name)


NAMES = [
    "bpe", "bpe-prefix", "bpe-nfc", "bpe-nfkc", "bpe-nfkc-lower", "bpe-nfd-prefix", "bpe-holes", "bpe-added", "unigram", "unigram-nfkc",
    "unigram-sheet", "wordpiece-cased", "wordpiece-uncased", "llama-style", "char-bpe", "sp-unigram", "sp-bpe-fallback", "sp-suffix",
    "sp-casefold", "bytes", "mistral-spm", "tekken",
]  # fmt: skip


def library_ids(name, text):
    "Ids of the original library, called directly."
    if name == "bytes":
        return [b + 3 for b in text.encode()]
    library = original(name)
    if isinstance(library, Backend):
        return library.encode(text, add_special_tokens=False).ids
    return library.encode(text, bos=False, eos=False) if name == "tekken" else library.encode(text)


@cache
def original(name):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    if name == "tekken":
        return Tekkenizer.from_file(MISTRAL / "tekken_240911.json")
    if name == "mistral-spm":
        model = MISTRAL / "mistral_instruct_tokenizer_240323.model.v3"
        return sentencepiece.SentencePieceProcessor(model_file=str(model))
    return libraries()[name]


HARD = st.sampled_from(
    ["ﬁ", "½", "İ", "ı", "ß", "é", "e\u0301", "\u0301", "한", "\u1112\u1161\u11ab", "ﷺ", "می‌خواهم", "中", "👩‍👩‍👧", "🇮🇷", "𝐀", "Ａ", "ⓐ", "  ", " ",
     "\n", "\t", "\r\n", "\x00", "\u200b", "\u202e", "\ufeff", "\ufffd", "▁", "Ġ", "##", "the", " the", "The", "<s>", "[UNK]", "<unk>", "<Tag>",
     "WORD", "word", "<0x41>", "\u3000", "\xa0", "\u0345", "q\u0307\u0323", "\u09c7\u09be", "…", "``"]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.lists(st.one_of(HARD, st.text(st.characters(exclude_categories=["Cs"]), max_size=3)), max_size=12).map("".join),
)


def check_cut(tokenizer, text, cut=None):
    cut, raw = cut or tokenizer.cut(text), text.encode()
    assert len(cut.start) == len(cut.ids) == len(cut.end) == len(cut.exact), (
        f"{tokenizer.name}: a token was dropped on {text!r}"
    )
    assert (np.diff(cut.start) >= 0).all() and (np.diff(cut.end) >= 0).all(), (
        f"{tokenizer.name}: spans go back on {text!r}"
    )
    covered = np.zeros(len(raw), dtype=int)
    for start, end in cut.spans():
        assert 0 <= start <= end <= len(raw), f"{tokenizer.name}: span outside of {text!r}"
        covered[start:end] += 1
    for start, end, reason in cut.lost:
        assert reason
        covered[start:end] += 1
    assert (covered > 0).all(), f"{tokenizer.name}: bytes neither in a token nor in losses on {text!r}"
    check_no_byte_twice(tokenizer, text, cut)
    return cut, raw


def check_no_byte_twice(tokenizer, text, cut):
    "Two tokens share bytes only where a grapheme was rewritten as a whole, or where they say that they were not told apart."
    spans, exact = cut.spans(), cut.exact
    shared = [(b, a) for k, ((_, a), (b, _)) in enumerate(pairwise(spans)) if b < a and (exact[k] or exact[k + 1])]
    if not shared:
        return
    assert tokenizer.normalise(text) != text, f"{tokenizer.name}: bytes {shared} of {text!r} are in two tokens"
    at = 0
    places = [(at, at := at + len(grapheme.encode())) for grapheme in graphemes(text)]
    for low, high in shared:
        assert any(a <= low and high <= b for a, b in places), (
            f"{tokenizer.name}: bytes {(low, high)} of {text!r} are in two tokens and in two characters"
        )


# every text goes through every tokenizer; raise the number of texts to look harder
TEXT_COUNT = int(os.environ.get("TOKSUITE_NB_TEXTS", "600"))
BATCH = 20


@settings(max_examples=max(1, TEXT_COUNT // BATCH))
@given(texts=st.lists(TEXTS, min_size=BATCH, max_size=BATCH))
def test_every_byte_is_in_a_token_or_in_the_losses(texts):
    for name in NAMES:
        check_texts(name, texts)


def test_every_byte_of_the_embedded_benchmark_is_in_a_token_or_in_the_losses():
    from toksuite_nb.items import load_benchmark

    items = load_benchmark("embedded")
    spoken = items["question"].to_list() + [choice for choices in items["choices"].drop_nulls() for choice in choices]
    texts = sorted({text for text in spoken if text})
    assert len(texts) > 1000
    for name in NAMES:
        check_texts(name, texts)


def check_texts(name, texts):
    tokenizer = tokenizer_named(name)
    added = getattr(tokenizer, "_added", {})
    cuts = tokenizer.cuts(texts)
    assert tokenizer.count(texts).tolist() == [len(cut.ids) for cut in cuts], f"{name}: tokens are counted differently"
    assert [cut.ids for cut in cuts] == tokenizer.encode(texts) == [library_ids(name, text) for text in texts], (
        f"{name}: ids differ from the library called directly"
    )
    for text, cut in zip(texts, cuts, strict=True):
        raw = check_cut(tokenizer, text, cut)[1]
        for k, i in enumerate(cut.ids):
            piece = tokenizer.pieces[i]
            if piece is None or i in added:
                continue
            slice_ = raw[cut.start[k] : cut.end[k]]
            assert cut.exact[k], f"{name}: token {k} of {text!r} was not verified by its bytes: {cut}"
            if piece == slice_:
                continue
            # a merge over bytes that the vocabulary lacks: they are in the losses
            gone = {at for a, b, why in cut.lost if why == "not in the vocabulary" for at in range(a, b)}
            image = _image(tokenizer, bytes(raw[at] for at in range(cut.start[k], cut.end[k]) if at not in gone))
            if image is not None:
                assert piece.strip(b" ") in image, f"{name}: {piece} is not what {slice_} becomes"


def _image(tokenizer, slice_):
    "What the normaliser makes of a slice; None where the slice is part of a character or the normaliser looks beyond it."
    try:
        text = slice_.decode()
    except UnicodeDecodeError:
        return None
    normalise = getattr(tokenizer, "_normalise", None)
    return slice_ if normalise is None else normalise(text).encode()


@pytest.mark.parametrize(
    "name", ["bytes", "tekken", "mistral-spm", "bpe", "bpe-prefix", "llama-style", "sp-bpe-fallback"]
)
@settings(max_examples=40, deadline=None)
@given(text=TEXTS.filter(lambda t: "▁" not in t))
def test_without_normalisation_the_slices_concatenate_to_the_text(name, text):
    cut = tokenizer_named(name).cut(text)
    raw = text.encode()
    assert b"".join(raw[a:b] for a, b in cut.spans()) == raw
    assert {why for _, _, why in cut.lost} <= {"read as a special token"}
    for i, (start, end) in zip(cut.ids, cut.spans(), strict=True):
        piece = tokenizer_named(name).pieces[i]
        assert piece is None or raw[start:end] in (piece, piece.removeprefix(b" "))


_CACHE = {}


def _cached(name, make):
    if name not in _CACHE:
        _CACHE[name] = make()
    return _CACHE[name]


# pieces, kinds, specials


@pytest.mark.parametrize("name", [name for name in NAMES if name != "bpe-added"])
def test_pieces_are_what_ids_decode_to(name):
    tokenizer = tokenizer_named(name)
    assert len(tokenizer.pieces) == tokenizer.vocab_size == len(tokenizer.kinds)
    whole = {i: p.decode() for i, p in enumerate(tokenizer.pieces) if p is not None and tokenizer.kinds[i] == "whole"}
    # decoders drop the space at the front of a text, and WordPiece writes ## there: pieces are read behind another too
    lead = next(i for i, piece in whole.items() if piece.strip().isalpha() and tokenizer.decode([i]))
    head = tokenizer.decode([lead])
    wrong = {
        i: piece
        for i, piece in whole.items()
        if piece not in (tokenizer.decode([i]), tokenizer.decode([lead, i]).removeprefix(head))
    }
    assert not wrong, f"{len(wrong)} of {len(whole)}: {list(wrong.items())[:3]}"


def test_kinds_tell_fallback_partial_and_unknown_apart():
    frame = tokenize(
        {"x": "☃"},
        {name: tokenizer_named(name) for name in ("bytes", "mistral-spm", "sp-bpe-fallback", "sp-unigram", "bpe")},
    )
    kinds = {name: set(part["kind"]) for (name,), part in frame.group_by("tokenizer")}
    assert kinds["bytes"] == {"partial character"} == kinds["bpe"]
    assert "fallback" in kinds["sp-bpe-fallback"]
    assert "unknown" in kinds["sp-unigram"]
    assert frame.filter(pl.col("kind") == "unknown")["bytes"].to_list() == [None]


def test_special_tokens_are_never_added():
    from tokenizers.processors import TemplateProcessing

    backend = wordpiece(True)
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)])
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    tokenizer = load_tokenizer(backend)
    ids = tokenizer.encode(["the capital of italy", "rome"])
    assert not {i for row in ids for i in row} & {0, 1, 2}, "a special token was added or the text was padded"
    assert len(ids[0]) > 2, "the truncation of the original object was kept"
    assert backend.truncation is not None, "the original object was changed"
    assert tokenizer.specials == {"bos": 0, "eos": 1, "pad": 2, "unk": 3}


@pytest.mark.parametrize(
    ("template", "wanted"),
    [("[CLS] $A", ([0], [])), ("$A [SEP]", ([], [1])), ("[CLS] $A [SEP]", ([0], [1])), ("$A", ([], []))],
)
def test_what_a_library_puts_around_a_text_is_told_before_from_behind(template, wanted):
    from tokenizers.processors import TemplateProcessing

    backend = wordpiece(True)
    backend.post_processor = TemplateProcessing(single=template, special_tokens=[("[CLS]", 0), ("[SEP]", 1)])
    assert load_tokenizer(backend).wrapping == wanted


def test_text_that_spells_a_special_token_is_text_to_tiktoken_however_long():
    tokenizer, end = load_tokenizer(tiny_tiktoken(), "tiny"), "<|endoftext|>"
    assert tokenizer.specials == {"eos": 259}
    for text in (end, end + " the" * 2000):
        ids = tokenizer.encode([text])[0]
        assert 259 not in ids and tokenizer.decode(ids) == text


def test_text_that_spells_a_special_token_is_named_as_lost():
    assert losses("a</s>b", tokenizer_named("bpe")).rows() == [(1, 5, b"</s>", "read as a special token")]
    assert (
        losses("a</s>b", "tekken").height
        == losses("a</s>b", "mistral-spm").height
        == losses("a</s>b", "bytes").height
        == 0
    )


def test_losses_of_an_uncased_wordpiece_are_exact():
    tokenizer = tokenizer_named("wordpiece-uncased")
    assert losses("the Capital", tokenizer).rows() == [(3, 4, b" ", "in no token")]
    assert losses("cafe\u0301", tokenizer)["reason"].to_list() == ["removed by the normaliser"]
    assert losses("ï", tokenizer).height == 0


@pytest.mark.parametrize("normalizer", [None, normalizers.BertNormalizer(lowercase=True, strip_accents=False)])
def test_an_unknown_word_stands_for_itself_and_not_for_the_space_beside_it(normalizer):
    backend = Backend(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if normalizer is not None:
        backend.normalizer = normalizer
    cut = load_tokenizer(backend, "short").cut("a é  ☃ a")
    assert (cut.ids, cut.spans()) == ([1, 0, 0, 1], [(0, 1), (2, 4), (6, 9), (10, 11)])
    assert [(a, b) for a, b, reason in cut.lost if reason == "unknown token"] == [(2, 4), (6, 9)]
    assert [(a, b) for a, b, reason in cut.lost if reason == "in no token"] == [(1, 2), (4, 6), (9, 10)]


def test_word_initial_pieces_are_flagged():
    tokenizer = tokenizer_named("wordpiece-cased")
    flags = {token: bool(tokenizer.word_initial[i]) for token, i in tokenizer.backend.get_vocab().items()}
    assert flags["t"] and not any(flag for token, flag in flags.items() if token.startswith(("##", "[")))
    assert not tokenizer_named("bpe").word_initial.any()


# tiktoken, Hugging Face objects, folders, any object


def tiny_tiktoken():
    ranks = {bytes([b]): b for b in range(256)} | {b"th": 256, b"the": 257, b" the": 258}
    return tiktoken.Encoding("tiny", pat_str=r" ?\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 259})


@settings(max_examples=60)
@given(text=TEXTS)
def test_tiktoken_encodings_cut_as_their_library(text):
    encoding = _cached("tiny", tiny_tiktoken)
    tokenizer = _cached("tiny-loaded", lambda: load_tokenizer(encoding))
    cut, raw = check_cut(tokenizer, text)
    assert cut.ids == encoding.encode_ordinary(text)
    assert b"".join(raw[a:b] for a, b in cut.spans()) == raw and cut.exact.all()
    assert tokenizer.specials == {"eos": 259} and tokenizer.vocab_size == 260


class Words:
    "An object with nothing but encode and decode."

    words = ("<unk>", "the", "cat", "☃", "\ufffd")
    vocab_size, unk_token_id = 5, 0

    def encode(self, text):
        return [self.words.index(w) if w in self.words else 0 for w in text.split()]

    def decode(self, ids):
        return " ".join(self.words[i] for i in ids)


class HalfBytes:
    "An object whose single ids never decode to a whole character."

    vocab_size = 16

    def encode(self, text):
        return [half for b in text.encode() for half in (b >> 4, b & 15)]

    def decode(self, ids):
        pairs = [ids[k : k + 2] for k in range(0, len(ids), 2)]
        return b"".join(bytes([p[0] << 4 | p[1]]) if len(p) == 2 else b"\xff" for p in pairs).decode("utf-8", "replace")


@settings(max_examples=60)
@given(text=TEXTS)
def test_any_object_gets_spans_that_tile_the_text(text):
    for library in (Words(), HalfBytes()):
        tokenizer = load_tokenizer(library)
        cut, _ = check_cut(tokenizer, text)
        assert cut.ids == library.encode(text)
        if text:
            tokenize([text], [tokenizer])


def test_tokens_that_only_decode_together_share_their_stretch():
    cut = load_tokenizer(HalfBytes()).cut("aé")
    assert cut.spans() == [(0, 1), (0, 1), (1, 3), (1, 3), (1, 3), (1, 3)]
    assert not cut.exact.any()
    assert set(tokenize(["aé"], {"half": HalfBytes()})["route"]) == {"offsets"}


def test_transformers_objects_and_folders_load(tmp_path):
    transformers = pytest.importorskip("transformers")
    backend = byte_bpe(normalizers.NFKC())
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(tmp_path / "fast")
    loaded = (
        load_tokenizer(fast),
        load_tokenizer(tmp_path / "fast"),
        load_tokenizer(str(tmp_path / "fast" / "tokenizer.json")),
    )
    for tokenizer in loaded:
        text = "ﬁne café 中"
        assert tokenizer.encode([text])[0] == fast(text, add_special_tokens=False)["input_ids"]
        assert {k: tokenizer.specials[k] for k in ("bos", "eos", "pad")} == {"bos": 0, "eos": 1, "pad": 2}
    assert loaded[1].name == "fast"
    assert len({tokenizer.content_hash for tokenizer in loaded}) == 1
    byt5 = load_tokenizer(transformers.ByT5Tokenizer())
    assert (
        byt5.encode(["aé"]) == [[100, 198, 172]]
        and byt5.vocab_size == 384
        and byt5.specials == {"eos": 1, "pad": 0, "unk": 2}
    )


def test_sentencepiece_and_tekken_files_load(tmp_path):
    (tmp_path / "spm").mkdir()
    (tmp_path / "spm" / "tokenizer.model").write_bytes(tokenizer_named("sp-unigram").processor.serialized_model_proto())
    folder = load_tokenizer(tmp_path / "spm")
    assert folder.content_hash == tokenizer_named("sp-unigram").content_hash and folder.name == "spm"
    tekken = load_tokenizer(MISTRAL / "tekken_240911.json", name="other")
    assert tekken.content_hash == load_tokenizer("tekken").content_hash and tekken.name == "other"
    assert load_tokenizer("tekken").name == "tekken"


@pytest.mark.parametrize(
    "name", ["bpe-nfkc-lower", "sp-unigram", "bytes", "tekken", "mistral-spm", "wordpiece-uncased"]
)
def test_tokenizers_survive_pickling(name):
    tokenizer = tokenizer_named(name)
    twin = pickle.loads(pickle.dumps(tokenizer))
    text = "İstanbul ﬁne 中 ☃"
    assert (
        twin.spans(text) == tokenizer.spans(text)
        and twin.content_hash == tokenizer.content_hash
        and twin.name == tokenizer.name
    )


def test_the_hash_sees_every_part_of_the_tokenizer():
    base = byte_bpe()
    variants = [
        byte_bpe(normalizers.NFKC()),
        byte_bpe(prefix=True),
        byte_bpe(size=400),
        with_added(),
        wordpiece(True),
        unigram(),
    ]
    hashes = [load_tokenizer(backend).content_hash for backend in [base, *variants]]
    assert len(set(hashes)) == len(hashes), "two different tokenizers have one hash"
    assert load_tokenizer(byte_bpe(), name="another name").content_hash == hashes[0]


def test_tokenizers_that_differ_in_one_part_alone_have_different_hashes():
    def made(**parts):
        backend = Backend(models.BPE({"a": 0, "b": 1, "ab": 2, "<s>": 3}, [("a", "b")]))
        for name, part in {"normalizer": None, "pre_tokenizer": None, "decoder": None, **parts}.items():
            setattr(backend, name, part)
        return backend

    added = made()
    added.add_tokens([AddedToken("ba", normalized=False)])
    backends = [
        made(),
        made(normalizer=normalizers.NFC()),
        made(pre_tokenizer=pre_tokenizers.Split("b", "isolated")),
        made(decoder=decoders.Fuse()),
        added,
    ]
    hashes = [load_tokenizer(backend).content_hash for backend in backends]
    hashes.append(HuggingFaceTokenizer(made(), "with a role", {"bos": 3}).content_hash)
    for ranks, pattern in ((RANKS, r"\S+|\s+"), (RANKS, r"\S|\s+"), ({**RANKS, b"an": 259}, r"\S+|\s+")):
        hashes.append(
            load_tokenizer(
                tiktoken.Encoding("t", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
            ).content_hash
        )
    assert len(set(hashes)) == len(hashes)


# tiktoken files, TokenMonster, slow tokenizers


def write_ranks(path, ranks):
    path.write_text("\n".join(f"{base64.b64encode(piece).decode()} {rank}" for piece, rank in ranks.items()))
    return path


RANKS = {bytes([b]): b for b in range(256)} | {b"th": 256, b"the": 257, b" the": 258}


def test_a_tiktoken_file_is_the_encoding_it_was_written_from(tmp_path):
    path = write_ranks(tmp_path / "tiny.tiktoken", RANKS)
    loaded = load_tokenizer(path, pattern=r" ?\S+|\s+")
    assert loaded.name == "tiny" and loaded.vocab_size == 259
    text = "the the 中\n"
    assert loaded.encode([text])[0] == tiny_tiktoken().encode_ordinary(text)
    # a known encoding lends its expression and its special tokens, without its ranks
    named = load_tokenizer(str(path), "other", pattern="cl100k_base")
    assert [named.pieces[i] for i in named.encode(["12345"])[0]] == [b"1", b"2", b"3", b"4", b"5"]
    assert named.specials == {"eos": 100257} and named.name == "other"
    harmony = load_tokenizer(path, pattern="o200k_harmony")
    assert harmony.encoding._pat_str == load_tokenizer(path, pattern="o200k_base").encoding._pat_str


def test_what_a_tiktoken_file_lacks_or_repeats_is_named(tmp_path):
    path = tmp_path / "tiny.tiktoken"
    with pytest.raises(FileNotFoundError, match="load_tokenizer: the path must exist, got"):
        load_tokenizer(path, pattern="cl100k_base")
    write_ranks(path, RANKS)
    with pytest.raises(
        ValueError,
        match=r"holds ranks only, so that a pattern must be given, got None for 'tiny.tiktoken'. Pass the regular",
    ):
        load_tokenizer(path)
    with pytest.raises(
        KeyError, match=r"unknown encoding 'cl100k' for pattern. Known are .* Did you mean 'cl100k_base'"
    ):
        load_tokenizer(path, pattern="cl100k")
    with pytest.raises(ValueError, match=r"pattern must be a regular expression, got '\(\\\\S'"):
        load_tokenizer(path, pattern=r"(\S")
    with pytest.raises(ValueError, match=r"pattern belongs to .tiktoken files, got 'x' for 'bytes'"):
        load_tokenizer("bytes", pattern="x")
    path.write_text(path.read_text() + "\ndGhl 300")
    with pytest.raises(
        ValueError, match="must differ in their bytes and ranks, got the bytes b'the' for ranks 257 and 300 in line 260"
    ):
        load_tokenizer(path, pattern="cl100k_base")
    write_ranks(path, RANKS | {b"x y": 256})
    with pytest.raises(ValueError, match="got rank 256 for b'th' and b'x y' in line 260"):
        load_tokenizer(path, pattern="cl100k_base")
    write_ranks(path, {piece: rank for piece, rank in RANKS.items() if piece != b"\x07"})
    with pytest.raises(ValueError, match=r"must hold all 256 single bytes, got none for \[7\]"):
        load_tokenizer(path, pattern="cl100k_base")
    for rank in (-1, 1 << 24, 2**70):
        write_ranks(path, RANKS | {b"x y": rank})
        with pytest.raises(
            ValueError, match=rf"ranks must lie from 0 to below 2\*\*24, got {rank} for b'x y' in line 260"
        ):
            load_tokenizer(path, pattern="cl100k_base")
    path.write_bytes(b"AAA= 0\n???? 1")
    with pytest.raises(ValueError, match=r"must be base64 and a rank, got b'.*' for line . of tiny.tiktoken"):
        load_tokenizer(path, pattern="cl100k_base")


def test_tiktoken_names_load_from_its_cache_or_say_so(monkeypatch):
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: tiny_tiktoken())
    assert load_tokenizer("cl100k_base").name == "cl100k_base"

    def offline(name):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(
        FileNotFoundError,
        match="ranks of 'o200k_base' must be in tiktoken's cache or on the network, got neither: 'no route",
    ):
        load_tokenizer("o200k_base")


class Monster:
    "A vocabulary with TokenMonster's interface: NFD, capital and deletion marks, byte tokens, an unknown token or none."

    fname = "folder/tiny-v1.vocab"
    words = ("cat", "s", "naïve", "the", "a")

    def __init__(self):
        import unicodedata

        self.nfd = lambda text: unicodedata.normalize("NFD", text)
        rows = [(f" {self.nfd(word)}", f" {self.nfd(word)}", "regular") for word in self.words] + [
            ("C", "", "regular"),
            ("D", "", "regular"),
        ]
        rows += [(chr(b) if b < 128 else "\ufffd", chr(b) if b < 128 else "\ufffd", "single") for b in range(256)]
        self.raw = (
            [row[0].encode() for row in rows[: len(self.words)]] + [b"C", b"D"] + [bytes([b]) for b in range(256)]
        )
        self.table = {
            i: {"id": i, "token": t, "token_decoded": d, "type": kind, "score": 0.0}
            for i, (t, d, kind) in enumerate(rows)
        }

    def get_dictionary(self):
        return self.table

    def unk_token_id(self):
        return None

    def normalization(self):
        return "NFD"

    def capcode(self):
        return 2

    def tokenize(self, text):
        if isinstance(text, bytes):
            return np.array([self.raw.index(bytes([b]), len(self.words) + 2) for b in text])
        return [np.array(self.ids(one)) for one in text]

    def ids(self, text):
        import re

        capital, delete = len(self.words), len(self.words) + 1
        out = []
        for space, word, other in re.findall(r"( ?)([^\W\d_]+)|(.)", self.nfd(text), re.DOTALL):
            known = f" {word.lower()}".encode()
            if (
                word
                and known in self.raw
                and word in (word.lower(), word.lower().capitalize())
                and word.lower() == self.nfd(word.lower())
            ):
                out += [capital] * (word != word.lower()) + [delete] * (not space) + [self.raw.index(known)]
            else:
                out += [b + delete + 1 for b in (space + word + other).encode()]
        return out

    def decoder(self):
        return Stream(self)

    def decode(self, ids):
        stream = Stream(self)
        return "".join(stream.decode([i]) for i in ids)


class Stream:
    def __init__(self, vocabulary):
        self.vocabulary, self.capital, self.delete, self.held = vocabulary, False, False, b""

    def decode(self, ids):
        out = ""
        for i in ids:
            n = len(self.vocabulary.words)
            if i in (n, n + 1):
                self.capital, self.delete = self.capital or i == n, self.delete or i == n + 1
                continue
            self.held += self.vocabulary.raw[i]
            try:
                text, self.held = self.held.decode(), b""
            except UnicodeDecodeError:
                continue
            if i < n:
                text = text[1:] if self.delete else text
                at = len(text) - len(text.lstrip())
                text = text[:at] + (text[at : at + 1].upper() + text[at + 1 :] if self.capital else text[at:])
                self.capital = self.delete = False
            out += text
        return out


@settings(max_examples=60)
@given(
    text=st.one_of(
        TEXTS,
        st.lists(
            st.sampled_from(["cat", "Cat", " cats", "Cats", " naïve", "Naïve", " the ", "中", "a", ". "]), max_size=8
        ).map("".join),
    )
)
def test_tokenmonster_marks_stand_for_no_byte_and_the_rest_for_its_own(text):
    library = _cached("monster", Monster)
    tokenizer = _cached("monster-loaded", lambda: load_tokenizer_as("tokenmonster", library))
    cut = check_cut(tokenizer, text)[0]
    assert cut.ids == (library.ids(text) if text else [])
    for i, (start, end) in zip(cut.ids, cut.spans(), strict=True):
        if tokenizer.written[i] in ("C", "D") and i < 7:
            assert start == end, "a mark was given bytes of the text"
    if text:
        tokenize([text], [tokenizer])


def load_tokenizer_as(module, library):
    "As if its class came from that package."
    kind = type(type(library).__name__, (type(library),), {"__module__": module})
    library.__class__ = kind
    return load_tokenizer(library)


def test_tokenmonster_vocabularies_have_bytes_names_and_marks(monkeypatch):
    fake = types.ModuleType("tokenmonster")
    fake.load = lambda spec: Monster()
    monkeypatch.setitem(sys.modules, "tokenmonster", fake)
    tokenizer = load_tokenizer("tokenmonster:englishcode-32000-consistent-v1")
    assert tokenizer.name == "englishcode-32000-consistent-v1" and tokenizer.vocab_size == 263
    assert tokenizer.pieces[:3] == [b" cat", b" s", " nai\u0308ve".encode()] and tokenizer.pieces[7 + 0xE4] == b"\xe4"
    assert tokenizer.kinds[7 + 0xE4] == "partial character"
    cut = tokenizer.cut("Cats é")
    assert [tokenizer.written[i] for i in cut.ids[:2]] != []
    assert cut.spans()[-1][1] == len("Cats é".encode()) and tokenizer.decode(cut.ids) == "Cats e\u0301"


def test_without_tokenmonster_or_its_engine_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenmonster", None)
    with pytest.raises(
        ImportError,
        match=r"need the package tokenmonster, got none installed for 'x'. Install it with pip install tokenmonster",
    ):
        load_tokenizer("tokenmonster:x")
    fake = types.ModuleType("tokenmonster")

    def no_engine(spec):
        raise RuntimeError("Unable to download tokenmonsterserver")

    fake.load = no_engine
    monkeypatch.setitem(sys.modules, "tokenmonster", fake)
    with pytest.raises(
        FileNotFoundError,
        match=r"must find its engine \(tokenmonsterserver\) and the vocabulary, got RuntimeError: 'Unable",
    ):
        load_tokenizer("tokenmonster:x")


def test_slow_sentencepiece_tokenizers_keep_their_bytes(tmp_path):
    transformers = pytest.importorskip("transformers")
    processor = libraries()["sp-bpe-fallback"]
    (tmp_path / "spiece.model").write_bytes(processor.serialized_model_proto())
    slow = transformers.SentencePieceBackend(vocab_file=str(tmp_path / "spiece.model"), unk_token="<unk>")
    tokenizer = load_tokenizer(slow, "slow")
    for text in ("the capital  of Italy", "پایتخت ایران", "中 ☃", "x = 12"):
        cut, raw = check_cut(tokenizer, text)
        assert cut.ids == slow.encode(text, add_special_tokens=False)
        assert cut.exact.all() and b"".join(raw[a:b] for a, b in cut.spans()) == raw
        tokenize([text], [tokenizer])
    assert tokenizer.pieces[processor.piece_to_id("<0xE4>")] == b"\xe4"


# special tokens


def test_special_tokens_are_counted_on_request_and_stand_for_no_byte():
    from tokenizers.processors import TemplateProcessing

    backend = wordpiece(True)
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)])
    tokenizers = {"wp": backend, "bytes": "bytes", "tekken": "tekken", "spm": "mistral-spm"}
    texts = {"a": "the capital", "b": "rome"}
    plain, counted = tokenize(texts, tokenizers), tokenize(texts, tokenizers, add_special=True)
    assert not plain["special"].any()
    assert counted.filter(~pl.col("special")).drop("i").equals(plain.drop("i")), "other tokens changed"
    added = counted.filter("special")
    assert added["start"].equals(added["end"].alias("start")) and set(added["route"]) == {"added"}
    for text_id, text in texts.items():
        rows = counted.filter(tokenizer="wp", text_id=text_id)
        assert rows["id"].to_list() == backend.encode(text).ids, "not what the library itself returns"
        assert rows["i"].to_list() == list(range(rows.height))
        assert rows["end"][-1] == len(text.encode())
    assert added.filter(tokenizer="bytes")["id"].to_list() == [1, 1], "ByT5 closes each text with </s>"
    assert added.filter(pl.col("tokenizer").is_in(["tekken", "spm"])).is_empty()
    empty = tokenize([""], ["bytes"], allow_empty=True, add_special=True)
    assert empty.select("id", "start", "end", "special").rows() == [(1, 0, 0, True)]


def test_bytes_end_with_the_token_that_byt5_puts_behind_a_text():
    transformers = pytest.importorskip("transformers")
    own = load_tokenizer("bytes")
    assert own.wrapping == ([], [1])
    frame = tokenize(["né"], own, add_special=True)
    assert frame["id"].to_list() == transformers.ByT5Tokenizer().encode("né") == [113, 198, 172, 1]
    assert frame.select("start", "end", "special").rows()[-2:] == [(2, 3, False), (3, 3, True)]


def test_a_sentencepiece_processor_that_adds_tokens_is_asked_not_to():
    model = libraries()["sp-unigram"].serialized_model_proto()
    adding = sentencepiece.SentencePieceProcessor(model_proto=model, add_bos=True, add_eos=True)
    tokenizer = load_tokenizer(adding)
    assert tokenizer.encode(["the sky"]) == [libraries()["sp-unigram"].encode("the sky")]
    assert tokenizer.wrapping == ([adding.bos_id()], [adding.eos_id()])
    sampling = sentencepiece.SentencePieceProcessor(model_proto=model, enable_sampling=True, alpha=0.1, nbest_size=-1)
    with pytest.raises(ValueError, match="must be a function of the text, got a SentencePiece processor with sampling"):
        load_tokenizer(sampling)


# frames


def test_texts_come_as_list_mapping_or_frame():
    bytes_ = load_tokenizer("bytes")
    as_frame = pl.DataFrame({"text_id": ["a", "b"], "text": ["x", "yz"]})
    assert tokenize(as_frame, [bytes_]).equals(tokenize({"a": "x", "b": "yz"}, bytes_))
    assert tokenize(["x", "yz"], {"renamed": "bytes"})["tokenizer"].unique().to_list() == ["renamed"]
    assert tokenize(["x"], {}).height == 0


def test_texts_without_an_order_and_ids_of_another_vocabulary_are_refused():
    with pytest.raises(TypeError, match="tokenize: needs a list, a mapping or a frame of texts, got set"):
        tokenize({"a", "b"}, "bytes")
    for i in (-1, 259):
        with pytest.raises(ValueError, match=rf"described: ids must lie in \[0, 259\), got {i} for 'bytes'"):
            load_tokenizer("bytes").described([3, i])


def test_many_texts_give_the_same_tokens_as_one_by_one():
    texts = [*CORPUS[:6], "x"]
    for name in ("bpe-nfkc-lower", "sp-unigram", "wordpiece-uncased", "tekken"):
        tokenizer = tokenizer_named(name)
        together = tokenize(texts, [tokenizer])
        alone = pl.concat([tokenize({str(k): text}, [tokenizer]) for k, text in enumerate(texts)])
        assert together.equals(alone)


class StrippedBytes:
    "Bytes behind encode and decode only; decode drops the white space at both ends."

    vocab_size = 256

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode("utf-8", "replace").strip()


BASE = "The capital of Italy is Rome; پایتخت ایران İstanbul gökyüzü 中国的首都 ﬁne 𝐛𝐨𝐥𝐝 x=123. "


@pytest.mark.parametrize(
    ("spec", "base"),
    [
        *((name, BASE) for name in ("bpe", "bpe-nfkc-lower", "unigram-nfkc", "wordpiece-uncased", "char-bpe")),
        *((name, BASE) for name in ("sp-unigram", "tekken", "bytes")),
        *((StrippedBytes(), base) for base in (BASE, BASE + "\n", BASE + "\ufffd ")),
    ],
)
def test_spans_of_a_long_text_take_linear_time(spec, base):
    tokenizer = tokenizer_named(spec) if isinstance(spec, str) else load_tokenizer(spec, name="own")
    tokenizer.cut(base)
    seconds = {}
    for n in (5_000, 40_000):
        text = (base * 1000)[:n]
        runs = []
        for _ in range(3):
            began = time.process_time()
            tokenizer.cut(text)
            runs.append(time.process_time() - began)
        seconds[n] = min(runs)
    assert seconds[40_000] < 16 * seconds[5_000] + 0.05, f"{seconds}; cutting is no longer linear in the text"


def test_tokens_that_decode_to_no_stretch_share_the_rest_of_the_text():
    tokenizer = load_tokenizer(StrippedBytes(), name="own")
    for n in (10, 200):
        text = "ab\n" + "c" * n
        cut = tokenizer.cut(text)
        assert cut.spans()[:2] == [(0, 1), (1, 2)] and cut.exact[:2].all()
        assert set(cut.spans()[3:]) == {(2, len(text))} and not cut.exact[3:].any()
        tokenize([text], [tokenizer])


def test_each_part_of_a_character_stands_for_all_of_it():
    # three bytes for the fraction bar between 1 and 2; the second token has no byte at all
    mapped = source_map("½a", lambda text: unicodedata.normalize("NFKC", text))
    start, end = mapped.spans(np.array([0, 1, 1, 4]), np.array([1, 1, 4, 6]))
    assert (mapped.target.decode(), start.tolist(), end.tolist()) == ("1⁄2a", [0, 0, 0, 0], [2, 2, 2, 3])


def test_a_normaliser_that_looks_around_is_still_aligned():
    fold = normalizers.Replace(Regex("(?i)colou?r"), "colour")
    mapped = source_map("My COLOR, ok", fold.normalize_str)
    assert mapped.target == b"My colour, ok"
    start, end = mapped.spans(np.array([0, 3, 9]), np.array([2, 9, 13]))
    assert list(zip(start.tolist(), end.tolist(), strict=True)) == [(0, 2), (3, 8), (8, 12)]


# errors, as text


def message(error):
    return str(error.value)


def letters(text):
    return [ord(c) for c in text], [c.encode() for c in text]


def test_a_function_that_gives_ids_and_pieces_is_a_tokenizer():
    texts = {"face": "a 👩\u200d🔬é", "none": "", "fa": "می\u200cخواهم"}
    found = tokenize(texts, {"mine": letters}, allow_empty=True)
    assert found["tokenizer"].unique().to_list() == ["mine"]
    for name, text in texts.items():
        rows = found.filter(text_id=name)
        assert rows["bytes"].to_list() == [c.encode() for c in text]
        assert [text.encode()[a:b] for a, b in rows.select("start", "end").rows()] == [c.encode() for c in text]
    split = load_tokenizer(lambda text: (list(text.encode()), [bytes([b]) for b in text.encode()]), name="split")
    assert split.cut("👩").exact.all() and split.cut("").ids == []
    assert tokenize(["é"], [split])["kind"].to_list() == ["partial character"] * 2
    assert split.decode(split.encode(["é👩"])[0]) == "é👩"


def test_a_function_with_the_pieces_of_all_ids_can_be_measured():
    def split(text):
        return list(text.encode()), [bytes([b]) for b in text.encode()]

    corpus = pl.DataFrame({"text": ["The café 👩", "x = 1"], "lang": ["en", "en"]})
    with pytest.raises(ValueError, match="Give the function an attribute pieces"):
        intrinsic(corpus, {"split": split})
    split.pieces = [bytes([b]) for b in range(256)]
    found = intrinsic(corpus, {"split": split}).filter(metric="bytes_per_token")
    assert found["value"].to_list() == [1.0] * found.height and found.height


@pytest.mark.parametrize(
    ("error", "function", "said"),
    [
        (TypeError, lambda text: list(text.encode()), "a function must return ids and pieces, got list"),
        (TypeError, lambda text: ("ab", [b"a", b"b"]), "a function must return a list of whole numbers, got str"),
        (ValueError, lambda text: ([1], [text]), "pieces must be bytes, got str"),
        (ValueError, lambda text: ([1, 2], [text.encode()]), "each id needs one piece, got 2 ids and 1 pieces"),
        (ValueError, lambda text: ([], []), "pieces must join to the text in UTF-8, got b'' for 'a b'"),
        (ValueError, lambda text: ([7], [text.encode()]), "an id must stand for the same bytes everywhere, got b''"),
        (ValueError, lambda text: ([-1], [text.encode()]), "ids must lie in [0, ...), got -1"),
        (ValueError, lambda: None, "the function must take every text, got TypeError"),
    ],
)
def test_a_function_whose_pieces_do_not_fit_is_refused(error, function, said):
    with pytest.raises(error) as caught:
        load_tokenizer(function, name="mine")
    assert said in message(caught) and "'mine'" in message(caught)


@pytest.mark.parametrize(
    "texts", [{1: "aa", "1": "b"}, pl.DataFrame({"text_id": ["1", "0", "1"], "text": ["aa", "c", "b"]})]
)
def test_texts_that_share_an_id_are_refused(texts):
    with pytest.raises(ValueError, match=r"^tokenize: text_id must be unique, got \['1'\] more than once"):
        tokenize(texts, ["bytes"])


def test_tokenizers_whose_names_are_written_alike_are_refused():
    with pytest.raises(ValueError, match=r"^tokenize: tokenizer names must be distinct, got \['1'\] more than once"):
        tokenize(["a"], {1: "bytes", "1": "bytes"})


def several(tokenizers):
    "What each function that takes several tokenizers says of them."
    edited = {"a": EditedText("blue", (Edit(0, 1, "b", "B"),))}
    items = perturb_items(load_benchmark(lang="en").head(1), "uppercase")
    items = pl.concat([load_benchmark(lang="en").head(1).select(items.columns), items])
    return [
        tokenize(["a b"], tokenizers),
        intrinsic(["a b"], tokenizers, lang="en", draws=0),
        compare(tokenizers, ["a b"], lang="en", draws=0).metrics,
        overlap(tokenizers),
        cut_shifts(edited, tokenizers),
        cut_shift_tokens(edited, tokenizers),
        cut_changes(items, tokenizers),
        compare_cards(tokenizers),
        super_vocabulary(tokenizers).overlap(),
    ]


@pytest.mark.parametrize("given", ["bytes", load_tokenizer("bytes"), {"bytes": "bytes"}])
def test_one_tokenizer_alone_is_a_list_of_one(given):
    for alone, listed in zip(several(given), several(["bytes"]), strict=True):
        assert alone.equals(listed) and alone.height


def test_names_of_several_tokenizers_must_differ_everywhere():
    for call in (
        lambda: cut_shifts({}, ["bytes", "bytes"]),
        lambda: cut_shift_tokens({}, ["bytes", "bytes"]),
        lambda: compare_cards(["bytes", "bytes"]),
        lambda: super_vocabulary(["bytes", "bytes"]),
    ):
        with pytest.raises(ValueError, match=r"^\w+: tokenizer names must be distinct, got \['bytes'\] more than once"):
            call()


def test_doubled_ids_are_named_in_linear_time():
    ids = [f"t{k // 2}" for k in range(100_000)]
    began = time.process_time()
    with pytest.raises(ValueError, match="text_id must be unique"):
        tokenize(pl.DataFrame({"text_id": ids, "text": ["a"] * len(ids)}), ["bytes"])
    assert time.process_time() - began < 2


def test_a_folder_without_tokenizer_files_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_tokenizer(tmp_path)
    text = message(error)
    assert text.startswith("load_tokenizer: the folder holds no tokenizer, got []")
    assert "Looked for tokenizer.json, tekken.json" in text and "save_pretrained" in text and "\n" not in text


def test_a_missing_folder_an_unknown_name_and_a_wrong_object_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"load_tokenizer: the path must exist, got .*nowhere"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(
        KeyError, match=r"unknown tokenizer 'gpt-none'. Built in are \['bytes', 'mistral-spm', 'tekken'\]"
    ):
        load_tokenizer("gpt-none")
    with pytest.raises(
        TypeError, match="load_tokenizer: needs a name, a path or an object with encode and decode, got int"
    ):
        load_tokenizer(3)


def test_a_hub_id_without_network_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError) as error:
        load_tokenizer("no-such-owner/no-such-tokenizer")
    text = message(error)
    assert (
        "no such folder, not in the local hub cache, and the hub cannot be reached from here" in text
        and "\n" not in text
    )


@pytest.mark.parametrize("name, content", [("tokenizer.json", b'{"version": "1.0", "mod'), ("tokenizer.json", b"{}"), ("tekken.json", b'{"token_bytes": 1'),
                                           ("tokenizer.model", b"not a model")])  # fmt: skip
def test_a_damaged_file_is_one_clear_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_tokenizer(tmp_path)
    text = message(error)
    assert (
        text.startswith(f"load_tokenizer: {name} must hold a tokenizer that its library can read, got ")
        and "\n" not in text
    )


def test_empty_texts_and_lone_surrogates_are_named():
    with pytest.raises(ValueError, match="tokenize: a text must not be empty, got '' for text_id"):
        tokenize(["a", ""], ["bytes"])
    assert tokenize(["a", ""], ["bytes"], allow_empty=True).height == 1
    for name in NAMES:
        assert tokenizer_named(name).encode([""]) in ([[]], [tokenizer_named(name).encode([""])[0]])
        assert all(start == end == 0 for start, end in tokenizer_named(name).spans(""))
        with pytest.raises(ValueError, match=r"the lone surrogate U\+DC80 at character 1 for text 0"):
            tokenizer_named(name).encode(["a\udc80"])


def test_an_encoding_that_is_not_a_function_is_refused():
    class Dice(Words):
        rolls = 0

        def encode(self, text):
            Dice.rolls += 1
            return [Dice.rolls % 5]

    with pytest.raises(ValueError, match="encode must be a function of the text, got different ids"):
        load_tokenizer(Dice(), name="dice")
    with pytest.raises(ValueError, match=r"got BPE dropout 0\.5"):
        load_tokenizer(Backend(models.BPE({"a": 0}, [], dropout=0.5)))


def test_names_and_text_ids_must_be_distinct():
    with pytest.raises(ValueError, match=r"tokenizer names must be distinct, got \['bytes'\]"):
        tokenize(["a"], ["bytes", load_tokenizer("bytes")])
    with pytest.raises(ValueError, match=r"text_id must be unique, got \['a'\]"):
        tokenize(pl.DataFrame({"text_id": ["a", "a"], "text": ["x", "y"]}), ["bytes"])
    with pytest.raises(ValueError, match="needs the columns text_id and text"):
        tokenize(pl.DataFrame({"text": ["x"]}), ["bytes"])


def test_a_vocabulary_with_an_id_or_bytes_twice_is_refused():
    import json

    state = json.loads(Backend(models.BPE({"a": 0, "b": 1}, [])).to_str())
    state["model"]["vocab"] = {"a": 0, "b": 0, "c": 1}
    with pytest.raises(ValueError, match=r"each token needs an id of its own, got the id of '[ab]' for '[ab]' too"):
        load_tokenizer(Backend.from_str(json.dumps(state)))
    twice = Backend(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("a", -2.0)], 0, False))
    with pytest.raises(
        ValueError, match="tokens of a vocabulary must differ in their bytes, got 'a' twice, for ids 1 and 2"
    ):
        load_tokenizer(twice, "twice")


def test_pieces_that_are_no_list_are_refused():
    class Odd:
        vocab_size, encode, decode = 256, lambda self, text: list(text.encode()), lambda self, ids: "x"

        def pieces(self):
            return []

    with pytest.raises(TypeError, match=r"load_tokenizer: pieces must be a list, got method from 'Odd'"):
        load_tokenizer(Odd())


def test_an_object_that_misstates_itself_is_refused():
    def variant(**members):
        return type("Odd", (Words,), members)()

    known = [None, b"the", b"cat", "☃".encode(), b"\xef"]
    assert load_tokenizer(variant(pieces=known)).pieces == known
    for members, error, text in (
        ({"pieces": [None, b"x", b"x", b"y", b"z"]}, ValueError, "got b'x' twice, for ids 1 and 2"),
        ({"pieces": known[:3]}, ValueError, "one entry per id, got 3 for 5 ids"),
        ({"pieces": [*known[:4], "z"]}, TypeError, "pieces must be bytes or None, got str"),
        ({"encode": lambda self, text: None}, TypeError, "encode must return a list of whole numbers, got NoneType"),
        ({"encode": lambda self, text: [7]}, ValueError, r"ids must lie in \[0, 5\), got 7"),
        ({"decode": lambda self, ids: b"bytes"}, TypeError, "decode must return a str, got bytes"),
        ({"encode": 3}, TypeError, "an object with encode and decode, got Odd"),
        ({"encode": lambda self, text: [1.5]}, TypeError, "must return a list of whole numbers, got list '\\[1.5\\]'"),
        ({"encode": lambda self, text: list(text)}, TypeError, "must return a list of whole numbers, got list"),
        (
            {"encode": lambda self, text: 1 / 0},
            ValueError,
            "encode must take every text, got ZeroDivisionError: 'division by zero' for 'probe' from 'Odd'",
        ),
        ({"decode": lambda self, ids: 1 / 0}, ValueError, "decode must take its own ids, got ZeroDivisionError"),
        ({"vocab_size": 0}, ValueError, "must have at least one id, got vocab_size 0"),
    ):
        with pytest.raises(error, match=text):
            load_tokenizer(variant(**members))


def test_ids_and_names_that_do_not_exist_are_named():
    for name, wrong in (("bytes", 259), ("bpe", -1), ("sp-unigram", 10**6), ("tekken", 200_000)):
        with pytest.raises(ValueError, match=rf"decode: ids must lie in \[0, \d+\), got {wrong} for '{name}'"):
            tokenizer_named(name).decode([wrong])
    with pytest.raises(TypeError, match="decode: ids must be a list of whole numbers, got str"):
        tokenizer_named("bytes").decode("abc")
    with pytest.raises(ValueError, match="load_tokenizer: a name or a path must not be empty, got ''"):
        load_tokenizer("")
    empty = load_tokenizer(Backend(models.BPE({}, [])), "empty")
    assert empty.vocab_size == 0 and empty.cut("ab").ids == []


def test_length_settings_of_a_library_are_told_and_switched_off():
    backend = byte_bpe()
    assert (load_tokenizer(backend).truncation, load_tokenizer(backend).padding) == (None, None)
    backend.enable_truncation(3)
    backend.enable_padding()
    tokenizer = load_tokenizer(backend)
    assert (tokenizer.truncation, tokenizer.padding) == (3, 0)
    assert tokenizer.count(["the capital of Italy is Rome", "a"]).tolist()[0] > 3 and tokenizer.count(["a"])[0] == 1


# what an outsider's tokenizers taught


ODD_NORMALISERS = {
    "bytes written by the normaliser": (
        lambda: with_parts(normalizers.Sequence([normalizers.NFC(), normalizers.ByteLevel()]), None),
        "Ⅷ ſ",
        [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)],
    ),
    "two marks become one": (
        lambda: byte_bpe(normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"')])),
        "``a''",
        [(0, 2), (2, 3), (3, 5)],
    ),
    "the same pair twice": (lambda: byte_bpe(normalizers.Replace("''", '"')), "''''", [(0, 2), (2, 4)]),
    "pairs and one over": (
        lambda: byte_bpe(normalizers.Replace("''", '"')),
        "a'''''b",
        [(0, 1), (1, 3), (3, 5), (5, 6), (6, 7)],
    ),
    "marks put in order": (
        lambda: byte_bpe(normalizers.NFC()),
        "q\u0307\u0323",
        [(0, 1), *[(1, 5)] * 4],
    ),
}


def with_parts(normalizer, pre):
    return trained(
        models.BPE(),
        trainers.BpeTrainer(vocab_size=0, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
        normalizer,
        pre,
        decoders.ByteLevel(),
    )


@pytest.mark.parametrize("name", ODD_NORMALISERS)
def test_spans_hold_whatever_the_normaliser_does(name):
    make, text, spans = ODD_NORMALISERS[name]
    tokenizer = load_tokenizer(make(), name)
    cut, _ = check_cut(tokenizer, text)
    assert cut.exact.all() and cut.spans() == spans


def test_a_model_that_drops_characters_names_them():
    vocabulary = {"a": 0, "b": 1, " ": 2, "ab": 3, "و": 4, "س": 5, "وس": 6}
    backend = Backend(models.BPE(vocabulary, [("a", "b"), ("و", "س")]))
    cut = load_tokenizer(backend, "no unknown").cut("a☃b c")
    assert [vocabulary["ab"], vocabulary[" "]] == cut.ids, "it merges across the hole"
    assert cut.spans() == [(0, 5), (5, 6)] and cut.exact.all()
    assert cut.lost == [(1, 4, "not in the vocabulary"), (6, 7, "not in the vocabulary")]
    backend.normalizer = normalizers.NFKC()
    tokenizer = load_tokenizer(backend, "no unknown, NFKC")
    assert check_cut(tokenizer, "ﷺ")[0].exact.all() and tokenize(["aﷺb"], [tokenizer]).height


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_text_behind_a_special_token_is_placed_by_what_the_library_says(scheme):
    backend = unigram()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer = load_tokenizer(backend, scheme)
    text = "<s>\t…ا the\n\nꙫ"
    cut, raw = check_cut(tokenizer, text)
    for i, (start, end) in zip(cut.ids, cut.spans(), strict=True):
        piece = tokenizer.pieces[i]
        assert piece is None or piece.strip() == raw[start:end].strip()


def test_added_tokens_that_are_normalised_are_found_beside_unknown_ones():
    backend = unigram(normalizers.NFKC())
    backend.add_tokens([AddedToken("<Ｒ>", rstrip=True)])
    tokenizer = load_tokenizer(backend)
    for text in ("\u0301<Ｒ>", "k\U000ab8135<R> x", "ﷺ\u064b㌀;<R>"):
        cut, raw = check_cut(tokenizer, text)
        at = [k for k, i in enumerate(cut.ids) if tokenizer.written[i] in ("<R>", "<Ｒ>")]
        assert [raw[cut.start[k] : cut.end[k]].decode().strip() for k in at] == [text[text.index("<") :].split(" ")[0]]


def test_an_added_token_in_the_byte_alphabet_is_told_from_the_model_s_own():
    backend = byte_bpe()
    assert backend.token_to_id("Ġthe") is not None, "the model spells ' the' so"
    backend.add_tokens(["Ġthe"])
    tokenizer = load_tokenizer(backend, "added")
    cut, raw = check_cut(tokenizer, "on the Ġthe mat")
    assert [raw[a:b].decode() for a, b in cut.spans()].count(" the") == 1
    assert "Ġthe".encode() in [raw[a:b] for a, b in cut.spans()] and cut.exact.all()
    assert tokenizer.pieces[backend.token_to_id("Ġthe")] == b" the", "what the id decodes to"


def test_bytes_stay_bytes_under_a_decoder_that_does_not_say_so():
    backend = byte_bpe()
    backend.decoder = decoders.BPEDecoder("</w>")
    cut, raw = check_cut(load_tokenizer(backend, "decoder"), "né 中")
    assert cut.exact.all() and b"".join(raw[a:b] for a, b in cut.spans()) == raw


def test_a_text_that_the_library_refuses_is_one_clear_error():
    backend = Backend(models.Unigram([("a", 0.0), ("▁", 0.0)]))
    with pytest.raises(
        ValueError, match=r"encode: the tokenizer must take every text, got .* Give its model an unknown token"
    ):
        load_tokenizer(backend, "no unknown").encode(["ab"])


def test_an_id_beyond_all_measure_is_refused_at_once():
    backend = Backend(models.BPE({"a": 0, "b": 4_000_000_000}, []))
    with pytest.raises(
        ValueError, match=r"load_tokenizer: ids must lie below 2\*\*24, got 4000000000 for 'b' among 2 tokens"
    ):
        load_tokenizer(backend, "damaged")


@pytest.mark.parametrize(("prefix", "second"), [("#", "é"), ("##", "a"), ("##", "é")])
def test_a_prefix_that_merges_do_not_have_is_refused_before_the_library_ends_the_process(tmp_path, prefix, second):
    state = json.loads(Backend(models.BPE({"a": 0, second: 1, f"a{second}": 2}, [("a", second)])).to_str())
    file = tmp_path / "tokenizer.json"
    for merge in (f"a {second}", ["a", second]):
        state["model"] |= {"continuing_subword_prefix": prefix, "merges": [merge]}
        file.write_text(json.dumps(state))
        with pytest.raises(ValueError, match=f"must begin with the model's continuing_subword_prefix '{prefix}', got"):
            load_tokenizer(file)
    state["model"] |= {"vocab": {"a": 0, f"{prefix}{second}": 1, f"a{second}": 2}, "merges": [f"a {prefix}{second}"]}
    file.write_text(json.dumps(state))
    assert load_tokenizer(file).encode([f"a{second}"]) == [[2]]


def test_a_library_that_panics_reports_a_damaged_file(tmp_path, monkeypatch):
    class PanicException(BaseException):
        pass

    def broken(path, name):
        raise PanicException("slice index starts at 1 but ends at 0")

    monkeypatch.setattr("toksuite_nb.tokenizer._backend_file", broken)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"must hold a tokenizer that its library can read, got 'slice index starts"):
        load_tokenizer(tmp_path)


def test_a_damaged_piece_of_sentencepiece_is_found_when_it_is_loaded(tmp_path):
    whole = load_tokenizer("mistral-spm").processor.serialized_model_proto()
    file = tmp_path / "tokenizer.model"
    at = whole.index("▁the".encode())
    file.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    with pytest.raises(
        ValueError, match=r"tokenizer.model must hold a tokenizer that its library can read, got \"'utf-8'"
    ):
        load_tokenizer(file)


def test_texts_that_would_be_used_up_or_misread_are_refused():
    tokenizer = load_tokenizer("bytes")
    for texts in ((t for t in ["a", "b"]), {"a": "text"}, {"a", "b"}, None, 5):
        for call in (tokenizer.encode, tokenizer.count, tokenizer.cuts):
            with pytest.raises(TypeError, match=rf"needs a list of texts, got {type(texts).__name__}\. Make a list"):
                call(texts)
    with pytest.raises(TypeError, match=r"tokenize: needs a list, a mapping or a frame of texts, got NoneType"):
        tokenize(None, [tokenizer])
    assert tokenize((t for t in ["a", "b"]), [tokenizer]).height == 2


def test_a_token_written_twice_in_a_file_is_named(tmp_path):
    backend = Backend(models.BPE({"a": 0, "b": 1}, []))
    file = tmp_path / "tokenizer.json"
    text = backend.to_str()
    assert text.count('"b":1') == 1
    file.write_text(text.replace('"b":1', '"b":1,"c":2,"c":3'))
    with pytest.raises(ValueError, match=r"must differ in their bytes, got 'c' twice, for 2 and 3, for 'tokenizer'"):
        load_tokenizer(file)
    file.write_text(text.replace('"b":1', '"b":3'))
    assert load_tokenizer(file).vocab_size == 4, "ids without a token are allowed"


def test_tokenmonster_types_may_be_numbers():
    named, numbered = Monster(), Monster()
    numbers = {"regular": 0, "single": 1, "special": 2, "unk": 3}
    numbered.table = {i: {**entry, "type": numbers[entry["type"]]} for i, entry in named.table.items()}
    one, other = (load_tokenizer_as("tokenmonster", library) for library in (named, numbered))
    assert one.pieces == other.pieces and b"\xe4" in other.pieces


@pytest.mark.parametrize("charset", ["UTF-16", "None"])
def test_tokenmonster_vocabularies_of_other_charsets_are_refused(charset):
    class Other(Monster):
        def charset(self):
            return charset

    with pytest.raises(
        ValueError, match=rf"must be of UTF-8 text, got the charset '{charset}'.* trained with charset UTF-8"
    ):
        load_tokenizer_as("tokenmonster", Other())


def test_pieces_at_word_ends_are_flagged():
    vocabulary = {"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "<unk>": 4}
    backend = Backend(models.BPE(vocabulary, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer = load_tokenizer(backend, "suffix")
    assert tokenizer.word_final.tolist() == [False, False, True, True, False]
    assert tokenizer.pieces[:4] == [b"a", b"b"] * 2
    assert len(set(token_keys(tokenizer))) == 5, "a letter inside a word is no letter at its end"


def test_byt5_reads_text_that_spells_its_special_tokens_as_its_library_does():
    transformers = pytest.importorskip("transformers")
    library = transformers.ByT5Tokenizer()
    tokenizer = load_tokenizer(library, "byt5")
    for text in ("a </s> b", "<pad>", "x<extra_id_7>é", "</s", "plain"):
        cut = check_cut(tokenizer, text)[0]
        assert cut.ids == library.encode(text, add_special_tokens=False)
        tokenize([text], [tokenizer])
    assert (2, 6, "read as a special token") in tokenizer.cut("a </s> b").lost
    assert load_tokenizer("bytes").cut("</s>").lost == [], "the built-in tokenizer reads all text as bytes"


def python_tokenizers(folder):
    "Tokenizers that `transformers` runs in Python, with small vocabularies."
    transformers = pytest.importorskip("transformers")
    from transformers.models.prophetnet.tokenization_prophetnet import ProphetNetTokenizer

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "sky",
        "is",
        "blue",
        "cap",
        "##ital",
        "##s",
        "中",
        "国",
        "cafe",
        "##e",
        *"abc.,",
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "v.json").write_text('{"<unk>": 0, "th@@": 1, "e": 2, "sky": 3, "c@@": 4, "at": 5, "s": 6}')
    (folder / "m.txt").write_text("#version\nt h\ns k\nsk y</w>\na t</w>\n")
    (folder / "s.model").write_bytes(libraries()["sp-unigram"].serialized_model_proto())
    return {
        "bert": ProphetNetTokenizer(vocab_file=str(folder / "vocab.txt")),
        "ctrl": transformers.CTRLTokenizer(str(folder / "v.json"), str(folder / "m.txt")),
        "spm": transformers.SentencePieceBackend(vocab_file=str(folder / "s.model"), unk_token="<unk>"),
    }


def test_python_tokenizers_place_known_and_unknown_words(tmp_path):
    for name, library in python_tokenizers(tmp_path).items():
        tokenizer = load_tokenizer(library, name)
        for text in (
            "The sky is blue.",
            "capitals, Cafés 中国",
            "the cat ☃ sky s",
            "İß ﬁne ½ <unk> 👩🏽‍🔬",
            "  a\n b ",
            "[UNK] a",
        ):
            cut = check_cut(tokenizer, text)[0]
            assert cut.ids == library.encode(text, add_special_tokens=False), f"{name}: other ids for {text!r}"
            assert tokenize([text], [tokenizer]).height == len(cut.ids)
    bert = load_tokenizer(python_tokenizers(tmp_path)["bert"], "bert")
    assert bert.pieces[10] == b"ital", "the mark that the decoder drops is no byte of the piece"
    cut = bert.cut("Capitals quickly sky")
    assert [(bert.written[i], span) for i, span in zip(cut.ids, cut.spans(), strict=True)] == [
        ("cap", (0, 3)), ("##ital", (3, 7)), ("##s", (7, 8)), ("[UNK]", (9, 16)), ("sky", (17, 20)),
    ]  # fmt: skip
    assert (9, 16, "unknown token") in cut.lost


def test_an_id_that_decodes_to_half_a_surrogate_pair_has_no_bytes():
    class Points:
        vocab_size = 0xE000

        def encode(self, text):
            return [ord(c) for c in text if ord(c) < 0xE000]

        def decode(self, ids):
            return "".join(map(chr, ids))

    tokenizer = load_tokenizer(Points(), "points")
    assert tokenizer.pieces[0xD800] is None and tokenizer.spans("aé") == [(0, 1), (1, 3)]
