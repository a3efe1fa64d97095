"""Texts and edits over any Unicode text: what the notebooks show on a few sentences must hold on all of them."""

import random

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from toksuite_nb.edits import Edit, EditedText, compose
from toksuite_nb.text import (
    check_text,
    graphemes,
    languages,
    lower,
    normal_form,
    protected_spans,
    scripts,
    upper,
    visible,
    word_spans,
    words,
)

awkward = st.sampled_from(
    [
        "👩‍👩‍👧",
        "🇮🇹",
        "e\u0301",
        "می‌خواهم",
        "\u202eabc\u202c",
        "\r\n",
        "\u200b",
        "İ",
        "首都",
        "क्षि",
        "\u0301",
        "$x^2$",
        " ",
        "🇮",
        "각",
    ]
)
texts = st.lists(st.one_of(awkward, st.text(max_size=4)), max_size=8).map("".join)
any_string = st.text(alphabet=st.characters(), max_size=20)


@st.composite
def edited_texts(draw, source=None):
    source = draw(texts) if source is None else source
    clusters = graphemes(source)
    cuts = sorted(draw(st.lists(st.integers(0, len(clusters)), max_size=8)))
    edits = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=False):
        content, target = "".join(clusters[start:end]), draw(texts)
        if content != target:
            edits.append(Edit(start, end, content, target))
    return EditedText(source, tuple(edits))


@given(edited_texts())
def test_replay_and_undo_are_exact(edited):
    assert EditedText.replay(edited.source, edited.edits) == edited.text
    assert edited.undo() == edited.source, "an edit was put back at a wrong place of the text"
    rows = [
        {"field": "question", "start": e.start, "end": e.end, "source": e.source, "target": e.target}
        for e in edited.edits
    ]
    assert EditedText.replay(edited.source, rows) == edited.text, "rows of an items frame must replay like edits"


@given(edited_texts())
def test_spans_cut_out_what_was_edited(edited):
    source, target = edited.source.encode(), edited.text.encode()
    clusters = graphemes(edited.text)
    for row in edited.spans.iter_rows(named=True):
        assert source[row["start_byte"] : row["end_byte"]].decode() == row["source"]
        assert target[row["target_start_byte"] : row["target_end_byte"]].decode() == row["target"]
        cover = "".join(clusters[row["target_start"] : row["target_end"]])
        assert row["target"] in cover, "the graphemes of the new text do not cover the replacement"


@given(edited_texts())
def test_offset_maps_are_monotone_and_keep_what_was_not_edited(edited):
    sizes = len(edited.source.encode()), len(edited.text.encode())
    for side in ("left", "right"):
        there = [edited.map_offset(byte, side=side) for byte in range(sizes[0] + 1)]
        back = [edited.unmap_offset(byte, side=side) for byte in range(sizes[1] + 1)]
        assert there == sorted(there) and back == sorted(back), (
            f"{side}: a later offset came to lie before an earlier one"
        )
        assert there[0] >= 0 and there[-1] <= sizes[1] and back[0] >= 0 and back[-1] <= sizes[0]
    covered = {byte for row in edited.spans.iter_rows(named=True) for byte in range(row["start_byte"], row["end_byte"])}
    for byte in set(range(sizes[0])) - covered:
        start, end = edited.map_offset(byte, side="right"), edited.map_offset(byte + 1)
        assert edited.source.encode()[byte : byte + 1] == edited.text.encode()[start:end], (
            "an unedited byte was moved onto another"
        )
        assert edited.unmap_offset(start, side="right") == byte and edited.unmap_offset(end) == byte + 1


@given(edited_texts())
def test_whole_token_spans_cover_their_edits(edited):
    for row in edited.spans.iter_rows(named=True):
        assert edited.map_offset(row["start_byte"]) <= row["target_start_byte"]
        assert edited.map_offset(row["end_byte"], side="right") >= row["target_end_byte"]


@given(edited_texts())
def test_distance_along_the_edits_bounds_the_distance_of_the_strings(edited):
    assert Levenshtein.distance(edited.source, edited.text) <= edited.char_distance
    assert Levenshtein.distance(edited.source.encode(), edited.text.encode()) <= edited.byte_distance
    assert (edited.char_distance == 0) == (not edited.edits)


@given(st.data())
def test_edits_of_edits_compose(data):
    first = data.draw(edited_texts())
    second = data.draw(edited_texts(first.text))
    both = compose(first, second)
    assert (both.source, both.text, both.undo()) == (first.source, second.text, first.source)
    assert EditedText.replay(first.source, both.edits) == second.text
    assert both.char_distance <= first.char_distance + second.char_distance
    assert both.byte_distance <= first.byte_distance + second.byte_distance
    sizes = len(first.source.encode()), len(second.text.encode())
    there = [both.map_offset(byte) for byte in range(sizes[0] + 1)]
    assert there == sorted(there) and there[0] >= 0 and there[-1] <= sizes[1]
    touched = {b for row in both.spans.iter_rows(named=True) for b in range(row["start_byte"], row["end_byte"] + 1)}
    for byte in set(range(sizes[0] + 1)) - touched:
        assert both.map_offset(byte) == second.map_offset(first.map_offset(byte)), "an offset takes another way"
        assert both.unmap_offset(both.map_offset(byte)) == byte
    third = data.draw(edited_texts(second.text))
    assert compose(first, second, third).text == compose(first, compose(second, third)).text == third.text
    assert compose(first) == first == compose(first, EditedText(first.text)) == compose(EditedText(first.source), first)


def test_edits_that_do_not_meet_stay_apart():
    first = EditedText("abcdef", (Edit(0, 1, "a", "A"), Edit(2, 2, "", "+"), Edit(4, 5, "e", "")))
    second = EditedText(first.text, (Edit(1, 2, "b", "B"), Edit(3, 4, "c", "C"), Edit(5, 6, "f", "F")))
    both = compose(first, second)
    assert [(e.start, e.end, e.target) for e in both.edits] == [
        (0, 1, "A"),
        (1, 2, "B"),
        (2, 2, "+"),
        (2, 3, "C"),
        (4, 5, ""),
        (5, 6, "F"),
    ], "edits side by side were merged, so a share of them could not be taken"


def test_what_is_not_a_chain_does_not_compose():
    a, b = EditedText("ab", (Edit(0, 1, "a", "x"),)), EditedText("cd")
    with pytest.raises(ValueError) as error:
        compose(a, b)
    assert str(error.value) == (
        "compose: each text must be the source of the next, got 'xb' before 'cd' for texts 0 and 1. Perturb the .text of the one before."
    )
    with pytest.raises(TypeError, match=r"compose: needs one or more EditedText, got EditedText, str\. Leave out what"):
        compose(a, "xb")


@given(texts)
def test_no_edit_is_the_identity(text):
    untouched = EditedText(text)
    assert (untouched.text, untouched.undo(), untouched.char_distance, untouched.spans.height) == (text, text, 0, 0)


@given(any_string)
def test_graphemes_join_to_the_text_even_with_lone_surrogates(text):
    assert "".join(graphemes(text)) == text
    assert isinstance(visible(text), str)


def test_graphemes_agree_with_the_reference_rule():
    draw = random.Random(0)
    alphabet = ["🇮", "🇹", "a", "\u0301", "\u200d", "👩", "\u0600", "\u0903", "\r", "\n", "क", "\u094d", "ᄀ", "ᅡ"]
    for _ in range(5000):
        text = "".join(draw.choices(alphabet, k=draw.randint(1, 9)))
        assert graphemes(text) == regex.findall(r"\X", text), f"the short way for flags differs from \\X on {text!a}"


def test_the_table_of_single_letters_agrees_with_unicode():
    from toksuite_nb.text import _single

    everything = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    single = "".join(regex.findall(_single.pattern.removesuffix("*+"), everything))
    clinging = regex.findall(r"[^\p{GCB=Other}\p{GCB=Control}\p{GCB=LF}]", single)
    assert not clinging, f"{[hex(ord(c)) for c in clinging]} can cling to a neighbour, so the quick way would be wrong"
    assert "".join(graphemes(single)) == single


@given(texts, st.sampled_from(sorted(languages)))
def test_words_stand_where_their_spans_say(text, lang):
    clusters = graphemes(text)
    spans = word_spans(text, lang)
    for word, (start, end) in zip(words(text, lang), spans, strict=True):
        assert 0 <= start < end <= len(clusters) and word in "".join(clusters[start:end])
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    assert sum(scripts(text).values()) == len(clusters)
    assert isinstance(normal_form(text), tuple)
    for span in protected_spans(text):
        assert 0 <= span.start < span.end <= len(clusters)


@given(texts, st.sampled_from(sorted(languages)))
def test_case_is_stable(text, lang):
    assert "i\u0307" not in lower("İ" + text.replace("i\u0307", ""), lang)[:2], "U+0130 was split in two"
    assert upper(upper(text, lang), lang) == upper(text, lang)


@pytest.mark.parametrize(
    "text", ["$5 and $10", "a $ b $ c", "5$-6$7", "me @ home", "ratio a/b", "`open", "{a} and {b}", "a_b", "\\ \\5"]
)
def test_plain_text_is_not_protected(text):
    assert protected_spans(text) == [], f"{text!r} would lose its edits"


@pytest.mark.parametrize(
    ("text", "protected"),
    [
        ("$7 + 7$ is", "$7 + 7$"),
        ("so $$x$$.", "$$x$$"),
        ("a \\(x_1\\) b", "\\(x_1\\)"),
        ("see (www.a.org/b).", "www.a.org/b"),
        ("请看https://a.cn/路。", "https://a.cn/路"),
        ("发到me.x@a.org。", "me.x@a.org"),
        ("run `ls -l` now", "`ls -l`"),
        ("e\u0301 $é$", "$é$"),
        (r"no dollar: \alpha is", r"\alpha "),
        (r"x \mid  x", r"\mid  "),
        (r"of \frac{1}{2} a", r"\frac{1}{2}"),
        (r"of \frac{a_{b_{c}}}{d} e", r"\frac{a_{b_{c}}}{d}"),
        (r"of \text{a \} b} c", r"\text{a \} b}"),
        (r"a \frac{1}{\sqrt{2}}b", r"\frac{1}{\sqrt{2}}"),
        (r"in \begin{align*}a &= b\\ c\end{align*}.", r"\begin{align*}a &= b\\ c\end{align*}"),
        ("if x_{10} is", "x_{10}"),
    ],
)
def test_formulas_code_and_addresses_are_protected_whole(text, protected):
    assert ["".join(graphemes(text)[s.start : s.end]) for s in protected_spans(text)] == [protected]


def test_a_long_text_is_edited_in_linear_time():
    text = "Gökyüzünün rengi 👩‍👩‍👧 首都。" * 5_000
    clusters = graphemes(text)
    edited = EditedText(
        text, tuple(Edit(i, i + 1, clusters[i], clusters[i] + "x") for i in range(0, len(clusters), 10))
    )
    assert edited.undo() == text and len(edited.text) == len(text) + len(edited.edits)
    assert edited.char_distance == len(edited.edits)
    assert edited.unmap_offset(edited.map_offset(len(text.encode()) // 2)) <= len(text.encode())
    flags = "🇮🇹" * 50_000
    assert len(graphemes(flags)) == 50_000


@pytest.mark.parametrize(
    "text",
    [
        "$" * 200_000,
        "a" * 200_000 + "@",
        "\\(a" * 60_000,
        "a.b@" * 50_000,
        "`" * 200_001,
        "www." * 50_000,
        "\\a[" * 50_000,
        "\\a{" * 50_000,
        "\\a " * 50_000,
        "\\a{" * 50_000,
        "_{" * 100_000,
        "\\begin{a}" * 20_000,
    ],
)
def test_hostile_text_is_searched_in_linear_time(text):
    protected_spans(text)
    for lang in languages:
        words(text, lang)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            (Edit(0, 9, "abc", "x"),),
            "EditedText: edits must be sorted, apart, and name what they replace, got Edit(start=0, end=9, source='abc', target='x') outside of the 3 graphemes. Take positions in graphemes",
        ),
        ((Edit(1, 2, "b", "x"), Edit(0, 1, "a", "x")), "before the end of the one before it, at 2"),
        ((Edit(0, 0, "a", "x"),), "where the source has ''"),
        (
            (Edit(0, 1, "a", "\ud83d"),),
            "EditedText: text must have a UTF-8 form, got the lone surrogate U+D83D at character 0",
        ),
    ],
)
def test_edits_that_do_not_fit_are_named(edits, message):
    with pytest.raises(ValueError) as error:
        EditedText("abc", edits)
    assert message in str(error.value)


def test_errors_of_texts_read_as_one_paragraph():
    with pytest.raises(
        ValueError, match=r"^words: lang must be a known language, got 'xx'\. Known are en \(English\), fa \(Farsi\)"
    ):
        words("a", "xx")
    with pytest.raises(
        ValueError,
        match=r"^perturb: text must have a UTF-8 form, got the lone surrogate U\+DC00 at character 1\. Read the source again",
    ):
        check_text("a\udc00", "perturb")


def test_the_place_of_an_edit_covers_the_grapheme_that_it_ends_in():
    # without the space between them, two regional indicators are one flag, and the edit stands within it
    row = EditedText("🇮 🇹", (Edit(1, 2, " ", ""),)).spans.row(0, named=True)
    assert (row["target_start"], row["target_end"], row["target_start_byte"], row["target_end_byte"]) == (0, 1, 4, 4)
    row = EditedText("ab", (Edit(0, 1, "a", "ö"),)).spans.row(0, named=True)
    assert (row["target_start"], row["target_end"], row["target_start_byte"], row["target_end_byte"]) == (0, 1, 0, 2)
