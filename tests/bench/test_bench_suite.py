"""How fast a suite trains, against a bare PyTorch loop over the same packed batches, and what packing wastes.

Run by `make bench`; prints medians and ratios, and asserts the thresholds. Times are processor time of one thread, so that what else runs on the
machine counts for little. Our side has everything that a call of `train_model` does: cutting the corpus, packing, the curve, and `accelerate`."""

import time
from dataclasses import replace
from statistics import median

import pytest
import torch
from torch.nn import functional as F

from toksuite_nb.suite import (
    initial_model,
    pack,
    step_documents,
    step_learning_rate,
    suite_corpus,
    suite_scales,
    train_model,
    train_tokenizers,
)

STEPS, ROUNDS = 60, 3


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batches(config, tokenizer, texts):
    "Everything a step needs, as tensors, made before the clock starts."
    documents = [[1, *ids, 1] for ids in tokenizer.encode(texts)]
    for chosen in step_documents(config, [len(ids) for ids in documents]):
        packed = pack([documents[i] for i in chosen], config.context)
        ids, document = torch.from_numpy(packed.ids), torch.from_numpy(packed.document)
        same = document[:, :, None] == document[:, None, :]
        visible = (same & torch.ones(same.shape[1:], dtype=torch.bool).tril())[:, None]
        yield packed, ids, torch.from_numpy(packed.positions), visible, torch.from_numpy(packed.predicted)


def bare(config, model, made):
    "The loop that a reader would write for this one case."
    matrices = [w for w in model.parameters() if w.ndim == 2]
    scales = [w for w in model.parameters() if w.ndim == 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": scales, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    losses = []
    model.train()
    for step, (_, ids, positions, visible, predicted) in enumerate(made):
        for group in optimizer.param_groups:
            group["lr"] = step_learning_rate(config, step)
        logits = model(input_ids=ids, position_ids=positions, attention_mask=visible, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1][predicted], ids[:, 1:][predicted])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("scale", ["small", "large"])
def test_training_is_as_fast_as_a_bare_loop_and_packing_wastes_little(scale):
    config = replace(suite_scales[scale], steps=STEPS, tokenizers=("bpe",))
    corpus = suite_corpus(config)
    texts, tokenizer = corpus["text"].to_list(), train_tokenizers(config, corpus)["bpe"]
    made = list(batches(config, tokenizer, texts))
    tokens = sum(int(packed.predicted.sum()) for packed, *_ in made)
    waste = sum((packed.document < 0).sum() for packed, *_ in made) / sum(packed.ids.size for packed, *_ in made)
    seconds = {"ours": [], "bare": []}
    for _ in range(ROUNDS):
        model = initial_model(config, tokenizer)
        start = time.process_time()
        losses = bare(config, model, made)
        seconds["bare"].append(time.process_time() - start)
        model = initial_model(config, tokenizer)
        start = time.process_time()
        curve = train_model(config, model, tokenizer, texts, show_progress=False)
        seconds["ours"].append(time.process_time() - start)
        assert curve["loss"].to_list() == pytest.approx(losses, abs=1e-3), "the two loops learn something else"
    rate = {side: tokens / median(times) for side, times in seconds.items()}
    ratio = rate["ours"] / rate["bare"]
    print(
        f"\n{scale}: {rate['ours']:,.0f} tokens/s, bare loop {rate['bare']:,.0f}, ratio {ratio:.3f}; "
        f"packing wastes {waste:.2%} of the positions; {STEPS} steps, {ROUNDS} rounds"
    )
    assert ratio >= 0.9
    assert waste <= 0.05
