"""Confidence against one prompt at a time, CoS-Low against the published procedure."""

import itertools
import warnings

import numpy as np
import polars as pl
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from toksuite_nb.coslow import (
    _prompt_ids,
    chat_prompts,
    confidence,
    cos_low,
    published_exclusions,
    select_low_confidence,
)
from toksuite_nb.gradients import Example, Gram, as_tokenizer, examples_from_text, gradient_gram, sketch
from toksuite_nb.store import data_dir


class Bytes:
    """ByT5's ids."""

    def __init__(self):
        self.specials = {"pad": 0, "eos": 1, "unk": 2}
        self.pieces = [None] * 3 + [bytes([b]) for b in range(256)]

    def encode(self, texts):
        return [[b + 3 for b in t.encode("utf-8", "surrogatepass")] for t in texts]


def build(kind: str = "llama") -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3,
                                          bos_token_id=None, eos_token_id=1)).double().eval()  # fmt: skip
    config = LlamaConfig(vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=128, eos_token_id=1, initializer_range=0.3)  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


def one_by_one(model: torch.nn.Module, prompt: list[int], steps: int, stop: int) -> tuple[list[int], list[float]]:
    ids, largest = list(prompt), []
    for _ in range(steps):
        with torch.no_grad():
            best = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1).max(-1)
        ids.append(int(best.indices))
        if ids[-1] == stop:
            break
        largest.append(float(best.values))
    return ids[len(prompt) :], largest


PROMPTS = ["a", "capital of Peru?", "رنگ آسمان؟", "天空", "x" * 60, "👩‍👩‍👧", "\ud800?"]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batched_confidence_equals_one_prompt_at_a_time(kind, batch_size):
    model = build(kind)
    df = confidence(model, Bytes(), PROMPTS, max_new_tokens=6, batch_size=batch_size, show=False)
    assert df["i"].to_list() == list(range(len(PROMPTS)))
    for row, prompt in zip(df.iter_rows(named=True), Bytes().encode(PROMPTS), strict=True):
        _, largest = one_by_one(model, prompt, 6, stop=1)
        counted = row["n_tokens"]
        assert counted <= len(largest)
        if counted == len(largest):
            assert abs(row["confidence"] - np.mean(largest)) < 1e-9, (
                "padding, positions or the cache changed the probabilities"
            )
            assert abs(row["perplexity"] - np.exp(-np.mean(np.log(largest)))) < 1e-8
    assert df["n_tokens"].sum() > 20


def test_answer_ends_at_the_stop_token_which_does_not_count():
    model = build()
    free = confidence(model, Bytes(), ["a"], max_new_tokens=6, show=False)
    third = 3 + free["answer"][0].encode("utf-8", "replace")[0]
    model.config.eos_token_id = model.generation_config.eos_token_id = [1, third]
    stopped = confidence(model, Bytes(), ["a"], max_new_tokens=6, show=False)
    assert stopped["n_tokens"].to_list() == [0] and stopped["confidence"].to_list() == [None]
    assert stopped["note"][0] == "no token of the answer counts" and stopped["answer"][0] == ""


@pytest.mark.parametrize("teller", ["tokenizer", "config", "generation_config"])
def test_each_that_knows_a_stop_token_is_asked(teller):
    model, tokenizer = build(), Bytes()
    free = confidence(model, tokenizer, ["a"], max_new_tokens=6, show=False)
    first = 3 + free["answer"][0].encode("utf-8", "replace")[0]
    if teller == "tokenizer":
        tokenizer.specials |= {"eos": first}
    else:
        getattr(model, teller).eos_token_id = [1, first]
    stopped = confidence(model, tokenizer, ["a"], max_new_tokens=6, show=False)
    assert stopped.select("answer", "ended", "n_tokens").row(0) == ("", True, 0)


def test_what_is_excluded_leaves_the_measure_and_not_the_text():
    model = build()
    free = confidence(model, Bytes(), ["a"], max_new_tokens=6, show=False)
    first = 3 + free["answer"][0].encode("utf-8", "replace")[0]
    told = confidence(model, Bytes(), ["a"], max_new_tokens=6, exclude=[first], show=False)
    assert told["answer"].to_list() == free["answer"].to_list(), "an excluded token is still part of the answer"
    assert told["n_tokens"][0] < free["n_tokens"][0] == 6 and told["confidence"][0] != free["confidence"][0]


def test_answers_that_do_not_end_are_said_to_be_long():
    model = build()
    going = confidence(model, Bytes(), ["a", "bc"], show=False)
    assert going["ended"].to_list() == [False, False] and going["n_tokens"].to_list() == [30, 30]
    with pytest.warns(UserWarning, match="2 of 2 answers were cut off after up to 30 tokens"):
        select_low_confidence(going, fraction=1, n=2, small_pool=True)
    short = confidence(model, Bytes(), ["a", "bc"], max_new_tokens=29, show=False)
    third = 3 + going["answer"][0].encode("utf-8", "replace")[0]
    model.config.eos_token_id = model.generation_config.eos_token_id = [1, third]
    ended = confidence(model, Bytes(), ["a", "bc"], max_new_tokens=40, show=False)
    assert ended["ended"][0] and not short["ended"].any()
    with pytest.warns(UserWarning, match="after up to 29 tokens.* Raise max_new_tokens to 30 to see"):
        select_low_confidence(short, fraction=1, n=2, small_pool=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        half = short.with_columns(ended=pl.Series([True, False]))
        select_low_confidence(half, fraction=1, n=2, small_pool=True)


@pytest.mark.parametrize(("length", "told"), [(29, False), (30, True)])
def test_long_labels_are_noted_and_reach_the_forecast(length, told):
    from toksuite_nb.efficiency import forecast

    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(3, 259, 4), rng.integers(3, 259, size)) for size in (2, length, length, 60)]
    result = cos_low(gradient_gram(build(), examples, rank=4))
    said = f"the median answer has {length} tokens; CoS-Low and its forecasts are known for short answers"
    assert (said in result.notes) == told
    with pytest.warns(UserWarning) as caught:
        forecast(result, calibration="Llama-3.1-8B")
    assert (said in str(caught[0].message)) == told


def test_not_finite_probabilities_are_reported():
    model = build()
    with torch.no_grad():
        model.model.embed_tokens.weight[3 + ord("q")] = float("nan")
    df = confidence(model, Bytes(), ["quick", "slow"], max_new_tokens=2, show=False)
    assert df["confidence"].is_null().to_list() == [True, False]
    assert df["note"][0] == "a probability is not finite"


def test_not_finite_probabilities_are_reported_where_they_fall_on_a_mark():
    model = build()
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = float("nan")
    df = confidence(model, Bytes(), ["quick"], max_new_tokens=2, show=False)
    assert df["answer"][0] == "" and df["note"][0] == "a probability is not finite", "id 0, the padding, is said"


def test_an_answer_in_ids_that_the_tokenizer_lacks_is_noted():
    fewer = Bytes()
    fewer.pieces = fewer.pieces[:4]
    df = confidence(build(), fewer, ["a", "bc"], max_new_tokens=3, show=False)
    assert df["note"].to_list() == ["an id of the answer is none of the tokenizer's"] * 2
    assert confidence(build(), Bytes(), ["a", "bc"], max_new_tokens=3, show=False)["note"].is_null().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_probabilities_of_half_precision_are_taken_in_single(dtype):
    model, ids = build().to(dtype), torch.tensor(Bytes().encode(["capital of Peru?"]))
    said = confidence(model, Bytes(), ids.tolist(), max_new_tokens=1, show=False)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1].float()
    assert said["confidence"][0] == pytest.approx(float(logits.softmax(-1).max()), rel=1e-5)


def test_published_lists_are_those_of_the_specification():
    assert published_exclusions == {
        "Llama-3.1-8B": (271, 128009),
        "Mistral-7B-v0.3": (2, 29473),
        "Qwen2.5-14B": (198, 151643, 151645),
        "SmolLM": (0, 2, 198),
    }


def test_published_confidence_is_that_of_one_forward_pass_over_prompt_and_answer():
    """Greedy answer, then its tokens scored together, those on the list left out wherever they stand."""
    model, excluded = build(), {3 + b for b in range(0, 256, 3)}
    said = confidence(model, Bytes(), PROMPTS, max_new_tokens=8, exclude=excluded, show=False)
    for row, prompt in zip(said.iter_rows(named=True), Bytes().encode(PROMPTS), strict=True):
        answer, _ = one_by_one(model, prompt, 8, stop=1)
        with torch.no_grad():
            largest = (
                model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].softmax(-1).amax(-1)
            )
        kept = [float(p) for t, p in zip(answer, largest, strict=True) if t not in excluded | {0, 1}]
        assert row["n_tokens"] == len(kept)
        assert row["confidence"] == (pytest.approx(np.mean(kept)) if kept else None)
    assert 0 < said["n_tokens"].sum() < 8 * len(PROMPTS)


def test_training_mode_and_token_ids_are_left_alone():
    model = build().train()
    texts = confidence(model, Bytes(), ["abc"], max_new_tokens=3, show=False)
    ids = confidence(model, Bytes(), Bytes().encode(["abc"]), max_new_tokens=3, show=False)
    assert model.training and texts.equals(ids)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "at least one prompt, got none"),
        (["a", ""], r"at least one token in each prompt, got none in \[1\]"),
        ([[3], [259]], r"token ids in \[0, 259\), got others in \[1\]"),
        (["a" * 110], r"prompt and answer within 128 positions, got more in \[0\]"),
    ],
)
def test_unusable_prompts_are_named(prompts, message):
    with pytest.raises(ValueError, match=message):
        confidence(build(), Bytes(), prompts)


def test_mixed_prompts_are_refused():
    with pytest.raises(TypeError, match="all texts or all token ids, got 1 texts among 2"):
        confidence(build(), Bytes(), ["a", [3]])


def test_draw_comes_from_the_lowest_tenth_only():
    values = np.random.default_rng(0).uniform(size=500)
    drawn = select_low_confidence(values, seed=3)
    lowest = set(np.argsort(values)[:50].tolist())
    assert (
        set(drawn["i"].to_list()) <= lowest
        and drawn["i"].n_unique() == 32
        and drawn["pool"].unique().to_list() == [500]
    )
    assert drawn.equals(select_low_confidence(values, seed=3)) and not drawn.equals(
        select_low_confidence(values, seed=4)
    )
    highest = select_low_confidence(pl.DataFrame({"i": range(500), "perplexity": values}), seed=3, measure="perplexity")
    assert set(highest["i"].to_list()) <= set(np.argsort(-values)[:50].tolist())


def test_each_of_the_lowest_tenth_is_drawn_as_often_as_the_others():
    draws = [select_low_confidence(np.arange(400.0), seed=seed)["i"].to_list() for seed in range(300)]
    often = np.bincount(np.concatenate(draws), minlength=400)
    assert often[40:].sum() == 0 and often.sum() == 300 * 32
    assert often[:40].min() > 240 - 5 * 7 and often[:40].max() < 240 + 5 * 7, "32 of 40: 240 times, within 5 deviations"
    assert draws[0] != draws[1], "another seed draws others"


@pytest.mark.parametrize(("fraction", "held"), [(0.29, 29), (0.07, 7), (0.1, 10), (0.57, 57), (1, 100)])
def test_a_share_holds_its_whole_number_of_examples(fraction, held):
    with pytest.warns(UserWarning, match="a pool of 100 is small; CoS-Low is then that of"):
        drawn = select_low_confidence(np.arange(100.0), fraction=fraction, n=held)
    assert drawn["i"].to_list() == list(range(held)) and drawn["share"][0] == held / 100


def test_pool_of_320_is_just_enough():
    values = np.random.default_rng(0).uniform(size=320)
    assert sorted(select_low_confidence(values)["i"].to_list()) == sorted(np.argsort(values)[:32].tolist())
    with pytest.raises(
        ValueError, match=r"must hold n=32 examples, got 31 of 319. Enlarge the pool to 320, or lower n, or take"
    ):
        select_low_confidence(values[:319])
    with pytest.warns(
        UserWarning, match="a pool of 100 is small; CoS-Low is then that of 10 from its least confident 10%"
    ):
        assert select_low_confidence(values[:100], n=10).height == 10
    with (
        pytest.warns(UserWarning, match="1 of 320 examples have no confidence"),
        pytest.raises(ValueError, match="got 31 of 319"),
    ):
        select_low_confidence([None, *values[1:]])


def test_small_pools_need_a_flag_and_say_so():
    values = np.random.default_rng(0).uniform(size=100)
    with pytest.warns(UserWarning, match="a pool of 100 is small; its 32 least confident are 32% of it"):
        least = select_low_confidence(values, small_pool=True)
    assert sorted(least["i"].to_list()) == sorted(np.argsort(values)[:32].tolist())
    assert least["share"].unique().to_list() == [0.32] and least["pool"].unique().to_list() == [100]
    with pytest.raises(ValueError, match=r"got 3 of 31. Enlarge the pool to 320, or lower n\."):
        select_low_confidence(values[:31], small_pool=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a large pool is drawn from as ever
        assert select_low_confidence(np.arange(400.0), small_pool=True)["share"][0] == 0.1


def test_a_larger_share_does_not_silence_a_small_pool():
    values = np.random.default_rng(0).uniform(size=320)
    with pytest.warns(
        UserWarning, match="that of 32 from its whole, and no longer of the least confident, where published"
    ):
        select_low_confidence(values[:32], fraction=1.0)
    with pytest.warns(
        UserWarning, match="a pool of 319 is small; CoS-Low is then that of 32 from its least confident 20%"
    ):
        loud = select_low_confidence(values[:319], fraction=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loud.equals(select_low_confidence(values[:319], fraction=0.2, small_pool=True)), (
            "the flag changes no draw"
        )
        select_low_confidence(values, fraction=1.0)


def test_beginning_of_text_is_not_written_twice():
    class Marked(Bytes):
        def __init__(self):
            super().__init__()
            self.specials |= {"bos": 3 + ord("^")}

    model = build()
    mixed = confidence(model, Marked(), ["abc", "^abc"], max_new_tokens=3, show=False).drop("i")
    assert mixed[0].equals(mixed[1]), "each text by itself"
    assert [e.prompt for e in examples_from_text(Marked(), ["^ab", "ab"], ["c", "c"])] == [
        examples_from_text(Marked(), ["ab"], ["c"])[0].prompt
    ] * 2
    once = confidence(model, Marked(), ["abc"], max_new_tokens=3, show=False)
    assert once.equals(confidence(model, Marked(), ["^abc"], max_new_tokens=3, show=False))


def templated():
    """A byte-level tokenizer that writes <s> before every text, and whose template writes it too."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    marks = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        ["the capital of Peru is Lima"] * 4,
        trainers.BpeTrainer(vocab_size=290, special_tokens=marks, initial_alphabet=alphabet),
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    chat = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    chat.chat_template = "<s>{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    return chat


@pytest.mark.parametrize("system", [None, "Answer in one word."])
def test_chat_prompts_have_the_ids_of_the_template(system):
    chat, questions = templated(), ["capital of Peru?", " spaces  ", "رنگ <s> آسمان؟", "天空\n是什么"]
    ours = _prompt_ids(as_tokenizer(chat), chat_prompts(chat, questions, system=system), None)
    before = [] if system is None else [{"role": "system", "content": system}]
    theirs = [
        chat.apply_chat_template(
            [*before, {"role": "user", "content": q}], tokenize=True, add_generation_prompt=True, return_dict=False
        )
        for q in questions
    ]
    assert ours == theirs


def test_value_is_the_published_procedure():
    """Adapters with the same A, batch 1, a loop over pairs: the procedure the paper's number comes from."""
    peft = pytest.importorskip("peft")
    model = build().float()
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(3, 259, 5 + k), rng.integers(3, 259, 1 + k % 2)) for k in range(9)]
    ours = cos_low(gradient_gram(model, examples, seed=5, rank=16))
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules=names)).eval()
    for name, module in adapted.named_modules():
        if hasattr(module, "lora_A"):
            a = module.lora_A["default"].weight
            a.data.copy_(torch.tensor(sketch(name.removeprefix("base_model.model."), a.shape[1], rank=16, seed=5)))
    flat = []
    for e in examples:
        adapted.zero_grad()
        labels = torch.tensor([[-100] * len(e.prompt) + list(e.answer)])
        adapted(input_ids=torch.tensor([[*e.prompt, *e.answer]]), labels=labels).loss.backward()
        flat.append(torch.cat([p.grad.flatten() for p in adapted.parameters() if p.grad is not None]))
    pairs = [float(torch.nn.functional.cosine_similarity(a, b, dim=0)) for a, b in itertools.combinations(flat, 2)]
    assert abs(ours.value - np.median(pairs)) < 1e-4 and ours.n_pairs == len(pairs) == 36


def test_interval_holds_the_value_and_depends_on_the_seed_alone():
    x = np.random.default_rng(0).normal(size=(32, 40)) + 0.5
    gram = Gram(x @ x.T, np.zeros(32), "full")
    result = cos_low(gram, seed=1)
    assert result.low < result.value < result.high and (result.n, result.n_pairs, result.notes) == (32, 496, ())
    assert result == cos_low(gram, seed=1) and result != cos_low(gram, seed=2) and float(result) == result.value
    narrow = cos_low(gram, seed=1, level=0.5)
    assert result.low < narrow.low < narrow.high < result.high


def test_identical_directions_have_an_interval_of_no_width():
    gram = Gram(np.ones((10, 10)), np.zeros(10), "full")
    result = cos_low(gram)
    assert result.value == result.low == result.high == pytest.approx(1)


@pytest.mark.parametrize("kind", ["one direction", "varying strength", "two labels"])
def test_interval_holds_the_true_median_as_often_as_it_says(kind):
    centres = np.random.default_rng(9).normal(size=(2, 60))

    def draw(rng, n):
        shift = {
            "one direction": lambda: 0.7,
            "varying strength": lambda: rng.exponential(0.8, (n, 1)),
            "two labels": lambda: 1.5 * centres[rng.integers(2, size=n)],
        }[kind]()
        x = rng.normal(size=(n, 60)) + shift
        return Gram(x @ x.T, np.zeros(n), "full")

    truth = np.median(draw(np.random.default_rng(1), 2000).cosine[np.triu_indices(2000, 1)])
    rng = np.random.default_rng(3)
    found = [cos_low(draw(rng, 32), seed=k, draws=200) for k in range(200)]
    held = np.mean([f.low <= truth <= f.high for f in found])
    assert held >= 0.9, f"a nominal 95 % interval held {held:.3f}: the scale or the centre of the subsamples is wrong"
    if kind == "one direction":
        errors = np.std([f.value for f in found])
        widths = np.mean([f.high - f.low for f in found])
        assert 0.75 < widths / (2 * 1.96 * errors) < 1.35, "the width must be that of the value's own spread"


def test_interval_takes_halves_without_replacement():
    """By hand: every half of eight examples instead of drawn ones."""
    x = np.random.default_rng(0).normal(size=(8, 40)) + 0.5
    gram = Gram(x @ x.T, np.zeros(8), "full")
    result = cos_low(gram, draws=20_000)
    medians = [
        np.median([gram.cosine[a, b] for a, b in itertools.combinations(half, 2)])
        for half in itertools.combinations(range(8), 4)
    ]
    half_width = np.quantile(np.abs(np.array(medians) - result.value), 0.95)  # 4 of 8: the scale is 1
    assert result.high - result.value == pytest.approx(half_width, rel=0.05)
    assert result.value - result.low == pytest.approx(result.high - result.value)


def test_an_odd_number_of_examples_is_scaled():
    x = np.random.default_rng(0).normal(size=(9, 40)) + 0.5
    gram = Gram(x @ x.T, np.zeros(9), "full")
    result = cos_low(gram, draws=20_000)
    medians = [
        np.median([gram.cosine[a, b] for a, b in itertools.combinations(half, 2)])
        for half in itertools.combinations(range(9), 4)
    ]
    half_width = np.sqrt(4 / 5) * np.quantile(np.abs(np.array(medians) - result.value), 0.95)
    assert result.high - result.value == pytest.approx(half_width, rel=0.05)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_few_examples_have_a_value_and_no_interval(n):
    x = np.random.default_rng(0).normal(size=(n, 40)) + 0.5
    result = cos_low(Gram(x @ x.T, np.zeros(n), "full"))
    assert (result.low, result.high, result.n) == (None, None, n) and f"{n} examples only" in result.notes[-1]


@pytest.mark.parametrize("n", [0, 1])
def test_one_example_is_no_pair(n):
    with pytest.raises(ValueError, match=f"needs at least 2 examples with a gradient, got {n} of {n}"):
        cos_low(Gram(np.ones((n, n)), np.zeros(n), "full"))
    with pytest.raises(ValueError, match=f"at least 2 examples to compare, got {n}"):
        gradient_gram(build(), [Example([5], [6])] * n)


def test_duplicates_are_flagged_and_stay_within_the_cosines():
    model, rng = build(), np.random.default_rng(0)
    examples = [Example(rng.integers(3, 259, 4), rng.integers(3, 259, 1)) for _ in range(9)]
    gram = gradient_gram(model, [*examples, examples[0]], rank=4)
    result = cos_low(gram)
    assert "examples 0 and 9 are identical" in result.notes and -1 <= result.low <= result.high <= 1
    assert "1 pairs have a cosine of 1; look for duplicate examples" in cos_low(gram.frame()).notes, (
        "a frame has no notes of the Gram"
    )


def test_kind_of_gradient_goes_with_the_value():
    gram = Gram(np.eye(3), np.zeros(3), "seed_free")
    assert cos_low(gram).weights == "seed_free" and cos_low(gram.frame()).weights is None


def odd_frame(**columns) -> pl.DataFrame:
    return Gram(np.eye(4), np.zeros(4), "full").frame().with_columns(**columns)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confidence(build(), Bytes(), "abc"), "prompts must be a list of texts or of token ids, got str"),
        (lambda: confidence(torch.nn.Linear(2, 2), Bytes(), ["a"]), "model must be a causal LM .*, got Linear"),
        (lambda: select_low_confidence(np.zeros(400), fraction=float("nan")), "fraction in .0, 1. and a whole n >= 2"),
        (
            lambda: select_low_confidence(np.zeros(400), measure="loss"),
            "must be 'confidence' or 'perplexity', got 'loss'",
        ),
        (lambda: select_low_confidence(pl.DataFrame({"x": [1]})), "columns 'i' and 'confidence', got columns .'x'."),
        (
            lambda: select_low_confidence(pl.DataFrame({"i": [0] * 400, "confidence": np.zeros(400)})),
            "each example once in 'i', got repeated",
        ),
        (
            lambda: select_low_confidence(pl.DataFrame({"i": range(400), "confidence": ["x"] * 400})),
            "numbers in 'confidence', got String",
        ),
        (lambda: cos_low(odd_frame(cosine=pl.lit(2.0))), r"cosines must lie in \[-1, 1\], got \[2.0, 2.0, 2.0\]"),
        (
            lambda: cos_low(odd_frame(cosine=pl.lit(float("nan")))),
            "needs at least 2 examples with a gradient, got 0 of 4",
        ),
        (lambda: cos_low(odd_frame().clear()), "needs pairs with layer 'all', got none"),
        (lambda: cos_low(odd_frame()[1:]), "needs the cosine of every pair, got 1 of 6 pairs without one"),
        (lambda: cos_low(pl.concat([odd_frame(), odd_frame()])), "needs each pair once, got repeated pairs"),
        (lambda: cos_low(pl.DataFrame({"a": [1]})), "frame does not match the 'gram' schema"),
        (lambda: cos_low(Gram(np.eye(9), np.zeros(9), "full"), level=float("nan")), r"level must be in \(0, 1\)"),
        (
            lambda: cos_low(Gram(np.array([[1, np.inf, 0], [np.inf, 1, 0], [0, 0, 1]]), np.zeros(3), "full")),
            "needs the cosine of every pair, got 1 of 3",
        ),
    ],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_infinite_numbers_are_no_confidence():
    values = [float("inf"), float("-inf"), *np.linspace(0.1, 0.9, 400)]
    with pytest.warns(UserWarning, match="2 of 402 examples have no confidence"):
        drawn = select_low_confidence(values)
    assert drawn["pool"][0] == 400 and drawn["i"].min() >= 2


@pytest.mark.skipif(not (data_dir() / "suite").exists(), reason="no mini suite in data/")
def test_what_holds_a_model_is_taken_for_it():
    from toksuite_nb.lm import LM

    member = pytest.importorskip("toksuite_nb.suite").load_suite(names=["bpe"])["bpe"]
    examples = examples_from_text(member.tokenizer, ["one and", "two and"], [" three", " four"])
    for holder in (member, LM(member.model, member.tokenizer)):
        assert np.array_equal(
            gradient_gram(holder, examples, rank=4, calibrate=False).dot,
            gradient_gram(member.model, examples, rank=4, calibrate=False).dot,
        )
        assert confidence(holder, member.tokenizer, ["one"], max_new_tokens=2, show=False).equals(
            confidence(member.model, member.tokenizer, ["one"], max_new_tokens=2, show=False)
        )


def test_examples_without_a_cosine_are_left_out_and_told():
    x = np.random.default_rng(0).normal(size=(9, 40)) + 0.5
    dot = x @ x.T
    dot[3], dot[:, 3] = np.nan, np.nan
    dot[5], dot[:, 5] = 0, 0
    keep = [0, 1, 2, 4, 6, 7, 8]
    result = cos_low(Gram(dot, np.zeros(9), "full"))
    whole = cos_low(Gram((x @ x.T)[np.ix_(keep, keep)], np.zeros(7), "full"))
    assert result.value == pytest.approx(whole.value) and result.n == 7 and result.low is None
    assert "examples [3, 5] have no cosine and are left out" in result.notes
    assert cos_low(Gram(dot, np.zeros(9), "full").frame()).value == pytest.approx(whole.value)


def test_layers_of_a_frame_do_not_mix_in():
    x = np.random.default_rng(0).normal(size=(4, 10))
    gram = Gram(x @ x.T, np.zeros(4), "full", layers={"one": np.eye(4)})
    assert cos_low(gram.frame()).value == pytest.approx(cos_low(gram).value)
    with pytest.raises(ValueError, match="needs pairs with layer 'all', got none"):
        cos_low(gram.frame().filter(pl.col("layer") == "one"))


@pytest.mark.skipif(not (data_dir() / "suite").exists(), reason="no mini suite in data/")
def test_a_suite_model_goes_all_the_way_to_a_forecast():
    from toksuite_nb.efficiency import forecast

    member = pytest.importorskip("toksuite_nb.suite").load_suite()["bpe"]
    prompts = [
        f"The opposite of {a} and {b} is"
        for a in ("day", "hot", "left", "old", "up")
        for b in ("night", "cold", "right", "new")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sure = confidence(member.model, member.tokenizer, prompts, max_new_tokens=3, show=False)
        low = select_low_confidence(sure, fraction=0.5, n=8)
    examples = examples_from_text(member.tokenizer, [prompts[i] for i in low["i"]], [" nothing"] * 8)
    result = cos_low(gradient_gram(member.model, examples, rank=8))
    assert -1 <= result.value <= 1 and result.low <= result.high
    assert forecast(result, calibration="Llama-3.1-8B").height == 8
