"The tokenizer card: it finds each behaviour planted in a zoo of tokenizers, and nothing else on the others."

import json
from functools import cache

import polars as pl
import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from toksuite_nb.card import (
    _in_utf8,
    card_schema,
    card_statuses,
    compare_cards,
    suspected_schema,
    suspected_tokens,
    token_variants,
    tokenizer_card,
    variant_schema,
    variations,
)
from toksuite_nb.core import check_frame
from toksuite_nb.tokenizer import load_tokenizer

WORDS = [
    "the cat sat on the mat and The Dog ran",
    "salt and pepper, bread or butter: no more",
    "a quick brown fox jumps over it",
] * 20
NUMBERS = [",".join(form % k for k in range(1000)) for form in ("%d", "%02d", "%03d")]


def byte_bpe(
    normalizer=None,
    before=None,
    regex=True,
    prefix=False,
    missing=(),
    corpus=(),
    size=400,
    post=None,
    special=(),
    extra=None,
    added=(),
):
    backend = Backend(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, level]) if before else level
    backend.decoder = decoders.ByteLevel()
    alphabet = [char for char in pre_tokenizers.ByteLevel.alphabet() if char not in missing]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(alphabet), special_tokens=list(special), show_progress=False
    )
    backend.train_from_iterator([*WORDS, *NUMBERS, *corpus], trainer)
    if post:
        backend.post_processor = processors.TemplateProcessing(
            single=post, special_tokens=[(t, backend.token_to_id(t)) for t in special]
        )
    if extra:
        state = json.loads(backend.to_str())
        state["model"]["vocab"][extra] = len(state["model"]["vocab"])
        backend = Backend.from_str(json.dumps(state))
    backend.add_tokens(list(added))
    return backend


def characters(fallback):
    tokens = ["<unk>", *([f"<0x{b:02X}>" for b in range(256)] if fallback else []), "▁"]
    tokens += [chr(c) for c in range(0x21, 0x7F)] + ["é", "\u0301", "\n", "ñ", "ü", "th", "▁th", "34"]
    merges = [("t", "h"), ("▁", "th"), ("3", "4")]
    backend = Backend(
        models.BPE({t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>", byte_fallback=fallback)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def wordpiece(longest):
    backend = Backend(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=longest))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False
    )
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator([*WORDS, *NUMBERS, *["A B E H I T THE \u00e9 \u00f1 \u00fc \u2019"] * 50], trainer)
    return backend


def limited():
    backend = byte_bpe()
    backend.enable_truncation(3)
    backend.enable_padding(length=10)
    return backend


def decoded(*steps):
    backend = byte_bpe()
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), *steps])
    return backend


def suffixed():
    "CLIP's way: the last piece of a word is another token than the same letters inside one."
    backend = Backend(models.BPE(end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
        end_of_word_suffix="</w>",
    )  # fmt: skip
    backend.train_from_iterator([*WORDS, *NUMBERS], trainer)
    return backend


def metaspace(scheme):
    backend = Backend(
        models.BPE({"<unk>": 0, "▁": 1} | {chr(c): c - 0x1F for c in range(0x21, 0x7F)}, [], unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    backend.add_special_tokens(["<s>"])
    return backend


def words():
    known = ["[UNK]", "the", "cat", "The", "a", "b", "e", "A", "B", "E", "é", "e\u0301", "1", "2", "aa"]
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


class ByteObject:
    "Bytes behind encode and decode only; `before` and `after` say what it does to the text."

    vocab_size = 256

    def __init__(self, before=str, after=str):
        self.before, self.after = before, after

    def encode(self, text):
        return list(self.before(text).encode())

    def decode(self, ids):
        return self.after(bytes(ids).decode("utf-8", "replace"))


def digits(pattern):
    return [pre_tokenizers.Split(Regex(pattern), "isolated")]


NORMAL = {
    "normal form": "none",
    "case": "kept",
    "accents": "kept",
    "characters replaced": "none",
    "white space": "kept",
    "prefix space": "none",
    "text put around": "none",
    "spaces put inside": "none",
    "invisible characters": "kept",
    "unknown characters": "bytes",
    "long words": "cut up",
    "digits": "by merges",
    "merges across spaces": "none",
    "added special tokens": "none",
    "double BOS": "none",
    "text that spells a special token": "read as text",
    "truncation and padding": "none",
    "round trip": "exact",
    "unreachable tokens": "none",
    "partial characters": "single bytes only",
    "tokens with the same bytes": "none",
    "special-looking tokens": "none",
    "token variants": "place, case",
}
LOSSES = {"round trip": "with losses"}
OBJECT = {"digits": "single digits", "partial characters": "present", "token variants": "case"}
NFC = normalizers.NFC()
# what is planted, and what follows from it: a lower-casing vocabulary has capitals that no text reaches
ZOO = {
    "normal": (byte_bpe, {}),
    "NFC": (lambda: byte_bpe(NFC), {"normal form": "NFC"} | LOSSES),
    "NFD": (lambda: byte_bpe(normalizers.NFD()), {"normal form": "NFD"} | LOSSES),
    "NFKC": (lambda: byte_bpe(normalizers.NFKC()), {"normal form": "NFKC"} | LOSSES),
    "NFKD": (lambda: byte_bpe(normalizers.NFKD()), {"normal form": "NFKD"} | LOSSES),
    "lower case": (
        lambda: byte_bpe(normalizers.Lowercase()),
        {"case": "lower-cased", "unreachable tokens": "present"} | LOSSES,
    ),
    "accents": (
        lambda: byte_bpe(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
        {"accents": "stripped", "normal form": "NFD"} | LOSSES,
    ),
    "runs of spaces": (
        lambda: byte_bpe(normalizers.Replace(Regex(" {2,}"), " ")),
        {"white space": "runs collapsed"} | LOSSES,
    ),
    "strip": (lambda: byte_bpe(normalizers.Strip()), {"white space": "end stripped, start stripped"} | LOSSES),
    "line ends": (
        lambda: byte_bpe(normalizers.Replace("\n", " ")),
        {"white space": "line ends become spaces", "unreachable tokens": "present"} | LOSSES,
    ),
    "spaces dropped": (
        lambda: byte_bpe(before=[pre_tokenizers.WhitespaceSplit()]),
        {
            "white space": "dropped",
            "unreachable tokens": "present",
            "token variants": "case",
        }
        | LOSSES,
    ),
    "prefix space": (lambda: byte_bpe(prefix=True), {"prefix space": "added"} | LOSSES),
    "joiners": (lambda: byte_bpe(normalizers.Replace("\u200c", "")), {"invisible characters": "removed"} | LOSSES),
    "holes": (lambda: byte_bpe(missing=["ð"]), {"unknown characters": "dropped"} | LOSSES),
    "unknown": (
        lambda: characters(False),
        {
            "unknown characters": "unknown token",
            "partial characters": "none",
            "text that spells a special token": "read as text",
        }
        | LOSSES,
    ),
    "byte fallback": (lambda: characters(True), {"unknown characters": "byte fallback", "partial characters": "none"}),
    "single digits": (lambda: byte_bpe(before=digits(r"\d")), {"digits": "single digits"}),
    "threes left": (
        lambda: byte_bpe(before=digits(r"\d{1,3}"), size=3000),
        {"digits": "threes from the left"},
    ),
    "threes right": (
        lambda: byte_bpe(before=digits(r"\d{1,3}(?=(\d{3})*(\D|$))"), size=3000),
        {"digits": "threes from the right"},
    ),
    "superwords": (
        lambda: byte_bpe(regex=False, before=[pre_tokenizers.Split(Regex(r"\d+"), "isolated")], size=420),
        {"merges across spaces": "present"},
    ),
    "[SEP]": (
        lambda: byte_bpe(special=["[SEP]"], post="$A [SEP]"),
        {"added special tokens": "after", "text that spells a special token": "read as special"},
    ),
    "BOS": (
        lambda: byte_bpe(special=["<s>"], post="<s> $A"),
        {
            "added special tokens": "before",
            "text that spells a special token": "read as special",
            "double BOS": "if the text spells it",
        },
    ),
    "double BOS": (
        lambda: byte_bpe(special=["<s>"], post="<s> <s> $A"),
        {
            "added special tokens": "before",
            "text that spells a special token": "read as special",
            "double BOS": "always",
        },
    ),
    "special text": (
        lambda: byte_bpe(special=["<|endoftext|>"]),
        {"text that spells a special token": "read as special"},
    ),
    "unreachable": (lambda: byte_bpe(extra="Ġzzqq"), {"unreachable tokens": "present"}),
    "partial": (
        lambda: byte_bpe(corpus=["中国的首都是北京 天空是蓝色的"] * 60, size=500),
        {"partial characters": "present"},
    ),
    "long words": (
        lambda: wordpiece(4),
        {
            "white space": "dropped",
            "unknown characters": "unknown token",
            "long words": "unknown beyond 4 characters",
            "digits": "single digits",
            "unreachable tokens": "present",
            "partial characters": "none",
        }
        | LOSSES,
    ),
    "text in front": (lambda: byte_bpe(normalizers.Prepend("_")), {"text put around": "'_' in front"} | LOSSES),
    "straight quotes": (
        lambda: byte_bpe(normalizers.Replace("\u2019", "'")),
        {"characters replaced": "present"} | LOSSES,
    ),
    "zeros": (
        lambda: byte_bpe(normalizers.Replace(Regex(r"\d"), "0")),
        {"characters replaced": "present", "unreachable tokens": "present"} | LOSSES,
    ),
    "no symbols": (
        lambda: byte_bpe(normalizers.Replace(Regex(r"\p{So}"), "")),
        {"characters replaced": "present", "unknown characters": "dropped"} | LOSSES,
    ),
    "spaced ideographs": (
        lambda: byte_bpe(
            normalizers.BertNormalizer(
                clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False
            )
        ),
        {"spaces put inside": "present"} | LOSSES,
    ),
    "prefix space and single digits": (
        lambda: byte_bpe(prefix=True, before=[pre_tokenizers.Digits(individual_digits=True)]),
        {
            "prefix space": "added",
            "spaces put inside": "present",
            "digits": "single digits",
            "unreachable tokens": "present",
        }
        | LOSSES,
    ),
    "lower case, NFD": (
        lambda: byte_bpe(normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])),
        {"normal form": "NFD", "case": "lower-cased", "unreachable tokens": "present"} | LOSSES,
    ),
    "lower case, NFKC, runs": (
        lambda: byte_bpe(
            normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
        ),
        {
            "normal form": "NFKC",
            "case": "lower-cased",
            "white space": "runs collapsed, line ends become spaces, tabs become spaces",
            "unreachable tokens": "present",
        }
        | LOSSES,
    ),
    "length settings": (
        limited,
        {"truncation and padding": "cut off at 3 tokens, filled up to 10 tokens"},
    ),
    "double start of another name": (
        lambda: byte_bpe(special=["<|begin|>"], post="<|begin|> <|begin|> $A"),
        {
            "added special tokens": "before",
            "text that spells a special token": "read as special",
            "double BOS": "always",
        },
    ),
    "spaces removed": (
        lambda: byte_bpe(normalizers.Replace(" ", "")),
        {"white space": "dropped", "unreachable tokens": "present", "token variants": "case"} | LOSSES,
    ),
    "no-break spaces": (
        lambda: byte_bpe(normalizers.Replace("\u00a0", " ")),
        {"white space": "no-break spaces become spaces"} | LOSSES,
    ),
    "two line ends": (
        lambda: byte_bpe(normalizers.Replace("\r\n", "\n")),
        {"white space": "line ends unified"} | LOSSES,
    ),
    "nulls": (
        lambda: byte_bpe(normalizers.Replace("\x00", "")),
        {"invisible characters": "removed", "unreachable tokens": "present"},
    ),
    "variation selectors": (lambda: byte_bpe(normalizers.Replace("\ufe0f", "")), {"invisible characters": "removed"}),
    "Turkish capital": (
        lambda: byte_bpe(normalizers.Replace("\u0130", "i")),
        {"characters replaced": "present"} | LOSSES,
    ),
    "ASCII capitals": (
        lambda: byte_bpe(normalizers.Sequence([normalizers.Replace(chr(c), chr(c + 32)) for c in range(65, 91)])),
        {"case": "lower-cased", "unreachable tokens": "present"} | LOSSES,
    ),
    "accents, no form": (
        lambda: byte_bpe(normalizers.StripAccents()),
        {"accents": "stripped in part"} | LOSSES,
    ),
    "accents that NFC leaves": (
        lambda: byte_bpe(normalizers.Sequence([normalizers.NFC(), normalizers.StripAccents()])),
        {"accents": "stripped in part", "normal form": "NFC"} | LOSSES,
    ),
    "lower case, accents": (
        lambda: byte_bpe(
            normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()])
        ),
        {"normal form": "NFD", "case": "lower-cased", "accents": "stripped", "unreachable tokens": "present"} | LOSSES,
    ),
    "twos left": (lambda: byte_bpe(before=digits(r"\d{1,2}"), size=3000), {"digits": "twos from the left"}),
    "twos right": (
        lambda: byte_bpe(before=digits(r"\d{1,2}(?=(\d{2})*(\D|$))"), size=3000),
        {"digits": "twos from the right"},
    ),
    "cleanup by the decoder": (lambda: decoded(decoders.Replace(" ,", ",")), LOSSES),
    "capital by the decoder": (lambda: decoded(decoders.Replace("A", "a")), LOSSES),
    "word ends": (
        suffixed,
        {
            **dict.fromkeys(("normal form", "accents", "characters replaced"), "not known"),
            "white space": "dropped",
            "unknown characters": "dropped",
            "digits": "single digits",
            "unreachable tokens": "present",
        }
        | LOSSES,
    ),
    "space at the start only": (
        lambda: metaspace("first"),
        {
            "prefix space": "added at the start only",
            "token variants": "case",
            "unknown characters": "unknown token",
            "digits": "single digits",
            "text that spells a special token": "read as special",
            "partial characters": "none",
            "accents": "not known",
            "normal form": "not known",
        }
        | LOSSES,
    ),
    "space behind special tokens": (
        lambda: metaspace("always"),
        {
            "prefix space": "added, also behind special tokens",
            "token variants": "case",
            "unknown characters": "unknown token",
            "digits": "single digits",
            "text that spells a special token": "read as special",
            "partial characters": "none",
            "accents": "not known",
            "normal form": "not known",
        }
        | LOSSES,
    ),
    "whole words": (
        words,
        {
            "white space": "dropped",
            "characters replaced": "not known",
            "token variants": "case, NFC, NFKC",
            "spaces put inside": "not known",
            "unknown characters": "unknown token",
            "long words": "unknown beyond 2 characters",
            "digits": "not known",
            "text that spells a special token": "read as text",
            "partial characters": "none",
        }
        | LOSSES,
    ),
    "object": (ByteObject, OBJECT),
    "object, cleanup": (
        lambda: ByteObject(after=lambda text: text.replace(" ,", ",").replace(" '", "'")),
        OBJECT | LOSSES,
    ),
    "object, question marks": (
        lambda: ByteObject(lambda text: text.encode("ascii", "replace").decode()),
        {
            "accents": "letters lost",
            "normal form": "not known",
            "characters replaced": "present",
            "unknown characters": "replaced by other text",
        }
        | OBJECT
        | LOSSES,
    ),
    "object, ASCII only": (
        lambda: ByteObject(lambda text: text.encode("ascii", "ignore").decode()),
        {
            "accents": "letters lost",
            "characters replaced": "present",
            "invisible characters": "removed",
            "unknown characters": "dropped",
        }
        | OBJECT
        | LOSSES,
    ),
    "same bytes": (
        lambda: byte_bpe(added=[" the"]),
        {"tokens with the same bytes": "present", "unreachable tokens": "present"},
    ),
    "special-looking": (
        lambda: byte_bpe(added=["<|user|>", "[UNK]", "[...]", "<3"]),
        {"special-looking tokens": "present"},
    ),
    "two spellings": (
        lambda: byte_bpe(added=["\u1e61", "s\u0307"]),
        {"token variants": "place, case, NFC, NFKC"},
    ),
    "two widths": (
        lambda: byte_bpe(added=["\uff41"]),
        {"token variants": "place, case, NFKC"},
    ),
}


@cache
def card(name):
    return tokenizer_card(load_tokenizer(ZOO[name][0](), name))


def values(frame):
    return dict(zip(frame["finding"], frame["value"], strict=True))


@pytest.mark.parametrize("name", ZOO)
def test_the_planted_behaviour_is_found_and_nothing_else(name):
    found, expected = values(card(name)), NORMAL | ZOO[name][1]
    wrong = {f: (expected[f], v) for f, v in found.items() if expected[f] != v}
    evidence = card(name).filter(pl.col("finding").is_in(list(wrong))).select("finding", "evidence").rows()
    assert not wrong, f"{name}: expected and found differ: {wrong}; evidence: {evidence}"
    assert found.keys() == expected.keys()


def test_every_finding_has_evidence_and_a_known_status():
    for name in ZOO:
        frame = check_frame(card(name), card_schema, "test")
        assert frame["evidence"].str.len_chars().min() > 10, f"{name}: a finding without evidence"
        assert set(frame["status"]) <= set(card_statuses)
    assert set(card("normal")["status"]) <= {"pass", "note"}, "a faithful tokenizer is warned about"


def test_losses_are_graded():
    status = {name: dict(zip(card(name)["finding"], card(name)["status"], strict=True)) for name in ZOO}
    assert status["holes"]["unknown characters"] == "fail", "bytes vanish and the card does not say so"
    assert status["double BOS"]["double BOS"] == "fail" and status["BOS"]["double BOS"] == "warn"
    assert status["NFKC"]["normal form"] == "warn" and status["NFC"]["normal form"] == "note"


def test_the_counts_are_those_of_the_vocabulary():
    count = {name: dict(zip(card(name)["finding"], card(name)["count"], strict=True)) for name in ZOO}
    assert count["unreachable"]["unreachable tokens"] == 1
    assert "'zzqq'" in card("unreachable").filter(finding="unreachable tokens")["evidence"].item().replace("b' ", "'")
    assert count["lower case"]["unreachable tokens"] == 26, "the 26 capitals of the byte alphabet"
    assert count["same bytes"]["tokens with the same bytes"] == 1
    assert count["double BOS"]["added special tokens"] == 2
    assert count["special-looking"]["special-looking tokens"] == 2
    assert count["whole words"]["token variants"] == 5


@pytest.mark.parametrize("name", ["bytes", "mistral-spm"])
def test_the_built_in_tokenizers_lose_nothing(name):
    frame = tokenizer_card(name)
    assert frame.filter(pl.col("status").is_in(["warn", "fail", "unverifiable"])).is_empty(), frame.rows()


def test_a_tiny_vocabulary_is_unverifiable_and_not_guessed():
    backend = Backend(models.WordPiece({"[UNK]": 0, "zebra": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    frame = tokenizer_card(backend)
    status = dict(zip(frame["finding"], frame["status"], strict=True))
    for finding in ("normal form", "case", "accents", "characters replaced", "white space", "spaces put inside",
                    "invisible characters", "long words", "digits"):  # fmt: skip
        assert status[finding] == "unverifiable", f"{finding} was guessed from unknown tokens"


def test_an_unknown_bracket_is_no_name_that_is_read():
    names = ["<unk>", "▁", *"unkabe"]
    backend = Backend(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>"))
    backend.add_special_tokens([])
    frame = tokenizer_card(backend)
    assert backend.encode("<unk>").ids.count(0) == 2, "the brackets are unknown"
    assert values(frame)["text that spells a special token"] == "read as text"


def test_an_object_with_encode_and_decode_gets_a_card():
    class Letters:
        vocab_size = 0x110000 // 0x100

        def encode(self, text):
            return [ord(c) % self.vocab_size for c in text]

        def decode(self, ids):
            return "".join(map(chr, ids))

    found = values(tokenizer_card(Letters()))
    assert (found["case"], found["accents"], found["digits"]) == ("kept", "kept", "single digits")


def test_cards_are_compared_side_by_side():
    table = compare_cards({"plain": ZOO["normal"][0](), "lower": ZOO["lower case"][0]()}, differing=True)
    assert table.columns == ["finding", "plain", "lower"]
    assert set(table["finding"]) == {"case", "round trip", "unreachable tokens"}
    with pytest.raises(ValueError, match="compare_cards: needs at least one tokenizer, got none"):
        compare_cards([])
    with pytest.raises(ValueError, match="compare_cards: a name must not be that of the first column, got 'finding'"):
        compare_cards({"finding": ZOO["normal"][0]()})


def suspects(name):
    frame = suspected_tokens(load_tokenizer(ZOO[name][0](), name))
    return frame.group_by("reason", maintain_order=True).agg("bytes").rows_by_key("reason", unique=True)


def test_each_planted_token_is_suspected_for_its_reason():
    vain = {bytes([b]) for b in (0xC0, 0xC1, *range(0xF5, 0x100))}
    assert {reason: set(*found) for reason, found in suspects("normal").items()} == {"never in UTF-8": vain}
    capitals = {bytes([b]) for b in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    assert set(*suspects("lower case")["rewritten"]) == capitals
    assert suspects("unreachable")["unreachable"] == ([b" zzqq"],)
    assert suspects("same bytes")["same bytes"] == ([b" the", b" the"],)
    assert suspects("same bytes")["unreachable"] == ([b" the"],)
    assert suspects("special-looking")["special-looking"] == ([b"<|user|>", b"[UNK]"],)
    assert min(map(len, suspects("partial")["partial character"][0])) == 2, "single bytes are no reason"
    spared = suspects("byte fallback")["spare byte"][0]
    assert b"a" in spared and b"\n" in spared and b"\x01" not in spared


@pytest.mark.parametrize("name", ZOO)
def test_the_frames_agree_with_the_card(name):
    tokenizer, count = (
        load_tokenizer(ZOO[name][0](), name),
        dict(zip(card(name)["finding"], card(name)["count"], strict=True)),
    )
    suspected = check_frame(suspected_tokens(tokenizer), suspected_schema, "test")
    assert not suspected.select("id", "reason").is_duplicated().any()
    assert suspected["reason"].is_in(["unreachable", "rewritten"]).sum() == count["unreachable tokens"]
    assert (suspected["reason"] == "special-looking").sum() == count["special-looking tokens"]
    variants = check_frame(token_variants(tokenizer), variant_schema, "test")
    assert variants["group"].n_unique() == count["token variants"]
    assert variants.group_by("group").len()["len"].min() >= 2
    alone = [len(token_variants(tokenizer, differing=[name])) for name in variations]
    assert max(alone) <= len(variants), "what is alike in one thing is alike in all"


def test_bytes_that_no_text_holds_are_those_of_no_two_characters():
    texts = [chr(c).encode() for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    within = {text[k : k + 2] for text in texts for k in range(len(text) - 1)}
    first, last = {text[:1] for text in texts}, {text[-1:] for text in texts}
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]

    class Pairs:
        pieces, vocab_size = pairs, len(pairs)

        def encode(self, text):
            data = text.encode() + b" " * (len(text.encode()) % 2)
            return [data[k] * 256 + data[k + 1] for k in range(0, len(data), 2)]

        def decode(self, ids):
            return b"".join(pairs[i] for i in ids).decode("utf-8", "replace")

    found = set(suspected_tokens(Pairs()).filter(reason="never in UTF-8")["bytes"])
    assert found == {pair for pair in pairs if pair not in within and not (pair[:1] in last and pair[1:] in first)}


def test_the_worst_that_befalls_a_character_is_told_and_all_are_counted():
    letters = Backend(models.BPE({"<unk>": 0, "a": 1, " ": 2}, [], unk_token="<unk>"))
    letters.normalizer = normalizers.Replace("\u2603", "")
    joined = byte_bpe(normalizers.Sequence([normalizers.Replace("\u200c", ""), normalizers.Replace("\u200d", " ")]))
    told = {}
    for name, backend in (("letters", letters), ("joined", joined)):
        rows = tokenizer_card(load_tokenizer(backend, name)).select("finding", "value", "status", "count").rows()
        told[name] = {finding: rest for finding, *rest in rows}
    assert told["letters"]["unknown characters"] == ["dropped", "fail", 1], "the others are unknown, and that is less"
    assert told["joined"]["invisible characters"] == ["removed; read as spaces", "warn", 2]


def test_variants_differ_in_a_space_in_front_and_in_the_wider_of_two_forms():
    texts = ["fi", " fi", "fi ", "\nfi", "\ufb01", "\u00e9", "e\u0301", "Fi"]
    backend = Backend(models.BPE({text: i for i, text in enumerate(texts)}, []))

    def groups(*differing):
        found = token_variants({"all": backend}, differing=differing).group_by("group", maintain_order=True)
        return [ids for _, ids in found.agg("id").iter_rows()]

    assert groups("place") == [[0, 1]], "other white space is no place in a word"
    assert groups("NFC") == [[5, 6]] and groups("NFKC") == groups("NFC", "NFKC") == [[0, 4], [5, 6]]
    assert groups("case") == [[0, 7]] and groups("place", "case") == [[0, 1, 7]]


def test_a_piece_is_reached_behind_another_and_a_space_in_front_is_no_rewriting():
    inside = Backend(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    inside.pre_tokenizer = pre_tokenizers.Whitespace()
    assert suspected_tokens({"inside": inside}).is_empty(), "##b stands in ab"
    # a normaliser that strips the text makes no other word of it; one that lower-cases does
    spaced = Backend(models.BPE({"a": 0, "b": 1, " b": 2, "B": 3}, []))
    spaced.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Lowercase()])
    found = dict(suspected_tokens({"spaced": spaced}).select("id", "reason").iter_rows())
    assert found == {2: "unreachable", 3: "rewritten"}


@pytest.mark.parametrize("length", [1, 3, 4])
def test_bytes_in_the_middle_of_a_text_may_be_any_of_its_bytes(length):
    text = "aé中\U00010000\U000fffff\U0010ffff߿\ud7ff\uffff".encode()
    assert all(_in_utf8(text[k : k + length]) for k in range(len(text) - length + 1))
    # four that only continue, surrogates, overlong forms, what lies beyond U+10FFFF, a character begun and not ended
    never = [
        b"\x80" * 4,
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf",
        b"\xf4\x90",
        b"\xf5",
        b"\xe4\xb8a",
    ]
    assert not any(_in_utf8(piece) for piece in never)


def test_several_tokenizers_stand_in_one_frame():
    named = {name: ZOO[name][0]() for name in ("normal", "lower case")}
    assert suspected_tokens(named)["tokenizer"].unique(maintain_order=True).to_list() == list(named)
    assert token_variants(named, differing="place")["tokenizer"].unique(maintain_order=True).to_list() == list(named)
    with pytest.raises(ValueError, match="suspected_tokens: needs at least one tokenizer, got none"):
        suspected_tokens([])
    for wrong in ("accents", [], ["case", "accents"]):
        with pytest.raises(ValueError, match="token_variants: differing must name one or more of"):
            token_variants("bytes", differing=wrong)
