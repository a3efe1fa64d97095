"""What the fuzzers call: each target turns bytes into a case and breaks only if a promise of the package is broken."""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from toksuite_nb.alignment import align, cut_shift
from toksuite_nb.edits import EditedText
from toksuite_nb.harness import group_totals, read_results, read_samples
from toksuite_nb.items import audit, load_benchmark
from toksuite_nb.labeling import read_journal
from toksuite_nb.perturb import perturb, perturbations
from toksuite_nb.run import ResultStore, read_plan
from toksuite_nb.store import data_path
from toksuite_nb.tokenizer import load_tokenizer, tokenize

KEPT = Path(__file__).parent / "kept"
LANGS = ("en", "fa", "it", "tr", "zh")
TOKENIZERS = ("bytes", "mistral-spm", "suite/bpe", "suite/unigram-nfkc", "suite/wordpiece", "suite/bpe-nfkc-lower")
# what a public function may raise; anything else, and any of these without its name in front, is a crash
CLEAR = (ValueError, TypeError, KeyError, OSError)
FORM = re.compile(r"(?:[A-Z]\w+\.)?[a-z]\w*: \S")


class Crash(AssertionError):
    """A promise was broken."""


@contextmanager
def only_clear_errors() -> Iterator[None]:
    """Let errors of the house form pass; everything else stands as a crash."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except CLEAR as error:
        said = str(error.args[0]) if error.args and isinstance(error.args[0], str) else str(error)
        said = re.sub(r"^\[Errno \d+\] ", "", said)
        if not FORM.match(said):
            raise Crash(f"{type(error).__name__} without a clear message: {said[:200]!r}") from error


class Bytes:
    """Decisions read from bytes; at the end of them every decision is the first option."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def below(self, n: int) -> int:
        taken = self.data[self.at : self.at + 1 + (n > 256)]
        self.at += len(taken)
        return int.from_bytes(taken, "little") % n

    def one(self, options: Any) -> Any:
        return options[self.below(len(options))]

    def rest(self) -> bytes:
        return self.data[self.at :]


@cache
def tokenizer(name: str) -> Any:
    return load_tokenizer(data_path(f"{name}/tokenizer.json").parent if "/" in name else name)


@cache
def names() -> tuple[str, ...]:
    return tuple(perturbations()["name"])


def text(data: bytes) -> None:
    """Perturb, tokenize and align: edits replay and undo, spans tile both texts, the two cuts line up."""
    of = Bytes(data)
    name, lang, severity = of.one(names()), of.one(LANGS), of.one((1.0, 0.5, 0.1, 0.0))
    one, other = of.one(TOKENIZERS), of.one(TOKENIZERS)
    seed = of.below(4)
    written = of.rest().decode("utf-8", "surrogateescape" if seed == 3 else "replace")[:400]
    with only_clear_errors():
        edited = perturb(written, name, lang, seed=seed, item_id="fuzz", severity=severity)
        if not edited:
            edited = EditedText(written)
        if edited.undo() != written:
            raise Crash(f"{name}: undo gives another text")
        again = perturb(written, name, lang, seed=seed, item_id="fuzz", severity=severity)
        if again and isinstance(edited, EditedText) and edited.edits and again.text != edited.text:
            raise Crash(f"{name}: the same seed gives another text")
        own, twin = tokenizer(one), tokenizer(other)
        for version in {edited.source, edited.text}:
            tokenize([version], [own])
            blocks = align(own.spans(version), twin.spans(version))
            # white space alone has no tokens in WordPiece, and no block
            ends = [blocks[side].max() or 0 for side in ("a_end", "b_end")]
            if ends != [len(own.spans(version)), len(twin.spans(version))]:
                raise Crash("align: tokens are missing from the blocks")
        if not cut_shift(edited, own, lang=lang).summary.height:
            raise Crash("cut_shift: no summary")


RECORD = {
    "item_id": "a-1",
    "set_id": "a",
    "lang": "en",
    "domain": "custom",
    "category": "sky",
    "perturbation": "canonical",
    "question": "The sky is",
    "choices": ["blue", "green", "red"],
    "answer": 0,
    "delimiter": " ",
    "edits": [],
}
HUB = {
    "id": 301.0,
    "question": "Gökyüzü",
    "choices": ["mavi", "yeşil", "sarı", "kara"],
    "answer": 0,
    "answer_label": "A",
    "subcategories": "Canonical, plain",
    "lang": "tur_Latn (general)",
    "set_id": 301.0,
    "variation_id": 1.0,
}
SAMPLE = {
    "doc_id": 0,
    "doc": {"id": "a-1", "question": "The sky is", "choices": ["blue", "green"], "answer": 0},
    "target": "0",
    "arguments": {
        "gen_args_0": {"arg_0": "The sky is", "arg_1": " blue"},
        "gen_args_1": {"arg_0": "The sky is", "arg_1": " green"},
    },
    "resps": [[["-1.5", "True"]], [["-2.5", "False"]]],
    "filtered_resps": [["-1.5", "True"], ["-2.5", "False"]],
    "filter": "none",
    "metrics": ["acc", "acc_norm"],
    "acc": 1.0,
    "acc_norm": 1.0,
}
RESULTS = {
    "results": {
        "t_a": {"alias": "a", "acc,none": 0.5, "acc_stderr,none": 0.1},
        "t_b": {"acc,none": 1.0},
        "t": {"acc,none": 0.75},
    },
    "groups": {"t": {"acc,none": 0.75, "alias": "t"}},
    "group_subtasks": {"t": ["t_a", "t_b"]},
    "configs": {"t_a": {"metadata": {"canonical_task": "t_b"}}},
    "n-samples": {"t_a": {"original": 2, "effective": 2}, "t_b": {"original": 2, "effective": 2}},
    "versions": {"t_a": 1.0},
    "n-shot": {"t_a": 0},
    "config": {"model": "hf", "model_args": "pretrained=m,tokenizer=k"},
    "lm_eval_version": "0.4.13",
}
PLAN = {
    "key": "0" * 32,
    "function": "celljobs:weights",
    "group": "",
    "inputs": {"i": 1, "f": {"__array__": "AA=="}, "g": {"__frame__": "AA=="}},
}
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\x00",
    "0",
    "-0.0",
    "٣",
    [],
    [[]],
    {},
    {"": None},
    [None],
    ["x", 1],
    [["-1", "True"], []],
    {"question": 1},
    "../../etc/passwd",
    "a" * 3000,
)


def odd(of: Bytes) -> Any:
    """A value of its own, which a later change may alter."""
    return deepcopy(of.one(ODD))


def mutated(value: Any, of: Bytes) -> Any:
    """A JSON value with a few nodes replaced, removed, doubled or renamed."""
    value = json.loads(json.dumps(value))
    for _ in range(1 + of.below(4)):
        places: list[tuple[Any, Any]] = []
        stack = [value]
        while stack:
            node = stack.pop()
            keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
            places += [(node, key) for key in keys]
            stack += [node[key] for key in keys]
        if not places:
            return odd(of)
        node, key = places[of.below(len(places))]
        what = of.below(8)
        if what < 4:
            node[key] = odd(of)
        elif what == 4:
            del node[key]
        elif what == 5 and isinstance(node, list):
            node.insert(key, odd(of))
        elif what == 6 and isinstance(node, dict):
            node[str(of.one(ODD))] = node.pop(key)
        else:
            node[key] = [node[key]]
    return value


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def lines(template: Any, of: Bytes) -> bytes:
    """JSON lines, some of them mutated, or raw bytes, or nested deeply."""
    if (kind := of.below(16)) < 4:
        return of.rest() if kind else b"[" * 100_000
    return b"\n".join(dumped(mutated(template, of) if of.below(2) else template) for _ in range(1 + of.below(4)))


def parquet(of: Bytes) -> bytes:
    frame = pl.DataFrame([RECORD | {"edits": None}, RECORD | {"edits": None, "item_id": "a-2"}], strict=False)
    buffer = BytesIO()
    frame.write_parquet(buffer)
    whole = bytearray(buffer.getvalue())
    for _ in range(of.below(4)):
        whole[of.below(len(whole))] ^= 1 + of.below(255)
    return bytes(whole[: len(whole) - of.below(64)])


def csv(of: Bytes) -> bytes:
    rows = [["question", "choices", "answer", "lang"], ["The sky is", "blue|green", "0", "en"]]
    for _ in range(of.below(4)):
        rows[of.below(2)][of.below(4)] = str(of.one(ODD))
    sep = of.one((",", ",", "\t", '"', "\n"))
    return "\n".join(sep.join(row) for row in rows).encode("utf-8", "surrogatepass") + of.rest()


def tokenizer_json(of: Bytes) -> bytes:
    whole = json.loads(data_path("suite/bpe/tokenizer.json").read_text(encoding="utf-8"))
    if of.below(2):
        whole["model"]["vocab"] = dict(list(whole["model"]["vocab"].items())[:300])
        whole["model"]["merges"] = []
    return dumped(mutated(whole, of))


def tiktoken(of: Bytes) -> bytes:
    import base64

    rows = [f"{base64.b64encode(bytes([i])).decode()} {i}" for i in range(256)]
    for _ in range(of.below(4)):
        rows[of.below(256)] = str(of.one(ODD))
    return "\n".join(rows).encode("utf-8", "surrogatepass") + of.rest()[:40]


@cache
def small_tekken() -> str:
    import mistral_common

    whole = json.loads((Path(mistral_common.__path__[0]) / "data/tekken_240911.json").read_text(encoding="utf-8"))
    whole["vocab"] = whole["vocab"][:300]
    whole["config"]["default_vocab_size"] = 300 + whole["config"]["default_num_special_tokens"]
    return json.dumps(whole)


def tekken(of: Bytes) -> bytes:
    return dumped(mutated(json.loads(small_tekken()), of))


@cache
def small_model() -> bytes:
    from sentencepiece import SentencePieceTrainer

    written = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["The sky is blue, Gökyüzü mavi"] * 20),
        model_writer=written,
        vocab_size=280,
        byte_fallback=True,
        minloglevel=2,
    )
    return written.getvalue()


def sentencepiece(of: Bytes) -> bytes:
    whole = bytearray(small_model())
    for _ in range(1 + of.below(4)):
        whole[of.below(len(whole))] ^= 1 + of.below(255)
    return bytes(whole[: len(whole) - (of.below(400) if of.below(2) else 0)])


def damaged(path: Path) -> Callable[[Bytes], bytes]:
    def make(of: Bytes) -> bytes:
        whole = bytearray(path.read_bytes())
        for _ in range(of.below(6)):
            whole[of.below(min(len(whole), 65536))] ^= 1 + of.below(255)
        return bytes(whole[: len(whole) // (1 + of.below(3))])

    return make


def store_lines(of: Bytes) -> bytes:
    from toksuite_nb.run import _line

    rows = [_line(f"{i:032x}", "f", {"x": i}, 0.1) for i in range(3)]
    whole = bytearray(b"".join(rows) + of.rest())
    for _ in range(of.below(6)):
        whole[of.below(len(whole))] ^= 1 + of.below(255)
    return bytes(whole)


def plan_lines(of: Bytes) -> bytes:
    """Lines with a right checksum and a wrong content."""
    from toksuite_nb.run import _sealed

    whole = b"".join(_sealed(line) for line in lines(PLAN, of).split(b"\n"))
    return whole if of.below(4) else whole.replace(b"a", b"b", 1)


def benchmark(path: Path, of: Bytes) -> None:
    refuse, skip = of.one(((True, False), (False, False), (True, True)))
    items = load_benchmark(path, refuse=refuse, skip=skip)
    audit(items)


def store(path: Path, of: Bytes) -> None:
    found = ResultStore(path.parent)
    for key in list(found._found):
        found.get(key)
    found.damaged()
    found.put("f" * 32, 1)
    if ResultStore(path.parent).get("f" * 32) != 1:
        raise Crash("a damaged store does not take a new result")


def journal(path: Path, of: Bytes) -> None:
    from toksuite_nb.labeling import replay

    replay(read_journal(path))


def cut(path: Path, of: Bytes) -> None:
    pattern = "cl100k_base" if path.suffix == ".tiktoken" else None
    loaded = load_tokenizer(path, pattern=pattern)
    tokenize(["The sky is blue, Gökyüzü mavi"], [loaded])


KINDS: tuple[tuple[str, Callable[[Bytes], bytes], Callable[[Path, Bytes], Any]], ...] = (
    ("a.jsonl", lambda of: lines(of.one((RECORD, HUB)), of), benchmark),
    ("a.json", lambda of: dumped(mutated([RECORD, HUB], of)) if of.below(4) else of.rest(), benchmark),
    ("a.csv", csv, benchmark),
    ("a.tsv", csv, benchmark),
    ("a.parquet", parquet, benchmark),
    ("tokenizer.json", tokenizer_json, cut),
    ("a.tiktoken", tiktoken, cut),
    ("plan.jsonl", plan_lines, lambda path, of: read_plan(path)),
    ("part-a.cells", store_lines, store),
    (
        "journal.jsonl",
        lambda of: dumped({"labeling journal": 1}) + b"\n" + lines({"example": "a", "label": "b"}, of) + b"\n",
        journal,
    ),
    ("tekken.json", tekken, cut),
    ("tokenizer.model", sentencepiece, cut),
)


def loaders(data: bytes) -> None:
    """Benchmarks, tokenizers, plans, stores and journals: a file is read, or refused by a clear error."""
    of = Bytes(data)
    name, make, read = of.one(KINDS)
    with tempfile.TemporaryDirectory(dir=os.environ.get("FUZZ_TMP")) as folder:
        path = Path(folder) / name
        path.write_bytes(make(of))
        with only_clear_errors():
            read(path, of)


def importers(data: bytes) -> None:
    """Result files and per-sample logs of lm-eval: read, or refused by a clear error; good lines survive where asked for."""
    of = Bytes(data)
    with tempfile.TemporaryDirectory(dir=os.environ.get("FUZZ_TMP")) as folder:
        if of.below(2):
            path = Path(folder) / "results_2025-09-19T10-00-00.000000.json"
            path.write_bytes(dumped(mutated(RESULTS, of)) if of.below(4) else of.rest())
            with only_clear_errors():
                group_totals(read_results(path))
            return
        path = Path(folder) / "samples_t_a_2025-09-19T10-00-00.000000.jsonl"
        good = dumped(SAMPLE | {"doc": SAMPLE["doc"] | {"id": "survivor"}})  # type: ignore[operator]
        path.write_bytes(good + b"\n" + lines(SAMPLE, of))
        with only_clear_errors():
            run = read_samples(path, refuse=False)
            if not any("survivor" in i for i in run.items["item_id"]):
                raise Crash("read_samples: the good line is lost")
            audit(run.items)
        with only_clear_errors():
            read_samples(path)


TARGETS: dict[str, Callable[[bytes], None]] = {"text": text, "loaders": loaders, "importers": importers}
