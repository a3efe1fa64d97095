"""Promises that every registered perturbation keeps in every language it serves, on sentences and on hostile text."""

import json
import os
import subprocess
import sys
from hashlib import blake2b
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toksuite_nb.core import derive_rng, item_schema
from toksuite_nb.edits import Edit, EditedText
from toksuite_nb.perturb import (
    NotApplicable,
    Perturbation,
    get_perturbation,
    nested_sample,
    not_applied,
    perturb,
    perturb_items,
    perturbations,
    register,
)
from toksuite_nb.text import graphemes, languages, protected_spans

sentences = {
    "en": [
        "The color of the sky is",
        "There are 24 hours in 1 day.",
        "Mix $a+b$ with https://a.org/x and `code` at me@a.org, naïve café!",
        "A",
        "modern Hill",
    ],
    "fa": [
        "رنگ آسمان",
        "در یک روز ۲۴ ساعت است",
        "کتابِ خوبِ مَن می‌خواهم",
        "عدد $x$ در https://a.org است",
        "رایانه‌های Windows و تلفن",
        "ک",
    ],
    "it": [
        "Il colore del cielo è",
        "La città più grande ha 12 caffè",
        "Perché l'acqua bolle a 100 gradi?",
        "vedi $x$ e `è`, però",
        "Il prìncipe ha àncora sete",
        "è",
    ],
    "tr": [
        "Gökyüzünün rengi",
        "İstanbul'da 39 ilçe vardır",
        "Ilık süt içen çocuk",
        "bkz. $ş$ ve https://a.org/ç ağaç",
        "Hâlâ kâr eder",
        "ı",
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


@pytest.mark.parametrize(("name", "lang"), pairs)
def test_it_changes_at_least_one_sentence(name, lang):
    results = [perturb(text, name, lang, seed=0, item_id=str(i)) for i, text in enumerate(sentences[lang])]
    assert any(isinstance(result, EditedText) for result in results), (
        f"{name} claims {lang} but applied to none of {sentences[lang]}: {results}"
    )


@pytest.mark.parametrize(("name", "lang"), pairs)
@settings(max_examples=10)
@given(data=st.data())
def test_promises_hold_on_any_text(name, lang, data):
    text = data.draw(texts_of(lang))
    seed = data.draw(st.integers(0, 3))
    assert perturb(text, name, lang, seed=seed, severity=0.0) == EditedText(text), "severity 0 is the identity"
    before = EditedText(text)
    for severity in steps[1:]:
        result = perturb(text, name, lang, seed=seed, severity=severity)
        assert result == perturb(text, name, lang, seed=seed, severity=severity), (
            "the same call must give the same edits"
        )
        if isinstance(result, NotApplicable):
            assert result.reason and result.perturbation == name
            continue
        assert result.text != text, "applied, but nothing has changed: return NotApplicable"
        assert result.undo() == text and EditedText.replay(text, result.edits) == result.text
        result.text.encode()
        assert result.text.strip() and len(result.text) - len(result.text.lstrip()) == len(text) - len(text.lstrip()), (
            "the edge has moved"
        )
        if get_perturbation(name).protects:
            for span in protected_spans(text):
                assert not [e for e in result.edits if e.start < span.end and e.end > span.start], (
                    f"an edit touches the {span.kind} span"
                )
        missing = set(before.edits) - set(result.edits)
        assert not missing, (
            f"edits at a lower severity are not among those at {severity}: draw once, then take a longer prefix"
        )
        assert result.char_distance >= before.char_distance and result.byte_distance >= before.byte_distance
        before = result


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
    here = _digest(False)
    assert _digest(True) == here, "the result depends on what was perturbed before: a generator is shared"
    code = "import sys; sys.path.insert(0, 'tests'); import test_perturb; print(test_perturb._digest(True))"
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
            check=False,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        assert run.stdout.strip() == here, (
            f"the result depends on PYTHONHASHSEED={hash_seed}: a set or a hash is iterated"
        )


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
    ("choices", "reason"),
    [
        (["US", "us", "it", "we"], "not every option can be perturbed"),
        (["us", "uS", "it", "we"], "two options would be the same"),
        (["12", "red", "green", "black"], "not every option can be perturbed"),
    ],
)
def test_options_are_perturbed_all_or_none_and_stay_distinct(choices, reason):
    made = perturb_items(frame(item(choices=choices)), "uppercase", target="choices")
    assert made["choices"].to_list() == [None] and made["question"].to_list() == [None]
    assert made["reason"][0].startswith(reason)


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
