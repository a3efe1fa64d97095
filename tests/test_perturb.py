"""Promises that every registered perturbation keeps in every language it serves, on sentences and on hostile text."""

import copy
import json
import os
import pickle
import re
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import blake2b
from itertools import pairwise

import polars as pl
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from toksuite_nb.core import derive_rng, item_schema
from toksuite_nb.edits import Edit, EditedText
from toksuite_nb.perturb import (
    NotApplicable,
    Perturbation,
    edit_rows,
    free_places,
    get_perturbation,
    nested_sample,
    not_applied,
    perturb,
    perturb_items,
    perturbations,
    pipeline,
    register,
    sample_places,
)
from toksuite_nb.text import graphemes, languages, lower, normal_form, protected_spans, upper, user_spans

sentences = {
    "en": [
        "The color of the sky is",
        "There are 24 hours in 1 day.",
        "Mix $a+b$ with https://a.org/x and `code` at me@a.org, naïve café!",
        "A",
        "modern Hill",
        '1. A "red" apple isn\'t $3.50, it is 25% in userName  # on 28 August 2025 at 10:30',
    ],
    "fa": [
        "رنگ آسمان",
        "در یک روز ۲۴ ساعت است",
        "کتابِ خوبِ مَن می‌خواهم",
        "عدد $x$ در https://a.org است",
        "رایانه‌های Windows و تلفن",
        "ک",
        "1. «سیب سرخ» ۳۵٪ است، در ۶ شهریور ۱۴۰۴ ساعت ۱۰:۳۰",
    ],
    "it": [
        "Il colore del cielo è",
        "La città più grande ha 12 caffè",
        "Perché l'acqua bolle a 100 gradi?",
        "vedi $x$ e `è`, però",
        "Il prìncipe ha àncora sete",
        "La capitale dell'Italia",
        "è",
        '1. La "mela" del signor Rossi non c\'è, costa 3,50 €, il 28 agosto 2025 alle 10:30',
    ],
    "tr": [
        "Gökyüzünün rengi",
        "İstanbul'da 39 ilçe vardır",
        "Ilık süt içen çocuk",
        "bkz. $ş$ ve https://a.org/ç ağaç",
        "Hâlâ kâr eder",
        "ı",
        '1. Herkes "elma" yalnız 3,50 ₺, bir saatteki dakika 28 Ağustos 2025, 10:30',
    ],
    "zh": [
        "天空的颜色是",
        "中国的首都是北京",
        "一年有12个月",
        "公式$x$和https://a.cn里的国家",
        "Python 是什么",
        "二十口人",
        "未来的天空",
        "国",
        "1. “苹果”和太阳是￥3.50,25%,2025年8月28日10:30",
    ],
}
pairs = [(name, lang) for name, langs in perturbations().select("name", "langs").iter_rows() for lang in langs]
steps = (0.0, 0.1, 0.5, 1.0)
awkward = st.sampled_from(
    [
        "👩‍👩‍👧",
        "🇮🇹",
        "e\u0301",
        "\u202eab\u202c",
        "\r\n",
        "\u200b",
        "İ",
        "\u0301",
        "$x^2$",
        "  ",
        "a b",
        "ﷺ",
        "𝐛",
        "12",
        "۱۲",
        "https://a.org",
        "\u00a0",
    ]
)


@st.composite
def texts_of(draw, lang):
    parts = draw(
        st.lists(st.one_of(awkward, st.sampled_from(sentences[lang]), st.text(max_size=4)), min_size=1, max_size=5)
    )
    return "".join(parts) or "x"


def test_the_registry_holds_perturbations_of_all_five_languages():
    assert {lang for _, lang in pairs} == set(languages)
    assert len({name for name, _ in pairs}) >= 10


@cache
def examples(lang):
    return dict(perturbations(lang).select("name", "example").iter_rows())


@pytest.mark.parametrize(("name", "lang"), pairs)
def test_it_changes_at_least_one_sentence(name, lang):
    results = [perturb(text, name, lang, seed=0, item_id=str(i)) for i, text in enumerate(sentences[lang])]
    assert any(isinstance(result, EditedText) for result in results) or examples(lang)[name], (
        f"{name} claims {lang} but applied to none of {sentences[lang]}, nor to a sentence of perturbations(): {results}"
    )


def kept_pieces(text, cuts):
    "Bytes of a text outside of the spans given."
    data, at, pieces = text.encode(), 0, []
    for start, end in cuts:
        pieces.append(data[at:start])
        at = end
    return [piece.decode() for piece in [*pieces, data[at:]]]


def check_promises(text, result, protects, wanted=()):
    assert result.text != text, "applied, but nothing has changed: return NotApplicable"
    assert result.undo() == text and EditedText.replay(text, result.edits) == result.text
    result.text.encode()
    assert result.text.strip() and len(result.text) - len(result.text.lstrip()) == len(text) - len(text.lstrip()), (
        "the edge has moved"
    )
    for span in [*(protected_spans(text) if protects else []), *wanted]:
        assert not [e for e in result.edits if e.start < span.end and e.end > span.start], (
            f"an edit touches the {span.kind} span"
        )
        inside = "".join(graphemes(text)[span.start : span.end])
        assert inside in result.text, f"the {span.kind} span {inside!r} is gone"
    spans = result.spans.select("start_byte", "end_byte", "target_start_byte", "target_end_byte").rows()
    before, after = kept_pieces(text, [s[:2] for s in spans]), kept_pieces(result.text, [s[2:] for s in spans])
    assert before == after and [normal_form(p) for p in before] == [normal_form(p) for p in after], (
        "text outside of the edits has changed"
    )
    for edit in result.edits:
        assert regex.match(r"\p{M}", edit.target) is None or regex.match(r"\p{M}", edit.source), (
            f"{edit} puts a mark on the letter before it, which is not edited"
        )


@pytest.mark.parametrize(("name", "lang"), pairs)
@settings(max_examples=8)
@given(data=st.data())
def test_promises_hold_on_any_text(name, lang, data):
    text = data.draw(texts_of(lang))
    seed = data.draw(st.integers(0, 3))
    protect = data.draw(st.sampled_from([(), ("a",), (re.compile(r"\w+ \w+"), "的"), ((0, 1),)]))
    assert perturb(text, name, lang, seed=seed, severity=0.0) == EditedText(text), "severity 0 is the identity"
    before = EditedText(text)
    for severity in steps[1:]:
        result = perturb(text, name, lang, seed=seed, severity=severity, protect=protect)
        if isinstance(result, NotApplicable):
            assert result.reason and result.perturbation == name
            continue
        check_promises(text, result, get_perturbation(name).protects, user_spans(text, protect, "test"))
        missing = set(before.edits) - set(result.edits)
        assert not missing, (
            f"edits at a lower severity are not among those at {severity}: draw once, then take a longer prefix"
        )
        assert result.char_distance >= before.char_distance and result.byte_distance >= before.byte_distance
        before = result
    again = perturb(text, name, lang, seed=seed, severity=1.0, protect=protect)
    assert again == result, "the same call must give the same edits"


@pytest.mark.parametrize(("name", "lang"), pairs)
@settings(max_examples=4)
@given(data=st.data())
def test_the_normal_form_of_a_text_does_not_matter(name, lang, data):
    text = unicodedata.normalize("NFC", data.draw(texts_of(lang)))
    apart = unicodedata.normalize("NFD", text)
    if [unicodedata.normalize("NFC", part) for part in graphemes(apart)] != graphemes(text):
        return  # the two forms have other graphemes
    for severity in (0.4, 1.0):
        one, other = (perturb(t, name, lang, seed=2, severity=severity) for t in (text, apart))
        if isinstance(one, EditedText) and isinstance(other, EditedText):
            assert [(e.start, e.end) for e in one.edits] == [(e.start, e.end) for e in other.edits], (
                "a rule works on one form only"
            )
            same = [unicodedata.normalize("NFC", e.text) for e in (one, other)]
            assert same[0] == same[1]
            assert apart == text or unicodedata.is_normalized("NFD", other.text)
            check_promises(apart, other, get_perturbation(name).protects)
        else:
            assert isinstance(one, NotApplicable) == isinstance(other, NotApplicable)


@pytest.mark.parametrize(
    ("name", "lang", "text", "wanted"),
    [
        ("orthographic_errors", "tr", "ineğin", "inekin"),
        ("grammatical_errors", "tr", "sekiz küçük köylü için", None),
        ("date_formats", "tr", "3 Ağustos", "3 Ağu"),
        ("optional_diacritics", "tr", "rüzgâr", "rüzgar"),
        ("plausible_diacritics_errors", "it", "perché", "perchè"),
        ("contractions", "it", "dove è", "dov'è"),
        ("phonetic_spelling", "it", "perché", "xké"),
        ("emoji_substitution", "tr", "ağaç", "🌳"),
        ("romanization", "fa", "آسمان", "aseman"),
        ("optional_diacritics", "fa", "آسمان", "آسِمان"),
        ("emoji_substitution", "fa", "آب", "💧"),
    ],
)
def test_rules_of_words_find_decomposed_words(name, lang, text, wanted):
    made = {form: perturb(unicodedata.normalize(form, text), name, lang, seed=0) for form in ("NFC", "NFD")}
    if wanted is not None:
        assert {form: m.text for form, m in made.items()} == {
            form: unicodedata.normalize(form, wanted) for form in made
        }
    assert bool(isinstance(made["NFC"], EditedText)) == bool(isinstance(made["NFD"], EditedText))


@given(data=st.data())
@settings(max_examples=150)
def test_pipelines_keep_the_same_promises(data):
    lang = data.draw(st.sampled_from(sorted(languages)))
    served = [name for name, other in pairs if other == lang]
    names = data.draw(st.lists(st.sampled_from(served), min_size=1, max_size=3))
    made = pipeline([(name, data.draw(st.sampled_from([0.3, 1.0]))) for name in names])
    text = data.draw(texts_of(lang))
    protect = data.draw(st.sampled_from([(), ("a",), (re.compile(r"\w+ \w+"), "的"), ((0, 1),)]))
    assert perturb(text, names, lang, seed=0, severity=0.0) == EditedText(text)
    before = EditedText(text)
    for severity in steps[1:]:
        result = perturb(text, names, lang, seed=1, severity=severity, protect=protect)
        if isinstance(result, EditedText):
            check_promises(text, result, made.protects, user_spans(text, protect, "test"))
            assert set(before.edits) <= set(result.edits) and result.char_distance >= before.char_distance
            before = result


@pytest.mark.parametrize("name", [name for name, lang in pairs if lang == "tr"])
def test_turkish_case_is_right(name):
    for text in ("ılık iyi ışık", "ILIK İYİ IŞIK", "Isparta'da İzmir ilçesi"):
        result = perturb(text, name, "tr", seed=0)
        if name in ("uppercase", "lowercase") and isinstance(result, EditedText):
            assert (
                result.text
                == {
                    "uppercase": "ISPARTA'DA İZMİR İLÇESİ" if "z" in text else "ILIK İYİ IŞIK",
                    "lowercase": "ısparta'da izmir ilçesi" if "z" in text else "ılık iyi ışık",
                }[name]
            )
        for edit in result.edits if isinstance(result, EditedText) else ():
            english = {edit.source.upper(), edit.source.lower()} if set(edit.source) & set("iIıİ") else set()
            turkish = {upper(edit.source, "tr"), lower(edit.source, "tr")}
            assert edit.target not in english - turkish, f"{name} changes case by the rules of English: {edit}"


def _digest(backwards: bool) -> str:
    cells = [
        (name, lang, i, severity)
        for name, lang in pairs
        for i in range(len(sentences[lang]))
        for severity in (0.3, 1.0)
    ]
    done = {
        cell: repr(
            perturb(sentences[cell[1]][cell[2]], cell[0], cell[1], seed=7, item_id=str(cell[2]), severity=cell[3])
        )
        for cell in (reversed(cells) if backwards else cells)
    }
    return blake2b(json.dumps([done[cell] for cell in cells]).encode()).hexdigest()


def test_the_same_bytes_in_any_order_and_process():
    code = "import sys; sys.path.insert(0, 'tests'); import test_perturb; print(test_perturb._digest(True))"
    runs = {
        hash_seed: subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        )
        for hash_seed in ("1", "2")
    }
    here = _digest(False)
    for hash_seed, run in runs.items():
        out, error = run.communicate(timeout=300)
        assert run.returncode == 0, error[-2000:]
        assert out.strip() == here, (
            f"the result depends on the order of calls or on PYTHONHASHSEED={hash_seed}: a generator is shared, or a set iterated"
        )


def test_the_same_bytes_in_threads():
    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(_digest, [True, False, True]))) == 1, "threads share a generator or protected spans"


def test_items_and_seeds_draw_independently():
    text = sentences["en"][1]
    drawn = {
        (seed, item): perturb(text, "keyboard_proximity", "en", seed=seed, item_id=item, severity=0.3).text
        for seed in (0, 1)
        for item in "abcdef"
    }
    assert len(set(drawn.values())) > 6, "different items or seeds share a stream"


def toy_rule(text, lang, rng, severity):
    return nested_sample(
        text, [Edit(i, i + 1, c, c.upper()) for i, c in enumerate(graphemes(text)) if c.islower()], rng, severity
    )


@pytest.fixture
def toy(monkeypatch):
    import toksuite_nb.perturb as module

    monkeypatch.setattr(module, "_registry", dict(module._registry))

    def make(rule=toy_rule, **kwargs):
        return register(Perturbation("toy", "toy", ("en", "it"), "share", "test", rule, **kwargs))

    return make


@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), max_size=30))
def test_nested_samples_are_nested_and_apart(seed, spans):
    text = "ab $x$ cdefgh"
    candidates = [Edit(a, min(a + n, len(text)), text[a : a + n], "Z") for a, n in spans]
    samples = [nested_sample(text, candidates, derive_rng(seed), severity) for severity in steps]
    assert samples[0] == []
    assert bool(nested_sample(text, candidates, derive_rng(seed), 1e-12)) == bool(samples[-1]), (
        "above 0 at least one edit is made"
    )
    for smaller, larger in pairwise(samples):
        assert all(edit in larger for edit in smaller)
        EditedText(text, tuple(larger))
        assert not [edit for edit in larger if edit.start < 6 and edit.end > 3], "a candidate in the formula was taken"


@pytest.mark.parametrize(
    ("edits", "text", "left"),
    [
        ([Edit(0, 1, "a", "")], "a b", "white space at the start"),
        ([Edit(3, 3, "", " ")], "a b", "white space at the end"),
        ([Edit(2, 3, "b", "")], "a b", "white space bared at the end"),
        ([Edit(0, 1, " ", "")], " ab", "white space taken from the start"),
        ([Edit(1, 1, "", "z")], "$x$", "an insertion within a formula"),
        ([Edit(3, 3, "", "z")], "$x$", "an insertion that lengthens a formula"),
        ([Edit(0, 3, "$x$", "x")], "$x$", "a whole formula"),
        ([Edit(0, 1, "a", "a")], "ab", "an edit that changes nothing"),
        ([], "ab", "no edit"),
        ([Edit(0, 1, "a", ""), Edit(1, 2, "b", "")], "ab", "all of the text"),
        ([Edit(0, 1, "a", ""), Edit(1, 1, "", "a")], "ab", "edits that cancel"),
        ([Edit(0, 1, "a", ""), Edit(1, 2, "b", "")], "ab c", "a first word"),
    ],
)
def test_a_rule_cannot_break_the_promises(toy, edits, text, left):
    toy(lambda *args: list(edits))
    assert isinstance(perturb(text, "toy", "en", seed=0), NotApplicable), f"{left} was let through"


def test_a_rule_about_formulas_may_edit_them(toy):
    toy(lambda *args: [Edit(1, 2, "x", "y")], protects=False)
    assert perturb("$x$", "toy", "en", seed=0).text == "$y$"


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (KeyError, {"name": "uppercas"}, "perturb: perturbation must be a registered name, got 'uppercas'. Known are "),
        (KeyError, {"name": "uppercas"}, "Did you mean 'uppercase'?"),
        (
            ValueError,
            {"lang": "Turkish"},
            "perturb: lang must be a known language, got 'Turkish'. Known are en (English), fa (Farsi), it (Italian), tr (Turkish), zh (Chinese). For Turkish pass 'tr'.",
        ),
        (KeyError, {"lang": "de"}, "perturb: lang must be a known language, got 'de'."),
        (
            ValueError,
            {"severity": 1.5},
            "perturb: severity must be a number in [0, 1], got 1.5. Pass 1 for the full strength, 0 for none.",
        ),
        (ValueError, {"severity": float("nan")}, "severity must be a number in [0, 1], got nan"),
        (ValueError, {"severity": -0.1}, "severity must be a number in [0, 1], got -0.1"),
        (
            ValueError,
            {"text": ""},
            "perturb: text must not be empty, got '' for item '301'. Pass the text to perturb, and leave empty rows out.",
        ),
        (
            ValueError,
            {"text": "a\ud800"},
            "perturb: text must have a UTF-8 form, got the lone surrogate U+D800 at character 1.",
        ),
        (ValueError, {"seed": -1}, "seed must be a whole number >= 0, got -1"),
    ],
)
def test_wrong_calls_are_told_what_to_do(error, call, message):
    given_ = {
        "text": "The sky",
        "name": "uppercase",
        "lang": "en",
        "seed": 0,
        "item_id": "301",
        "severity": 1.0,
        **call,
    }
    with pytest.raises(error) as caught:
        perturb(given_.pop("text"), given_.pop("name"), **given_)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_known_language_without_rule_is_a_result_not_an_error():
    refused = perturb("天空的颜色是", "ascii_keyboard", "zh", seed=0, item_id="301")
    assert isinstance(refused, NotApplicable) and not refused
    assert refused.reason == "there is no rule for Chinese"


def item(item_id="1", **fields):
    return {
        "item_id": item_id,
        "set_id": "s",
        "canonical_id": item_id,
        "lang": "en",
        "domain": "general",
        "category": "toy",
        "perturbation": "canonical",
        "question": "The sky is",
        "choices": ["blue", "red", "green", "black"],
        "answer": 0,
        "delimiter": " ",
        "source": "test",
        **fields,
    }


def frame(*rows):
    return pl.DataFrame(rows, schema=item_schema.empty().schema)


@pytest.mark.parametrize("target", ["question", "choices", "both"])
def test_perturbed_items_replay_from_their_canonical_item(target):
    items = frame(
        item("1"),
        item("2", lang="it", question="La città è", choices=["grande", "piccola", "rossa", "verde"], answer=2),
    )
    made = perturb_items(items, ["uppercase", "homoglyphs"], seed=3, severity=0.7, target=target)
    assert made.schema == items.schema and made.height == 4 and made["item_id"].is_unique().all()
    applied = made.filter(pl.col("reason").is_null())
    assert applied.height >= 2
    for row in applied.iter_rows(named=True):
        twin = items.row(by_predicate=pl.col("item_id") == row["canonical_id"], named=True)
        fields = {"question": (twin["question"], row["question"])} | {
            f"choices[{i}]": pair for i, pair in enumerate(zip(twin["choices"], row["choices"], strict=True))
        }
        for field, (before, after) in fields.items():
            edits = [edit for edit in row["edits"] if edit["field"] == field]
            assert EditedText.replay(before, edits) == after
            assert bool(edits) == (target in ("both", "question" if field == "question" else "choices"))
        assert (row["answer"], row["set_id"], row["seed"], row["severity"], row["target"]) == (
            twin["answer"],
            "s",
            3,
            0.7,
            target,
        )


def test_item_ids_say_what_departs_from_the_defaults():
    made = perturb_items(frame(item()), "keyboard_proximity", variants=2)
    assert made["item_id"].to_list() == ["1/keyboard_proximity", "1/keyboard_proximity/v1"]
    assert made["question"].n_unique() == 2
    assert perturb_items(frame(item()), "uppercase", target="choices", severity=0.5)["item_id"].to_list() == [
        "1/uppercase/choices/s0.5"
    ]
    steps = [(("keyboard_proximity", 0.3), "uppercase")]
    assert perturb_items(frame(item()), steps, severity=0.5, seed=7)["item_id"].to_list() == [
        "1/keyboard_proximity_then_uppercase/s0.5/steps0.3-1/seed7"
    ]


@pytest.mark.parametrize("severity", [0.5, 1.0])
@pytest.mark.parametrize("text", [r"Let \mathbb R be it", r"the x \mid x in y", r"so \frac{a_{b_{c}}}{d} is one"])
def test_commands_of_latex_stay_whole_without_dollars(text, severity):
    (command,) = regex.findall(r"\\[a-z]+(?: |\{.*\})", text)
    for name in perturbations("en")["name"]:
        for seed in range(3):
            made = perturb(text, name, "en", seed=seed, severity=severity)
            if isinstance(made, EditedText) and get_perturbation(name).protects:
                assert command in made.text, f"{name}: {made.text!r}"
    assert command in perturb(text, "space_removal", "en", seed=0).text


def test_items_of_several_calls_have_ids_of_their_own():
    both = [("keyboard_proximity", "uppercase"), (("keyboard_proximity", 0.3), "uppercase")]
    calls = [
        {"names": names, "seed": seed, "severity": severity, "target": target, "variants": 2}
        for names in ("keyboard_proximity", *([steps] for steps in both))
        for seed in (0, 1)
        for severity in (0.5, 1.0)
        for target in ("question", "both")
    ]
    made = pl.concat([perturb_items(frame(item()), **call) for call in calls])
    assert not made["item_id"].is_duplicated().any()
    assert perturb_items(frame(item()), both)["item_id"].to_list() == [
        "1/keyboard_proximity_then_uppercase",
        "1/keyboard_proximity_then_uppercase/steps0.3-1",
    ]
    elsewhere = perturb_items(frame(item()), both, seed=1, workers=2)
    assert elsewhere["item_id"].to_list() == perturb_items(frame(item()), both, seed=1)["item_id"].to_list()


def test_a_pipeline_with_a_name_of_its_own_is_known_by_it(toy):
    register(pipeline([("keyboard_proximity", 0.3), "uppercase"], name="cry"))
    assert perturb_items(frame(item()), "cry")["item_id"].to_list() == ["1/cry"]


def test_the_first_variant_is_what_perturb_gives():
    made = perturb_items(frame(item()), "keyboard_proximity", seed=5, severity=0.4, variants=3)
    assert (
        made["question"][0] == perturb("The sky is", "keyboard_proximity", "en", seed=5, item_id="1", severity=0.4).text
    )
    assert (
        made["question"].to_list()[:2]
        == perturb_items(frame(item()), "keyboard_proximity", seed=5, severity=0.4, variants=2)["question"].to_list()
    )


def test_a_shortage_of_variants_is_stated():
    made = perturb_items(frame(item()), "uppercase", variants=3)
    assert made["reason"].to_list() == [None, "only 1 of 3 distinct variants were found"]
    assert not_applied(made).rows() == [("uppercase", "en", "only 1 of 3 distinct variants were found", 1)]


@pytest.mark.parametrize(
    ("name", "choices", "reason"),
    [
        ("uppercase", ["us", "uS", "it", "we"], "two options would be the same"),
        ("uppercase", ["US", "us", "it", "we"], "two options would be the same"),
        ("uppercase", ["US", "12", "A", "B"], "no lower-case letter"),
        ("keyboard_proximity", ["12", "red", "green", "black"], "not every option can be perturbed: no letter that"),
    ],
)
def test_options_are_perturbed_alike_and_stay_distinct(name, choices, reason):
    made = perturb_items(frame(item(choices=choices)), name, target="choices")
    assert made["choices"].to_list() == [None] and made["question"].to_list() == [None]
    assert made["edits"].to_list() == [None] and made["reason"][0].startswith(reason)


def test_an_option_that_is_already_as_the_rule_writes_stays():
    made = perturb_items(frame(item(choices=["12", "red", "green", "BLACK"])), "uppercase", target="both")
    assert made["choices"].to_list() == [["12", "RED", "GREEN", "BLACK"]]
    turkish = item(lang="tr", question="Gökyüzünün rengi", choices=["mavidir", "kırmızıdır", "sarıdır", "beyazdır"])
    typed = perturb_items(frame(turkish), "ascii_keyboard", target="both")
    assert typed.select("question", "choices").rows() == [
        ("Gokyuzunun rengi", ["mavidir", "kirmizidir", "saridir", "beyazdir"])
    ]


@pytest.mark.parametrize("seed", range(12))
def test_a_writer_has_the_same_habits_in_question_and_options(seed):
    accents = item(lang="it", question="La città con più caffè è", choices=["Forlì", "Nardò", "Cefalù", "Agliè"])
    (row,) = perturb_items(frame(accents), "ascii_keyboard", seed=seed, target="both").rows(named=True)
    marks = {text.count("'") > 0 for text in (row["question"], *row["choices"])}
    assert len(marks) == 1, f"an apostrophe for some accents, nothing for others: {row['question']}, {row['choices']}"
    dates = item(
        lang="it", question="Due giorni dopo il 3 agosto 2025", choices=[f"{d} agosto 2025" for d in (5, 6, 7, 8)]
    )
    (row,) = perturb_items(frame(dates), "date_formats", seed=seed, target="both").rows(named=True)
    shapes = {re.sub(r"\d", "0", choice) for choice in row["choices"]}
    assert len(shapes) == 1 and re.sub(r"\d", "0", row["question"]).endswith(shapes.pop().lstrip("0")), row
    numbers = item(question="300,000 and 200,000 are", choices=["500,000", "400,000", "600,000", "100,000"])
    (row,) = perturb_items(frame(numbers), "numerical_formats", seed=seed, target="both").rows(named=True)
    forms = {re.sub(r"\d", "", text.split()[0].replace("000", "")) for text in row["choices"]}
    assert len(forms) == 1 and row["answer"] == 0, f"the format of an option tells it from the others: {row['choices']}"
    prices = item(question="It costs $5, not", choices=["$3", "$4", "$6", "$7"])
    (row,) = perturb_items(frame(prices), "currency_symbols", seed=seed, target="both").rows(named=True)
    assert len({re.sub(r"\d", "0", choice) for choice in row["choices"]}) == 1


def test_slips_of_question_and_options_are_drawn_apart():
    words = item(question="abcdefgh", choices=["abcdefgh x", "abcdefgh y", "abcdefgh z", "abcdefgh w"])
    rows = perturb_items(frame(words), "keyboard_proximity", variants=8, severity=0.1, target="both")
    slips = [edit for row in rows["edits"] for edit in row if edit["start"] < 8]
    assert len({(edit["start"], edit["target"]) for edit in slips}) > 4


def test_no_option_becomes_another_option(toy):
    swap = {"a": "b", "b": "c", "c": "d", "d": "e"}
    toy(lambda text, *args: [Edit(0, 1, text, swap[text])])
    made = perturb_items(frame(item(choices=["a", "b", "c", "d"])), "toy", target="choices")
    assert made["reason"].to_list() == ["an option would become another option of the canonical item"]


def test_rows_do_not_depend_on_the_other_rows():
    rows = [item(str(i), question=text) for i, text in enumerate(sentences["en"])]
    names = ["homoglyphs", "keyboard_proximity"]
    forward = perturb_items(frame(*rows), names, severity=0.5).sort("item_id")
    backward = perturb_items(frame(*rows[::-1]), names[::-1], severity=0.5).sort("item_id")
    assert forward.equals(backward)


@pytest.mark.parametrize(
    ("rows", "call", "message"),
    [
        ([item(perturbation="uppercase")], {}, "items must be canonical, got 1 that are not: ['1']"),
        ([item(), item()], {}, "item_id must be unique, got 2 that are not: ['1', '1']"),
        ([item(question="")], {}, "question must not be empty, got 1 that are not: ['1']"),
        ([item(question=None)], {}, "question must not be empty"),
        ([item(choices=["a", None, "b"])], {}, "choices must be two or more, none empty, got 1"),
        ([item(choices=["a"])], {}, "choices must be two or more"),
        ([item(answer=4)], {}, "answer must be an index of choices, got 1"),
        ([item(answer=None)], {}, "answer must be an index of choices, got 1"),
        ([item()], {"variants": 0}, "variants must be a whole number >= 1, got 0"),
        ([item()], {"target": "options"}, "target must be one of ['question', 'choices', 'both'], got 'options'"),
        ([item()], {"names": []}, "names must be distinct and at least one, got []"),
        ([item()], {"names": ["uppercase", "uppercase"]}, "names must be distinct"),
        (
            [item()],
            {"names": ["uppercase", "nothing"]},
            "perturb_items: perturbation must be a registered name, got 'nothing'. Known are ",
        ),
        ([item(lang="de")], {}, "perturb_items: lang must be a known language, got 'de'"),
        ([item()], {"severity": 2.0}, "perturb_items: severity must be a number in [0, 1], got 2.0"),
        ([], {}, "items must have at least one row, got 0. Pass canonical items"),
    ],
)
def test_wrong_frames_and_calls_are_told_what_to_do(rows, call, message):
    with pytest.raises(ValueError) as caught:
        perturb_items(frame(*rows), **{"names": ["uppercase"], **call})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_name_is_given_once():
    taken = Perturbation("uppercase", "toy", ("en",), "share", "test", toy_rule)
    perturbations()
    with pytest.raises(ValueError, match=r"^register: a name must be given once, got 'uppercase', which is "):
        register(taken)
    with pytest.raises(
        ValueError, match=r"name must be snake case and not 'canonical'.*got no langs; target 'all'; name 'Upper Case'"
    ):
        Perturbation("Upper Case", "toy", (), "share", "test", toy_rule, target="all")


def test_the_catalogue_shows_an_example_of_each():
    for lang in languages:
        catalogue = perturbations(lang)
        assert catalogue["example"].null_count() == 0, catalogue.filter(pl.col("example").is_null())["name"].to_list()
        assert all(lang in langs for langs in catalogue["langs"])
    assert perturbations().equals(perturbations())


def test_places_are_sampled_like_candidates(toy):
    def rule(text, lang, rng, severity):
        places = free_places(text, [(i, i + 1) for i, c in enumerate(text) if c.islower()])
        taken = sample_places(len(places), rng, severity)
        return edit_rows(text, [(*places[k], "XYZ"[int(what * 3)]) for k, what, _ in taken])

    toy(rule)
    text = "ab cd $e$ fgh http://i.jk"
    made = [perturb(text, "toy", "en", seed=4, severity=s, protect="g") for s in steps[1:]]
    assert [len(m.edits) for m in made] == [1, 3, 6], "formula, URL and the user's letter are no places"
    assert set(made[0].edits) < set(made[1].edits) < set(made[2].edits)


@pytest.mark.parametrize("name", ["homoglyphs", "zero_width"])
@pytest.mark.parametrize(
    "text",
    [
        "The sky\n",
        " a colour of it ",
        "see $x$ or colour",
        "ne\u0301e en 👩‍👩‍👧 colour",
        "می‌رود \u202eabc\u202c",
        "人 of 天",
    ],
)
@pytest.mark.parametrize("severity", [0.3, 1.0])
def test_sampled_rows_are_the_edits_of_nested_sample(name, text, severity, monkeypatch):
    def slowly(text, rows, rng, severity):
        parts = graphemes(text)
        return nested_sample(text, [Edit(a, b, "".join(parts[a:b]), new) for a, b, new in rows], rng, severity)

    fast = [perturb(text, name, "fa", seed=seed, severity=severity) for seed in range(5)]
    monkeypatch.setattr("toksuite_nb.noise.sample_rows", slowly)
    slow = [perturb(text, name, "fa", seed=seed, severity=severity) for seed in range(5)]
    assert [(f.text, f.edits) for f in fast] == [(s.text, s.edits) for s in slow]


@pytest.mark.parametrize("count", [0, 1, 30, 99, 100, 1000])
def test_samples_of_places_are_nested_even_and_fair(count):
    drawn = [sample_places(count, derive_rng(0, count), share) for share in (0, 1e-9, 0.1, 0.3, 0.9, 1)]
    assert [len(d) for d in drawn] == [0, min(count, 1), *(-(-count * tenth // 10) for tenth in (1, 3, 9)), count]
    for smaller, larger in pairwise(drawn):
        assert set(smaller) <= set(larger) and larger == sorted(larger), "a place drew other numbers"
    if count >= 30:
        first = [sample_places(count, derive_rng(seed), 0.1) for seed in range(400)]
        hits = [sum(i < count / 2 for i, _, _ in d) / len(d) for d in first]
        assert abs(sum(hits) / 400 - 0.5) < 0.05, "places at the beginning are preferred"
        numbers = [n for d in first for _, *pair in d for n in pair]
        assert all(0 <= n < 1 for n in numbers) and abs(sum(numbers) / len(numbers) - 0.5) < 0.03


def test_edits_are_made_where_they_are_asked_for_and_then_are_like_any_other():
    made = perturb("The color of the sky is", "keyboard_proximity", "en", seed=0, severity=0.5)
    again = EditedText(made.source, made.edits)
    assert made == again and hash(made) == hash(again) and repr(made) == repr(again)
    assert pickle.loads(pickle.dumps(made)) == made and copy.deepcopy(made).spans.equals(again.spans)
    fresh = perturb("The color of the sky is", "keyboard_proximity", "en", seed=0, severity=0.5)
    assert pickle.loads(pickle.dumps(fresh)).edits == made.edits
    with pytest.raises(AttributeError):
        _ = made.no_such_thing


def test_variants_of_one_text_are_distinct_or_their_number_is_stated():
    made = perturb("The sky is", "keyboard_proximity", "en", seed=0, item_id="1", variants=4)
    assert len({m.text for m in made}) == 4
    assert made[0] == perturb("The sky is", "keyboard_proximity", "en", seed=0, item_id="1")
    assert made[:2] == perturb("The sky is", "keyboard_proximity", "en", seed=0, item_id="1", variants=2)
    one, shortage = perturb("The sky is", "uppercase", "en", seed=0, item_id="1", variants=4)
    assert one.text == "THE SKY IS" and shortage == NotApplicable(
        "only 1 of 4 distinct variants were found", "uppercase", "en", "1"
    )
    (refused,) = perturb("123", "uppercase", "en", seed=0, variants=2)
    assert not refused
    assert perturb("abc", "uppercase", "en", seed=0, severity=0.0, variants=1) == (EditedText("abc"),)


def test_user_protection_of_strings_patterns_and_spans():
    text = "Add NaCl to H2O, e\u0301 and e"
    for protect in ("NaCl", ["NaCl"], [re.compile("N.+l")], [regex.compile("N.+l")], [(4, 8)], re.compile("NaCl")):
        made = perturb(text, "uppercase", "en", seed=0, protect=protect)
        assert "NaCl" in made.text and "ADD" in made.text
    held = perturb(text, "strikethrough", "en", seed=0, protect=["e"])
    assert " e\u0301 " in held.text and held.text.endswith(" e"), "a protected letter must keep its accent"
    assert perturb("abc", "uppercase", "en", seed=0, protect="abc").reason == (
        "nothing can be edited outside of protected spans and the text's edges"
    )


@pytest.mark.parametrize("protect", [[(0, 99)], [(2, 1)], [3], [""], [re.compile(b"x")], [(0, True)], [None]])
def test_protection_that_cannot_be_meant_is_an_error(protect):
    with pytest.raises(ValueError) as caught:
        perturb("The sky", "uppercase", "en", seed=0, protect=protect)
    assert str(caught.value).startswith(
        "perturb: protect must hold strings, compiled patterns and spans (start, end) with 0 <= start < end <= 7, got "
    )
    with pytest.raises(ValueError, match="protect must hold strings and compiled patterns, as a span is one of a"):
        perturb_items(frame(item()), "uppercase", protect=[(0, 1)])


def test_options_inside_the_question_stay_unless_asked_for():
    items = frame(
        item("1", question="A Cat sat. The cats scattered, dog is a", choices=["cat", "dog", "bird", "fox"]),
        item("2", lang="zh", question="猫和狗里会叫的是abc", choices=["狗", "猫", "鱼", "鸟"]),
    )
    kept = perturb_items(items, "strikethrough")["question"].to_list()
    assert " Cat " in kept[0] and " cats" not in kept[0] and kept[0].count("dog") == 1, (
        "the option as a word stays, in either case, and so do wrong options"
    )
    assert "scattered" not in kept[0]
    slips = perturb_items(items, "keyboard_proximity")["question"].to_list()
    assert "猫" in slips[1] and "狗" in slips[1] and slips[1] != items["question"][1]
    edited = perturb_items(items, "uppercase", protect_answer=False)["question"].to_list()
    assert edited[0] == "A CAT SAT. THE CATS SCATTERED, DOG IS A"
    both = perturb_items(items, "uppercase", target="both")
    assert both["question"][0] == edited[0] and both["choices"][0].to_list() == ["CAT", "DOG", "BIRD", "FOX"]


def test_pipelines_compose_and_say_what_stopped_them():
    made = perturb("The sky is", ["keyboard_proximity", "uppercase"], "en", seed=0, item_id="1")
    assert made.text.isupper() and made.source == "The sky is" and made.text != "THE SKY IS"
    refused = perturb("The sky is 7", ["spelled_out", "uppercase", "digits"], "fa", seed=0)
    assert refused.perturbation == "spelled_out_then_uppercase_then_digits"
    assert perturb("天空", ["uppercase", "spaced"], "zh", seed=0).reason == "step uppercase: no lower-case letter"
    rows = perturb_items(frame(item()), [("keyboard_proximity", "uppercase"), "uppercase"], variants=2)
    assert rows["perturbation"].unique(maintain_order=True).to_list() == [
        "keyboard_proximity_then_uppercase",
        "uppercase",
    ]
    assert EditedText.replay("The sky is", rows["edits"][0].to_list()) == rows["question"][0]


@pytest.mark.parametrize(
    ("error", "steps", "message"),
    [
        (ValueError, [], "pipeline: names must be a list of one or more steps, got []. Write e.g."),
        (KeyError, ["uppercase", "upcase"], "pipeline: perturbation must be a registered name, got 'upcase'."),
        (ValueError, [("uppercase", 0)], "pipeline: severity must be a number in (0, 1], got 0. Pass 1 for the full"),
        (ValueError, [("uppercase",)], "pipeline: a step must be a name or (name, severity), got ('uppercase',)."),
        (
            ValueError,
            ["traditional", "arabic_keyboard"],
            "its steps must share a language, got traditional: zh; arabic",
        ),
    ],
)
def test_pipelines_that_cannot_be_are_errors(error, steps, message):
    with pytest.raises(error) as caught:
        perturb("The sky", steps, "en", seed=0)
    assert message in str(caught.value)


def test_processes_give_the_same_bytes(toy):
    toy()
    items = frame(*[item(str(i), question=f"The sky over house {i} is") for i in range(120)])
    names = ["toy", "keyboard_proximity", ("ocr_errors", "uppercase"), "traditional"]
    here = perturb_items(items, names, severity=0.5, variants=2, protect=[re.compile("ho.se")])
    there = perturb_items(items, names, severity=0.5, variants=2, protect=[re.compile("ho.se")], workers=2)
    assert here.equals(there), "the number of workers must not change a byte"
    assert not_applied(there).filter(perturbation="traditional")["n"].to_list() == [120]


def test_an_error_in_a_rule_names_the_item(toy):
    def broken(*args):
        raise RuntimeError("out of letters")

    toy(broken)
    with pytest.raises(RuntimeError) as caught:
        perturb_items(frame(item("77")), "toy")
    assert caught.value.__notes__ == ["perturb_items: while applying 'toy' to item '77'"]


hostile = [
    "\x00",
    "a\x00b\x00",
    "\ufeffab",
    "\u202eabc \u2067אבג\u2069 12\u202c x",
    "שלום hello سلام 你好 ığ 12٪",
    "\u0301\u0301a",
    "👩‍👩‍👧" * 30,
    "🇮🇹" * 21 + "🇮",
    "e" + "\u0301" * 300,
    "\r\n\r\n",
    " \u3000\u00a0",
    "$" * 50,
    "`" * 51,
    "ab" * 2500,
    "国" * 3000,
    "می\u200c" * 1000,
    "1" * 400,
    "9" * 30 + "." + "9" * 30,
    '"' * 40,
    "()" * 100,
    "\U000e0001\U0010ffff\ue000",
    "ﷺﬁ½",
]


@pytest.mark.parametrize(("name", "lang"), pairs)
def test_hostile_text_never_crashes(name, lang):
    for text in hostile:
        result = perturb(text, name, lang, seed=0)
        assert isinstance(result, NotApplicable) or (result.undo() == text and result.text.encode())


@pytest.mark.parametrize("name", ["keyboard_proximity", "uppercase"])
def test_a_word_of_a_million_letters_is_edited(name):
    text = "a" * 1_000_000
    result = perturb(text, name, "tr", seed=0, severity=0.001)
    assert result.text != text and result.undo() == text


@pytest.mark.parametrize("severity", [float("nan"), float("inf"), 2, -1, "high", None, True, [1]])
def test_a_severity_that_is_none_is_an_error(severity):
    message = "severity must be a number in [0, 1], got "
    with pytest.raises(ValueError) as caught:
        perturb("The sky", "uppercase", "en", seed=0, severity=severity)
    assert str(caught.value) == f"perturb: {message}{severity!r}. Pass 1 for the full strength, 0 for none."
    with pytest.raises(ValueError) as caught:
        perturb_items(frame(item()), "uppercase", severity=severity)
    assert str(caught.value) == f"perturb_items: {message}{severity!r}. Pass 1 for the full strength, 0 for none."


@pytest.mark.parametrize("lang", ["xx", "EN", "", None, 3, ["en"]])
def test_a_language_that_is_none_is_an_error(lang):
    with pytest.raises(ValueError, match=r"^perturb: lang must be a known language, got .+ Known are en \(English\)"):
        perturb("The sky", "uppercase", lang, seed=0)


@pytest.mark.parametrize("text", [None, 3, b"abc", ["a"]])
def test_a_text_that_is_none_is_an_error(text):
    with pytest.raises(TypeError, match=r"^perturb: text must be a str, got .+ Decode bytes with"):
        perturb(text, "uppercase", "en", seed=0)


@pytest.mark.parametrize("name", [None, 3, b"uppercase", [3], [None, "uppercase"]])
def test_a_name_that_is_none_is_an_error(name):
    with pytest.raises((KeyError, ValueError, TypeError)) as caught:
        perturb("The sky", name, "en", seed=0)
    assert re.match("(perturb|pipeline): ", str(caught.value))


def test_counts_that_are_none_are_errors():
    for variants in (0, -1, 2.0, "2", True):
        with pytest.raises(ValueError, match=r"^perturb: variants must be a whole number >= 1, got "):
            perturb("The sky", "uppercase", "en", seed=0, variants=variants)
        with pytest.raises(ValueError, match=r"^perturb_items: variants must be a whole number >= 1, got .+; workers"):
            perturb_items(frame(item()), "uppercase", variants=variants, workers=variants)


@pytest.mark.parametrize("lang", ["en", "fa", "it", "tr", "zh"])
@pytest.mark.parametrize("name", ["keyboard_proximity", "ocr_errors"])
@settings(max_examples=25)
@given(data=st.data())
def test_the_loop_and_the_columns_give_the_same_text(name, lang, data):
    import toksuite_nb.noise as noise

    text, seed = data.draw(texts_of(lang))[:390], data.draw(st.integers(0, 3))
    with pytest.MonkeyPatch.context() as patch:
        ways = []
        for few in (0, 10**6):
            patch.setattr(noise, "_few", few)
            made = [perturb(text, name, lang, seed=seed, severity=severity) for severity in steps[1:]]
            ways.append([(str(getattr(m, "text", m)), getattr(m, "edits", ())) for m in made])
    assert ways[0] == ways[1], "a text is edited otherwise by the loop for few edits and by the columns for many"


@pytest.mark.parametrize("name", ["keyboard_proximity", "ocr_errors"])
@pytest.mark.parametrize("lang", ["en", "fa", "it", "tr"])
def test_edits_of_a_long_text_say_what_was_written(name, lang):
    text = " ".join(t for t in sentences[lang] if "$" not in t and "`" not in t) + " "
    text = (text * 40).strip().replace("\u0301", "")
    for severity in (0.3, 1.0):
        made = perturb(text, name, lang, seed=1, severity=severity)
        again = EditedText(made.source, made.edits)  # checks each edit against the source
        assert again.text == made.text and again.undo() == text
        assert pickle.loads(pickle.dumps(made)) == made == copy.deepcopy(made)


fragile = st.sampled_from(
    [
        "\u0301",
        "🇮",
        "🇹",
        "ᄀ",
        "ᅡ",
        "👩\u200d",
        "👧",
        "\u0903",
        "\u0600",
        "\ufe0f",
        "\U0001f3fb",
        "\r",
        "\n",
        " ",
        "\t",
        "a",
        "ee",
        "می\u200cروم",
        "ن",
        "很",
    ]
)


@settings(max_examples=400)
@given(st.data())
def test_no_two_graphemes_become_one(data):
    name, lang = data.draw(st.sampled_from(pairs))
    text = "".join(data.draw(st.lists(st.one_of(fragile, st.sampled_from(sentences[lang])), min_size=1, max_size=9)))
    made = perturb(text, name, lang, seed=0, severity=data.draw(st.sampled_from([0.3, 1.0])))
    if isinstance(made, EditedText):
        ends = {0}
        for part in graphemes(made.text):
            ends.add(max(ends) + len(part.encode()))
        for edit, row in zip(made.edits, made.spans.iter_rows(named=True), strict=True):
            if regex.fullmatch(r"[\p{Cf}\u034f]+", edit.target):
                continue  # joiners join on purpose
            assert {row["target_start_byte"], row["target_end_byte"]} <= ends, (
                f"{edit} melts with its neighbour in {made.text!a}"
            )


@pytest.mark.parametrize(
    ("name", "lang", "text", "after"),
    [
        ("space_removal", "en", "the \u0301accent a b", "the \u0301accentab"),
        ("space_removal", "en", "🇮 🇹 x y", "🇮 🇹xy"),
        ("contractions", "en", "OpenStreetMap is a map", "OpenStreetMap's a map"),
        ("contractions", "en", "The Sun is a star", "The Sun's a star"),
        ("contractions", "en", "IT IS A STAR", "IT'S A STAR"),
        ("search_keywords", "en", "The largest ocean on Earth is the", "largest ocean Earth"),
        ("search_keywords", "it", "La Gioconda è stata dipinta da", "Gioconda dipinta"),
        ("search_keywords", "en", "A source of vitamin A is", "source vitamin A"),
        ("search_keywords", "en", "The WHO is based in Geneva", "WHO based Geneva"),
        ("search_keywords", "en", "THE WHO IS BASED IN GENEVA", "BASED GENEVA"),
        ("search_keywords", "it", "Il 25 per cento di 9 per 8 è", "25 per cento 9 per 8"),
        ("search_keywords", "it", "La vitamina E è utile per la pelle", "vitamina E utile pelle"),
        ("optional_diacritics", "zh", "我不会去一个地方", "wǒ bù huì qù yī gè dì fāng"),
        ("optional_diacritics", "zh", "最长的河", "zuì cháng de hé"),
        ("optional_diacritics", "zh", "边长为6，又长大了", "biān cháng wèi 6，yòu zhǎng dà le"),
        ("optional_diacritics", "zh", "校长有两只狗，只有", "xiào zhǎng yǒu liǎng zhī gǒu，zhǐ yǒu"),
        ("optional_diacritics", "zh", "很干，在铁轨上行驶", "hěn gān，zài tiě guǐ shàng xíng shǐ"),
        ("optional_diacritics", "zh", "慢慢地跑得快，陆地", "màn màn de pǎo de kuài，lù dì"),
        ("romanization", "zh", "最长的河", "zui chang de he"),
        ("traditional", "zh", "干", "乾"),
        ("word_spacing", "zh", "多瑙河的水", "多瑙河 的 水"),
        ("spelled_out", "zh", "2份, 2月", "两份, 二月"),
        ("romanization", "fa", "بچه‌ها در پارک بازی می‌کنند", "bachcheha dar park bazi mikonand"),
        ("romanization", "fa", "کتاب بزرگ من کجاست", "ketabe bozorge man kojast"),
        ("romanization", "fa", "قیمت دو خانه", "gheymate do khane"),
        ("optional_diacritics", "fa", "زبان رسمی ایران", "زَبانِ رَسمیِ ایران"),
        ("optional_diacritics", "fa", "خانه بزرگ", "خانهٔ بُزُرگ"),
    ],
)
def test_what_a_reader_of_the_language_would_have_corrected(name, lang, text, after):
    assert str(getattr(made := perturb(text, name, lang, seed=0), "text", made)) == after


@pytest.mark.parametrize(
    ("name", "lang", "text", "after"),
    [
        ("digits", "fa", "3.5 و 1,234", "۳٫۵ و ۱٬۲۳۴"),
        ("romanization", "fa", "۱٬۲۳۴ یا ۳٫۵ متر", "1,234 ya 3.5 metr"),
        ("romanization", "fa", "کانی طبیعی، خانه بزرگ", "kaniye tabi'i, khaneye bozorg"),
        ("arabic_keyboard", "fa", "پاک، ژاله، چای، گل و شاه ه", "باك، زالة، جاي، كل و شاة ه"),
        ("upside_down", "en", "Cat 16", "ʇɐɔ 9Ɩ"),
        ("superscript_letters", "en", "ao", "ᵃᵒ"),
        ("spelled_out", "tr", "Saat 4'te, sayı 4'ü geçti", "Saat dörtte, sayı dördü geçti"),
        ("date_formats", "en", "on 12/5/2025", "NotApplicable: date_formats (en): no date that the language reads in one way"),
        ("date_formats", "en", "on 5/12/2025", "NotApplicable: date_formats (en): no date that the language reads in one way"),
    ],
)  # fmt: skip
def test_a_rule_writes_what_its_definition_says(name, lang, text, after):
    assert str(getattr(made := perturb(text, name, lang, seed=0), "text", made)) == after


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        ("it", {3: "tre", 23: "ventitré", 1003: "milletré", 3_000_000: "tre milioni", 88: "ottantotto", 108: "centotto"}),
        ("tr", {1000: "bin", 1001: "bin bir", 1_000_000: "bir milyon", 2_001_000: "iki milyon bin", 101: "yüz bir"}),
        ("fa", {1000: "هزار", 1001: "هزار و یک", 1_000_000: "یک میلیون", 121: "صد و بیست و یک"}),
        ("zh", {2000: "两千", 20_000: "两万", 200_000_000: "两亿", 10_005: "一万零五", 100_500: "十万零五百", 110: "一百一十", 2: "二"}),
        ("en", {21: "twenty-one", 1013: "one thousand thirteen", 100: "one hundred"}),
    ],
)  # fmt: skip
def test_numbers_are_said_as_grammars_say_them(lang, words):
    from toksuite_nb.notation import number_words

    assert {number: number_words(number, lang) for number in words} == words


def test_english_days_have_their_ordinals_and_thousands_their_short_forms():
    from toksuite_nb.notation import date_forms, number_forms

    ends = {day: re.search(r" \d+([a-z]{2}),", " ".join(date_forms(2025, 8, day, "en")))[1] for day in range(1, 32)}
    other = {1: "st", 21: "st", 31: "st", 2: "nd", 22: "nd", 3: "rd", 23: "rd"}
    assert ends == {day: other.get(day, "th") for day in range(1, 32)}
    assert [form for form in number_forms(12_000, "en") if form.endswith(("k", "thousand"))] == ["12 thousand", "12k"]
    assert not [form for form in number_forms(12_345, "en") if not form[-1].isdigit()], "12,345 is not 12k"


@pytest.mark.parametrize(("name", "first"), [("adjacent_swap", 1), ("character_deletion", 1)])
def test_the_first_letter_of_a_word_stays(name, first):
    for lang, word in (("en", "planet"), ("it", "gatto"), ("tr", "şehir"), ("fa", "کتاب")):
        made = {perturb(f"{word} {word}", name, lang, seed=seed).text for seed in range(40)}
        assert {part[:first] for text in made for part in text.split()} == {word[:first]}


def test_no_invisible_character_of_farsi_can_be_seen():
    # a non-joiner cuts a letter that joins from the next; a joiner gives one that does not join another shape
    alone = set("اآأإدذرزژوؤة")
    for seed in range(20):
        for edit in perturb("سلام دوست من، آب و ورزش", "zero_width", "fa", seed=seed).edits:
            before = graphemes("سلام دوست من، آب و ورزش")[edit.start - 1]
            assert edit.target != ("\u200d" if before in alone else "\u200c")


@pytest.mark.parametrize("pair", ["rn m", "cl d", "vv w", "ll H", "li h"])
def test_scanners_confuse_pairs_of_letters_in_both_directions(pair):
    from toksuite_nb.noise import scan_confusions

    two, one = pair.split()
    assert one in scan_confusions("en")[two] and two in scan_confusions("en")[one]


def test_no_character_is_its_own_homophone():
    from toksuite_nb.noise import homophones

    for character, syllable in (("颜", "yan"), ("是", "shi"), ("的", "de"), ("一", "yi")):
        offered = [other for other, _ in homophones(character, syllable)]
        assert offered and character not in offered and len(set(offered)) == len(offered)


def test_capital_i_with_a_dot_is_a_turkish_i_in_both_normal_forms():
    assert lower("İIi", "tr") == lower("I\u0307Ii", "tr") == "iıi"


def test_the_longest_option_that_the_question_holds_is_kept_whole():
    tree = item(question="苹果树在", choices=["苹果", "苹果树", "梨", "桃"], lang="zh")
    assert perturb_items(frame(tree), "romanization")["question"].item() == "苹果树 zai"


def test_variants_of_the_options_alone_are_distinct():
    words = item(choices=["azure blue", "crimson red", "emerald green", "ashen grey"])
    made = perturb_items(frame(words), "keyboard_proximity", variants=3, target="choices")
    assert made["reason"].is_null().all() and made["choices"].n_unique() == 3


def test_names_that_end_like_a_suffix_are_not_misspelt():
    for text in ("Pakistan", "Kazakistan", "Leonardo da Vinci"):
        assert not perturb(text, "orthographic_errors", "tr", seed=0) and not perturb(
            text, "grammatical_errors", "tr", seed=0
        )


def test_words_of_one_character_are_one_character():
    from toksuite_nb.orthography import _one_character_words

    assert all(len(word) == 1 and "\u4e00" <= word <= "\u9fff" for word in _one_character_words)
    assert not set("瑙梵莫菲兹拉腊") & _one_character_words, "a character of names only"


def test_a_character_is_no_look_alike_of_another_one():
    from toksuite_nb.noise import _look_alikes

    wrong = {
        letter: others
        for letter, others in _look_alikes().items()
        if not letter.isascii() and any(unicodedata.normalize("NFKC", o) not in (o, letter) for o in others)
    }
    assert not wrong, f"radicals of other characters: {wrong}"


def test_each_listed_farsi_word_is_read_as_its_vowel_marks_say():
    from toksuite_nb.orthography import _conjugated, _lines

    plain = dict(zip("آبپتثجحدذرزسصضطظفکگلمن", "abptsjhdzrzssztzfkglmn", strict=True))
    plain |= {
        "چ": "ch",
        "خ": "kh",
        "ژ": "zh",
        "ش": "sh",
        "غ": "gh",
        "ق": "gh",
        "\u064e": "a",
        "\u0650": "e",
        "\u064f": "o",
        "\u0670": "a",
    }
    plain |= {
        "ا": "a?",
        "ع": "'?",
        "ء": "'?",
        "ئ": "['y]?",
        "ؤ": "'?",
        "أ": "['a]?",
        "و": "(?:u|ow?|v|w)?",
        "ه": "[he]?",
        "ی": "(?:ey|iy|yi|ye|i|y)?",
    }
    plain |= {"\u200c": "", "\u0654": "(?:ye)?"}

    def pattern(word):
        signs = []
        for i, sign in enumerate(word):
            if sign == "\u0651":  # doubles the letter before it, a vowel mark between them or not
                k = len(signs) - 1 - (word[i - 1] in "\u064e\u0650\u064f")
                signs[k] *= 2
            else:
                signs.append(plain[sign])
        return re.compile("".join(signs), re.IGNORECASE)

    rows = [line.split("\t") for line in (*_lines("fa_words"), *_conjugated())]
    assert len(rows) > 3000
    wrong = [(word, finglish) for word, finglish, _ in rows if not pattern(word).fullmatch(finglish)]
    assert not wrong, f"the two spellings have other sounds: {wrong[:5]}"
    assert not pattern("کِتاب").fullmatch("kotab"), "the census must be able to fail"
