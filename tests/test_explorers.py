"""Charts, token strips and explorers without a browser: set traits, replay what a page would send, read what it would draw."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import altair as alt
import ipywidgets as w
import numpy as np
import polars as pl
import pytest
import regex
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from toksuite_nb.alignment import cut_shift
from toksuite_nb.charts import (
    count_chart,
    drop_chart,
    efficiency_chart,
    embedding_chart,
    gram_chart,
    tokenizer_colours,
)
from toksuite_nb.core import drop_schema, gram_schema, token_schema
from toksuite_nb.edits import Edit, EditedText
from toksuite_nb.explorers import (
    CellGrid,
    EfficiencyExplorer,
    PerturbationExplorer,
    RobustnessExplorer,
    Scene,
    Slider,
    TokenizerExplorer,
    Trial,
    before_after_html,
    edits_html,
    render_scene,
    render_trial,
)
from toksuite_nb.items import make_items
from toksuite_nb.perturb import perturb, perturb_items, perturbations
from toksuite_nb.tokenizer import load_tokenizer, tokenize
from toksuite_nb.tokens import TokenStrip, show_bytes, strip_html, strip_rows, text_direction

HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'",
    "bidi override": "abc\u202edef\u202c \u2067ghi\u2069",
    "combining marks": "a" + "\u0301" * 10_000,
    "nul": "a\x00b",
    "long word": "x" * 5_000,
    "emoji family": "👨‍👩‍👧‍👦 ❤️ 🇮🇹",
    "zero width": "\u200b\u200c\u200d\ufeff\u2060",
    "unassigned": "\U000e0fff\ufdd0\ue000",
    "white space": " \t\n\u3000\u00a0",
    "farsi": "می‌خواهم «کتاب» ۱۲۳",
}
INVISIBLE = regex.compile(r"[\p{Cc}\p{Cf}\p{Cn}\p{Co}\p{Zl}\p{Zp}\p{Zs}--[\x20\u200d]]", regex.V1)


@pytest.fixture(scope="module")
def tokenizers():
    return {"bytes": load_tokenizer("bytes"), "mistral": load_tokenizer("mistral-spm")}


@pytest.fixture
def explorer(tokenizers):
    return TokenizerExplorer(tokenizers, text="the quick brown fox", perturbation="adjacent_swap")


class Parsed(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs), f"an event handler got into the page: {attrs}"

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_stays_text(name, tokenizers):
    text = HOSTILE[name]
    tokens = tokenize([text], tokenizers)
    page = Parsed(strip_html(tokens, text))
    assert set(page.tags) <= {"style", "div", "span", "b", "em"}, "markup of the text became markup of the page"
    for row in strip_rows(tokens, text):
        left = [shown for shown in row["show"] if INVISIBLE.search(shown)]
        assert not left, f"an invisible character was not named: {left[:3]!r}"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.data())
@example("首é", None)
def test_every_cut_of_a_text_can_be_shown_and_loses_no_byte(text, data):
    size = len(text.encode())
    cuts = sorted(data.draw(st.sets(st.integers(0, size), max_size=8)) if data else {1, 4}) if size else []
    edges = [0, *(c for c in cuts if 0 < c < size), size]
    for a, b in pairwise(edges):
        shown = show_bytes(text.encode()[a:b])
        assert (shown == "") == (a == b)
        assert "\ufffd" not in shown or "\ufffd" in text, "bytes of a split character must be shown in hexadecimal"


def test_a_split_character_is_drawn_as_its_bytes(tokenizers):
    rows = strip_rows(tokenize(["首"], {"bytes": tokenizers["bytes"]}), "首")
    assert rows[0]["show"] == ["⟨E9⟩", "⟨A6⟩", "⟨96⟩"]
    assert rows[0]["kind"] == "ppp"


def test_joined_letters_keep_their_form_and_their_bytes(tokenizers):
    text = "کتاب"
    (row,) = strip_rows(tokenize([text], {"mistral": tokenizers["mistral"]}), text)
    plain = "".join(shown.replace("\u200d", "") for shown in row["show"] if not shown.startswith("⟨+"))
    assert plain == text
    assert row["show"][-1].startswith("ب") or "\u200d" in row["show"][-2], (
        "alef does not join onwards, the letters before it do"
    )


def test_state_is_json_and_needs_no_network(tokenizers):
    text = "naïve 首 🙂"
    strip = TokenStrip(tokenize([text], tokenizers), text)
    state = strip.get_state()
    json.dumps({key: state[key] for key in ("text", "heads", "marks", "notes", "direction", "selection")})
    assert isinstance(state["numbers"], bytes)
    assert not re.search(r"https?://|import\s*\(|^import ", state["_esm"], re.MULTILINE), "the module must load nothing"
    assert "innerHTML" not in state["_esm"], "text may only be set through textContent"


def test_selection_goes_both_ways(tokenizers):
    text = "to be"
    strip = TokenStrip(tokenize([text], tokenizers), text)
    strip.set_state({"selection": [3, 5]})
    assert strip.selection == [3, 5]
    picked = strip.data().filter("selected")
    assert picked.filter(pl.col("tokenizer") == "bytes")["bytes"].to_list() == [b"b", b"e"]
    strip.selection = []
    assert not strip.data()["selected"].any()


def test_selection_outside_of_the_text_is_refused(tokenizers):
    strip = TokenStrip(tokenize(["to be"], tokenizers), "to be")
    for wrong in ([0, 6], [-1, 2], [3, 2], [1]):
        with pytest.raises(
            ValueError, match=r"must be a byte span \(start, end\) with 0 <= start <= end <= 5, or empty"
        ):
            strip.selection = wrong


def test_a_new_text_clears_the_selection(tokenizers):
    strip = TokenStrip(tokenize(["to be"], tokenizers), "to be")
    strip.selection = [3, 5]
    strip.show(tokenize(["a"], tokenizers), "a")
    assert strip.selection == []


def test_tokens_of_another_text_are_refused(tokenizers):
    with pytest.raises(ValueError, match="Pass the text that was tokenized"):
        TokenStrip(tokenize(["a longer text"], tokenizers), "short")
    with pytest.raises(ValueError, match="Filter the frame to one text_id"):
        TokenStrip(tokenize(["a", "b"], tokenizers), "a")


def test_direction_is_that_of_the_first_strong_character():
    assert [text_direction(t) for t in ("سلام hello", "hello سلام", "12 سلام", "", "首")] == [
        "rtl",
        "ltr",
        "rtl",
        "ltr",
        "ltr",
    ]


def test_what_is_sent_to_the_page_is_what_the_rows_say(tokenizers):
    text = "naïve 首 ﷽ 🙂 naïve"
    strip = TokenStrip(tokenize([text], tokenizers), text, marks={"bytes": {0: "touched", 3: "moved"}})
    numbers = np.frombuffer(strip.numbers, dtype="<i4").tolist()
    for head, letters, row in zip(strip.heads, strip.marks, strip.rows, strict=True):
        n = head["n"]
        columns, numbers = [numbers[k * n : (k + 1) * n] for k in range(4)], numbers[4 * n :]
        assert columns[:3] == [row["id"], row["start"], row["end"]]
        assert [head["words"][k] for k in columns[3]] == row["show"]
        marked = {str(k): {"t": "touched", "m": "moved"}[m] for k, m in enumerate(letters) if m != " "}
        assert (marked, head["kind"], head["bytes"]) == (row["mark"], row["kind"], row["bytes"])
    assert not numbers


def test_marks_can_follow_their_tokens(tokenizers):
    text = "naïve"
    strip = TokenStrip(tokenize([text], tokenizers), text, marks={"bytes": {0: "touched"}})
    tokens, numbers = strip.tokens, strip.numbers
    strip.show(tokens, text, later=True)
    assert strip.marks == []
    strip.mark({"bytes": {1: "moved"}}, {"bytes": "six"})
    assert (strip.marks[0], strip.notes[0]) == (" m    ", "six")
    assert strip.numbers == numbers
    assert strip.rows[0]["mark"] == {"1": "moved"}


def test_a_long_text_takes_linear_time_and_space(tokenizers):
    import time

    def seconds(n):
        text = ("The quick brown fox, naïve. " * 2000)[:n]
        tokens = tokenize([text], {"bytes": tokenizers["bytes"]})
        start = time.perf_counter()
        rows = strip_rows(tokens, text)
        return time.perf_counter() - start, len(json.dumps(rows, ensure_ascii=False))

    seconds(1_000)
    (short, small), (long, large) = (min(seconds(n) for _ in range(3)) for n in (4_000, 40_000))
    assert large < 12 * small
    assert long < 60 * short + 0.2, f"10 times the text took {long / short:.0f} times as long"


def test_a_static_page_is_cut_and_says_so(tokenizers):
    text = "word " * 1000
    page = strip_html(tokenize([text], {"bytes": tokenizers["bytes"]}), text, limit=10)
    assert page.count('role="option"') == 0
    assert "and 4,990 more" in page


# explorers


def test_typing_changes_the_strips(explorer):
    explorer.text.set_state({"value": "to be"})
    assert explorer.strip.text == "to be"
    assert [len(row["show"]) for row in explorer.strip.rows] == explorer.data().filter(pl.col("text") == "as written")[
        "n_tokens"
    ].to_list()


def test_a_picked_perturbation_and_severity_change_the_text_below(explorer):
    names = [name for name, _ in explorer.perturbation.options]
    explorer.perturbation.set_state({"index": names.index("uppercase")})
    assert explorer.seen.edited.text == "THE QUICK BROWN FOX"
    explorer.severity.set_state({"value": 0.0})
    assert explorer.seen.edited.text == "the quick brown fox"
    assert explorer.data()["touched"].sum() == 0


def test_the_seed_decides_the_perturbation(explorer):
    explorer.perturbation.value = "keyboard_proximity"
    texts = []
    for seed in (0, 1, 0):
        explorer.seed.set_state({"value": seed})
        texts.append(explorer.seen.edited.text)
    assert texts[0] == texts[2] != texts[1]


def test_language_brings_its_own_perturbations_and_example(tokenizers):
    explorer = TokenizerExplorer(tokenizers)
    codes = [code for _, code in explorer.lang.options]
    explorer.lang.set_state({"index": codes.index("fa")})
    assert explorer.strip.direction == "rtl"
    assert [name for _, name in explorer.perturbation.options] == [None, *perturbations("fa")["name"]]
    explorer.text.value = "متن من"
    explorer.lang.set_state({"index": codes.index("en")})
    assert explorer.text.value == "متن من", "a text that the user typed must survive a change of language"


def test_kept_touched_and_moved_add_up(explorer):
    for row in explorer.data().rows(named=True):
        assert row["kept"] + row["touched"] + row["moved"] == row["n_tokens"]
    assert explorer.data()["touched"].sum() > 0


def test_selections_are_linked_through_the_edits(tokenizers):
    explorer = TokenizerExplorer(tokenizers, text="three fox", perturbation="spelled_out")
    explorer.text.value = "in 25 days"
    edited = explorer.seen.edited
    assert edited is not None
    explorer.strip.selection = [6, 10]
    start, end = explorer.strip_after.selection
    assert edited.text.encode()[start:end] == b"days"
    explorer.strip_after.selection = [start, end - 1]
    assert explorer.strip.selection == [6, 9]


@pytest.mark.parametrize(
    ("text", "perturbation", "said"),
    [
        ("", None, "An empty text has no tokens. Type a sentence"),
        ("123", "uppercase", "uppercase is not applicable: no lower-case letter"),
        ("a\ud800b", None, "lone surrogate U+D800"),
    ],
)
def test_what_cannot_be_shown_is_said_in_the_view(explorer, text, perturbation, said):
    explorer.perturbation.value = perturbation
    explorer.text.value = text
    assert said in explorer.message.value
    assert said in repr(explorer)
    assert "Traceback" not in explorer.message.value


def test_a_tokenizer_that_breaks_is_named_in_the_view(explorer, monkeypatch):
    def broken(texts):
        raise RuntimeError("out of order <b>")

    monkeypatch.setattr(explorer.tokenizers["bytes"], "cuts", broken)
    explorer.text.value = "again"
    assert "RuntimeError: out of order &lt;b&gt;" in explorer.message.value


@pytest.mark.parametrize("name", HOSTILE)
def test_the_explorer_survives_hostile_text(name, explorer):
    explorer.perturbation.value = "zero_width"
    explorer.text.set_state({"value": HOSTILE[name]})
    page = Parsed(explorer._repr_mimebundle_()["text/html"])
    allowed = {"style", "div", "span", "b", "em", "bdi", "del", "ins", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(page.tags) <= allowed
    shown = explorer.data()
    assert shown.filter(pl.col("text") == "as written").height == 2, explorer.message.value


def test_rendering_is_pure(tokenizers):
    scene = Scene("the quick brown fox", "en", "keyboard_proximity", 0.5, 3)
    first, second = render_scene(scene, tokenizers), render_scene(scene, tokenizers)
    assert first.counts.equals(second.counts)
    assert first.tokens.equals(second.tokens)
    assert first.edited.text == second.edited.text


def test_edits_are_escaped():
    page = edits_html(perturb("<i>quick</i> fox", "character_deletion", "en", seed=0))
    assert "<i>" not in page
    assert "<del>" in page


def test_a_repr_without_widgets_says_what_is_seen(explorer):
    bundle = explorer._repr_mimebundle_()
    assert "as written, bytes: 19 tokens" in bundle["text/plain"]
    assert "tks-t" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_wrong_arguments_are_explained(tokenizers):
    with pytest.raises(ValueError, match="needs at least one tokenizer, got none"):
        TokenizerExplorer({})
    with pytest.raises(ValueError, match="TokenizerExplorer: tokenizer names must be distinct"):
        TokenizerExplorer(["bytes", "bytes"])
    with pytest.raises(KeyError, match="lang must be a known language, got 'xx'"):
        TokenizerExplorer(tokenizers, lang="xx")
    with pytest.raises(ValueError, match="perturbation must be one for English, got 'nonsense'"):
        TokenizerExplorer(tokenizers, perturbation="nonsense")


# what a perturbation does


@pytest.fixture
def perturber(tokenizers):
    return PerturbationExplorer(tokenizers, text="the quick brown fox", perturbation="adjacent_swap")


def test_what_is_shown_is_what_perturb_and_perturb_items_give(tokenizers):
    trial = Trial("Is it Tokyo or not?", "en", "keyboard_proximity", 0.4, 3)
    alone = perturb(trial.text, trial.perturbation, "en", seed=3, item_id="explorer", severity=0.4)
    assert render_trial(trial, tokenizers).fields == {"question": alone}
    options = ("Tokyo tower", "Kyoto station")
    item = make_items(
        [{"item_id": "explorer", "question": trial.text, "choices": list(options), "answer": 1, "lang": "en"}]
    )
    for target in ("question", "choices", "both"):
        (row,) = perturb_items(item, "keyboard_proximity", seed=3, severity=0.4, target=target).to_dicts()
        fields = render_trial(Trial(trial.text, "en", trial.perturbation, 0.4, 3, options, target), tokenizers).fields
        assert [edited.text for edited in fields.values()] == [row["question"], *row["choices"]]


def test_sliding_changes_the_distance_and_zero_is_the_identity(perturber):
    distances = []
    for severity in (0.0, 0.3, 1.0):
        perturber.severity.set_state({"value": severity})
        distances.append(perturber.data()["char_distance"][0])
        assert perturber.seen.fields["question"].undo() == "the quick brown fox"
    assert distances[0] == 0 < distances[1] < distances[2]


def test_what_cannot_be_perturbed_is_said_and_null(perturber):
    perturber.text.set_state({"value": "12"})
    assert "adjacent_swap is not applicable" in perturber.message.value
    assert perturber.data().select("after", "n_edits", "n_target").row(0) == (None, None, None)
    assert perturber.after.layout.display == "none"
    perturber.text.set_state({"value": ""})
    assert "An empty text cannot be perturbed" in perturber.message.value
    assert "not applicable" not in repr(perturber)


def test_a_target_without_options_is_explained(perturber):
    perturber.target.value = "choices"
    assert "there are no options, and the target is choices" in perturber.message.value
    perturber.options.value = "yes please\n\nno thanks"
    assert [name for _, name in perturber.field.options] == ["question", "choices[0]", "choices[1]"]
    perturber.field.value = "choices[1]"
    assert perturber.strip.text == "no thanks"
    perturber.options.value = "yes please\n"
    assert perturber.field.value == "question", "a field that is gone must not stay chosen"
    assert "2 or more" in perturber.message.value or "two or more" in perturber.message.value


def test_language_and_family_offer_what_serves_them(perturber):
    perturber.family.value = "styling"
    offered = [name for _, name in perturber.perturbation.options]
    assert set(offered) == set(perturbations("en").filter(category="styling")["name"])
    assert perturber.perturbation.value in offered
    perturber.lang.value = "fa"
    assert [name for _, name in perturber.perturbation.options] == perturbations("fa")["name"].to_list()
    assert perturber.strip.direction == "ltr", "a text that the user typed must survive a change of language"


@pytest.mark.parametrize("name", HOSTILE)
def test_the_perturbation_explorer_survives_hostile_text(name, perturber):
    perturber.perturbation.value = "zero_width"
    perturber.text.set_state({"value": HOSTILE[name]})
    page = Parsed(perturber._repr_mimebundle_()["text/html"])
    allowed = {"style", "div", "span", "b", "em", "bdi", "del", "ins", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(page.tags) <= allowed
    assert perturber.seen.tokens.height, perturber.message.value


def test_selections_of_the_perturbation_explorer_are_linked(perturber):
    perturber.perturbation.value = "uppercase"
    perturber.strip.selection = [4, 9]
    assert perturber.strip_after.selection == [4, 9]


def test_every_edit_is_marked_in_both_lines_without_colour():
    edited = EditedText("abcd", (Edit(0, 1, "a", "x"), Edit(2, 3, "c", ""), Edit(4, 4, "", "<e>")))
    page = before_after_html(edited)
    before, after = page.split("after</span>")
    assert (before.count("<del>"), before.count("tks-caret")) == (2, 1)
    assert (after.count("<ins>"), after.count("tks-caret")) == (2, 1)
    assert "<e>" not in page
    many = EditedText("ab" * 2000, tuple(Edit(k, k + 1, "a", "x") for k in range(0, 4000, 2)))
    assert "and 1,699 more edits" in before_after_html(many)


# charts


def drop_rows(**changes):
    row = {
        "model": "m", "tokenizer": "bpe", "perturbation": "fullwidth", "lang": "en", "norm": "char", "n": 50, "n_sets": 50, "canonical": 0.9, "perturbed": 0.4,
        "drop": 0.5, "relative_drop": 0.55, "chance_corrected": 0.7, "lost": 26, "gained": 1, "p": 0.0001, "p_adjusted": 0.001, "low": 0.4, "high": 0.7, "mde": 0.2,
    }  # fmt: skip
    return pl.DataFrame([row | changes], schema={c.name: c.dtype for c in drop_schema.columns})


def svg(chart):
    import io

    sink = io.StringIO()
    chart.save(sink, format="svg")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "55%"),
        ({"p_adjusted": 0.2}, "(55%)"),
        ({"mde": None}, "(55%)"),
        ({"relative_drop": None}, "–"),
        ({"relative_drop": -0.1}, "-10%"),
    ],
)
def test_a_cell_says_what_it_is_without_its_colour(changes, label):
    assert f">{label}<" in svg(drop_chart(drop_rows(**changes)))


def test_zero_is_the_middle_of_the_scale():
    spec = drop_chart(drop_rows()).to_dict()
    scale = next(
        layer["encoding"]["color"] for layer in spec["spec"]["layer"] if "scale" in layer["encoding"]["color"]
    )["scale"]
    assert scale["domain"][0] == -scale["domain"][1]
    assert scale["domainMid"] == 0


def test_the_chart_shows_the_frame_and_not_a_constant():
    assert ">55%<" in svg(drop_chart(drop_rows()))
    assert ">12%<" in svg(drop_chart(drop_rows(relative_drop=0.12)))


def test_two_numbers_for_a_cell_are_refused():
    with pytest.raises(ValueError, match="Filter the frame to one value of norm"):
        drop_chart(pl.concat([drop_rows(), drop_rows(norm="sum")]))
    with pytest.raises(ValueError, match="needs at least one row"):
        drop_chart(drop_rows().clear())


def test_a_tokenizer_keeps_its_colour():
    names = ["bpe", "mine", "bytes", "yours"]
    every = tokenizer_colours(names)
    assert all(tokenizer_colours([name])[name] == every[name] for name in names if name not in ("mine", "yours"))
    assert len(set(every.values())) == len(names)


def test_charts_of_empty_or_null_frames_do_not_fail_silently():
    with pytest.raises(ValueError, match="at least one pair"):
        gram_chart(gram_schema.empty())
    nulls = pl.DataFrame({"i": [0], "j": [0], "layer": ["all"], "dot": [0.0], "cosine": [None]}).cast(
        {"cosine": pl.Float64}
    )
    assert svg(gram_chart(nulls))
    assert svg(count_chart(token_schema.empty()))


def test_rows_of_embeddings_are_drawn_from_the_smallest_value_and_thinned_but_for_the_unused():
    n, unused = 50_000, [7, 31_007, 49_998]
    value = np.random.default_rng(0).permutation(n).astype(float)
    pieces = [b"a\n", b"\xe6\x9c", None] + [b"x"] * (n - 3)
    ranks = pl.DataFrame({"tokenizer": "t", "id": range(n), "bytes": pieces, "side": "input", "norm": value})
    ranks = ranks.with_columns(reference=pl.col("id").is_in(unused))
    shown = embedding_chart(ranks, measure="norm").data
    assert shown.height < 600 and set(shown.filter("reference")["id"]) == set(unused)
    assert shown["place"].is_sorted() and (shown["norm"] == shown["place"] - 1).all(), "the k-th smallest at place k"
    assert {1, 2, 3, n} <= set(shown["place"])
    few = embedding_chart(ranks.head(3).with_columns(norm=pl.Series([1.0, None, 0.0])), measure="norm").data
    assert few.select("place", "id", "token").rows() == [(1, 2, "no token"), (2, 0, "a⟨LF⟩")]
    assert embedding_chart(ranks.slice(1, 1), measure="norm").data["token"].to_list() == ["E6 9C"]
    for wrong, measure in ((ranks, "distance"), (ranks.clear(), "norm"), (ranks.with_columns(norm=pl.lit(None, pl.Float64)), "norm")):  # fmt: skip
        with pytest.raises(ValueError, match="with at least one number in"):
            embedding_chart(wrong, measure=measure)


def test_the_budget_axis_is_log2():
    outlook = pl.DataFrame(
        {"n": [0, 50, 5000], "expected": [0.5, 0.7, 0.9], "low": [0.5, 0.6, 0.8], "high": [0.5, 0.8, 0.95]}
    )
    spec = efficiency_chart(outlook, target=0.8).to_dict()
    scales = [
        layer["encoding"]["x"]["scale"] for layer in spec["layer"] if "scale" in layer.get("encoding", {}).get("x", {})
    ]
    assert scales
    assert all(scale["type"] == "log" and scale["base"] == 2 for scale in scales)


def test_robustness_explorer_filters():
    explorer = RobustnessExplorer(
        pl.concat([drop_rows(lang=lang, norm=norm) for lang in ("en", "fa") for norm in ("char", "sum")])
    )
    assert explorer.data().height == 2
    explorer.lang.set_state({"index": 2})
    assert explorer.data()["lang"].to_list() == ["fa"]
    explorer.norm.set_state({"index": 1})
    assert explorer.data()["norm"].to_list() == ["sum"]


@pytest.fixture
def opened(tokenizers):
    asked = make_items(
        [
            {
                "item_id": f"q{k}",
                "question": question,
                "choices": ["blue", "<b>green</b> field"],
                "answer": 0,
                "lang": "en",
            }
            for k, question in enumerate(("the sky is", "the \u202e sea <script>alert(1)</script> is", "snow is not"))
        ]
    )
    items = pl.concat([asked, perturb_items(asked, "uppercase", seed=0)])
    made = items.filter(pl.col("perturbation") == "uppercase")["item_id"].to_list()
    right = dict(zip([*asked["item_id"], *made], (1, 0, 1, 0, 1, 1), strict=True))
    about = {"model": "m", "tokenizer": "bytes", "rule": "exact", "boundary": "clean"}
    scores = [
        about
        | {
            "item_id": name,
            "choice": k,
            "loglikelihood": -8.0 * (k + 1),
            "n_tokens": 4 * (k + 1),
            "n_chars": 4,
            "n_bytes": 4,
        }
        for name in right
        for k in (0, 1)
    ]
    judged = [
        {
            "model": "m",
            "tokenizer": "bytes",
            "item_id": name,
            "norm": "char",
            "prediction": 1 - ok,
            "correct": float(ok),
            "margin": 0.0,
            "tie": False,
        }
        for name, ok in right.items()
    ]
    cells = drop_rows(tokenizer="bytes", perturbation="uppercase")
    return RobustnessExplorer(
        pl.concat([cells, drop_rows(tokenizer="bytes", perturbation="fullwidth")]),
        items=items,
        scores=pl.DataFrame(scores),
        verdicts=pl.DataFrame(judged),
        tokenizers={"bytes": tokenizers["bytes"]},
    )


def test_a_picked_cell_opens_what_is_behind_it(opened):
    assert opened.picked.is_empty()
    assert opened.behind.layout.display == "none"
    opened.grid.set_state({"picked": [0, 0, 0]})
    assert opened.picked["perturbation"].to_list() == ["uppercase"]
    assert opened.pairs()["change"].to_list() == ["lost", "gained", "same"]
    assert [label for label, _ in opened.which.options] == ["lost (1)", "gained (1)", "all (3)"]
    assert (opened.strip.text, opened.strip_after.text) == ("the sky is", "THE SKY IS")
    marks = "".join(opened.strip_after.marks)
    assert set(marks) == {"t", " "}, "every capital letter is touched, and no space"
    choices = opened.choices()
    assert choices["per_unit_after"].to_list() == [-2.0, -4.0]
    assert choices["loglikelihood_before"].to_list() == [-8.0, -16.0]
    opened.cut_of.value = "choices[1]"
    assert opened.strip.text == "<b>green</b> field"
    opened.which.value = "gained"
    assert opened.strip.text == "<b>green</b> field", "the field that is looked at stays while one goes through items"
    opened.cut_of.value = "question"
    assert opened.strip.text.startswith("the \u202e sea")
    assert "<script>" not in opened.case.value
    assert "⟨RLO⟩" in opened.case.value
    opened.grid.set_state({"picked": [0, 0, 1]})
    assert opened.pairs().is_empty()
    assert "no such items" in opened.case.value
    opened.grid.picked = []
    assert opened.behind.layout.display == "none"


def test_a_cell_stays_picked_where_it_still_is(opened):
    opened.pick("bytes", "fullwidth", "en")
    opened.value.value = "drop"
    assert opened.picked["perturbation"].to_list() == ["fullwidth"]


def test_a_cell_names_its_evidence_in_words():
    explorer = RobustnessExplorer(drop_rows(p_adjusted=0.2))
    (cell,) = explorer.grid.blocks[0]["cells"][0]
    assert cell[0] == "(55%)"
    for part in (
        "95 % interval",
        "26 lost and 1 gained of n = 50 items",
        "p = 0.2 after Holm's correction",
        "0.200 is the smallest drop",
    ):
        assert part in cell[3]
    explorer.pick("bpe", "fullwidth", "en")
    assert "26 lost" in repr(explorer)


def test_a_cell_is_set_beside_the_published_fourteen():
    from toksuite_nb.robustness import published_accuracies, task_drops

    explorer = RobustnessExplorer(drop_rows(perturbation="homoglyphs"), published=task_drops(published_accuracies()))
    explorer.pick("bpe", "homoglyphs", "en")
    assert explorer.detail.value.count('<th scope="row">') == 14
    assert "toksuite_english_homoglyphs" in explorer.detail.value


def test_a_grid_refuses_what_it_does_not_show():
    grid = CellGrid(blocks=[{"title": "", "rows": ["a"], "columns": ["b"], "cells": [[["1", "#fff", "#000", ""]]]}])
    for wrong in ([0, 0, 1], [0, 0], [-1, 0, 0], [1, 0, 0]):
        with pytest.raises(ValueError, match="must be the block, row and column"):
            grid.picked = wrong
    with pytest.raises(ValueError, match="belong together, got 1 of the three"):
        RobustnessExplorer(
            drop_rows(),
            items=make_items([{"item_id": "a", "question": "q", "choices": ["a", "b"], "answer": 0, "lang": "en"}]),
        )


@given(st.floats(-1, 1), st.booleans())
def test_ink_is_legible_on_every_tint(share, pale):
    from toksuite_nb.explorers import _tint

    def light(colour):
        channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        return sum(
            w * (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4)
            for w, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True)
        )

    a, b = sorted(light(colour) for colour in _tint(share, pale))
    assert (b + 0.05) / (a + 0.05) >= 4.5


def test_cosines_are_shown_layer_by_layer():
    values = {"all": [0.9, -0.1, None], "layers.0": [0.5, 0.4, 0.3]}
    rows = [
        {"i": i, "j": j, "layer": layer, "dot": 1.0, "cosine": cosine}
        for layer, cosines in values.items()
        for (i, j), cosine in zip(((0, 1), (0, 2), (1, 2)), cosines, strict=True)
    ]
    explorer = EfficiencyExplorer(
        auc=0.8, zero_shot=0.5, ceiling=0.9, gram=pl.DataFrame(rows), examples=["<i>one</i>", "two", "three"]
    )
    assert explorer.grid.blocks[0]["cells"][0][1][0] == explorer.grid.blocks[0]["cells"][1][0][0] == "0.90"
    assert explorer.grid.blocks[0]["cells"][1][2][0] == "–"
    assert explorer.agreement().select("example", "agreement", "nearest").rows() == [
        (1, 0.9, 0),
        (0, 0.4, 1),
        (2, -0.1, 0),
    ]
    explorer.grid.set_state({"picked": [0, 0, 2]})
    assert "cosine -0.100" in explorer.pair.value
    assert "<i>" not in explorer.pair.value
    explorer.layer.set_state({"index": 1})
    assert explorer.grid.picked == []
    assert explorer.grid.blocks[0]["cells"][1][2][0] == "0.30"
    with pytest.raises(ValueError, match="at least one pair of examples"):
        EfficiencyExplorer(auc=0.8, zero_shot=0.5, ceiling=0.9, gram=gram_schema.empty())


def test_tokenizers_come_and_go_by_name(explorer):
    explorer.more.value = "tekken"
    explorer.more_button.click()
    assert [row["name"] for row in explorer.strip.rows] == ["bytes", "mistral", "tekken"]
    assert explorer.more.value == ""
    explorer.more.value = "no/such-tokenizer"
    explorer.more_button.click()
    assert "no/such-tokenizer" in explorer.message.value
    assert "Traceback" not in explorer.message.value
    explorer.less.set_state({"index": 1})
    assert list(explorer.tokenizers) == ["mistral", "tekken"]
    explorer.remove("tekken")
    explorer.less.set_state({"index": 1})
    assert "The last tokenizer stays" in explorer.message.value


def test_findings_and_overlap_are_worked_out_when_asked_for(explorer):
    assert not explorer._cards
    explorer.beside.set_state({"index": 1})
    assert explorer.table.value.count("<tr>") - 1 == explorer.cards().filter(tokenizer="bytes").height
    explorer.text.value = "another text"
    assert "tks-findings" in explorer.table.value, "what was chosen stays while one types"
    explorer.beside.set_state({"index": 2})
    assert "256 tokens" in explorer.table.value
    assert explorer.overlap().height == 4
    explorer.beside.set_state({"index": 0})
    assert "another text" not in explorer.table.value
    assert "tks-counts" in explorer.table.value


@pytest.mark.parametrize("lang", ["en", "fa", "tr", "zh"])
def test_moved_tokens_are_those_of_cut_shift(lang, tokenizers):
    text = {
        "en": "The quick brown fox, naïve \U0001f600 ﬁ 25 dollars, it isn't.", "fa": "روباه قهوه‌ای برای یک فنجان چای ۲۵ تومان داد.",
        "tr": "Hızlı tilki bir fincan kahve için 25 lira ödedi, çünkü üşüyordu.", "zh": "敏捷的狐狸花了25元买了一杯咖啡。",
    }[lang]  # fmt: skip
    for name in perturbations(lang)["name"]:
        seen = render_scene(Scene(text, lang, name, 0.7, 1), tokenizers)
        if seen.edited is None:
            continue
        for which, side in (("as written", "source"), ("perturbed", "target")):
            for known, tokenizer in tokenizers.items():
                shift = cut_shift(seen.edited, tokenizer)
                moved = shift.tokens.filter((pl.col("side") == side) & (pl.col("status") != "kept"))
                assert seen.marks[which][known] == dict(moved.select("i", "status").iter_rows()), (name, known, side)
                row = seen.counts.filter(text=which, tokenizer=known).row(0, named=True)
                assert row["boundary_jaccard"] == shift.boundaries.jaccard, (name, known)
        tried = render_trial(Trial(text, lang, name, 0.7, 1), tokenizers)
        summaries = [
            cut_shift(tried.fields["question"], tokenizer).summary.with_columns(tokenizer=pl.lit(known))
            for known, tokenizer in tokenizers.items()
        ]
        assert tried.cuts.sort("tokenizer").equals(pl.concat(summaries).sort("tokenizer")), name


def test_efficiency_explorer_moves_its_target():
    explorer = EfficiencyExplorer(auc=0.8, zero_shot=0.5, ceiling=0.9)
    explorer.target.set_state({"value": 0.7})
    few = explorer.needed.expected
    explorer.target.set_state({"value": 0.85})
    assert explorer.needed.expected > few
    assert f"{explorer.needed.expected:,} labelled examples" in explorer.answer.value
    explorer.target.set_state({"value": 0.95})
    assert "not reachable" in explorer.answer.value
    assert alt.JupyterChart._is_offline


ODD_TEXTS = (
    "",
    "é",
    "the sky is blue",
    "رنگ آسمان چیست",
    "天空的颜色",
    "a\u202eb\u200b" + "\u0301" * 40,
    "1999 + 2 = $x$",
    "👩‍👩‍👧‍👦 <b>",
)


def controls(explorer):
    "What a person can move, by name."
    kinds = (w.Dropdown, w.Textarea, w.BoundedIntText, w.ToggleButtons, Slider)
    return {name: part for name, part in vars(explorer).items() if isinstance(part, kinds)}


def move(control, draw):
    "As the page does: a choice by its place, a number between the ends, a text."
    if isinstance(control, w.Dropdown | w.ToggleButtons):
        if control.options:
            control.set_state({"index": draw(st.integers(0, len(control.options) - 1))})
    elif isinstance(control, w.Textarea):
        control.set_state({"value": draw(st.sampled_from(ODD_TEXTS))})
    elif isinstance(control, w.BoundedIntText):
        control.set_state({"value": draw(st.integers(0, 3))})
    else:
        share = draw(st.sampled_from((0.0, 0.3, 1.0)))
        control.set_state({"value": control.min + share * (control.max - control.min)})


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.parametrize("kind", ["tokenizer", "perturbation", "robustness", "efficiency"])
def test_no_way_through_the_controls_breaks_an_explorer(kind, tokenizers, opened, data):
    "Any order of moves: every box shows its choice, and what Python reads agrees with what is drawn."
    two = {name: tokenizers[name] for name in list(tokenizers)[:2]}
    if kind == "robustness":
        explorer = RobustnessExplorer(
            pl.concat([opened.drops, *(drop_rows(tokenizer="bytes", perturbation=p, lang="fa", norm=n) for p in ("uppercase", "zero_width") for n in ("char", "sum"))]),
            items=opened.items, scores=opened.scores, verdicts=opened.verdicts, tokenizers=opened.tokenizers,
        )  # fmt: skip
    else:
        explorer = {
            "tokenizer": lambda: TokenizerExplorer(two),
            "perturbation": lambda: PerturbationExplorer(two),
            "efficiency": lambda: EfficiencyExplorer(auc=0.8, zero_shot=0.5, ceiling=0.9, gram=pl.DataFrame({"i": [0, 0, 1], "j": [0, 1, 1], "layer": "all", "dot": 1.0, "cosine": [1.0, 0.5, 1.0]})),
        }[kind]()  # fmt: skip
    names = sorted(controls(explorer))
    for _ in range(data.draw(st.integers(1, 8))):
        name = data.draw(st.sampled_from([*names, "a cell"] if kind == "robustness" else names))
        if name == "a cell":
            cells = [[b, r, c] for b, block in enumerate(explorer.grid.blocks) for r, row in enumerate(block["cells"]) for c, cell in enumerate(row) if cell[2]]  # fmt: skip
            explorer.grid.set_state({"picked": data.draw(st.sampled_from([*cells, []]))})
            explorer.pairs(), explorer.choices()
        else:
            move(controls(explorer)[name], data.draw)
        for part, control in controls(explorer).items():
            if isinstance(control, w.Dropdown) and control.options:
                assert control.index is not None, f"the box of {part} is empty after {name}"
        assert explorer.data() is not None and repr(explorer)
        if kind == "robustness":
            assert {block["lang"] for block in explorer.grid.blocks} == set(explorer.data()["lang"])
            assert explorer.picked.height == bool(explorer.grid.picked)
    assert explorer._repr_mimebundle_()


def test_one_option_is_no_choice_and_the_text_stays(perturber):
    perturber.options.value = "yes please"
    assert perturber.message.value.count("One option is no choice. Type two or more, one per line, or none.") == 1
    assert perturber.data()["n_target"].to_list() == [None]
    assert list(perturber.seen.fields) == ["question", "choices[0]"]
    assert perturber.seen.tokens.height, "the cut of what was typed is still shown"


def test_controls_that_cannot_act_say_why_and_stand_ready_again(tokenizers):
    explorer = TokenizerExplorer({"bytes": tokenizers["bytes"]} if "bytes" in tokenizers else ["bytes"])
    explorer.more.value = "  "
    explorer.more_button.click()
    assert "Type the name, folder or hub id" in explorer.message.value
    (name,) = explorer.tokenizers
    for _ in range(2):
        explorer.less.value = name
        assert "The last tokenizer stays" in explorer.message.value
        assert explorer.less.value == "", "a second choice of the same name would say nothing"


def test_a_small_overlap_is_not_shown_as_none():
    explorer = TokenizerExplorer(["bytes", "tekken"])
    explorer.beside.value = "overlap"
    assert "256 · &lt; 1%" in explorer.table.value or "256 · < 1%" in explorer.table.value
    assert "256 · 100%" in explorer.table.value


def test_examples_of_a_gram_run_in_their_own_direction():
    pairs = pl.DataFrame([{"i": 0, "j": 1, "layer": "all", "dot": 0.5, "cosine": 0.5}])
    texts = ["متن 11 abc", "<b>two</b>"]
    explorer = EfficiencyExplorer(auc=0.8, zero_shot=0.5, ceiling=0.9, gram=pairs, examples=texts)
    explorer.grid.picked = [0, 0, 1]
    assert explorer.pair.value.count(f"<bdi>{texts[0]}</bdi>") == 2
    assert "<b>two" not in explorer.pair.value


def test_one_token_is_written_as_one(tokenizers):
    assert repr(TokenizerExplorer(["bytes"], text="1", perturbation=None)).endswith("as written, bytes: 1 token")


def test_brackets_in_the_heatmap_are_explained_beside_it():
    row = {
        "model": "m",
        "tokenizer": "t",
        "perturbation": "uppercase",
        "lang": "en",
        "norm": "char",
        "n": 4,
        "n_sets": 4,
        "lost": 0,
        "gained": 0,
    }
    numbers = ("canonical", "perturbed", "drop", "relative_drop", "chance_corrected", "p", "p_adjusted", "low", "high")
    frame = pl.DataFrame([row | dict.fromkeys(numbers, 0.5) | {"mde": None}], schema_overrides={"mde": pl.Float64})
    explorer = RobustnessExplorer(frame)
    assert explorer.grid.blocks[0]["cells"][0][0][0] == "(50%)"
    assert any("in brackets: not settled" in getattr(part, "value", "") for part in explorer.view.children)
