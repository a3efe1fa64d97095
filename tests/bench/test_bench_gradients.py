"""Speed and memory of the Gram beside the published procedure, run by `make bench`.

The procedure, in our own words: LoRA adapters by peft, one example at a time, every gradient stored, then for each pair of examples a loop over
the parameters that sums one inner product and two squared norms. Both sides run in this process on one thread, which suits both: with two, small
products wait for each other more than they gain. Times are processor time, the shortest of the rounds, so that what else runs on the machine counts for
little; memory is what the resident set grows by, in a process of its own."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from toksuite_nb import gradients
from toksuite_nb.gradients import Example, gradient_gram, sketch

peft = pytest.importorskip("peft", reason="the published procedure needs peft")
LAYERS, ROUNDS = 6, 2
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def build(layers: int = LAYERS) -> torch.nn.Module:
    "Llama-like, 52 million parameters with six layers."
    torch.manual_seed(0)
    sizes = {"vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8, "num_key_value_heads": 8}  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=layers, max_position_embeddings=512)).eval()


def examples(n: int = 32, prefix: int = 0) -> list[Example]:
    "Prompts of 16 to 63 tokens and answers of one or two, as in short-answer classification."
    rng = np.random.default_rng(0)
    common = rng.integers(3, 32_000, prefix)
    return [
        Example([1, *common, *rng.integers(3, 32_000, rng.integers(15, 63))], rng.integers(3, 32_000, 1 + k % 2))
        for k in range(n)
    ]


def adapted(model: torch.nn.Module) -> torch.nn.Module:
    "The same model with adapters whose A is ours."
    config = peft.LoraConfig(r=64, lora_alpha=32, lora_dropout=0.05, target_modules=PROJECTIONS)
    with_adapters = peft.get_peft_model(model, config).eval()
    for name, module in with_adapters.named_modules():
        if hasattr(module, "lora_A"):
            a = module.lora_A["default"].weight
            a.data.copy_(torch.tensor(sketch(name.removeprefix("base_model.model."), a.shape[1], seed=0)))
    return with_adapters


def stored_gradients(model: torch.nn.Module, chosen: list[Example]) -> list[dict[str, torch.Tensor]]:
    stored = []
    for e in chosen:
        labels = torch.tensor([[-100] * len(e.prompt) + list(e.answer)])
        model(input_ids=torch.tensor([[*e.prompt, *e.answer]]), labels=labels).loss.backward()
        stored.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        for p in model.parameters():
            if p.grad is not None:
                p.grad.zero_()
    return stored


def pair_loop(stored: list[dict[str, torch.Tensor]]) -> np.ndarray:
    cosine = np.eye(len(stored))
    for i, j in itertools.combinations(range(len(stored)), 2):
        dot = one = other = torch.zeros(())
        for name, g in stored[i].items():
            h = stored[j][name]
            dot = dot + torch.dot(g.flatten(), h.flatten())
            one, other = one + (g**2).sum(), other + (h**2).sum()
        cosine[i, j] = cosine[j, i] = float(dot / (one.sqrt() * other.sqrt()))
    return cosine


def bare(model: torch.nn.Module, chosen: list[Example], budget: int) -> None:
    "Forward and backward over the same tokens in the same kind of batches, head on answer positions only, weights frozen."
    with gradients._ready(model):
        for batch in gradients._batches(chosen, budget):
            gradients._losses(model, [chosen[i] for i in batch]).sum().backward()


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_gram_against_the_published_procedure():
    model, chosen = build(), examples()
    ways = {
        "forward and backward": lambda: bare(model, chosen, 512),
        "Gram": lambda: gradient_gram(model, chosen, seed=0, show=False),
        "Gram, kept": lambda: gradient_gram(model, chosen, seed=0, show=False, batch_tokens=8192),
        "Gram, lock-step": lambda: gradient_gram(model, chosen, seed=0, show=False, lock_step=True),
        "Gram, seed-free": lambda: gradient_gram(model, chosen, weights="seed_free", show=False),
    }
    rounds = [{name: seconds(way) for name, way in ways.items()} for _ in range(ROUNDS)]
    taken = {name: min(r[name] for r in rounds) for name in ways}
    ours = gradient_gram(model, chosen, seed=0, show=False).cosine
    peer, kept = adapted(model), []
    taken["published: gradients"] = seconds(lambda: kept.extend(stored_gradients(peer, chosen)))
    found: list[np.ndarray] = []
    taken["published: pairs"] = seconds(lambda: found.append(pair_loop(kept)))
    upper = np.triu_indices(len(chosen), 1)
    tokens = sum(map(len, chosen))
    print(
        f"\n{sum(p.numel() for p in build().parameters()) / 1e6:.0f} M parameters, n = {len(chosen)}, {tokens} tokens, one thread"
    )
    for name, s in taken.items():
        print(f"  {name:24s} {s:6.2f} s", flush=True)
    total = taken["published: gradients"] + taken["published: pairs"]
    top = max(taken["Gram"] - taken["forward and backward"], 1e-3)
    over = taken["Gram"] / taken["forward and backward"]
    print(f"  published / Gram {total / taken['Gram']:.1f}; pairs / what comes on top {taken['published: pairs'] / top:.0f}; Gram / forward and backward {over:.2f}")  # fmt: skip
    assert abs(np.median(ours[upper]) - np.median(found[0][upper])) < 1e-4
    assert total / taken["Gram"] >= 4
    assert taken["published: pairs"] / top >= 20
    assert over <= 1.25


GROWTH = """
import json, sys, threading, time
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_bench_gradients as bench
what, layers = sys.argv[2], int(sys.argv[3])
model, chosen = bench.build(layers), bench.examples()
few = chosen[:2]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
if what == "published":
    model = bench.adapted(model)
    work = lambda some: bench.pair_loop(bench.stored_gradients(model, some))
elif what == "bare":
    work = lambda some: bench.bare(model, some, 160)
else:
    options = {"Gram": {}, "lock-step": {"lock_step": True, "batch_tokens": 128}}[what]
    work = lambda some: bench.gradient_gram(model, some, seed=0, show=False, **options)
work(few)  # code and buffers that are loaded once
model.zero_grad(set_to_none=True)
start, top, over = resident(), [0.0], threading.Event()
def watch():
    while not over.is_set():
        top[0] = max(top[0], resident())
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
work(chosen)
over.set()
watcher.join()
print(json.dumps(max(top[0] - start, 0.1)))
"""


def growth(what: str, layers: int = LAYERS) -> float:
    "MiB that the resident set grows by at most."
    folder = __file__.rsplit("/", 1)[0]
    command = [sys.executable, "-c", GROWTH, folder, what, str(layers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_against_the_published_procedure():
    cells = [("published", 6), ("bare", 6), ("Gram", 6), ("lock-step", 6), ("lock-step", 12)]
    grown = {cell: growth(*cell) for cell in cells}
    print("\nMiB on top of the model, activations included")
    for (what, layers), size in grown.items():
        print(f"  {what:12s} {layers:2d} layers {size:7.0f}")
    assert grown["Gram", 6] <= grown["published", 6] / 10
    assert grown["lock-step", 6] <= grown["published", 6] / 10
    assert grown["lock-step", 12] <= 1.15 * grown["lock-step", 6], "memory grows with the layers"


def test_what_sharing_the_forward_pass_of_a_prefix_could_bring():
    model, chosen = build(), examples(8, prefix=200)
    whole = min(seconds(lambda: gradient_gram(model, chosen, seed=0, show=False)) for _ in range(2))
    inputs = [torch.tensor([e.prompt]) for e in chosen]
    with torch.no_grad():
        forward = min(seconds(lambda: [model(input_ids=x, logits_to_keep=1, use_cache=False) for x in inputs]) for _ in range(2))  # fmt: skip
        prefix = min(seconds(lambda: model(input_ids=inputs[0][:, :201], logits_to_keep=1, use_cache=False)) for _ in range(2))  # fmt: skip
    saved = 7 * prefix / whole
    print(f"\nprefix of 200 tokens, n = 8: Gram {whole:.2f} s, forward alone {forward:.2f} s, prefix once {prefix:.2f} s; computing it once would save {saved:.0%}")  # fmt: skip
    assert 0 < saved < 0.6
