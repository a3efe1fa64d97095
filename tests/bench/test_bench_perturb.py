"""Speed of the perturbations: beside nlpaug on the same text, over four orders of text length, and over the whole embedded benchmark.

Times are processor time of this process, in turns taken in alternation, so that what else runs on the machine counts for both sides alike."""

import gc
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from toksuite_nb.core import item_schema
from toksuite_nb.edits import EditedText
from toksuite_nb.items import load_benchmark
from toksuite_nb.perturb import get_perturbation, perturb, perturb_items, perturbations

paragraph = (
    "The color of the sky is blue because air scatters short waves more than long ones. A doctor who works in a hospital treats patients, "
    "and the number of days in a week is seven. Water boils at a lower temperature on a mountain than at the shore. "
)


def english(size: int) -> str:
    return (paragraph * (size // len(paragraph) + 1))[: size - 1] + "."


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def fastest(*works: Callable[[], object], turns: int = 7) -> list[float]:
    times = [[seconds(work) for work in works] for _ in range(turns)]
    return [min(column) for column in zip(*times, strict=True)]


def medians(*works: Callable[[], object], turns: int) -> list[float]:
    times = [[seconds(work) for work in works] for _ in range(turns)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def changed(before: str, after: str) -> int:
    return sum(a != b for a, b in zip(before.split(), after.split(), strict=False))


def char_augmenters() -> Any:
    return pytest.importorskip("nlpaug.augmenter.char", reason="nlpaug 1.1.11 is not installed")


def peers() -> dict[str, tuple[Any, float]]:
    "nlpaug's augmenter of each name, and the severity at which ours does the same: one slip in three words of ten."
    char = char_augmenters()
    slips = {"aug_word_p": 0.3, "aug_word_max": None, "aug_char_max": 1}  # its limit of ten words per text is lifted
    keyboard = char.KeyboardAug(include_numeric=False, include_special_char=False, **slips)
    return {"keyboard_proximity": (keyboard, 0.3), "ocr_errors": (char.OcrAug(min_char=1, **slips), 0.065)}


def defaults() -> dict[str, tuple[Any, float]]:
    "Both sides as they come: nlpaug edits ten words of a text at most, ours every word (keyboard) or every confusable shape (OCR)."
    char = char_augmenters()
    return {"keyboard_proximity": (char.KeyboardAug(), 1.0), "ocr_errors": (char.OcrAug(), 1.0)}


def ratios_to(sides: dict[str, tuple[Any, float]]) -> dict[tuple[str, int], float]:
    ratios = {}
    for name, (peer, severity) in sides.items():
        for size in (100, 300, 1_000, 10_000, 100_000):
            # so many calls that waking up does not count
            text, calls = english(size), max(1, 100_000 // size)
            ours, theirs = perturb(text, name, "en", seed=0, severity=severity), peer.augment(text)[0]
            assert isinstance(ours, EditedText)
            times = medians(
                lambda p=peer, t=text, n=calls: [p.augment(t) for _ in range(n)],
                lambda m=name, t=text, n=calls, s=severity: [
                    perturb(t, m, "en", seed=i, severity=s).text for i in range(n)
                ],
                turns=7 if size <= 10_000 else 3,
            )
            rates = [size * calls / t for t in times]
            ratios[name, size] = rates[1] / rates[0]
            words = changed(text, theirs), len(ours.edits)
            print(
                f"{name:20s} {size:7,d} chars: {rates[0]:11,.0f} {rates[1]:11,.0f}  x {ratios[name, size]:5.1f}  edits {words}"
            )
    return ratios


def test_characters_per_second_beside_nlpaug_at_equal_work():
    print("\nmedians of characters per second, nlpaug 1.1.11 and ours, at three words in ten")
    slow = {cell: round(ratio, 1) for cell, ratio in ratios_to(peers()).items() if ratio < 6}
    assert not slow, f"less than six times as fast as nlpaug: {slow}"


def test_characters_per_second_beside_nlpaug_as_both_come():
    # a text below some 250 characters takes us about 20 microseconds, most of them calls of numpy, for several times the edits of nlpaug
    print("\nmedians of characters per second, nlpaug 1.1.11 and ours, each with its default settings")
    ratios = ratios_to(defaults())
    slow = {cell: round(ratio, 1) for cell, ratio in ratios.items() if ratio < (6 if cell[1] >= 1_000 else 2)}
    assert not slow, f"less than six times (two times up to 300 characters) as fast as nlpaug: {slow}"


def test_a_thousand_sentences_beside_nlpaug():
    draw, words = random.Random(0), paragraph.lower().replace(".", "").replace(",", "").split()
    texts = [" ".join(draw.choices(words, k=18)).capitalize() + "." for _ in range(1_000)]
    items = pl.DataFrame([an_item(str(i), text) for i, text in enumerate(texts)], schema=item_schema.empty().schema)
    print(
        f"\n1,000 sentences of {sum(map(len, texts)) / 1000:.0f} characters, microseconds each; equal work, then defaults"
    )
    for name, (peer, severity), least in [
        *((name, side, 4) for name, side in peers().items()),
        *((name, side, 1) for name, side in defaults().items()),
    ]:
        theirs, single, frame = medians(
            lambda p=peer: p.augment(texts),
            lambda m=name, s=severity: [
                perturb(text, m, "en", seed=0, item_id=str(i), severity=s) for i, text in enumerate(texts)
            ],
            lambda m=name, s=severity: perturb_items(items, m, severity=s, show=False),
            turns=5,
        )
        print(
            f"{name:20s} nlpaug {theirs * 1e3:5.0f}, perturb {single * 1e3:5.0f} (x {theirs / single:.1f}), "
            f"perturb_items, with its options checked and a frame made {frame * 1e3:5.0f} (x {theirs / frame:.1f})"
        )
        assert theirs / single >= least, f"{name}: sentences that are seen once are slower than those of one text"


def an_item(item_id: str, question: str) -> dict[str, Any]:
    return {
        "item_id": item_id,
        "set_id": item_id,
        "canonical_id": item_id,
        "lang": "en",
        "domain": "general",
        "category": "bench",
        "perturbation": "canonical",
        "question": question,
        "choices": ["green", "purple", "orange", "black"],
        "answer": 0,
        "delimiter": " ",
        "source": "bench",
    }


@pytest.mark.parametrize("name", ["keyboard_proximity", "uppercase"])
def test_cost_is_linear_in_the_length(name):
    rates = {}
    for size in (1_000, 10_000, 100_000, 1_000_000, 10_000_000):
        text, calls = english(size), max(1, 30_000 // size)
        (spent,) = fastest(
            lambda t=text, n=calls: [perturb(t, name, "en", seed=0, severity=0.2) for _ in range(n)],
            turns=5 if size < 10**6 else 1,
        )
        rates[size] = spent / calls / size
    print(f"\n{name}, ns per char: " + ", ".join(f"{size:,d}: {rate * 1e9:.0f}" for size, rate in rates.items()))
    assert rates[10_000_000] < 3 * rates[1_000], "the cost of a character grows with the text"


def chinese(size: int) -> str:
    return ("天空的颜色是蓝色，一年有12个月。" * size)[:size]


def farsi(size: int) -> str:
    return ("رنگ آسمان آبی است و یک هفته ۷ روز دارد. " * size)[: size - 1] + "."


@pytest.mark.parametrize("name", perturbations()["name"].to_list())
def test_no_perturbation_is_quadratic(name):
    makers = {"en": english, "zh": chinese, "fa": farsi, "it": english, "tr": english}
    lang = next(lang for lang in makers if lang in get_perturbation(name).langs)
    short, long = makers[lang](2_000), makers[lang](40_000)
    perturb(short, name, lang, seed=0)
    five_short, one_long = fastest(
        lambda: [perturb(short, name, lang, seed=0) for _ in range(5)],
        lambda: perturb(long, name, lang, seed=0),
        turns=2,
    )
    growth = one_long / five_short * 10_000 / 40_000
    assert growth < 4 or one_long < 0.2, (
        f"{name}: a character costs {growth:.1f} times as much in a text 20 times as long"
    )


def test_the_embedded_benchmark_under_every_perturbation():
    items = load_benchmark("embedded")
    items = items.filter(perturbation="canonical")
    names = [name for name in perturbations()["name"].to_list() if get_perturbation(name).category != "toy"]
    per_name = {name: seconds(lambda n=name: perturb_items(items, n, show=False)) for name in names}
    total = sum(per_name.values())
    worst = sorted(per_name, key=lambda name: -per_name[name])[:6]
    print(
        f"\n{items.height} items x {len(names)} perturbations: {total:.1f} s; slowest "
        + ", ".join(f"{n} {per_name[n]:.2f}" for n in worst)
    )
    assert total <= 20
