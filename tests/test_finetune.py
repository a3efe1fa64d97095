"Measured curves: nested, seeded, resumable; and the study that is made of them."

import json
import os
from copy import deepcopy
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr, spearmanr

torch = pytest.importorskip("torch")

from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM  # noqa: E402

import toksuite_nb.finetune as finetune_module  # noqa: E402
from toksuite_nb.core import content_hash, curve_schema, derive_rng  # noqa: E402
from toksuite_nb.efficiency import calibrate, interval_coverage, published_tasks  # noqa: E402
from toksuite_nb.finetune import (  # noqa: E402
    FinetuneConfig,
    Task,
    answer_text,
    exact_match,
    finetune,
    measure_curve,
    pool_order,
    task_budgets,
)
from toksuite_nb.gradients import Example  # noqa: E402
from toksuite_nb.store import data_path, manifest  # noqa: E402
from toksuite_nb.study import (  # noqa: E402
    answer_overlap,
    compare_predictors,
    load_study_model,
    recheck_cell,
    study_curves,
    study_measures,
    study_members,
    study_numbers,
    study_predictors,
    study_recipe,
    study_seeds,
    study_table,
    study_task,
    study_tasks,
)
from toksuite_nb.suite import load_suite  # noqa: E402

LETTERS = "abcdefghijklmnopqrst"
PAIRS = [f"{a} {b}:" for a in LETTERS for b in LETTERS if a != b]
ORDER = np.random.default_rng(0).permutation(len(PAIRS)).tolist()
COPY = Task(
    "copy the first letter",
    [PAIRS[i] for i in ORDER[:300]],
    [f" {PAIRS[i][0]}" for i in ORDER[:300]],
    [PAIRS[i] for i in ORDER[300:]],
    [f" {PAIRS[i][0]}" for i in ORDER[300:]],
)
TINY = FinetuneConfig(2e-3, budgets=(0, 8, 32), steps=4, batch_size=4, max_new_tokens=3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bpe():
    return load_suite(names=["bpe"])["bpe"]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in model.state_dict().items()}


def test_budgets_nest():
    for seed in range(3):
        order = pool_order(COPY, seed=seed)
        assert sorted(order) == list(range(300)), "the order is a permutation of the pool"
        assert order == pool_order(COPY, seed=seed)
    assert pool_order(COPY, seed=0) != pool_order(COPY, seed=1)
    assert pool_order(COPY, seed=0) != pool_order(replace(COPY, name="other"), seed=0)


def test_a_budget_trains_on_its_own_examples_and_no_others(bpe, monkeypatch):
    read: dict[int, set] = {}

    def spy(model, examples):
        read[n].update(examples)
        return answer_loss(model, examples)

    answer_loss = finetune_module._answer_loss
    monkeypatch.setattr(finetune_module, "_answer_loss", spy)
    for n in (8, 16):
        read[n] = set()
        finetune(bpe.model, bpe.tokenizer, COPY, replace(TINY, steps=6), n=n, seed=0, show=False)
    assert len(read[8]) == 8 and len(read[16]) == 16
    assert read[8] < read[16], "the smaller budget must be part of the larger"


def test_the_same_seed_gives_the_same_curve_and_another_does_not(bpe):
    runs = [finetune(bpe.model, bpe.tokenizer, COPY, TINY, n=32, seed=s, show=False) for s in (0, 0, 1)]
    assert np.array_equal(runs[0][1], runs[1][1]) and not np.array_equal(runs[0][1], runs[2][1])
    first, again = (weights(run[0]) for run in runs[:2])
    assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_given_model_and_the_global_generator_are_left_alone(bpe, method):
    before, state = weights(bpe.model), torch.get_rng_state()
    tuned, _ = finetune(bpe.model, bpe.tokenizer, COPY, replace(TINY, method=method), n=8, seed=0, show=False)
    assert all(torch.equal(before[k], w) for k, w in weights(bpe.model).items())
    assert torch.equal(state, torch.get_rng_state())
    assert set(weights(tuned)) == set(before), "the result must be an ordinary model"
    assert any(not torch.equal(before[k], w) for k, w in weights(tuned).items())


def test_copying_is_learnt(bpe):
    config = FinetuneConfig(2e-3, budgets=(0, 300), steps=60, batch_size=16, max_new_tokens=3)
    curve = measure_curve(bpe.model, bpe.tokenizer, COPY, config, seeds=(0,), show=False)
    zero, learnt = curve.sort("n")["metric"].to_list()
    assert zero < 0.2 and learnt > 0.8, f"exact match went from {zero} to {learnt}"
    assert curve["n_test"].unique().to_list() == [80]


class Unmarked:
    """Bytes without an end-of-text id."""

    name, content_hash, specials = "unmarked", "0" * 32, {}
    pieces = [None] * 3 + [bytes([b]) for b in range(256)]

    def encode(self, texts):
        return [[b + 3 for b in text.encode()] for text in texts]


def reader(**config):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=259, max_position_embeddings=64, **sizes, **config))


def test_answers_end_with_the_id_of_the_model_where_the_tokenizer_has_none(recwarn):
    rows = [0, 1]
    made = finetune_module._examples(reader(eos_token_id=[7, 1]), Unmarked(), COPY, rows)
    assert [e.answer[-1] for e in made] == [1, 1], "an id at which answers stop"
    assert not recwarn.list
    model = reader(eos_token_id=None)
    model.generation_config.eos_token_id = None
    config = FinetuneConfig(1e-3, steps=1, batch_size=2)
    with pytest.warns(UserWarning, match="finetune: neither tokenizer nor model has an end-of-text id"):
        finetune(model, Unmarked(), COPY, config, n=2, seed=0, show=False)


def test_a_budget_of_numpy_is_the_same_budget():
    runs = [finetune(reader(), Unmarked(), COPY, TINY, n=n, seed=0, show=False)[1] for n in (8, np.int64(8))]
    assert np.array_equal(*runs), "the order of the batches must not depend on the kind of number"


def test_a_loss_or_an_answer_that_is_not_finite_is_no_measurement():
    model = reader()
    model.lm_head.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match=r"the loss must stay finite, got nan at update 1 of 4 for 'copy .*Lower"):
        finetune(model, Unmarked(), COPY, TINY, n=8, seed=0, show=False)
    with pytest.raises(ValueError, match="exact_match: probabilities must be finite, got others for 80 of 80 prompts"):
        exact_match(model, Unmarked(), COPY)


def test_ids_that_the_model_lacks_are_named():
    small = LlamaForCausalLM(LlamaConfig(**{**reader().config.to_dict(), "vocab_size": 60}))
    with pytest.raises(ValueError, match=r"token ids must lie below the model's 60, got \[61, "):
        finetune(small, Unmarked(), COPY, TINY, n=8, seed=0, show=False)


def test_a_suite_member_is_taken_for_its_model(bpe):
    ours, theirs = (measure_curve(m, bpe.tokenizer, COPY, TINY, seeds=(0,), show=False) for m in (bpe, bpe.model))
    assert ours.equals(theirs)


def test_weights_in_double_precision_count_to_their_last_digit():
    one, other = reader().double(), reader().double()
    other.lm_head.weight.data[0, 0] *= 1 + 1e-12
    assert finetune_module._weights_hash(one) != finetune_module._weights_hash(other)


def test_a_stopped_run_goes_on_where_it_was(bpe, tmp_path, monkeypatch):
    whole = measure_curve(bpe.model, bpe.tokenizer, COPY, TINY, seeds=(0, 1), folder=tmp_path / "a", show=False)
    measure, calls = finetune_module._measure, []

    def counted(model, tok, task, config, n, seed):
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append((n, seed))
        return measure(model, tok, task, config, n, seed)

    monkeypatch.setattr(finetune_module, "_measure", counted)
    stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        measure_curve(bpe.model, bpe.tokenizer, COPY, TINY, seeds=(0, 1), folder=tmp_path / "b", show=False)
    assert len(list((tmp_path / "b").iterdir())) == 3, "what was finished is kept, and nothing else"
    stop_after = 100
    resumed = measure_curve(bpe.model, bpe.tokenizer, COPY, TINY, seeds=(0, 1), folder=tmp_path / "b", show=False)
    assert resumed.equals(whole)
    assert len(calls) == len(set(calls)) == 5, "zero-shot once and two budgets per seed; nothing twice"
    names = [sorted(p.name for p in (tmp_path / x).iterdir()) for x in "ab"]
    assert names[0] == names[1]


def test_zero_shot_is_measured_once_without_a_folder_as_well(bpe, monkeypatch):
    measure, calls = finetune_module._measure, []
    monkeypatch.setattr(finetune_module, "_measure", lambda *given: calls.append(given[-2:]) or measure(*given))
    curve = measure_curve(bpe.model, bpe.tokenizer, COPY, replace(TINY, budgets=(0, 8)), seeds=(0, 1), show=False)
    assert calls == [(0, 0), (8, 0), (8, 1)] and curve.select("n", "seed").rows() == [(0, 0), (8, 0), (0, 1), (8, 1)]


def test_a_cell_is_named_by_all_it_depends_on(bpe):
    def cells(model=bpe.model, tokenizer=bpe.tokenizer, task=COPY, config=TINY, seeds=(0,)):
        frame = measure_curve(model, tokenizer, task, replace(config, steps=1), seeds=seeds, show=False)
        return frame["cell"].to_list()

    base = cells()
    moved = deepcopy(bpe.model)
    moved.lm_head.weight.data[5, 5] += 1
    assert not set(base) & set(cells(model=moved))
    assert not set(base) & set(cells(task=replace(COPY, test_answers=[" z"] * 80)))
    assert not set(base) & set(cells(config=replace(TINY, learning_rate=1e-3)))
    assert base[0] in cells(seeds=(1,)) and len(set(base) & set(cells(seeds=(1,)))) == 1, "only zero-shot has no seed"
    assert set(cells(config=replace(TINY, budgets=(0, 8)))) < set(base), "another budget does not rename the others"


def test_the_same_weights_under_another_configuration_are_measured_again(tmp_path, monkeypatch):
    one = reader()
    other = LlamaForCausalLM(LlamaConfig(**{**one.config.to_dict(), "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 4}))  # fmt: skip
    other.load_state_dict(one.state_dict())
    assert finetune_module._weights_hash(one) == finetune_module._weights_hash(other), "the weights do not tell"
    measure, calls = finetune_module._measure, []
    monkeypatch.setattr(finetune_module, "_measure", lambda model, *rest: calls.append(model) or measure(model, *rest))
    given = [one, one, other, other, deepcopy(other)]
    for model in given:
        measure_curve(model, Unmarked(), COPY, replace(TINY, budgets=(0,)), seeds=(0,), folder=tmp_path, show=False)
    assert len(calls) == 2 and calls[0] is one and calls[1] is other
    (file,) = tmp_path.iterdir()
    earlier = {k: v for k, v in json.loads(file.read_text()).items() if k != "settings"}
    file.write_text(json.dumps(earlier))
    measure_curve(one, Unmarked(), COPY, replace(TINY, budgets=(0,)), seeds=(0,), folder=tmp_path, show=False)
    assert len(calls) == 2, "a file of an earlier version says nothing of it"


@pytest.mark.parametrize("member", study_members)
def test_embedded_cells_have_the_names_of_what_is_in_the_package(member):
    """Weights, tokenizer, prompts and answers of every task, recipe, budget and seed: none has changed since."""
    start, curves = load_study_model(member=member), study_curves(member)
    weights_hash, tokenizer_hash = finetune_module._weights_hash(start.model), start.tokenizer.content_hash
    for (task,), rows in curves.group_by("task"):
        ground = content_hash(weights_hash, tokenizer_hash, study_task(task).content_hash, study_recipe.content_hash)
        for n, seed, cell in rows.select("n", "seed", "cell").iter_rows():
            assert cell == content_hash(ground, n, seed if n else None), f"{task}, n = {n}, seed {seed}"


def test_a_spoilt_cell_is_named_and_not_believed(bpe, tmp_path):
    frame = measure_curve(
        bpe.model, bpe.tokenizer, COPY, replace(TINY, budgets=(0,)), seeds=(0,), folder=tmp_path, show=False
    )
    for text in ('{"metric": 1}', "", "[]", '{"metr'):
        (tmp_path / f"{frame['cell'][0]}.json").write_text(text)
        with pytest.raises(ValueError, match=r"a cell must hold metric, n_test and train_loss, got .* Delete the file"):
            measure_curve(
                bpe.model, bpe.tokenizer, COPY, replace(TINY, budgets=(0,)), seeds=(0,), folder=tmp_path, show=False
            )


def test_a_small_pool_is_measured_whole():
    assert task_budgets(COPY, FinetuneConfig(1e-3)) == [0, 50, 100, 200, 300]
    assert task_budgets(COPY, FinetuneConfig(1e-3, budgets=(0, 300, 500))) == [0, 300]


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
        )
    )


EXAMPLES = [Example([1, *range(3, 3 + k)], [20 + k, 1]) for k in (2, 5, 9)]


def test_the_loss_is_the_mean_over_answer_tokens():
    model = llama().double()
    ids = torch.zeros(3, 12, dtype=torch.long)
    labels = torch.full((3, 12), -100)
    for row, e in enumerate(EXAMPLES):
        ids[row, : len(e)] = torch.tensor([*e.prompt, *e.answer])
        labels[row, len(e.prompt) : len(e)] = torch.tensor(e.answer)
    mask = torch.tensor([[1] * len(e) + [0] * (12 - len(e)) for e in EXAMPLES])
    theirs = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert torch.allclose(finetune_module._answer_loss(model, EXAMPLES).double(), theirs.double(), atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [llama, lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2))],
    ids=["llama", "gpt2"],
)
def test_low_rank_starts_at_the_model_and_moves_by_low_rank(make):
    torch.manual_seed(0)
    model = make().eval()
    before = weights(model)
    ids = torch.tensor([[1, 5, 9, 11]])
    with torch.no_grad():
        plain = model(ids).logits
        finetune_module._add_low_rank(model, FinetuneConfig(1e-2, method="lora", rank=2), 0)
        assert torch.equal(plain, model(ids).logits), "B starts at zero, so nothing may change"
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(moving, lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        finetune_module._answer_loss(model, EXAMPLES).backward()
        optimizer.step()
    tuned = deepcopy(model)
    with torch.no_grad():
        with_updates = tuned(ids).logits
        finetune_module._fold_low_rank(tuned)
        assert torch.allclose(with_updates, tuned(ids).logits, atol=1e-6)
    changed = {k: (w - before[k]).double() for k, w in weights(tuned).items() if not torch.equal(w, before[k])}
    assert changed and all(
        int((torch.linalg.svdvals(d) > 1e-6 * torch.linalg.norm(d)).sum()) <= 2 for d in changed.values()
    )
    assert not any("embed" in k or "lm_head" in k or "wte" in k or "norm" in k for k in changed)


def test_the_recipe_is_that_of_a_plain_loop():
    """Examples, warm-up, cosine, clipping and decay worked out here; only the order of the batches is asked for."""
    config = FinetuneConfig(5e-3, steps=12, batch_size=8, warmup=0.3, weight_decay=0.1, clip=0.5)
    tuned, losses = finetune(reader(), Unmarked(), COPY, config, n=20, seed=3, show=False)
    assert not tuned.training and all(p.requires_grad for p in tuned.parameters())
    model, rows = reader().train(), pool_order(COPY, seed=3)[:20]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
    clipped = 0
    for step, batch in enumerate(finetune_module._batches(20, config, 3, COPY.name)):
        nats, tokens = [], 0
        for i in batch:
            prompt, answer = ([b + 3 for b in text[rows[i]].encode()] for text in (COPY.prompts, COPY.answers))
            answer = [*answer, model.config.eos_token_id]
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            nats.append(-logits.log_softmax(-1)[range(len(answer)), answer].sum())
            tokens += len(answer)
        loss = torch.stack(nats).sum() / tokens
        optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
        clipped += bool(norm > 0.5)
        for p in model.parameters():
            p.grad *= min(1.0, 0.5 / float(norm))
        # 4 of 12 updates warm up
        share = (step + 1) / 4 if step < 4 else (1 + np.cos(np.pi * (step - 4) / 8)) / 2
        optimizer.param_groups[0]["lr"] = 5e-3 * share
        optimizer.step()
        assert losses[step] == pytest.approx(loss.item(), abs=1e-3)
    assert clipped > 0, "clipping must be seen"
    for name, w in weights(model).items():
        assert torch.allclose(w, weights(tuned)[name], atol=2e-4), name


@pytest.mark.parametrize(("n", "epochs", "updates"), [(8, 10, 3), (50, 3, 5), (32, 3, 3), (1, 1, 1), (5000, 10, 500)])
def test_passes_are_counted_in_full_batches_and_never_exceeded(n, epochs, updates):
    config = FinetuneConfig(1e-3, epochs=epochs)
    batches = list(finetune_module._batches(n, config, 0, "t"))
    assert config.updates(n) == len(batches) == updates
    assert sum(map(len, batches)) <= n * epochs
    rows = [i for batch in batches for i in batch]
    passes = [rows[k : k + n] for k in range(0, len(rows), n)]
    assert all(sorted(p) == list(range(n)) for p in passes if len(p) == n)
    assert n == 1 or len({tuple(p) for p in passes}) == len(passes), "each pass is another permutation"


def test_a_point_has_the_loss_of_its_last_tenth_and_the_answers_that_were_asked_for(monkeypatch):
    asked, losses = [], np.arange(30.0)

    def answered(*given, max_new_tokens):
        asked.append((given[0], max_new_tokens))
        return pl.DataFrame({"correct": [True, False]})

    monkeypatch.setattr(finetune_module, "finetune", lambda *a, **k: ("tuned", losses))
    monkeypatch.setattr(finetune_module, "exact_match", answered)
    point = finetune_module._measure("given", Unmarked(), COPY, replace(TINY, max_new_tokens=7), 8, 0)
    assert point == {"metric": 0.5, "n_test": 2, "train_loss": np.mean([27, 28, 29])} and asked == [("tuned", 7)]
    assert finetune_module._measure("given", Unmarked(), COPY, TINY, 0, 0)["train_loss"] is None
    assert asked[1][0] == "given"


def test_low_rank_training_equals_peft():
    peft = pytest.importorskip("peft")
    config = FinetuneConfig(1e-2, method="lora", rank=4, alpha=8)
    ours, base = llama(), llama()
    finetune_module._add_low_rank(ours, config, 0)
    theirs = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    )
    for name, module in theirs.get_base_model().named_modules():
        if hasattr(module, "lora_A"):
            update = ours.get_submodule(name).parametrizations.weight[0]
            module.lora_A["default"].weight.data.copy_(update.a.data)
    losses = []
    for model in (ours, theirs):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
        seen = []
        for _ in range(5):
            loss = finetune_module._answer_loss(model, EXAMPLES)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        losses.append(seen)
    assert losses[0][-1] < losses[0][0] and np.allclose(*losses, atol=1e-4), losses


def test_exact_match_asks_greedily(bpe):
    few = Task("few", ["a"], [" b"], ["The month after May is", "Mali:"], [" June.", " Mali"])
    said = exact_match(bpe.model, bpe.tokenizer, few, max_new_tokens=6)
    for prompt, answer in said.select("prompt", "answer").iter_rows():
        ids = torch.tensor([[1, *bpe.tokenizer.encode([prompt])[0]]])
        out = bpe.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        assert bpe.tokenizer.decode(out[0, ids.shape[1] :].tolist()) == answer
    assert said["correct"][0], "a final full stop and case do not count"


@pytest.mark.parametrize(
    ("text", "form"),
    [(" Yes.\nNo", "yes"), ("\n\n", ""), (" 3 ", "3"), ("İzmir.", "i̇zmir"), (".", ""), (" etc.. ", "etc.")],
)
def test_answers_are_compared_in_one_form(text, form):
    assert answer_text(text) == form


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Task("t", [], [], ["a"], ["b"]),
            "at least one prompt in the pool and one in the test set, got 0 and 1",
        ),
        (lambda: Task("t", ["a"], ["b"], ["a"], ["b"]), "test prompts that are not in the pool, got 1"),
        (lambda: Task("t", ["a", "c"], ["b"], ["d"], ["e"]), "as many answers as prompts, got 1 and 2"),
        (lambda: Task("t", ["a"], ["b"], ["d"], [" . "]), "answers with text, got ' . '"),
        (lambda: FinetuneConfig(0.0), "learning_rate > 0, got 0.0"),
        (lambda: FinetuneConfig(1e-3, budgets=(0, -1)), "whole numbers >= 0, got .0, -1."),
        (lambda: FinetuneConfig(1e-3, budgets=()), "at least one budget, got none"),
        (lambda: FinetuneConfig(float("nan")), "learning_rate > 0, got nan"),
        (lambda: FinetuneConfig(1e-3, epochs=0), "epochs of at least 1, got 0"),
    ],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_prompts_that_do_not_fit_are_refused(bpe):
    long = Task("long", ["Mali " * 3000], [" Mali"], ["b"], [" c"])
    with pytest.raises(ValueError, match=r"prompt and answer must fit the model's 2048 positions, got \d+ for 'long'"):
        finetune(bpe.model, bpe.tokenizer, long, TINY, n=1, seed=0, show=False)


# ---- the study


def test_every_task_has_other_prompts_in_its_test_set():
    for name in study_tasks()["task"]:
        task = study_task(name)
        assert len(set(task.prompts)) == len(task.prompts) >= 320 and len(set(task.test_prompts)) >= 160
        assert not set(task.prompts) & set(task.test_prompts)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("first", lambda p: p.split()[0]),
        ("last", lambda p: p.split()[-1]),
        ("copy", lambda p: p),
        ("length", lambda p: str(len(p.split()))),
        ("majority", lambda p: max(set(p.split()), key=p.split().count)),
        ("same", lambda p: "yes" if len(set(p.split())) == 1 else "no"),
        ("lookup", lambda p: dict(zip(*[iter(p.split(",")[0].split())] * 2, strict=True))[p.split()[-1]]),
        ("initial", lambda p: p.split()[1][0]),
        ("add", lambda p: str(sum(map(int, p.split("+"))) % 10)),
        ("larger", lambda p: str(max(map(int, p.split())))),
        ("parity", lambda p: "odd" if int(p) % 2 else "even"),
    ],
)
def test_answers_follow_the_rule(name, rule):
    task = study_task(name)
    for prompt, answer in zip(task.test_prompts, task.test_answers, strict=True):
        assert answer == f" {rule(prompt.removesuffix(':'))}", prompt


MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def pairs_of(name: str) -> list[tuple[str, str]]:
    task = study_task(name)
    prompts, answers = (*task.test_prompts, *task.prompts), (*task.test_answers, *task.answers)
    return [(prompt.removesuffix(":"), answer) for prompt, answer in zip(prompts, answers, strict=True)]


def test_answers_about_months_follow_the_calendar():
    after = [(p.split()[1], a.strip()) for p, a in pairs_of("next-month") if p.split()[1] in MONTHS]
    assert len(after) > 100 and all(a == MONTHS[(MONTHS.index(m) + 1) % 12] for m, a in after)
    earlier = [(p.split(), a.strip()) for p, a in pairs_of("earlier") if set(p.split()) <= set(MONTHS)]
    assert len(earlier) > 50 and all(a == min(months, key=MONTHS.index) for months, a in earlier)


def test_answers_about_lists_and_labels_follow_the_rule():
    for prompt, answer in pairs_of("member"):
        names, asked = prompt.split(", ")
        assert answer == (" yes" if asked in names.split() else " no"), prompt
    for n_keys in (20, 150):
        labels = {(p.split()[0], a) for p, a in pairs_of(f"labels-{n_keys}")}
        assert len(labels) == n_keys == len({key for key, _ in labels}), "one label for each name, whatever stands by"
        assert {a for _, a in labels} == {" A", " B", " C", " D"}


def test_answers_about_facts_agree_with_each_other():
    known = {p.split(". ", 1)[1]: a for p, a in pairs_of("fact")}
    checks = 0
    for prompt, answer in pairs_of("fact-check"):
        statement = prompt.split(". ", 1)[1]
        for question in (q for q in known if statement.startswith(f"{q} ")):
            checks += 1
            assert answer == (" yes" if statement == f"{question}{known[question]}" else " no"), prompt
    assert checks > 1000


def test_a_quarter_of_the_noisy_labels_is_wrong():
    language = {name: a for p, a in pairs_of("language") for name in p.split()}
    told = [(p.split(), a) for p, a in pairs_of("noisy-language")]
    right = [a == language[names[0]] for names, a in told if names[0] in language]
    assert len(right) > 3000 and abs(np.mean(right) - 0.76) < 0.03, "0.7, and a fifth of the random ones"
    assert all(language[a] == language[b] for (a, b), _ in told if a in language and b in language)


@pytest.mark.parametrize("member", study_members)
def test_the_table_of_the_study_is_worked_out_from_its_curves(member):
    curves, numbers = study_curves(member), study_numbers(member)
    table = study_table(curves, numbers)
    assert table["task"].to_list() == study_tasks()["task"].to_list()

    def area(points: dict[int, float], ceiling: float) -> float:
        budgets = [0, 50, 100, 200, 500, 1000, 2500, 5000]
        best = [max(m for n, m in points.items() if n <= budget) for budget in budgets]
        top = max(ceiling, *best)
        share = [(b - best[0]) / (top - best[0]) for b in best]
        x = [np.log2(max(n, 1)) / np.log2(5000) for n in budgets]
        return sum((x[k + 1] - x[k]) * (share[k] + share[k + 1]) / 2 for k in range(7))

    for row in table.iter_rows(named=True):
        rows, ceiling = curves.filter(task=row["task"]), 0.76 if row["task"] == "noisy-language" else 1.0
        each = [dict(rows.filter(seed=seed).select("n", "metric").iter_rows()) for seed in study_seeds]
        if max(each[0]) < 1000:  # a small pool has budgets of its own, which the area keeps
            continue
        mean = {n: np.mean([curve[n] for curve in each]) for n in each[0]}
        assert row["auc"] == pytest.approx(area(mean, ceiling), abs=1e-9), row["task"]
        assert row["auc_sd"] == pytest.approx(np.std([area(curve, ceiling) for curve in each], ddof=1), abs=1e-9)
        assert row["zero_shot"] == pytest.approx(mean[0]) and row["best"] == pytest.approx(max(mean.values()))
        assert row["cos_low"] == pytest.approx(numbers.filter(task=row["task"])["cos_low"].mean())


@pytest.mark.parametrize("member", study_members)
def test_the_study_is_complete(member):
    tasks, curves, numbers = study_tasks()["task"].to_list(), study_curves(member), study_numbers(member)
    assert curves["model"].unique().to_list() == [f"{member}-stage"]
    assert len(tasks) >= 16 and {c.name for c in curve_schema.columns} <= set(curves.columns)
    assert curves["metric"].is_between(0, 1).all() and curves["metric"].null_count() == 0
    for name in tasks:
        budgets = task_budgets(study_task(name), study_recipe)
        for seed in study_seeds:
            rows = curves.filter((pl.col("task") == name) & (pl.col("seed") == seed))
            assert rows["n"].to_list() == budgets, name
    assert set(numbers.select("task", "seed").rows()) == {(t, s) for t in tasks for s in study_seeds}
    assert numbers["cos_low"].is_between(-1, 1).all()


@pytest.mark.parametrize("member", study_members)
def test_the_study_has_signal(member):
    table = study_table(study_curves(member), study_numbers(member))
    assert table["auc"].max() - table["auc"].min() > 0.4, "tasks must differ in how many labels they need"
    assert (table["best"] - table["zero_shot"] > 0.05).mean() >= 0.9, "curves must rise"
    assert table["auc_sd"].mean() < 0.3 * table["auc"].std(), (
        "differences between tasks must exceed those between seeds"
    )


@pytest.mark.parametrize("member", study_members)
def test_a_cheap_cell_of_the_study_comes_out_again(member):
    row = recheck_cell("parity", n=50, seed=0, member=member)
    assert abs(row["embedded"].item() - row["measured"].item()) <= 0.05, row


@pytest.mark.parametrize("member", study_members)
def test_numbers_of_the_study_come_out_again(member):
    start, kept = load_study_model(member=member), study_numbers(member).filter(task="parity", seed=0)
    again = study_measures(start.model, start.tokenizer, study_task("parity"), seed=0)
    for name in ("cos_low", "cos_random", "gradient_norm", "loss", "confidence"):
        assert again[name] == pytest.approx(kept[name].item(), rel=0.02, abs=0.01), name


def test_files_of_the_study_are_small_and_have_a_source():
    rows = manifest().filter(pl.col("name").str.starts_with("study/"))
    files = ("curves.csv", "measures.csv", "model.safetensors")
    assert rows["name"].to_list() == sorted(f"study/{member}/{name}" for member in study_members for name in files)
    assert rows["bytes"].sum() < 8e6
    for name in rows["name"]:
        assert os.path.getsize(data_path(name)) > 0


def test_a_model_that_is_not_in_the_study_is_named():
    for read in (study_curves, study_numbers, lambda member: load_study_model(member=member)):
        with pytest.raises(KeyError, match=r"unknown member 'bytes'\. Known are \['bpe', 'bpe-nfkc-lower'\]"):
            read("bytes")


def test_overlap_counts_equal_tokens_at_equal_places(bpe):
    task = Task("t", ["a", "b", "c"], [" yes", " yes", " no"], ["d"], [" no"])
    ids = bpe.tokenizer.encode(list(task.answers))
    pairs = [(0, 1), (0, 2), (1, 2)]
    each = [sum(a == b for a, b in zip(ids[i], ids[j], strict=False)) / max(len(ids[i]), len(ids[j])) for i, j in pairs]
    assert answer_overlap(bpe.tokenizer, task) == pytest.approx(np.mean(each))
    with pytest.raises(ValueError, match="needs at least 2 answers, got 1"):
        answer_overlap(bpe.tokenizer, task, n=1)


def test_a_perfect_predictor_is_recognised_and_noise_is_not():
    rng = np.random.default_rng(0)
    table = pl.DataFrame({"auc": rng.uniform(0.1, 0.9, 24)}).with_columns(
        good=3 * pl.col("auc") - 1, bad=pl.Series(rng.normal(size=24))
    )
    verdict = {r["predictor"]: r for r in compare_predictors(table, ["good", "bad"], seed=0).iter_rows(named=True)}
    assert verdict["good"]["pearson"] == pytest.approx(1) and verdict["good"]["error"] < 1e-9
    assert verdict["good"]["gain_low"] > 0 and verdict["bad"]["gain_low"] < 0
    assert verdict["bad"]["low"] < 0 < verdict["bad"]["high"]


def test_left_out_errors_equal_those_of_the_calibration():
    shown = published_tasks().drop_nulls("cos_low")
    row = compare_predictors(shown, ["cos_low"], seed=0).row(0, named=True)
    line = calibrate(shown["cos_low"].to_numpy(), shown["auc"].to_numpy())
    assert row["error"] == pytest.approx(np.abs(line.residuals).mean(), abs=1e-12)
    assert row["baseline"] == pytest.approx(np.abs(line.baseline).mean(), abs=1e-12)


def test_intervals_of_the_ranks_and_of_the_error_equal_plain_loops_over_the_same_draws():
    table = study_table(study_curves(), study_numbers()).sort("auc", "cos_low")
    row = compare_predictors(table, ["cos_low"], seed=5, level=0.9, draws=200).row(0, named=True)
    assert (row["level"], row["draws"], row["seed"]) == (0.9, 200, 5)
    x, area = table["cos_low"].to_numpy(), table["auc"].to_numpy()
    picks = derive_rng(5, "compare_predictors").integers(0, len(x), (200, len(x)))
    line = calibrate(x, area)
    error, baseline = np.abs(line.residuals), np.abs(line.baseline)
    drawn = {
        "": [pearsonr(x[pick], area[pick])[0] for pick in picks],
        "spearman_": [spearmanr(x[pick], area[pick])[0] for pick in picks],
        "error_": [error[pick].mean() for pick in picks],
        "gain_": [(baseline - error)[pick].mean() for pick in picks],
    }
    assert row["gain"] == pytest.approx((baseline - error).mean(), abs=1e-12)
    for name, values in drawn.items():
        assert [row[f"{name}low"], row[f"{name}high"]] == pytest.approx(np.quantile(values, [0.05, 0.95]).tolist())


def test_draws_of_one_task_alone_are_left_out_of_the_correlations():
    table = pl.DataFrame({"auc": [0.1, 0.1, 0.5, 0.9], "x": [0.3, 0.3, 0.3 + 1e-9, 0.4]})
    row = compare_predictors(table, ["x"], seed=0).row(0, named=True)
    assert all(np.isfinite(row[name]) for name in ("low", "high", "spearman_low", "spearman_high"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cos_low": pl.lit(0.1)}, "got the same in all or all but one in .'cos_low'."),
        (
            {"cos_low": pl.when(pl.col("task") == "add").then(0.2).otherwise(0.1)},
            "got the same in all or all but one in .'cos_low'.",
        ),
        ({"cos_low": pl.lit(float("nan"))}, "a finite number for every task, got none for some in .'cos_low'."),
        (
            {"cos_low": pl.when(pl.col("task") == "add").then(None).otherwise("cos_low")},
            "got none for some in .'cos_low'.",
        ),
        ({"auc": pl.lit(0.5)}, "got the same in all or all but one in .'auc'."),
    ],
)
def test_predictors_that_cannot_be_judged_are_named(change, message):
    table = study_table(study_curves(), study_numbers()).with_columns(**change)
    with pytest.raises(ValueError, match=f"compare_predictors: needs .*{message}"):
        compare_predictors(table, ["cos_low"], seed=0)


def test_comparisons_without_tasks_columns_or_draws_say_so():
    table = study_table(study_curves(), study_numbers())
    with pytest.raises(ValueError, match=r"got no \['temperature'\]"):
        compare_predictors(table, ["temperature"], seed=0)
    with pytest.raises(ValueError, match=r"numbers in every column, got none in \['task', 'shares'\]"):
        compare_predictors(table, ["task", "shares"], seed=0)
    with pytest.raises(ValueError, match="at least 4 tasks, got 3"):
        compare_predictors(table[:3], ["cos_low"], seed=0)
    with pytest.raises(ValueError, match=r"level in \(0, 1\) and draws of at least 1, got 2 and 0"):
        compare_predictors(table, ["cos_low"], seed=0, level=2, draws=0)


def test_a_mean_curve_never_mixes_seeds_of_different_budgets():
    curves = study_curves()
    stopped = curves.filter(~((pl.col("task") == "copy") & (pl.col("seed") == 1) & (pl.col("n") == 1000)))
    with pytest.raises(ValueError, match=r"same budgets for all seeds, got 356 rows, uneven tasks \['copy'\]"):
        study_table(stopped, study_numbers())
    with pytest.raises(ValueError, match="got 0 rows"):
        study_table(curves.clear(), study_numbers())
    with pytest.raises(ValueError, match=r"unknown ones \['other'\]"):
        study_table(curves.with_columns(task=pl.lit("other")), study_numbers())
    for pool, test in ((5, 0), (1, 1), (2, 1)):
        with pytest.raises(
            ValueError, match=f"pool and test must be at least 1, and 4 together, got {pool} and {test}"
        ):
            study_task("copy", pool=pool, test=test)
    assert len(study_task("copy", pool=3, test=1).test_prompts) == 1


def test_intervals_of_the_study_hold_their_values_and_are_symmetric():
    numbers = study_numbers()
    value, low, high = (numbers[c].to_numpy() for c in ("cos_low", "cos_low_low", "cos_low_high"))
    assert (low < value).all() and (value < high).all()
    assert np.allclose(value - low, high - value, atol=1e-4), "an interval by subsampling is symmetric about its value"


def test_an_answer_that_cannot_be_generated_is_refused(bpe):
    longest = max(map(len, bpe.tokenizer.encode(list(COPY.test_answers))))
    exact_match(bpe.model, bpe.tokenizer, COPY, max_new_tokens=longest)
    with pytest.raises(
        ValueError, match="must hold the longest expected answer, got 1 for 2 tokens in 'copy the first"
    ):
        exact_match(bpe.model, bpe.tokenizer, COPY, max_new_tokens=1)


@pytest.mark.parametrize("member", study_members)
def test_every_predictor_is_reported(member):
    verdict = compare_predictors(study_table(study_curves(member), study_numbers(member)), seed=0)
    assert verdict["predictor"].to_list() == list(study_predictors)
    assert (verdict["low"] <= verdict["pearson"]).all() and (verdict["pearson"] <= verdict["high"]).all()


@pytest.mark.parametrize("member", study_members)
def test_forecast_bands_cover_the_tasks_of_the_study(member):
    table = study_table(study_curves(member), study_numbers(member))
    held = interval_coverage(table["cos_low"].to_numpy(), table["auc"].to_numpy(), np.array(table["shares"].to_list()))
    measured = held.filter(pl.col("n") <= 1000)["held"].to_numpy()  # beyond, the last value is carried on
    assert 0.85 <= held["held"].to_numpy().mean() <= 0.95, held
    assert 0.85 <= measured.mean() <= 0.95 and measured.min() >= 0.85, held
