"""The 24 faults of the reference generators of TokSuite (G1 to G24): each test holds our code against the fault's opposite, and, where a
few lines are enough to make the fault again, shows that the check would have caught it."""

import ast
import json
import random
import re
import subprocess
import sys
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from toksuite_nb.core import check_frame, item_schema
from toksuite_nb.edits import Edit, EditedText
from toksuite_nb.items import audit, load_benchmark
from toksuite_nb.noise import key_neighbours, zero_width_characters
from toksuite_nb.perturb import (
    NotApplicable,
    Perturbation,
    nested_sample,
    not_applied,
    perturb,
    perturb_items,
    perturbations,
    register,
)
from toksuite_nb.store import manifest
from toksuite_nb.text import check_lang, graphemes, languages, lower, upper, words

ROOT = Path(__file__).parents[1]
GENERATORS = ("text", "edits", "perturb", "noise", "orthography", "styling", "register", "notation")
skies = {
    "en": "The color of the sky is",
    "fa": "رنگ آسمان چیست",
    "it": "Il colore del cielo è",
    "tr": "Gökyüzünün rengi ılık",
    "zh": "天空的颜色是什么",
}


def caught(check, faulty):
    "The check must fail on a small copy of the fault, or it proves nothing."
    with pytest.raises((AssertionError, KeyError, IndexError)):
        check(faulty)


def text_of(result, text):
    return result.text if isinstance(result, EditedText) else text


def item(item_id="301-4.10", **fields):
    return {
        "item_id": item_id,
        "set_id": "301",
        "canonical_id": item_id,
        "lang": "en",
        "domain": "general",
        "category": "Noise, Social Media",
        "perturbation": "canonical",
        "question": "The color of the sky is",
        "choices": ["red", "blue", "green", "black"],
        "answer": 1,
        "delimiter": " ",
        "source": "test",
        **fields,
    }


def frame(*rows):
    return pl.DataFrame(rows or [item()], schema=item_schema.empty().schema)


@pytest.fixture
def toy(monkeypatch):
    import toksuite_nb.perturb as module

    perturbations()
    monkeypatch.setattr(module, "_registry", dict(module._registry))
    return lambda rule: register(Perturbation("toy", "toy", tuple(languages), "share", "test", rule))


@cache
def pairs():
    return [(name, lang) for name, langs in perturbations().select("name", "langs").iter_rows() for lang in langs]


def test_g1_the_package_imports_cleanly_and_knows_one_set_of_languages():
    def check(imports):
        accidental = {"curses", "tkinter", "wandb", "cv2", "git", "spacy", "matplotlib", "torch", "nltk", "pandas"}
        assert not accidental & set(imports), f"{accidental & set(imports)} came along with a text generator"

    modules = [f"toksuite_nb.{name}" for name in GENERATORS]
    code = f"import sys, {', '.join(modules)}; print(*{{m.split('.')[0] for m in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    check(run.stdout.split())
    caught(check, ["numpy", "cv2"])
    assert {lang for _, lang in pairs()} == set(languages), "one set of language codes is used everywhere"
    for tag in ("eng_Latn", "fas_Arab", "English", "EN"):
        with pytest.raises(ValueError, match="lang must be a known language"):
            check_lang(tag, "test")


def test_g2_the_seed_is_explicit_and_order_does_not_matter():
    def check(generate):
        jobs = [(seed, i) for seed in (0, 1) for i in "abc"]
        random.seed(0)
        np.random.seed(0)
        there = {job: generate(*job) for job in jobs}
        back = {job: generate(*job) for job in reversed(jobs)}
        assert there == back, "a global generator was drawn from"
        assert len(set(there.values())) > 3

    check(lambda seed, i: perturb(skies["en"], "keyboard_proximity", "en", seed=seed, item_id=i).text)

    def faulty(seed, i):
        return "".join(random.choice("abc") if c == "o" else c for c in "the colour of oolong") + str(np.random.rand())

    caught(check, faulty)
    with pytest.raises(TypeError):
        perturb(skies["en"], "uppercase", "en")


def test_g3_an_unknown_language_or_perturbation_raises_and_lists_the_known_ones():
    def check(generate):
        for name, lang, known in (("uppercase", "de", "tr (Turkish)"), ("homoglyph", "en", "homoglyphs")):
            with pytest.raises(KeyError) as error:
                generate("Der Himmel ist blau", name, lang)
            assert known in str(error.value)

    check(lambda text, name, lang: perturb(text, name, lang, seed=0))
    with pytest.raises(pytest.fail.Exception):
        check(lambda text, name, lang: {"en": text.upper}.get(lang, text.upper)())


def test_g4_a_language_without_a_table_is_not_applicable_and_never_passed_through():
    def check(generate):
        for name in {name for name, _ in pairs()}:
            for lang in languages:
                result = generate(skies[lang], name, lang)
                assert isinstance(result, NotApplicable) or result.text != skies[lang], f"{name} {lang} is unchanged"
                if (name, lang) not in pairs():
                    assert isinstance(result, NotApplicable) and "there is no rule for" in result.reason

    check(lambda text, name, lang: perturb(text, name, lang, seed=0))
    caught(
        check, lambda text, name, lang: EditedText(text) if lang in ("it", "zh") else perturb(text, name, lang, seed=0)
    )


def test_g5_unchanged_and_duplicate_outputs_are_dropped_and_counted():
    def check(generate):
        made = generate(frame(item(), item("302", lang="zh", question="天空", choices=["蓝", "红", "绿", "黑"])))
        applied = made.filter(pl.col("reason").is_null())
        assert applied["question"].is_unique().all() and not applied["question"].is_in([skies["en"], "天空"]).any()
        assert not_applied(made)["n"].sum() == 2, "what was dropped must be counted"

    check(lambda items: perturb_items(items, "uppercase", variants=3))

    def faulty(items):
        rows = [{**row, "question": row["question"].upper()} for row in items.rows(named=True) for _ in range(3)]
        return pl.DataFrame(rows, schema=items.schema)

    caught(check, faulty)


def test_g6_ids_are_strings_that_keep_the_canonical_id():
    def check(generate):
        made = generate(frame(item("en-301-4.10"), item("en-301-4.1"), item("tr-301-4.10", lang="tr")))
        assert made.schema["item_id"] == pl.String and made["item_id"].is_unique().all()
        for row in made.rows(named=True):
            assert row["item_id"].startswith(row["canonical_id"] + "/") and row["set_id"] == "301"
        assert set(made["canonical_id"]) == {"en-301-4.10", "en-301-4.1", "tr-301-4.10"}

    check(lambda items: perturb_items(items, "uppercase"))
    caught(
        check,
        lambda items: items.with_columns(
            item_id=pl.format("{}", pl.col("item_id").str.extract(r"([\d.]+)$").cast(pl.Float64))
        ),
    )


def test_g7_the_canonical_row_is_flagged_and_not_the_smallest_id():
    made = perturb_items(frame(item("9")), "uppercase").with_columns(item_id=pl.lit("10/uppercase"))
    mixed = pl.concat([made, frame(item("9"))])

    def check(canonical_of):
        assert canonical_of(mixed)["question"] == skies["en"]

    check(lambda items: items.filter(perturbation="canonical").row(0, named=True))
    caught(check, lambda items: items.sort("item_id").row(0, named=True))
    with pytest.raises(ValueError, match=r"items must be canonical, got 1 that are not: \['10/uppercase'\]"):
        perturb_items(mixed, "uppercase")
    embedded = load_benchmark("embedded").filter(perturbation="canonical")
    assert (embedded["canonical_id"] == embedded["item_id"]).all()


def test_g8_every_perturbation_changes_at_least_one_text_of_each_language():
    def check(generate):
        silent = []
        for lang in languages:
            shown = dict(perturbations(lang).select("name", "example").iter_rows())
            silent += [(name, lang) for name, example in shown.items() if not generate(name, lang, example)]
        assert not silent, f"{silent} never apply"

    check(lambda name, lang, example: example)
    caught(check, lambda name, lang, example: None if name == "keyboard_proximity" else example)


def test_g9_places_exclude_spaces_and_protected_spans_and_all_means_all():
    def check(generate):
        for seed in range(20):
            made = generate("a b c $xyz$ d", seed)
            assert all(e.source.strip() and not 6 <= e.start < 11 for e in made.edits)
            assert len(made.edits) == 4, "severity 1 takes every place"

    check(lambda text, seed: perturb(text, "keyboard_proximity", "en", seed=seed))

    def faulty(text, seed):
        draw = random.Random(seed)
        return EditedText(text, tuple(Edit(i, i + 1, text[i], "?") for i in sorted(draw.sample(range(len(text)), 4))))

    caught(check, faulty)
    *found, last = perturb("I am", "uppercase", "en", seed=0, severity=0.5, variants=99)
    assert len(found) < 99 and last.reason == f"only {len(found)} of 99 distinct variants were found"


def test_g10_confusions_of_several_letters_happen_in_both_directions():
    wanted = {"burn": "bum", "mat": "rnat", "clay": "day", "day": "clay", "wet": "vvet", "savvy": "sawy"}

    def check(generate):
        for text, misread in wanted.items():
            assert misread in {generate(text, seed) for seed in range(60)}, f"{text} is never read as {misread}"

    check(lambda text, seed: text_of(perturb(text, "ocr_errors", "en", seed=seed, severity=0.1), text))

    def faulty(text, seed):
        table = {"rn": "m", "m": "rn", "cl": "d", "d": "cl", "w": "vv", "vv": "w"}
        return "".join(random.Random(seed).choice(table[c]) if c in table else c for c in text)

    caught(check, faulty)


def test_g11_one_verified_look_alike_is_inserted_never_the_letter_itself():
    from confusable_homoglyphs.confusables import confusables_data

    def check(edits):
        for source, target in edits:
            base, other = unicodedata.normalize("NFD", source)[0], unicodedata.normalize("NFD", target)[0]
            assert len(graphemes(target)) == 1 and target != source, f"{source} became {target!r}"
            assert (base, other) != ("r", "г"), "listed by UTS 39, but told apart in common fonts"
            assert other in {row["c"] for row in confusables_data.get(base, [])}, (
                f"{source} does not look like {target}"
            )

    text = "The quick brown fox jumps over the lazy dog, PACK MY BOX WITH FIVE DOZEN LIQUOR JUGS"
    made = [perturb(text, "homoglyphs", "en", seed=seed) for seed in range(10)]
    check([(e.source, e.target) for m in made for e in m.edits])
    for pair in (("a", "аα"), ("m", "т"), ("n", "п"), ("r", "г"), ("e", "э"), ("a", "a")):
        caught(check, [pair])


def test_g12_diacritics_are_those_of_the_language():
    def harakat_only(before, after):
        added = re.sub("[\u064b-\u0652\u0670]", "", after)
        assert added == before and after != before, f"{after} is not {before} with vowel marks"

    text = "رنگ آسمان"
    harakat_only(text, perturb(text, "optional_diacritics", "fa", seed=0).text)
    caught(lambda after: harakat_only(text, after), text.replace("ن", "ں"))

    def italian(after):
        strange = {c for c in after if unicodedata.normalize("NFD", c) != c} - set("àèéìòùáíóúÀÈÉÌÒÙ")
        assert not strange, f"no Italian writer types {strange}"

    for seed in range(10):
        italian(perturb("La città è così perché può", "plausible_diacritics_errors", "it", seed=seed).text)
    caught(italian, "La cittã è")
    assert "stacked_marks" in perturbations("en")["name"], (
        "any mark on any letter is a style of its own, not a spelling"
    )


def test_g13_invisible_characters_are_chosen_by_name_and_never_at_the_edge():
    def check(after, allowed):
        hidden = {c for c in after if unicodedata.category(c) == "Cf"}
        assert hidden and hidden <= allowed, f"{[unicodedata.name(c) for c in hidden - allowed]} is of another kind"
        assert after[0] not in hidden and after[-1] not in hidden, "strip() would keep or lose it at the edge"

    for lang in languages:
        for seed in range(5):
            check(perturb(skies[lang], "zero_width", lang, seed=seed).text, set(zero_width_characters.values()))
    check(perturb(skies["en"], "bidi_marks", "en", seed=0).text, {"\u200e"})
    caught(lambda after: check(after, set(zero_width_characters.values())), "a\u200eb")
    caught(lambda after: check(after, set(zero_width_characters.values())), "\u200bab")


def test_g14_case_follows_the_language_and_graphemes():
    def check(up, low):
        assert (up("ılık iyi", "tr"), low("ILIK İYİ", "tr")) == ("ILIK İYİ", "ılık iyi")
        assert up("i", "en") == "I" and graphemes(low("İ", "en")) == ["i"]

    check(upper, lower)
    check(
        lambda text, lang: perturb(text, "uppercase", lang, seed=0).text,
        lambda text, lang: perturb(text, "lowercase", lang, seed=0).text,
    )
    caught(lambda faulty: check(*faulty), (lambda text, lang: text.upper(), lambda text, lang: text.lower()))
    flips = perturb("e\u0301te\u0301", "capitalization", "en", seed=0)
    assert all(graphemes(e.target)[0][1:] == graphemes(e.source)[0][1:] for e in flips.edits), "an accent was lost"


def test_g15_styles_keep_spaces_and_the_order_of_words():
    def check(after, gap=" "):
        plain = unicodedata.normalize("NFKC", after).split(gap)
        assert len(plain) == 6, f"the words of {after!r} have run together"
        assert [w.replace(" ", "")[0].casefold() for w in plain] == list("tcotsi"), f"{after!r} has another order"

    for name in (
        "mathematical_bold",
        "fullwidth",
        "double_struck",
        "enclosed",
        "uppercase",
        "strikethrough",
        "hyphenated",
    ):
        check(perturb(skies["en"], name, "en", seed=0).text)
    check(perturb(skies["en"], "spaced", "en", seed=0).text, "   ")
    caught(check, "█".join("Thecolorofthesky"))
    caught(check, skies["en"].replace(" ", ""))
    made = perturb(skies["en"], "capitalization", "en", seed=0, severity=0.2, variants=5)
    assert len({m.text for m in made}) == 5 and all(m.text.casefold() == skies["en"].casefold() for m in made)


def test_g16_the_output_is_plain_text_that_survives_storage(tmp_path):
    def check(after):
        assert not [c for c in after if unicodedata.category(c) == "Cc" and c != "\t"], f"{after!a} holds control codes"
        assert json.loads(json.dumps(after)) == after

    for name, lang in pairs():
        check(text_of(perturb(skies[lang], name, lang, seed=0), skies[lang]))
    caught(check, "\x1b[1mThe color\x1b[0m")
    made = perturb_items(frame(), perturbations("en")["name"].to_list())
    made.write_ndjson(tmp_path / "items.jsonl")
    made.write_parquet(tmp_path / "items.parquet")
    assert pl.read_ndjson(tmp_path / "items.jsonl", schema=made.schema).equals(made)
    assert pl.read_parquet(tmp_path / "items.parquet").equals(made)


def test_g17_contractions_respect_words_and_case():
    def check(contract):
        assert contract("La capitale ha mela, vela e tela", "it") == "La capitale ha mela, vela e tela"
        assert "of the clock" not in contract("It is five o'clock", "en")
        assert contract("The bird cannot fly", "en")[:1] == "T"
        assert contract("IT IS NOT", "en") != "IT isn't"

    check(lambda text, lang: text_of(perturb(text, "contractions", lang, seed=0), text))
    caught(check, lambda text, lang: text.replace("al", "a il").replace("o'clock", "of the clock"))


def test_g18_each_variant_keeps_its_own_name_and_category():
    def check(generate):
        made = generate(frame(), ["letter_repetition", "spaced"])
        assert made["perturbation"].to_list() == ["letter_repetition"] * 2 + ["spaced"] * 2
        assert set(made["category"]) == {"Noise, Social Media"} and set(made["severity"]) == {0.5}
        assert made["item_id"].is_unique().all()

    check(lambda items, names: perturb_items(items, names, variants=2, severity=0.5))
    caught(
        check,
        lambda items, names: perturb_items(items, names, variants=2, severity=0.5).with_columns(
            perturbation=pl.lit("noise")
        ),
    )


def test_g19_what_the_template_undoes_is_refused_and_chinese_is_not_one_word(toy):
    def check(apply):
        assert not isinstance(apply("The sky is"), EditedText), "strip() of the prompt undoes this variant"

    toy(lambda text, lang, rng, severity: [Edit(len(text), len(text), "", "   ")])
    check(lambda text: perturb(text, "toy", "en", seed=0))
    caught(check, lambda text: EditedText(text, (Edit(len(text), len(text), "", "   "),)))

    def several(count):
        assert count(0.2) < count(1.0) and count(1.0) >= 2, "the whole sentence was taken for one word"

    several(lambda severity: len(perturb(skies["zh"], "keyboard_proximity", "zh", seed=0, severity=severity).edits))
    caught(several, lambda severity: len(skies["zh"].split()))


def test_g20_key_maps_are_complete_and_come_from_a_named_source():
    alphabets = {
        "en": "abcdefghijklmnopqrstuvwxyz",
        "it": "abcdefghijklmnopqrstuvwxyzàèìòùé",
        "tr": "abcçdefgğhıijklmnoöprsştuüvyzqwx",
        "fa": "ابپتثجچحخدذرزسشصضطظعغفقکگلمنوهی",
    }

    def check(neighbours):
        for lang, letters in alphabets.items():
            lone = [letter for letter in letters if not neighbours(lang).get(letter)]
            assert not lone, f"{lang}: {lone} have no neighbouring key"

    check(key_neighbours)
    caught(check, lambda lang: {k: v for k, v in key_neighbours(lang).items() if k not in "qwertyuıop"})
    row = manifest().filter(pl.col("name").str.contains("keyboards")).row(0, named=True)
    assert "xkeyboard-config" in row["source"] and row["licence"] and row["made_by"]


def test_g21_inner_punctuation_is_covered_and_errors_reach_the_caller(toy):
    def check(cut):
        assert cut('a well-known "state-of-the-art" book\'s') == ["a", "well-known", "state-of-the-art", "book's"]

    check(lambda text: words(text, "en"))
    caught(check, lambda text: re.findall(r"^\w+|(?<= )\w+(?= )", text))

    def broken(*args):
        raise ZeroDivisionError("in a rule")

    toy(broken)
    with pytest.raises(ZeroDivisionError):
        perturb_items(frame(), "toy")
    code = "from toksuite_nb.perturb import perturb; perturb('a', 'no_such_thing', 'en', seed=0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode != 0 and "no_such_thing" in run.stderr


def test_g22_the_right_option_stays_in_its_place():
    items = load_benchmark("embedded").filter(perturbation="canonical").head(60)

    def check(generate):
        for target in ("question", "choices"):
            made = generate(items, target).filter(pl.col("reason").is_null())
            twins = made.join(items, left_on="canonical_id", right_on="item_id", suffix="_before")
            assert twins.height == made.height > 0 and (twins["answer"] == twins["answer_before"]).all()
            if target == "question":
                assert (twins["choices"] == twins["choices_before"]).all()
            assert (made["choices"].list.n_unique() == made["choices"].list.len()).all()

    check(lambda items, target: perturb_items(items, "strikethrough", target=target))

    def faulty(items, target):
        made = perturb_items(items, "strikethrough", target=target)
        return made.with_columns(
            answer=pl.Series([random.Random(i).randrange(4) for i in range(made.height)], dtype=pl.Int64)
        )

    caught(check, faulty)


def test_g23_all_labels_are_kept_and_the_schema_is_strict():
    def check(generate):
        assert set(generate(frame())["category"]) == {"Noise, Social Media"}, "the second label was lost"

    check(lambda items: perturb_items(items, "uppercase"))
    caught(check, lambda items: items.with_columns(pl.col("category").str.split(",").list.first()))
    with pytest.raises(ValueError, match="'category' is missing"):
        perturb_items(frame().rename({"category": "categories"}), "uppercase")
    with pytest.raises(ValueError, match="'answer' is"):
        check_frame(frame().with_columns(pl.col("answer").cast(pl.String)), item_schema, "test")
    found = audit(frame(item(category="#REF!"), item("302", choices=["red", "red", "green", "black"])))
    assert {"301-4.10", "302"} <= set(found["item_id"].to_list()), "a spreadsheet error or a double option passed"


def test_g24_nothing_is_forced_and_no_console_opens():
    def check(source):
        names = {node.attr if isinstance(node, ast.Attribute) else node.id for node in ast.walk(ast.parse(source))
                 if isinstance(node, (ast.Attribute, ast.Name))}  # fmt: skip
        assert not names & {"interact", "breakpoint", "set_trace", "cuda"}, (
            f"{names & {'interact', 'breakpoint', 'cuda'}}"
        )
        assert not re.search(r"""["'](?:/home/|/Users/|/root/|[A-Z]:\\)""", source), "a personal path"

    for path in sorted((ROOT / "toksuite_nb").glob("*.py")):
        if path.stem in (*GENERATORS, "items", "core", "store"):
            check(path.read_text(encoding="utf-8"))
    caught(check, "import code\ntry:\n    f()\nexcept Exception:\n    code.interact(local=locals())")
    caught(check, "model.cuda()")
    caught(check, "path = '/home/someone/data'")
    scorer = ast.parse((ROOT / "toksuite_nb/score.py").read_text(encoding="utf-8"))
    (score,) = (node for node in scorer.body if isinstance(node, ast.FunctionDef) and node.name == "score")
    assert any("batch" in argument.arg for argument in score.args.kwonlyargs), "the batch must be a parameter"
    assert nested_sample.__module__ == "toksuite_nb.perturb"
