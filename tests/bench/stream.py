"""Perturb and measure generated texts in a stream: `python tests/bench/stream.py 10000000` prints what it took, as JSON."""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from toksuite_nb.cells import perturb_texts
from toksuite_nb.core import derive_rng
from toksuite_nb.intrinsic import intrinsic
from toksuite_nb.store import data_path

SUBJECTS = (
    "lamp",
    "river",
    "teacher",
    "garden",
    "violin",
    "letter",
    "bridge",
    "window",
    "harbour",
    "ticket",
    "mountain",
    "kitchen",
)
VERBS = (
    "stands in",
    "belongs to",
    "is older than",
    "was painted like",
    "leads to",
    "lies behind",
    "was sold with",
    "looks like",
)
PLACES = (
    "the hall",
    "the old town",
    "a quiet street",
    "the museum",
    "the market",
    "an empty room",
    "the station",
    "the school",
)


def texts(n: int) -> Iterator[str]:
    """`n` sentences, made as they are asked for."""
    for start in range(0, n, 10_000):
        rng = derive_rng(0, "stream", start)
        picks = rng.integers(0, 96, (min(10_000, n - start), 4)).tolist()
        for a, b, c, d in picks:
            yield f"The {SUBJECTS[a % 12]} {a}{b} {VERBS[b % 8]} {PLACES[c % 8]} of {SUBJECTS[d % 12]} number {c}"


def peak_mb() -> int:
    """Most resident memory of this process so far; its own, where the system tells it from that of the process it was forked from."""
    status = Path("/proc/self/status")
    own = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return round((int(own[1]) if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024)


def main(n: int) -> dict[str, object]:
    began, spent = time.perf_counter(), time.process_time()
    seen = [0, 0]

    def kept() -> Iterator[pl.DataFrame]:
        for frame in perturb_texts(texts(n), "keyboard_proximity", "en", seed=0):
            seen[0] += frame.height
            frame = frame.filter(pl.col("text").is_not_null())
            seen[1] += frame.height
            yield frame

    tokenizer = data_path("suite/bpe/tokenizer.json").parent
    found = intrinsic(kept(), {"bpe": tokenizer}, draws=0)
    return {
        "texts": seen[0],
        "perturbed": seen[1],
        "seconds": round(time.perf_counter() - began, 1),
        "core_seconds": round(time.process_time() - spent, 1),
        "peak_mb": peak_mb(),
        "fertility": found.filter(pl.col("metric") == "fertility")["value"].item(),
        "corpus": found["corpus"][0],
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))), flush=True)
