"""Speed and memory of the Gram beside the published procedure, run by `make bench`.

The procedure as the paper defines it (arXiv 2512.24991): a fresh LoRA adapter on the seven projections, examples taken one by one, the gradient of every
adapter matrix kept for each of them, and for each pair of examples one cosine over all matrices together, whose norms are computed anew each time. Both sides
run in one process, of its own for each length, with the same A. Times are medians of rounds in which all take turns: on one thread in processor time, so that
what else runs on the machine counts for little, and on all cores, as PyTorch takes them by itself, on the clock. Memory is the growth of the resident set to its
peak, each time in a process of its own.

Three lengths: 20 to 64 tokens, as short questions have (of a sample of 445 TokSuite questions with their answer, 90 % have 10 to 60 tokens under Mistral's
SentencePiece model; with the choices written out 32 to 119), 64 to 128 for those, and 50 to 300 for longer prompts."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from toksuite_nb import gradients
from toksuite_nb.gradients import Example, gradient_gram, sketch

peft = pytest.importorskip("peft", reason="the published procedure needs peft")
LAYERS, ROUNDS = 6, 3


def build(layers: int = LAYERS) -> LlamaForCausalLM:
    "Llama-like, 52 million parameters with six layers."
    torch.manual_seed(0)
    sizes = {"vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8, "num_key_value_heads": 8}  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=layers, max_position_embeddings=512)).eval()


def examples(n: int = 32, shortest: int = 50, longest: int = 300, prefix: int = 0) -> list[Example]:
    "Examples of so many tokens after a common prefix, with answers of one or two, as in short-answer classification."
    rng = np.random.default_rng(0)
    common = [1, *rng.integers(3, 32_000, prefix)]
    sizes = rng.integers(shortest, longest + 1, n)
    return [
        Example([*common, *rng.integers(3, 32_000, size - 3)], rng.integers(3, 32_000, 1 + k % 2))
        for k, size in enumerate(sizes)
    ]


class Published:
    "The procedure at its own pace: nothing is batched, skipped or remembered."

    def __init__(self, model: LlamaForCausalLM) -> None:
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        self.model = peft.get_peft_model(model, peft.LoraConfig(r=64, lora_alpha=32, target_modules=targets)).eval()
        self.matrices = {name: p for name, p in self.model.named_parameters() if p.requires_grad and p.dim() > 1}
        with torch.no_grad():
            for name, p in self.matrices.items():
                layer, found, _ = name.removeprefix("base_model.model.").partition(".lora_A")
                if found:
                    p.copy_(torch.tensor(sketch(layer, p.shape[1], seed=0)))

    def gradient(self, e: Example) -> list[torch.Tensor]:
        "Of the answer's mean loss, matrix by matrix."
        ids = torch.tensor([[*e.prompt, *e.answer]])
        labels = ids.masked_fill(torch.arange(len(e)) < len(e.prompt), -100)
        self.model.zero_grad(set_to_none=True)
        self.model(input_ids=ids, labels=labels).loss.backward()
        return [p.grad.flatten() for p in self.matrices.values()]

    @staticmethod
    def cosine(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
        "One cosine over all matrices, put end to end."
        return float(torch.nn.functional.cosine_similarity(torch.cat(one), torch.cat(other), dim=0))

    @staticmethod
    def lean(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
        "The same without copies: three inner products for each matrix."
        parts = [(torch.dot(a, b), torch.dot(a, a), torch.dot(b, b)) for a, b in zip(one, other, strict=True)]
        dot, here, there = (float(torch.stack(part).sum()) for part in zip(*parts, strict=True))
        return dot / (here * there) ** 0.5


def batches_of(chosen: list[Example], budget: int) -> Iterator[list[Example]]:
    for batch in gradients._batches(chosen, budget):
        yield [chosen[i] for i in batch]


def bare(model: LlamaForCausalLM, chosen: list[Example], budget: int) -> None:
    "Forward and backward over the same tokens, by length in batches, weights frozen, no mask, head on answer positions only."
    with gradients._ready(model):
        for batch in batches_of(chosen, budget):
            gradients._losses(model, gradients._batch(batch, model.device, masked=False)).sum().backward()


def seconds(work: Callable[[], object]) -> float:
    "Of the processor on one thread; of the clock on more, where threads that wait would count as work."
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def medians(ways: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    "Seconds of each way, which take turns."
    for way in ways.values():
        way()
    taken = [{name: seconds(way) for name, way in ways.items()} for _ in range(rounds)]
    return {name: statistics.median(one[name] for one in taken) for name in ways}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def compared(shortest: int, longest: int, rounds: int, threads: int) -> dict:
    "Seconds of all ways, and the largest difference of a cosine."
    torch.set_num_threads(threads)
    model, chosen = build(), examples(shortest=shortest, longest=longest)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    ways = {f"forward and backward, batches of {b}": lambda b=b: bare(model, chosen, b) for b in (160, 512)}
    ways["Gram"] = lambda: gradient_gram(model, chosen, seed=0, show=False)
    ways["Gram in main memory"] = lambda: gradient_gram(model, chosen, seed=0, show=False, offload=False)
    taken = medians(ways, rounds)
    ours = gradient_gram(model, chosen, seed=0, show=False).cosine
    peer = Published(model)
    kept: list[list[torch.Tensor]] = []
    taken["published: gradients"] = seconds(lambda: kept.extend(peer.gradient(e) for e in chosen))
    found: list[float] = []
    pairs = list(itertools.combinations(range(len(chosen)), 2))
    taken["published: pairs"] = seconds(lambda: found.extend(peer.cosine(kept[i], kept[j]) for i, j in pairs))
    taken["published: pairs without copies"] = seconds(lambda: [peer.lean(kept[i], kept[j]) for i, j in pairs])
    differences = [abs(ours[i, j] - c) for (i, j), c in zip(pairs, found, strict=True)]
    return {
        "taken": taken,
        "difference": max(differences),
        "millions": millions,
        "tokens": sum(map(len, chosen)),
    }


def in_a_process_of_its_own(code: str, *given: object) -> Any:
    "What a script prints last; glibc remembers sizes that were freed, so that what ran before would change the times."
    command = [sys.executable, "-c", code, str(Path(__file__).parent), *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


COMPARED = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_bench_gradients as bench
print(json.dumps(bench.compared(*map(int, sys.argv[2:]))))
"""


@pytest.mark.parametrize("threads", ["one thread", "all cores"])
@pytest.mark.parametrize(("shortest", "longest", "rounds"), [(20, 64, 7), (64, 128, ROUNDS), (50, 300, ROUNDS)])
def test_gram_against_the_published_procedure(shortest, longest, rounds, threads):
    """Against all bars, which must hold on one thread for short questions. Two may be missed elsewhere, which is reported as an expected failure: at longer
    prompts the pair loop takes as long as before, and the rest grows; on several cores, putting aside in a file stays the work of one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads == "all cores" and cores == 1:
        pytest.skip("there is one core")
    run = in_a_process_of_its_own(COMPARED, shortest, longest, rounds, 1 if threads == "one thread" else cores)
    taken = run["taken"]
    print(f"\n{run['millions']:.0f} M parameters, n = 32, {run['tokens']} tokens ({shortest} to {longest} each), {'one thread, processor time' if threads == 'one thread' else f'{cores} cores, time of the clock'}")  # fmt: skip
    for name, s in taken.items():
        print(f"  {name:38s} {s:6.2f} s", flush=True)
    least = min(s for name, s in taken.items() if name.startswith("forward"))
    gradients, pairs, lean = (s for name, s in taken.items() if name.startswith("published"))
    gram, total = taken["Gram"], gradients + pairs
    top = gram - least
    cheaper = f"{pairs / top:.0f}" if top > 0 else "no bound: the Gram takes less than forward and backward"
    print(f"  published / forward and backward {total / least:.1f}")
    print(f"  published / Gram {total / gram:.1f} ({(gradients + lean) / gram:.1f} without copies); pairs / what comes on top {cheaper}; Gram / forward and backward {gram / least:.2f}")  # fmt: skip
    print(f"  in main memory {total / taken['Gram in main memory']:.1f} and {taken['Gram in main memory'] / least:.2f}")
    print(f"  largest difference of a cosine {run['difference']:.1e}")
    assert run["difference"] < 1e-4
    assert gram / least <= 1.25
    missed = [f"published / Gram is {total / gram:.1f}, below 4"] * (total < 4 * gram)
    missed += [f"pairs / what comes on top is {cheaper}, below 20"] * (pairs < 20 * top)
    if missed and (longest > 64 or threads == "all cores"):
        pytest.xfail("; ".join(missed))
    assert not missed


GROWTH = """
import contextlib, ctypes, json, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_bench_gradients as bench
what, layers, shortest, longest = sys.argv[2], *map(int, sys.argv[3:])
model, chosen = bench.build(layers), bench.examples(shortest=shortest, longest=longest)
def published(some):
    peer = bench.Published(model)
    kept = [peer.gradient(e) for e in some]
    return [peer.cosine(kept[0], g) for g in kept]
options = {"lock-step": {"lock_step": True}, "in main memory": {"offload": False}}.get(what, {})
work = {"published": published, "forward and backward": lambda some: bench.bare(model, some, 160)}.get(
    what, lambda some: bench.gradient_gram(model, some, seed=0, show=False, **options))
few = sorted(chosen, key=len)[:2]
work(few)  # code and buffers that are loaded once
with contextlib.suppress(AttributeError):
    ctypes.CDLL(None).malloc_trim(0)  # so that all start without memory that lies about
def pages(name):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024
start = pages("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
work(chosen)
print(json.dumps(pages("VmHWM") - start))
"""


def growth(what: str, layers: int, *lengths: int) -> float:
    "MiB that the resident set grows by at most."
    return float(in_a_process_of_its_own(GROWTH, what, layers, *lengths))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("shortest", "longest", "ways"),
    [(20, 64, ["Gram", "in main memory"]), (50, 300, ["Gram", "lock-step", "in main memory"])],
)
def test_memory_against_the_published_procedure(shortest, longest, ways):
    cells = [("published", 6), ("forward and backward", 6), *((way, layers) for way in ways for layers in (6, 12))]
    grown = {cell: statistics.median(growth(*cell, shortest, longest) for _ in range(ROUNDS)) for cell in cells}
    print(f"\nMiB on top of the model, activations included, {shortest} to {longest} tokens, medians of {ROUNDS} processes")  # fmt: skip
    for (what, layers), size in grown.items():
        print(f"  {what:20s} {layers:2d} layers {size:7.0f}")
    for way in set(ways) - {"in main memory"}:
        assert grown[way, 6] <= grown["published", 6] / 10
        assert grown[way, 12] <= 1.15 * grown[way, 6], "memory grows with the layers"


def test_what_sharing_the_forward_pass_of_a_prefix_would_bring():
    "Forward passes over everything, and over the prefix once and the rest from its keys and values."
    model, chosen = build(), examples(8, prefix=200)
    rests = [torch.tensor([e.prompt[201:]]) for e in chosen]

    def plain() -> None:
        for e in chosen:
            model(input_ids=torch.tensor([e.prompt]), logits_to_keep=1, use_cache=False)

    def shared() -> None:
        cache = DynamicCache()
        model(input_ids=torch.tensor([chosen[0].prompt[:201]]), past_key_values=cache, logits_to_keep=1)
        for rest in rests:
            model(input_ids=rest, past_key_values=cache, logits_to_keep=1)
            cache.crop(201 - cache.get_seq_length())

    with torch.no_grad():
        taken = medians({"plain": plain, "shared": shared})
    taken |= medians({"bare": lambda: bare(model, chosen, 160), "Gram": lambda: gradient_gram(model, chosen, seed=0, show=False)})  # fmt: skip
    saved = 1 - taken["shared"] / taken["plain"]
    half = (taken["plain"] - taken["shared"]) / taken["bare"]
    tokens = sum(map(len, chosen))
    print(f"\nprefix of 200 tokens, n = 8, {tokens} tokens: forward {taken['plain']:.2f} s, with the prefix once {taken['shared']:.2f} s ({saved:.0%} less); ")  # fmt: skip
    print(f"forward and backward {taken['bare']:.2f} s, so {half:.0%} of it could be saved; whole Gram without sharing {taken['Gram']:.2f} s")  # fmt: skip
    assert 0 < half < 0.6, "the backward pass cannot be shared"
