"""Speed and memory on a GPU, in half precision: the Gram beside the published procedure, scoring beside one request at a time. Run by `make bench`.

The model has a billion random weights. Times are of the clock, with the GPU's work done, medians of rounds in which all take turns where it is not said
otherwise. Memory is the most that PyTorch has allocated, on top of what it held before. What is printed depends on the machine; asserted is what does not."""

import gc
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_bench_gradients import Published, bare, examples
from transformers import AutoModelForCausalLM, LlamaConfig

from toksuite_nb.coslow import cos_low
from toksuite_nb.gradients import Example, gradient_gram
from toksuite_nb.items import load_benchmark
from toksuite_nb.lm import LM
from toksuite_nb.score import score
from toksuite_nb.suite import load_suite

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ROUNDS, N_ITEMS = 3, 200
SIZES = {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.device(DEVICE):
        config = LlamaConfig(**SIZES, max_position_embeddings=2048, tie_word_embeddings=True)
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


class OnGPU(Published):
    "The procedure with its tensors on the GPU."

    def gradient(self, e: Example) -> list[torch.Tensor]:
        with torch.device(DEVICE):
            return super().gradient(e)


def seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measured(work: Callable[[], object]) -> tuple[float, float]:
    "Seconds, and MiB on top of what was held."
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    return seconds(work), (torch.cuda.max_memory_allocated() - start) / 2**20


def medians(ways: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    "Seconds and MiB of each way; a first round, which loads code, does not count."
    for way in ways.values():
        way()
    taken = [{name: measured(way) for name, way in ways.items()} for _ in range(ROUNDS)]
    return {name: (statistics.median(r[name][0] for r in taken), max(r[name][1] for r in taken)) for name in ways}


def said(taken: dict[str, tuple[float, float]]) -> None:
    for name, (s, size) in taken.items():
        print(f"  {name:38s} {s:7.2f} s {size:8.0f} MiB", flush=True)


@pytest.mark.parametrize(("shortest", "longest"), [(20, 64), (50, 300)])
def test_gram_against_the_published_procedure(model, shortest, longest):
    # of random tokens alone, no two gradients have anything in common: every second example differs from the one before in one token
    chosen = examples(shortest=shortest, longest=longest)
    chosen[1::2] = [Example([*e.prompt[:-2], 100, e.prompt[-1]], e.answer) for e in chosen[::2]]
    size = sum(p.numel() for p in model.parameters()) / 1e9
    print(f"\n{torch.cuda.get_device_name()}, {size:.2f} G parameters in bfloat16, n = {len(chosen)}, {sum(map(len, chosen))} tokens ({shortest} to {longest} each)")  # fmt: skip

    def gram(**options):
        return gradient_gram(model, chosen, seed=0, show=False, **options)

    ways = {f"forward and backward, batches of {b}": lambda b=b: bare(model, chosen, b) for b in (1024, 8192)}
    ways["Gram"] = gram
    ways["Gram, batches of 1024"] = lambda: gram(batch_tokens=1024)
    ways["Gram, lock-step"] = lambda: gram(batch_tokens=1024, lock_step=True)
    taken = medians(ways)
    for weights in ("seed_free", "full"):
        gradient_gram(model, chosen[:2], weights=weights, show=False)
        taken[f"Gram, {weights}, once"] = measured(lambda weights=weights: gram(weights=weights))
    ours = {name: gram(**options) for name, options in {"Gram": {}, "Gram, lock-step": {"batch_tokens": 1024, "lock_step": True}}.items()}  # fmt: skip

    peer = OnGPU(model)
    try:
        peer.cosine(peer.gradient(chosen[0]), peer.gradient(chosen[1]))
        peer.model.zero_grad(set_to_none=True)
        kept: list[list[torch.Tensor]] = []
        found: list[float] = []
        pairs = list(itertools.combinations(range(len(chosen)), 2))
        taken["published: gradients, once"] = measured(lambda: kept.extend(peer.gradient(e) for e in chosen))
        held = sum(g.numel() * g.element_size() for row in kept for g in row) / 2**20
        s, more = measured(lambda: found.extend(peer.cosine(kept[i], kept[j]) for i, j in pairs))
        taken["published: pairs, once"] = s, held + more
        lean = seconds(lambda: [peer.lean(kept[i], kept[j]) for i, j in pairs])
    finally:
        kept.clear()
        peer.model.zero_grad(set_to_none=True)
        peer.model.unload()
        model.requires_grad_(True)
    said(taken)
    least = min(s for name, (s, _) in taken.items() if name.startswith("forward"))
    alone, most = taken["published: gradients, once"][0], max(m for name, (_, m) in taken.items() if name.startswith("published"))  # fmt: skip
    total = alone + taken["published: pairs, once"][0]
    for name in ("Gram", "Gram, batches of 1024", "Gram, lock-step"):
        s, size = taken[name]
        print(f"  {name}: published / it {total / s:.1f}, pairs without copies ({lean:.2f} s) {(alone + lean) / s:.1f}; it / forward and backward {s / least:.2f}; published memory / its {most / size:.1f}")  # fmt: skip
    for name, one in ours.items():
        differences = np.array([abs(one.cosine[i, j] - c) for (i, j), c in zip(pairs, found, strict=True)])
        print(f"  {name}: cosines differ from the published ones by {np.median(differences):.1e}, at most {differences.max():.1e}; CoS-Low {cos_low(one, seed=0).value:.4f} and {np.median(found):.4f}")  # fmt: skip
        assert differences.max() < 0.05 and np.ptp(found) > 0.5
    assert taken["Gram, lock-step"][1] <= most / 10


def test_scoring_against_one_request_at_a_time(model):
    tokenizer = load_suite(names=["bpe"])["bpe"].tokenizer
    items = load_benchmark("embedded").filter(domain="cldr")[:N_ITEMS]
    lm = LM(model, tokenizer, name="bench", bos=False)
    requests = [
        (tokenizer.encode([question])[0], tokenizer.encode([question + between + choice])[0])
        for question, choices, between in items.select("question", "choices", "delimiter").rows()
        for choice in choices
    ]

    def naive(some: list[tuple[list[int], list[int]]]) -> list[float]:
        sums = []
        with torch.inference_mode():
            for context, whole in some:
                ids = torch.tensor([whole], device=DEVICE)
                logp = model(input_ids=ids[:, :-1]).logits[0].float().log_softmax(-1)
                scored = logp.gather(1, ids[0, 1:, None])[len(context) - 1 :]
                sums.append(float(scored.sum()))
        return sums

    naive(requests[:8])
    ours = score(lm, None, items, "lm_eval", show_progress=False)
    one_by_one: list[float] = []
    taken = medians({"score": lambda: score(lm, None, items, "lm_eval", show_progress=False)})
    taken["one request at a time, once"] = measured(lambda: one_by_one.extend(naive(requests)))
    tokens = sum(len(whole) for _, whole in requests)
    print(f"\n{torch.cuda.get_device_name()}, {items.height} items, {len(requests)} options, {tokens} tokens of questions and options")  # fmt: skip
    said(taken)
    (mine, _), (other, _) = taken.values()
    print(f"  {tokens / mine:,.0f} and {tokens / other:,.0f} tokens/s; one at a time / score {other / mine:.1f}")
    differences = np.abs(ours["loglikelihood"].to_numpy() - one_by_one) / ours["n_tokens"].to_numpy()
    print(f"  log-likelihoods per token differ by {np.median(differences):.1e}, at most {differences.max():.1e} nats")
    assert np.median(differences) < 0.05
    assert taken["score"][1] < 2048
