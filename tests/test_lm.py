"""Log-likelihoods against a naive forward, for several architectures: what a lesson with one tiny Llama cannot show."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from toksuite_nb.lm import LM, TokenPath, length_buckets, load_lm, shared_stems, token_tree

logging.getLogger("transformers").setLevel(logging.ERROR)
V = 64


class Letters:
    name, specials, vocab_size = "letters", {"bos": 1, "eos": 2}, V

    def encode(self, texts):
        return [[3 + byte % (V - 3) for byte in text.encode()] for text in texts]


def build(kind, config, seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config(vocab_size=V, **settings))
        for parameter in model.parameters():  # large enough that positions and masks matter
            torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


ROPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {
    "llama": lambda: build(tf.LlamaForCausalLM, tf.LlamaConfig, **ROPE),
    "gpt2": lambda: build(
        tf.GPT2LMHeadModel, tf.GPT2Config, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    ),
    "gpt-neox": lambda: build(
        tf.GPTNeoXForCausalLM,
        tf.GPTNeoXConfig,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    ),
    "opt": lambda: build(
        tf.OPTForCausalLM,
        tf.OPTConfig,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
    ),
    "gemma2": lambda: build(
        tf.Gemma2ForCausalLM, tf.Gemma2Config, head_dim=8, sliding_window=9, final_logit_softcapping=3.0, **ROPE
    ),
    "mistral": lambda: build(tf.MistralForCausalLM, tf.MistralConfig, sliding_window=9, **ROPE),
    "qwen2": lambda: build(tf.Qwen2ForCausalLM, tf.Qwen2Config, **ROPE),
    "cohere": lambda: build(tf.CohereForCausalLM, tf.CohereConfig, logit_scale=0.3, **ROPE),
    "gpt-neo": lambda: build(
        tf.GPTNeoForCausalLM,
        tf.GPTNeoConfig,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=6,
    ),
    "longrope": lambda: build(
        tf.Phi3ForCausalLM,
        tf.Phi3Config,
        pad_token_id=0,
        max_position_embeddings=4096,
        original_max_position_embeddings=12,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 4,
            "long_factor": [3.0] * 4,
            "original_max_position_embeddings": 12,
        },
        **ROPE,
    ),
    "falcon-alibi": lambda: build(
        tf.FalconForCausalLM,
        tf.FalconConfig,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        alibi=True,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "bloom": lambda: build(tf.BloomForCausalLM, tf.BloomConfig, hidden_size=32, n_layer=2, n_head=4),
    "mamba": lambda: build(tf.MambaForCausalLM, tf.MambaConfig, hidden_size=32, num_hidden_layers=2, state_size=4),
}
PACKS = {
    "llama": True,
    "gpt2": True,
    "gpt-neox": True,
    "opt": True,
    "gemma2": True,
    "mistral": True,
    "qwen2": True,
    "cohere": True,
    "gpt-neo": False,
    "longrope": True,
    "falcon-alibi": False,
    "bloom": False,
    "mamba": False,
}


def naive(model, path):
    """Log-probabilities of the scored tokens from one plain forward over one text; its last token is scored, not read."""
    with torch.inference_mode():
        logprobs = model(torch.tensor([path.ids[:-1]])).logits[0].double().log_softmax(-1)
    return np.array([logprobs[i - 1, path.ids[i]].item() for i in range(path.start, len(path.ids))])


def random_groups(seed, n=9, shared_prompt=0):
    """Items whose options share beginnings, are prefixes of each other, or are equal; behind one prompt if asked for."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(3, V, shared_prompt).tolist()
    groups = []
    for _ in range(n):
        context = (1, *prompt, *rng.integers(3, V, rng.integers(0, 9)).tolist())
        shared = tuple(rng.integers(3, V, rng.integers(0, 3)).tolist())
        tails = [tuple(rng.integers(3, V, rng.integers(1, 5)).tolist()) for _ in range(3)]
        options = [*(shared + tail for tail in tails), shared + tails[0] + (7,), shared + tails[1]]
        groups.append([TokenPath(context + option, len(context)) for option in options])
    return groups


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_equal_a_naive_forward_one_by_one(name):
    model = MODELS[name]()
    lm, groups = LM(model, Letters()), random_groups(1)
    found = lm.logprobs(groups)
    for group, values in zip(groups, found, strict=True):
        for path, value in zip(group, values, strict=True):
            error = np.abs(value - naive(model, path)).max()
            assert error < 1e-5, f"{name}: off by {error:.1e}; a branch sees another, or its positions are wrong"


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "cohere", "mistral", "bloom", "longrope"])
def test_a_shared_prompt_is_read_once_and_changes_no_number(name):
    model, groups = MODELS[name](), random_groups(8, n=6, shared_prompt=300)
    lm, read, forward = LM(model, Letters()), [], model.forward
    assert lm.shares is PACKS[name]

    def counted(*args, input_ids, **kwargs):
        read.append(input_ids.numel())
        return forward(*args, input_ids=input_ids, **kwargs)

    model.forward = counted
    found = lm.logprobs(groups + random_groups(9, n=2))
    model.forward = forward
    once = PACKS[name] and not lm.window and not lm.stretches
    assert (sum(read) < 2 * 300 + 8 * 60) is once, (
        f"{name}: {sum(read)} positions were read for six items behind 300 tokens"
    )
    for group, values in zip(groups, found, strict=False):
        for path, value in zip(group, values, strict=True):
            assert np.abs(value - naive(model, path)).max() < 1e-5, f"{name}: the stem's keys or positions are wrong"


def test_stems_are_shared_only_where_they_save_much():
    long, other = tuple(range(1000, 1600)), tuple(range(2000, 2600))
    items = [[TokenPath((*head, i, 7), len(head) + 1)] for head in (long, other) for i in range(3)]
    assert shared_stems(items) == [(600, [0, 1, 2]), (600, [3, 4, 5])]
    assert shared_stems(items[1:3] + items[3:4]) == []
    assert shared_stems([[TokenPath((1, 2, 3), 2)]] * 500) == [], "a stem of a token or two saves nothing"
    assert shared_stems([]) == []


@pytest.mark.parametrize("head", ["plain", "biased", "of another class"])
def test_log_probabilities_do_not_depend_on_the_pieces_the_logits_are_made_in(head):
    # a plain head goes through the vocabulary in blocks, another one through a few rows at a time
    model, groups = MODELS["llama"](), random_groups(10)
    if head != "plain":
        kind = torch.nn.Linear if head == "biased" else type("Head", (torch.nn.Linear,), {})
        model.lm_head = kind(32, V, bias=True)
        torch.nn.init.normal_(model.lm_head.bias, std=2.0)
    lm = LM(model, Letters())
    assert lm.lines
    whole = lm.logprobs(groups)
    for group, values in zip(groups, whole, strict=True):
        np.testing.assert_allclose(values[0], naive(model, group[0]), atol=1e-5)
    for lines in (1, 3, 200, None):
        lm.lines = lines
        for a, b in zip(lm.logprobs(groups), whole, strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_allclose(x, y, atol=1e-6)


def test_equal_items_run_once():
    model, group = MODELS["llama"](), random_groups(11, n=1)[0]
    lm = LM(model, Letters())
    assert lm.packs and lm.lines
    rows, forward = [], model.forward

    def counted(*args, input_ids, **kwargs):
        rows.append(len(input_ids))
        return forward(*args, input_ids=input_ids, **kwargs)

    model.forward = counted
    a, b, c = lm.logprobs([group, group, group[:2]])
    assert sum(rows) == 2
    assert all((x == y).all() for x, y in zip(a, b, strict=True)) and len(c) == 2


def test_a_text_may_be_one_token_longer_than_what_the_model_reads():
    model = build(tf.GPT2LMHeadModel, tf.GPT2Config, n_embd=32, n_layer=1, n_head=4, n_positions=8, bos_token_id=1)
    path = TokenPath((1, *range(3, 11)), 4)
    np.testing.assert_allclose(LM(model, Letters()).logprobs([[path]])[0][0], naive(model, path), atol=1e-5)
    with pytest.raises(ValueError, match="must read at most 8 tokens of a text, got 9"):
        LM(model, Letters()).logprobs([[TokenPath((1, *range(3, 12)), 4)]])


@pytest.mark.parametrize("name", MODELS)
def test_packing_is_used_where_the_architecture_allows_it(name):
    assert LM(MODELS[name](), Letters()).packs is PACKS[name], f"{name}: the probe misjudges this architecture"


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_batch_size_and_packing_do_not_change_results(name):
    model, groups = MODELS[name](), random_groups(2, n=20)
    reference = LM(model, Letters(), packing=False).logprobs(groups, batch_tokens=1)
    for packing in (True, False):
        for batch_tokens in (1, 60, 4096):
            found = LM(model, Letters(), packing=packing).logprobs(groups, batch_tokens=batch_tokens)
            for a, b in zip(found, reference, strict=True):
                for x, y in zip(a, b, strict=True):
                    np.testing.assert_allclose(x, y, atol=1e-5, err_msg="padding or another row leaks into a text")


def test_batch_size_is_the_number_of_items_that_run_together():
    model, groups, seen = MODELS["llama"](), random_groups(2, n=20), []
    lm = LM(model, Letters())
    whole, forward = lm.logprobs(groups), model.forward
    model.forward = lambda *args, input_ids, **kwargs: (
        seen.append(len(input_ids)) or forward(*args, input_ids=input_ids, **kwargs)
    )
    found = lm.logprobs(groups, batch_size=7)
    assert 1 < max(seen) <= 7 and sum(seen) == 20
    for a, b in zip(found, whole, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)
    with pytest.raises(ValueError, match=r"budgets must be whole numbers >= 1, .*batch_size=0"):
        lm.logprobs(groups, batch_size=0)


def test_global_state_and_model_are_left_as_they_were():
    model = MODELS["gpt2"]().train()
    before = torch.random.get_rng_state()
    first = LM(model, Letters()).logprobs(random_groups(3))
    second = LM(model, Letters()).logprobs(random_groups(3))
    assert torch.equal(before, torch.random.get_rng_state()), "scoring drew from the global generator"
    assert all(module.training for module in model.modules()), "the training mode was not restored"
    assert not model.get_output_embeddings()._forward_pre_hooks, "the hook in front of the head is still there"
    assert all((x == y).all() for a, b in zip(first, second, strict=True) for x, y in zip(a, b, strict=True)), (
        "dropout was on"
    )


def test_the_head_runs_only_where_a_token_is_scored():
    model = MODELS["llama"]()
    lm, seen = LM(model, Letters()), []
    assert lm.packs and lm.lines
    context = tuple(range(3, 43))
    paths = [
        TokenPath((1, *context, 50, 51), 41),
        TokenPath((1, *context, 50, 52), 41),
        TokenPath((1, *context, 53), 41),
    ]
    handle = model.get_output_embeddings().register_forward_hook(lambda module, args, out: seen.append(out.shape))
    lm.logprobs([paths])
    handle.remove()
    assert seen == [torch.Size([1, 1, V]), torch.Size([1, 2, V])], (
        f"beside the one position of the forward pass, logits were made for others than the two that predict a target: {seen}"
    )


def test_equal_options_get_exactly_equal_numbers():
    path = TokenPath((1, 5, 6, 7), 2)
    a, b = LM(MODELS["llama"](), Letters()).logprobs([[path, path]])[0]
    assert (a == b).all(), "equal texts must share their nodes, or ties are broken by rounding"


def test_half_precision_is_close_and_computed_in_float32():
    model, groups = MODELS["llama"](), random_groups(4)
    full = LM(model, Letters()).logprobs(groups)
    half = LM(MODELS["llama"]().to(torch.bfloat16), Letters()).logprobs(groups)
    errors = [np.abs(x - y).mean() for a, b in zip(full, half, strict=True) for x, y in zip(a, b, strict=True)]
    assert np.mean(errors) < 0.3, "bfloat16 log-probabilities are far from float32"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.5)])
def test_a_gpu_gives_the_numbers_of_the_cpu(dtype, tolerance):
    groups = random_groups(7)
    there, here = LM(MODELS["llama"]().to("cuda", dtype), Letters()), LM(MODELS["llama"](), Letters())
    assert there.packs
    for a, b in zip(there.logprobs(groups), here.logprobs(groups), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, atol=tolerance)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("pretended"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["gpu", "cpu"],
)
def test_out_of_memory_halves_the_batch(error):
    model, groups = MODELS["llama"](), random_groups(5)
    expected, forward, sizes = LM(model, Letters()).logprobs(groups), model.forward, []

    def small(*args, input_ids, **kwargs):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise error
        return forward(*args, input_ids=input_ids, **kwargs)

    model.forward = small
    found = LM(model, Letters()).logprobs(groups)
    assert max(sizes) > 2, "the test never asked for a batch that does not fit"
    for a, b in zip(found, expected, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


def test_one_item_too_large_for_memory_is_a_clear_error():
    model = MODELS["llama"]()
    lm = LM(model, Letters())
    assert lm.packs and lm.lines

    def none(*args, **kwargs):
        raise torch.OutOfMemoryError("pretended")

    model.forward = none
    with pytest.raises(MemoryError, match=r"LM: one item of 2 tokens must fit into the device's memory"):
        lm.logprobs([[TokenPath((1, 5, 6), 1)]])


def test_token_ids_beyond_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"token ids must lie in 0 \.\. 63, got 64 .*smaller than the tokenizer's"):
        LM(MODELS["llama"](), Letters()).logprobs([[TokenPath((1, 64), 1)]])


def test_a_model_that_reads_ahead_or_predicts_nothing_is_refused():
    with pytest.raises(TypeError, match="must be predicted from the ones before it, got BertForMaskedLM"):
        LM(build(tf.BertForMaskedLM, tf.BertConfig, **{k: v for k, v in ROPE.items() if "key" not in k}), Letters())
    with pytest.raises(TypeError, match="must give logits for every token, got LlamaModel"):
        LM(MODELS["llama"]().model, Letters())
    with pytest.raises(ValueError, match="weights must be loaded, got weights on device 'meta'"):
        LM(MODELS["llama"]().to("meta"), Letters())


def test_scored_tokens_beyond_the_output_layer_are_refused():
    model = MODELS["llama"]()
    model.lm_head = torch.nn.Linear(32, 50, bias=False)
    assert np.isfinite(LM(model, Letters()).logprobs([[TokenPath((1, 60, 6), 2)]])[0][0]).all(), "context may be beyond"
    with pytest.raises(ValueError, match=r"scored token ids must lie in 0 \.\. 49, got 60 .*output layer is smaller"):
        LM(model, Letters()).logprobs([[TokenPath((1, 6, 60), 2)]])


@pytest.mark.parametrize("bos", [-1, V])
def test_bos_must_be_a_token_of_the_model(bos):
    with pytest.raises(ValueError, match="LM: bos must be a token id"):
        LM(MODELS["llama"](), Letters(), bos=bos)


def test_no_items_give_no_numbers():
    assert LM(MODELS["llama"](), Letters()).logprobs([]) == []


def test_a_saved_model_gives_the_same_numbers(tmp_path):
    pytest.importorskip("toksuite_nb.tokenizer")
    model, groups = MODELS["llama"](), random_groups(6, n=2)
    model.save_pretrained(tmp_path / "tiny")
    lm = load_lm(tmp_path / "tiny", Letters())
    assert (lm.name, lm.bos) == ("tiny", 1)
    for a, b in zip(lm.logprobs(groups), LM(model, Letters()).logprobs(groups), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=2, max_size=7), st.integers(1, 6)), min_size=1, max_size=6)
)
def test_every_path_can_be_read_back_from_its_tree(drawn):
    paths = [TokenPath(tuple(ids), min(start, len(ids) - 1)) for ids, start in drawn]
    tree = token_tree(paths)
    histories = [tuple(tree.ids[row].tolist()) for row in tree.visible]
    assert len(set(histories)) == len(tree), "one history is fed twice"
    for path, route in zip(paths, tree.routes, strict=True):
        assert tree.targets[list(route)].tolist() == list(path.ids[path.start :])
        for i, target in enumerate(route):
            assert histories[tree.sources[target]] == path.ids[: path.start + i], (
                "a token is predicted after another history"
            )
    assert tree.positions.tolist() == [len(history) - 1 for history in histories]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=20), st.integers(1, 40), st.integers(1, 9))
def test_buckets_hold_each_tree_once_and_keep_both_budgets(lengths, batch_tokens, batch_targets):
    trees = [token_tree([TokenPath(tuple(range(n + 1)), max(1, n - 1))]) for n in lengths]
    batches = length_buckets(trees, batch_tokens=batch_tokens, batch_targets=batch_targets)
    assert sorted(i for batch in batches for i in batch) == list(range(len(trees)))
    for batch in batches:
        if len(batch) > 1:
            assert len(batch) * max(len(trees[i]) for i in batch) <= batch_tokens
            assert sum(len(trees[i].targets) for i in batch) <= batch_targets
