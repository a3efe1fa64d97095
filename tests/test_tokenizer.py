"The tokenizer floor: ids of the original libraries, spans that reconstruct the text, losses that are named, errors that help."

from functools import cache
import io
import json
from pathlib import Path
import pickle
import time
from types import SimpleNamespace

from hypothesis import given, settings, strategies as st
import mistral_common
import numpy as np
import polars as pl
import pytest
import sentencepiece
import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer as Backend, decoders, models, normalizers, pre_tokenizers, trainers
from toksuite_nb.tokenizer import load_tokenizer, losses, source_map, tokenize

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
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)], "▁", *"abehlot", "▁t", "he", "▁the"])}
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
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=out, minloglevel=2, hard_vocab_limit=False, **options)
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
            vocab_size=420, model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False
        ),
        "sp-suffix": sp_model(vocab_size=200, model_type="unigram", treat_whitespace_as_suffix=True),
        "sp-casefold": sp_model(vocab_size=200, model_type="unigram", normalization_rule_name="nfkc_cf", add_dummy_prefix=False),
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


def library_ids(library, text):
    if isinstance(library, Backend):
        return library.encode(text, add_special_tokens=False).ids
    return library.encode(text)


HARD = st.sampled_from(
    ["ﬁ", "½", "İ", "ı", "ß", "é", "e\u0301", "\u0301", "한", "\u1112\u1161\u11ab", "ﷺ", "می‌خواهم", "中", "👩‍👩‍👧", "🇮🇷", "𝐀", "Ａ", "ⓐ", "  ", " ",
     "\n", "\t", "\r\n", "\x00", "\u200b", "\u202e", "\ufeff", "\ufffd", "▁", "Ġ", "##", "the", " the", "The", "<s>", "[UNK]", "<unk>", "<Tag>",
     "WORD", "word", "<0x41>", "\u3000", "\xa0", "\u0345", "q\u0307\u0323", "\u09c7\u09be", "…", "``"]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.lists(st.one_of(HARD, st.text(st.characters(exclude_categories=["Cs"]), max_size=3)), max_size=12).map("".join),
)


def check_cut(tokenizer, text):
    cut, raw = tokenizer.cut(text), text.encode()
    assert cut.ids == tokenizer.encode([text])[0], f"{tokenizer.name}: the cut has other ids than encode on {text!r}"
    assert len(cut.start) == len(cut.ids) == len(cut.end)
    assert (np.diff(cut.start) >= 0).all() and (np.diff(cut.end) >= 0).all(), f"{tokenizer.name}: spans go back on {text!r}"
    covered = np.zeros(len(raw), dtype=int)
    for start, end in cut.spans():
        assert 0 <= start <= end <= len(raw), f"{tokenizer.name}: span outside of {text!r}"
        covered[start:end] += 1
    for start, end, reason in cut.lost:
        assert reason
        covered[start:end] += 1
    assert (covered > 0).all(), f"{tokenizer.name}: bytes neither in a token nor in losses on {text!r}"
    return cut, raw


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_every_byte_is_in_a_token_or_in_the_losses(name, text):
    tokenizer = tokenizer_named(name)
    cut, raw = check_cut(tokenizer, text)
    if name in libraries():
        assert cut.ids == library_ids(libraries()[name], text), "ids differ from the library called directly"
    added = getattr(tokenizer, "_added", {})
    for k, i in enumerate(cut.ids):
        piece, slice_ = tokenizer.pieces[i], raw[cut.start[k] : cut.end[k]]
        if piece is None or i in added:
            continue
        assert cut.exact[k], f"{name}: token {k} of {text!r} was not verified by its bytes: {cut}"
        image = _image(tokenizer, slice_)
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


@pytest.mark.parametrize("name", ["bytes", "tekken", "mistral-spm", "bpe", "bpe-prefix", "llama-style", "sp-bpe-fallback"])
@settings(max_examples=60, deadline=None)
@given(text=TEXTS.filter(lambda t: "▁" not in t))
def test_without_normalisation_the_slices_concatenate_to_the_text(name, text):
    cut = tokenizer_named(name).cut(text)
    raw = text.encode()
    assert b"".join(raw[a:b] for a, b in cut.spans()) == raw
    assert {why for _, _, why in cut.lost} <= {"read as a special token"}
    for i, (start, end) in zip(cut.ids, cut.spans(), strict=True):
        piece = tokenizer_named(name).pieces[i]
        assert piece is None or raw[start:end] in (piece, piece.removeprefix(b" "))


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_the_built_in_ids_are_those_of_the_libraries(text):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    spm = _cached("spm", lambda: sentencepiece.SentencePieceProcessor(model_file=str(MISTRAL / "mistral_instruct_tokenizer_240323.model.v3")))
    tekken = _cached("tekken", lambda: Tekkenizer.from_file(MISTRAL / "tekken_240911.json"))
    assert tokenizer_named("mistral-spm").encode([text])[0] == spm.encode(text)
    assert tokenizer_named("tekken").encode([text])[0] == tekken.encode(text, bos=False, eos=False)
    assert tokenizer_named("bytes").encode([text])[0] == [b + 3 for b in text.encode()]


_CACHE = {}


def _cached(name, make):
    if name not in _CACHE:
        _CACHE[name] = make()
    return _CACHE[name]


if __name__ == "__main__":
    print(json.dumps(SimpleNamespace().__dict__), pickle, time, pl, tiktoken, losses, source_map, tokenize)
