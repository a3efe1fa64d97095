"""The Gram against explicit gradients, and the traps on the way."""

import copy
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.deepseek_v2 import modeling_deepseek_v2
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from toksuite_nb import gradients
from toksuite_nb.gradients import Example, Gram, examples_from_text, gradient_gram, sketch

LINEAR = (torch.nn.Linear, gradients.Conv1D)
SMALL = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 32}  # fmt: skip
LONG = {"max_position_embeddings": 256}


def build(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    models = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
        "llama tied, biases": lambda: LlamaForCausalLM(
            LlamaConfig(**SMALL, tie_word_embeddings=True, attention_bias=True, mlp_bias=True)
        ),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, pad_token_id=0)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=4, n_positions=32)),
        "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**(SMALL | LONG), tie_word_embeddings=False)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**(SMALL | LONG), head_dim=4, sliding_window=16)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**(SMALL | LONG), sliding_window=16)),
    }
    return shaken(models[kind]().double())


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():  # fresh norms are all ones and biases all zeros, which would hide mistakes
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def some_examples(n: int = 6) -> list[Example]:
    rng = np.random.default_rng(1)
    # 0 is a padding id to some models: as a real token, its embedding gets no gradient there
    return [Example([1, *rng.integers(0, 48, k), 0, 2], rng.integers(0, 48, 1 + k % 3)) for k in range(1, n + 1)]


def explicit(model: torch.nn.Module, example: Example) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[*example.prompt, *example.answer]])
    logits = model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(example.answer))
    names, values = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, values, allow_unused=True), strict=True))


def gram_of(rows: list[list[torch.Tensor]]) -> np.ndarray:
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    return (flat @ flat.T).numpy()


def reference(
    model: torch.nn.Module,
    examples: list[Example],
    weights: str,
    rank: int = 4,
    seed: int = 3,
) -> np.ndarray:
    modules = dict(model.named_modules())
    rows = []
    for example in examples:
        grads = explicit(model, example)
        if weights == "full":
            rows.append([g for g in grads.values() if g is not None])
            continue
        row = []
        for name, g in grads.items():
            owner = name.rsplit(".", 1)[0]
            if (
                not isinstance(modules[owner], LINEAR)
                or not name.endswith(".weight")
                or not any(part in f".{name}" for part in (".layers.", ".h."))
            ):
                continue
            g = g.T if isinstance(modules[owner], gradients.Conv1D) else g
            a = torch.tensor(sketch(owner, g.shape[1], rank=rank, seed=seed))
            row.append(32 / rank * g @ a.T if weights == "lora_b" else g / g.shape[1] ** 0.5)
        rows.append(row)
    return gram_of(rows)


@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
@pytest.mark.parametrize("kind", ["llama", "llama tied, biases", "qwen2", "gpt2"])
@pytest.mark.parametrize("batch_tokens", [1, 20, 8192])
def test_gram_equals_explicit_gradients(kind, weights, batch_tokens):
    model, examples = build(kind), some_examples()
    gram = gradient_gram(model, examples, weights=weights, seed=3, rank=4, batch_tokens=batch_tokens, show=False)
    expected = reference(model, examples, weights)
    worst = np.abs(gram.dot - expected).max() / np.abs(expected).max()
    assert np.abs(gram.dot - expected).max() < 1e-10, (
        f"relative error {worst:.1e}: padding, shift, reduction, a tied weight or a layer type"
    )
    losses = [-explicit_loss(model, e) for e in examples]
    assert np.allclose(gram.losses, losses, atol=1e-12)


@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
@pytest.mark.parametrize("kind", ["gpt-neox", "gemma2", "mistral"])
@pytest.mark.parametrize("lock_step", [False, True])
def test_examples_of_one_to_two_hundred_tokens_in_further_architectures(kind, weights, lock_step):
    rng = np.random.default_rng(2)
    model = build(kind)
    examples = [Example(rng.integers(3, 48, n), rng.integers(3, 48, 1 + n % 4)) for n in (1, 2, 9, 40, 197)]
    options = {"rank": 4, "seed": 3, "show": False, "lock_step": lock_step}
    gram = gradient_gram(model, examples, weights=weights, **options)
    expected = reference(model, examples, weights)
    assert np.abs(gram.dot - expected).max() < 1e-10 * max(1, np.abs(expected).max())


MLA = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "qk_nope_head_dim": 4, "num_key_value_heads": 4}  # fmt: skip
DENSE = {"head_dim": 4, "n_routed_experts": 4, "moe_intermediate_size": 8, "first_k_dense_replace": 2, "n_group": 1, "topk_group": 1}  # fmt: skip
ODD = {  # heads that a layer sees one by one, and layers with a forward pass of their own
    "deepseek_v2": MLA | DENSE,
    "deepseek_v3": MLA | DENSE,
    "minicpm3": MLA,
    "falcon": {},
    "falcon, several key heads": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon, one after the other": {"parallel_attn": False, "multi_query": False},
}


def in_double(query, key, turns):
    "DeepSeek V2's rotary positions, which it computes in single precision whatever its own type is."

    def turned(x):
        pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns.to(torch.complex128)[:, None]).flatten(3).to(x)

    return turned(query), turned(key)


@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(
    "options", [{}, {"batch_tokens": 20}, {"lock_step": True}, {"batch_tokens": 20, "offload": False}]
)
def test_gram_equals_explicit_gradients_where_layers_are_not_the_usual_ones(kind, weights, options, monkeypatch):
    monkeypatch.setattr(modeling_deepseek_v2, "apply_rotary_emb", in_double)
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind.partition(",")[0], **(SMALL | ODD[kind]))
    model, examples = shaken(AutoModelForCausalLM.from_config(config).double()), some_examples()
    gram = gradient_gram(model, examples, weights=weights, seed=3, rank=4, show=False, **options)
    expected = reference(model, examples, weights)
    assert np.abs(gram.dot - expected).max() < 1e-10 * max(1, np.abs(expected).max())


class InGroups(torch.nn.Module):
    "A block whose last layer sees a few vectors for each position, in one of several arrangements."

    def __init__(self, arranged: str, dim: int = 12):
        super().__init__()
        self.q, self.h, self.arranged = torch.nn.Linear(dim, dim), torch.nn.Linear(dim // 3, dim // 3), arranged

    def forward(self, x):
        q = self.q(x)[:, None]
        x = x + torch.nn.functional.scaled_dot_product_attention(q, q, q, None, 0.0, True)[:, 0].tanh()
        if self.arranged == "longer":
            return x + self.h(x.reshape(len(x), -1, 4)).view_as(x).tanh()
        parts = x.unflatten(-1, (3, -1))
        if self.arranged == "heads":
            return x + self.h(parts.transpose(1, 2)).transpose(1, 2).flatten(-2).tanh()
        return x + self.h(parts).flatten(-2).tanh()


class Grouped(torch.nn.Module):
    "A small causal LM of such blocks."

    def __init__(self, arranged: str, dim: int = 12):
        super().__init__()
        self.config = LlamaConfig(vocab_size=48)
        self.embed, self.head = torch.nn.Embedding(48, dim), torch.nn.Linear(dim, 48)
        self.layers = torch.nn.ModuleList([InGroups(arranged) for _ in range(3)])

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return CausalLMOutputWithPast(logits=self.head(x))


@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
@pytest.mark.parametrize("arranged", ["positions", "heads", "longer"])
@pytest.mark.parametrize("options", [{}, {"batch_tokens": 20}, {"lock_step": True}])
def test_layers_that_see_parts_of_a_position_count_for_their_own_example_only(arranged, weights, options):
    torch.manual_seed(0)
    model, examples = shaken(Grouped(arranged).double()), some_examples()
    gram = gradient_gram(model, examples, weights=weights, seed=3, rank=3, show=False, **options)
    expected = reference(model, examples, weights, rank=3)
    assert np.abs(gram.dot - expected).max() < 1e-10 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("place", ["self_attn.o_proj", "mlp.down_proj", "mlp.up_proj"])
def test_a_layer_with_a_forward_pass_of_its_own_may_stand_in_the_last_block(place):
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    model, examples = build("llama tied, biases"), some_examples()
    layer = model.model.layers[1].get_submodule(place)
    layer.__class__ = Doubled
    gram = gradient_gram(model, examples, weights="full", show=False)
    assert np.abs(gram.dot - reference(model, examples, "full")).max() < 1e-10


def test_attention_for_the_ends_of_a_row_has_the_width_of_the_values():
    query, key, value = (torch.randn(1, 2, 10, width).double() for width in (6, 6, 4))
    apart = gradients._Apart()
    apart.row, apart.last = [5, 3, 2], [2, 1, 0]
    found = apart.each(query, key, value, is_causal=True)
    parts = [
        torch.nn.functional.scaled_dot_product_attention(*x, is_causal=True)
        for x in zip(*(x.split(apart.row, -2) for x in (query, key, value)), strict=True)
    ]
    assert torch.allclose(found[..., 3:5, :], parts[0][..., 3:, :])
    assert torch.allclose(found[..., 7:8, :], parts[1][..., 2:, :]) and not found[..., 8:, :].any()


@pytest.mark.parametrize("kind", ["llama tied, biases", "gpt2", "gemma2"])
def test_blocks_form_a_chain_and_late_modules_are_found(kind):
    model = build(kind)
    with gradients._ready(model):
        plan = gradients._plan(model, gradients._targets(model, "full", None), "full", some_examples(1)[0])
    assert len(plan.chain) == 2 and not plan.explicit and not plan.single
    assert any(m is plan.chain[-1][1].mlp for m in plan.late)


def plan_of(model: torch.nn.Module, examples: list[Example], weights: str = "lora_b") -> gradients._Plan:
    with gradients._ready(model):
        return gradients._plan(model, gradients._targets(model, weights, None), weights, examples[0])


@pytest.mark.parametrize("lock_step", [False, True])
@pytest.mark.parametrize("weights", ["lora_b", "seed_free"])
@pytest.mark.parametrize("kind", ["llama", "llama tied, biases", "qwen2", "gpt2", "mistral"])
def test_examples_share_rows_and_do_not_see_each_other(kind, weights, lock_step):
    rng = np.random.default_rng(4)
    longest = 28 if kind in ("llama", "llama tied, biases", "qwen2", "gpt2") else 60  # more than mistral's window of 16
    examples = [
        Example(rng.integers(3, 48, n), rng.integers(3, 48, 1 + n % 3)) for n in (1, 2, 3, 5, 9, 12, longest, 4, 4)
    ]
    model = build(kind)
    plan = plan_of(model, examples)
    assert plan.one_row and plan.late_attention and not plan.masked
    made = []
    batch = gradients._batch
    monkey = pytest.MonkeyPatch()
    monkey.setattr(gradients, "_batch", lambda *given, **how: made.append(batch(*given, **how)) or made[-1])
    try:
        found = gradient_gram(model, examples, weights=weights, seed=3, rank=4, batch_tokens=24, lock_step=lock_step, show=False)  # fmt: skip
    finally:
        monkey.undo()
    assert sum(len(b.row) > 2 for b in made) >= 2, "rows of several examples"
    expected = reference(model, examples, weights)
    assert np.abs(found.dot - expected).max() < 1e-10 * max(1, np.abs(expected).max())
    assert np.allclose(found.losses, [-explicit_loss(model, e) for e in examples], atol=1e-12)


@pytest.mark.parametrize("backend", [gradients.SDPBackend.MATH, gradients.SDPBackend.FLASH_ATTENTION])
def test_attention_of_a_row_is_one_step_of_the_graph_where_the_kernel_is_known(monkeypatch, backend):
    examples, model, rows = some_examples(), build("llama"), []
    turn = gradients._InTurn.forward
    monkeypatch.setattr(gradients._InTurn, "forward", staticmethod(lambda ctx, row, *given: rows.append(row) or turn(ctx, row, *given)))  # fmt: skip
    with torch.nn.attention.sdpa_kernel(backend):
        found = gradient_gram(model, examples, seed=3, rank=4, batch_tokens=24, show=False)
    assert bool(rows) == (backend is gradients.SDPBackend.FLASH_ATTENTION)
    assert all(row and all(row) for row in rows), "the kernel takes no empty part"
    expected = reference(model, examples, "lora_b")
    assert np.abs(found.dot - expected).max() < 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("row", [[1], [3, 1, 5], [2, 2]])
def test_attention_in_turn_is_the_attention_of_each_part(row):
    torch.manual_seed(0)
    given = [torch.randn(1, sum(row), 2, 4, dtype=torch.float64).transpose(1, 2).requires_grad_() for _ in range(3)]
    attend = torch.nn.functional.scaled_dot_product_attention
    apart = torch.cat([attend(*part, is_causal=True, scale=0.3) for part in zip(*(x.split(row, -2) for x in given), strict=True)], -2)  # fmt: skip
    found = gradients._InTurn.apply(row, 0.3, *given)
    assert torch.allclose(found, apart, atol=1e-14)
    slope = torch.randn_like(apart)
    expected = torch.autograd.grad(apart, given, slope)
    assert all(torch.allclose(a, b, atol=1e-13) for a, b in zip(torch.autograd.grad(found, given, slope), expected, strict=True))  # fmt: skip


def test_without_calibration_no_timing_decides(monkeypatch):
    def timed(*_):
        raise AssertionError("a timing was asked for")

    examples, model = some_examples(), build("llama")
    usual = gradient_gram(model, examples, seed=3, rank=4, show=False)
    for name in ("_onednn_is_faster", "_speed", "_seconds"):
        monkeypatch.setattr(gradients, name, timed)
    found = gradient_gram(model, examples, seed=3, rank=4, calibrate=False, show=False)
    assert np.abs(found.dot - usual.dot).max() < 1e-10 * np.abs(usual.dot).max()
    with pytest.raises(AssertionError, match="a timing was asked for"):
        gradient_gram(model, examples, rank=4, show=False)


def test_the_block_that_gradients_are_formed_in_is_used_again():
    scratch = gradients._Scratch()
    cpu = torch.device("cpu")
    first = scratch.matrix(3, 4, torch.float32, cpu)
    assert scratch.matrix(2, 5, torch.float32, cpu).data_ptr() == first.data_ptr()
    assert scratch.matrix(5, 5, torch.float32, cpu).shape == (5, 5)
    assert scratch.matrix(1, 2, torch.float64, cpu).dtype == torch.float64


def test_a_number_that_is_not_finite_stays_in_its_own_row_of_the_gram():
    examples, model = some_examples(), build("llama")
    usual = gradient_gram(model, examples, rank=4, show=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[47] = float("nan")
    examples[2] = Example([1, 47, 3], [5])
    assert 47 not in {t for k, e in enumerate(examples) if k != 2 for t in (*e.prompt, *e.answer)}
    with pytest.warns(UserWarning, match=r"examples \[2\] have a gradient that is not finite"):
        found = gradient_gram(model, examples, rank=4, show=False)
    rest = [0, 1, 3, 4, 5]
    assert np.abs(found.dot - usual.dot)[np.ix_(rest, rest)].max() < 1e-10
    assert np.isnan(found.dot[2]).all()


def test_without_its_usual_attention_a_model_keeps_a_row_for_each():
    examples, model = some_examples(), build("llama")
    model.set_attn_implementation("eager")
    plan = plan_of(model, examples)
    assert not plan.one_row and not plan.masked
    assert np.abs(gradient_gram(model, examples, seed=3, rank=4, show=False).dot - reference(model, examples, "lora_b")).max() < 1e-10  # fmt: skip


class Attending(torch.nn.Module):
    "A block that reads from what stands before, or from everything."

    def __init__(self, dim: int, causal: bool, again: bool):
        super().__init__()
        self.q, self.o, self.causal, self.again = torch.nn.Linear(dim, dim), torch.nn.Linear(dim, dim), causal, again

    def attend(self, x, mask):
        q = self.q(x)[:, None]
        return self.o(torch.nn.functional.scaled_dot_product_attention(q, q, q, mask, 0.0, mask is None)[:, 0]).tanh()

    def forward(self, x, mask):
        return x + (checkpoint(self.attend, x, mask, use_reentrant=False) if self.again else self.attend(x, mask))


class Small(torch.nn.Module):
    "A model of such blocks that takes positions, and a mask only where it is not causal."

    def __init__(self, causal: bool, again: bool = False, dim: int = 12):
        super().__init__()
        self.config, self.causal = LlamaConfig(vocab_size=48), causal
        self.embed, self.head = torch.nn.Embedding(48, dim), torch.nn.Linear(dim, 48)
        self.blocks = torch.nn.ModuleList([Attending(dim, causal, again) for _ in range(3)])

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        known = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x, mask = self.embed(input_ids), None if self.causal else known[:, None, None].bool()
        for block in self.blocks:
            x = block(x, mask)
        return type("Output", (), {"logits": self.head(x)})()


@pytest.mark.parametrize(("causal", "again"), [(True, False), (True, True), (False, False)])
def test_what_a_row_or_a_missing_mask_would_change_is_found_out(causal, again):
    torch.manual_seed(0)
    model, examples = Small(causal, again).double().eval(), some_examples()
    plan = plan_of(model, examples)
    # computed again in the backward pass, attention would not be told apart
    assert (plan.one_row, plan.masked) == (causal and not again, not causal)
    names = [f"blocks.{k}.{part}.weight" for k in range(3) for part in "qo"]
    rows = [[32 / 4 * g[name] @ torch.tensor(sketch(name[:-7], 12, rank=4, seed=3)).T for name in names]
            for g in (explicit(model, e) for e in examples)]  # fmt: skip
    if causal:  # else the plain reference, which reads the whole answer, is another function
        assert np.abs(gradient_gram(model, examples, seed=3, rank=4, show=False).dot - gram_of(rows)).max() < 1e-10
    one, many = (gradient_gram(model, examples, seed=3, rank=4, batch_tokens=b, show=False).dot for b in (1, 10_000))
    assert np.abs(one - many).max() < 1e-12


@pytest.mark.parametrize("limit", [64, 300, float("inf")])
def test_rows_hold_every_example_once_and_waste_little(limit):
    rng = np.random.default_rng(0)
    for n, longest in ((1, 5), (3, 60), (40, 60), (500, 60), (2, 64)):
        examples = [Example([1] * int(k), [2]) for k in rng.integers(1, longest + 1, n)]
        sizes = [len(e) - 1 for e in examples]
        widths, rows = gradients._rows(examples, 50, limit)
        assert sorted(i for row in rows for i in row) == list(range(n))
        assert all(
            sum(sizes[i] for i in row) <= width <= max(limit, 64) for width, row in zip(widths, rows, strict=True)
        )
        assert len(set(widths)) <= 3 and sum(widths) <= 1.07 * sum(sizes) + 16


def test_inference_tensors_and_frozen_models():
    model, examples = build("llama"), some_examples(3)
    usual = gradient_gram(model, examples, rank=4).dot
    with torch.inference_mode():
        assert np.array_equal(gradient_gram(model.requires_grad_(False), examples, rank=4).dot, usual)
        unusable = build("llama")
    with pytest.raises(ValueError, match="got inference tensors or weights without storage"):
        gradient_gram(unusable, examples)


def test_failure_within_a_pass_leaves_nothing_behind():
    model, examples = build("llama").train(), some_examples(3)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)

    def fail(*_):
        raise RuntimeError("stop")

    for options in ({}, {"batch_tokens": 20}, {"batch_tokens": 20, "lock_step": True}):
        handle = model.model.layers[1].mlp.down_proj.register_full_backward_hook(fail)
        with pytest.raises(RuntimeError, match="stop"):
            gradient_gram(model, examples, weights="full", show=False, **options)
        handle.remove()
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
        assert all(p.requires_grad for p in model.parameters()) and all(m.training for m in model.modules())
        assert all("forward" not in m.__dict__ for m in model.modules())
        assert [n for n, p in model.named_parameters() if p.grad is not None] == ["lm_head.weight"]


def test_half_precision_and_files_on_disk(tmp_path):
    model, examples = build("llama").bfloat16(), some_examples()
    kept = gradient_gram(model, examples, rank=4, batch_tokens=1000).dot
    for options in ({"batch_tokens": 30}, {"lock_step": True, "offload": tmp_path}):
        other = gradient_gram(model, examples, rank=4, show=False, **options).dot
        assert np.abs(other - kept).max() < 0.05 * np.abs(kept).max()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
@pytest.mark.parametrize("kind", ["llama", "llama tied, biases", "gpt2"])
@pytest.mark.parametrize(
    "options", [{"batch_tokens": 20}, {"batch_tokens": 20, "lock_step": True}, {"batch_tokens": 1}]
)
def test_in_main_memory_no_file_is_made_and_nothing_changes(kind, weights, options, monkeypatch):
    model, examples = build(kind), some_examples()
    own = gradient_gram(model, examples, weights=weights, rank=4, calibrate=False, show=False, **options)
    monkeypatch.setattr(gradients.tempfile, "TemporaryFile", lambda **_: pytest.fail("a file is made"))
    other = gradient_gram(
        model, examples, weights=weights, rank=4, calibrate=False, show=False, offload=False, **options
    )
    np.testing.assert_allclose(other.dot, own.dot, rtol=1e-12, atol=1e-12 * np.abs(own.dot).max())
    with pytest.raises(TypeError, match="gradient_gram: needs the path of a file or folder, got bool"):
        gradient_gram(model, examples, show=False, offload=True)
    with pytest.raises(NotADirectoryError, match="offload must be a folder that exists, None or False, got 'nowhere'"):
        gradient_gram(model, examples, show=False, offload="nowhere")


def explicit_loss(model: torch.nn.Module, e: Example) -> float:
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([[*e.prompt, *e.answer]])).logits[0].log_softmax(-1)
    return float(np.mean([logp[len(e.prompt) - 1 + k, t] for k, t in enumerate(e.answer)]))


@pytest.mark.parametrize("cheap", [True, False])
@pytest.mark.parametrize("weights", ["seed_free", "full"])
def test_ghost_and_materialised_layers_agree(monkeypatch, weights, cheap):
    monkeypatch.setattr(gradients, "_pairs_are_faster", lambda *sizes: cheap)
    model, examples = build("llama"), some_examples()
    assert (
        np.abs(
            gradient_gram(model, examples, weights=weights, batch_tokens=20, show=False).dot
            - reference(model, examples, weights)
        ).max()
        < 1e-10
    )


def test_layers_add_up_and_name_each_parameter_once():
    model, examples = build("llama tied, biases"), some_examples()
    gram = gradient_gram(model, examples, weights="full", per_layer=True)
    assert list(gram.layers) == [name for name, _ in model.named_parameters()]
    assert np.allclose(np.sum(list(gram.layers.values()), axis=0), gram.dot, atol=1e-12)
    frame = gram.frame()
    assert frame.height == 15 * (1 + len(gram.layers)) and frame["layer"][0] == "all"


@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
def test_module_that_is_called_twice_counts_once_with_the_summed_gradient(weights):
    model, examples = build("llama"), some_examples()
    model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj
    gram = gradient_gram(model, examples, weights=weights, seed=3, rank=4, batch_tokens=20, show=False)
    assert np.abs(gram.dot - reference(model, examples, weights)).max() < 1e-10


def test_chosen_modules_only():
    model, examples = build("qwen2"), some_examples()
    grads = [explicit(model, e) for e in examples]
    chosen = [[g for name, g in one.items() if ".q_proj." in name or "layernorm" in name] for one in grads]
    gram = gradient_gram(
        model, examples, weights="full", modules=["q_proj", "input_layernorm", "post_attention_layernorm"]
    )
    assert np.abs(gram.dot - gram_of(chosen)).max() < 1e-10
    head = gradient_gram(model, examples, weights="seed_free", modules="lm_head")
    assert np.abs(head.dot * 16 - gram_of([[g] for g in head_grads(model, examples)])).max() < 1e-10


def head_grads(model: torch.nn.Module, examples: list[Example]) -> list[torch.Tensor]:
    untied = build("qwen2")
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    return [explicit(untied, e)["lm_head.weight"] for e in examples]


def test_equals_peft_adapters_with_the_same_a():
    peft = pytest.importorskip("peft")
    model, examples = build("llama"), some_examples(5)
    gram = gradient_gram(model, examples, weights="lora_b", seed=3, rank=4)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = (
        peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=32, lora_dropout=0.05, target_modules=names))
        .double()
        .eval()
    )
    with pytest.raises(ValueError, match="needs the base model, got one with adapters"):
        gradient_gram(adapted, examples)
    layers = {n.removeprefix("base_model.model."): m for n, m in adapted.named_modules() if hasattr(m, "lora_A")}
    assert len(layers) == 14
    for name, layer in layers.items():
        a = layer.lora_A["default"].weight
        with torch.no_grad():
            a.copy_(torch.tensor(sketch(name, a.shape[1], rank=4, seed=3)))
    rows = []
    for example in examples:
        adapted.zero_grad()
        # not through labels=: the model's own loss rounds logits to single precision
        logits = adapted(input_ids=torch.tensor([[*example.prompt, *example.answer]])).logits[
            0, len(example.prompt) - 1 : -1
        ]
        torch.nn.functional.cross_entropy(logits, torch.tensor(example.answer)).backward()
        assert all(not layer.lora_A["default"].weight.grad.any() for layer in layers.values()), (
            "B = 0 must leave A without gradient"
        )
        rows.append([layer.lora_B["default"].weight.grad.clone() for layer in layers.values()])
    assert np.abs(gram.dot - gram_of(rows)).max() < 1e-10


def test_order_and_sketch_depend_on_names_and_seed_only():
    model, examples = build("llama"), some_examples()
    first = gradient_gram(model, examples, seed=0, rank=4)
    again = gradient_gram(model, [examples[i] for i in (3, 1, 5, 0, 2, 4)], seed=0, rank=4)
    assert np.allclose(again.dot, first.dot[np.ix_((3, 1, 5, 0, 2, 4), (3, 1, 5, 0, 2, 4))], atol=1e-12)
    assert not np.allclose(gradient_gram(model, examples, seed=1, rank=4).dot, first.dot)
    assert (first.seed, first.rank) == (0, 4) and gradient_gram(model, examples, weights="full").seed is None


def test_sketch_tends_to_the_seed_free_limit():
    model, examples = build("llama"), some_examples()
    limit = gradient_gram(model, examples, weights="seed_free").dot
    scaled = [gradient_gram(model, examples, seed=s, rank=64).dot * 3 / (64 * (32 / 64) ** 2) for s in range(12)]
    assert np.abs(np.mean(scaled, axis=0) - limit).max() / np.abs(limit).max() < 0.1, (
        "E[dB dB] = scale^2 r / (3 d_in) <G, G>"
    )


def test_model_is_left_as_it_was_found():
    model, examples = build("gpt2"), some_examples(3)
    model.train()
    model.transformer.h[0].eval()
    model.transformer.wte.weight.requires_grad_(False)
    before = (
        [(m.training, len(m._forward_hooks)) for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
    )
    with torch.no_grad():
        in_training = gradient_gram(model, examples, weights="full")
    after = (
        [(m.training, len(m._forward_hooks)) for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
    )
    assert before == after and all(p.grad is None for p in model.parameters())
    assert np.allclose(in_training.dot, gradient_gram(model.eval(), examples, weights="full").dot), (
        "dropout must be off"
    )
    with pytest.raises(ValueError, match="at least 2 examples"):
        gradient_gram(model, examples[:1])
    assert all(not m._forward_hooks for m in model.modules()), "hooks must go when a run fails"


def test_gram_is_a_gram_in_single_precision():
    model, examples = build("llama").float(), some_examples(8)
    gram = gradient_gram(model, [*examples, examples[0]], seed=0)
    assert np.allclose(gram.dot, gram.dot.T) and np.linalg.eigvalsh(gram.dot).min() > -1e-6 * np.trace(gram.dot)
    assert abs(gram.cosine[0, 8] - 1) < 1e-6 and gram.notes == ("examples 0 and 8 are identical",)
    exact = gradient_gram(model.double(), [*examples, examples[0]], seed=0)
    assert np.abs(gram.cosine - exact.cosine).max() < 1e-4
    half = gradient_gram(model.bfloat16(), examples, seed=0)
    assert np.isfinite(half.dot).all() and np.abs(half.cosine - exact.cosine[:8, :8]).max() < 0.1


@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
def test_not_finite_gradient_stays_in_its_row(weights):
    model = build("llama")
    examples = [Example([1, 2, 3], [4]), Example([1, 40, 3], [4]), Example([1, 5, 6, 7], [4, 9])]
    sound = gradient_gram(model, examples, weights=weights, rank=4)
    with torch.no_grad():
        model.model.embed_tokens.weight[40] = float("nan")
    with pytest.warns(UserWarning, match=r"examples \[1\] have a gradient that is not finite"):
        broken = gradient_gram(model, examples, weights=weights, rank=4)
    keep = np.ix_((0, 2), (0, 2))
    assert np.allclose(broken.dot[keep], sound.dot[keep], atol=1e-12) and broken.unusable == (1,)
    assert broken.frame()["cosine"].is_null().sum() == 2


def test_zero_gradient_has_no_cosine():
    model, examples = build("llama"), some_examples(3)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    gram = gradient_gram(model, examples, weights="seed_free")
    assert gram.unusable == (0, 1, 2) and "gradient of zero" in gram.notes[0]
    assert gram.frame()["cosine"].null_count() == 3 and np.isnan(gram.cosine).all()


class Merging:
    """A letter a token, but `ab` is one."""

    def __init__(self):
        self.specials, self.pieces = {"bos": 0}, [None, b"a", b"b", b"ab", b" "]

    def encode(self, texts):
        return [[{"a": 1, "b": 2, "x": 3, " ": 4}[c] for c in t.replace("ab", "x")] for t in texts]


def test_join_is_cut_at_the_byte_where_the_answer_begins():
    with pytest.warns(UserWarning, match="1 of 3 answers share a token with their prompt"):
        cut = examples_from_text(Merging(), ["ba", "bb", "b"], ["b", " a", "ab"])
    assert cut == [Example([0, 2], [3]), Example([0, 2, 2], [4, 1]), Example([0, 2], [3])]
    assert examples_from_text(Merging(), ["b"], ["a"], bos=False) == [Example([2], [1])]


@pytest.mark.parametrize(("roles", "warned"), [({"unk": 2}, 2), ({"unk": 2, "eos": 2}, 0), ({}, 0)])
def test_answers_of_unknown_tokens_are_told(roles, warned):
    tokenizer = Merging()
    tokenizer.specials |= roles
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        examples_from_text(tokenizer, ["b", "b", "a"], ["b", " a", " b"])
    told = [str(w.message) for w in caught if "unknown tokens" in str(w.message)]
    assert len(told) == bool(warned) and all(f"({warned} of 3)" in message for message in told)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: Example([], []), "got an empty prompt and answer"),
        (lambda m: examples_from_text(Merging(), ["a", "b"], ["", "a"]), r"answers \[0\] have no token of their own"),
        (lambda m: examples_from_text(Merging(), [""], ["a"], bos=False), r"prompts \[0\] leave no token"),
        (lambda m: examples_from_text(Merging(), ["a"], []), "one answer per prompt, got 1 prompts and 0 answers"),
        (lambda m: gradient_gram(m, []), "at least 2 examples to compare, got 0"),
        (
            lambda m: gradient_gram(m, [([1], [2]), ([1], [48])]),
            r"token ids in \[0, 48\), got others in examples \[1\]",
        ),
        (
            lambda m: gradient_gram(m, [([1] * 40, [2]), ([1], [2])]),
            r"at most 32 positions, got more in examples \[0\]",
        ),
        (lambda m: gradient_gram(m, some_examples(2), weights="lora"), "weights must be"),
        (lambda m: gradient_gram(m, some_examples(2), rank=0), "rank and batch_tokens of at least 1, got 0"),
    ],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call(build("llama"))


def test_unknown_layer_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"no layer is called \['c_attn'\]. Known are .*q_proj"):
        gradient_gram(build("llama"), some_examples(2), modules=["c_attn"])


def test_pairs_of_ids_are_examples():
    model = build("llama")
    pairs = [([1, 2], [3]), ([1, 4], [5])]
    assert np.array_equal(gradient_gram(model, pairs).dot, gradient_gram(model, [Example(*p) for p in pairs]).dot)


def test_clean_gram_has_no_notes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gram = gradient_gram(build("llama"), some_examples())
    assert isinstance(gram, Gram) and gram.notes == () and gram.layers == {}


def wide(kind: str) -> torch.nn.Module:
    "In single precision, and wide enough that products are not small."
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=256))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"lock_step": True}, {"batch_tokens": 10_000}])
@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_faster_products_and_a_graph_put_aside_change_rounding_only(monkeypatch, kind, weights, options):
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(1, 96, k), rng.integers(1, 96, 1 + k % 3)) for k in (3, 90, 200, 41)]
    model = wide(kind)
    truth = gradient_gram(copy.deepcopy(model).double(), examples, weights=weights, show=False).dot
    quick = gradients._onednn_is_faster.__wrapped__(1)  # whatever is faster: does it work here?
    used: list[int] = []
    product = gradients._onednn
    monkeypatch.setattr(gradients, "_onednn", lambda *given: used.append(1) or product(*given))
    monkeypatch.setattr(gradients._Stored, "leave", lambda self, leave=gradients._Stored.leave: used.append(2) or leave(self))  # fmt: skip
    kept = gradients._Saved.__init__
    for fast, most in ((False, 2**30), (True, 2**30), (True, 0)):
        monkeypatch.setattr(gradients, "_onednn_is_faster", lambda threads, fast=fast: fast and quick is not None)
        monkeypatch.setattr(gradients._Saved, "__init__", lambda self, spool, _, *rest, most=most: kept(self, spool, most, *rest))  # fmt: skip
        used.clear()
        found = gradient_gram(model, examples, weights=weights, show=False, **options).dot
        assert np.abs(found - truth).max() < 3e-6 * np.abs(truth).max()
        assert (1 in used) == fast and (2 in used) == (most == 0), "the way was not taken that is tested"
    assert all("forward" not in m.__dict__ for m in model.modules())


FAST_STEPS = {"llama": (5, True), "qwen3": (9, True), "mistral": (5, True), "phi": (0, True), "gpt_neox": (0, True), "gemma": (0, True), "cohere": (0, False), "glm": (5, False)}  # fmt: skip


@pytest.mark.parametrize("weights", ["lora_b", "full"])
@pytest.mark.parametrize("kind", FAST_STEPS)
def test_norms_and_rotary_positions_take_fewer_passes_only_where_they_are_the_usual_ones(monkeypatch, kind, weights):
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0}  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(1, 96, k), rng.integers(1, 96, 1 + k % 3)) for k in (3, 40, 71)]
    norms, rotary = FAST_STEPS[kind]
    assert sum(gradients._quickly(m) is not None for m in model.modules() if gradients._kind(m) == "other") == norms
    assert any(gradients._rotary_in(type(m).forward) is not None for m in model.modules()) == rotary
    found = gradient_gram(model, examples, weights=weights, show=False)
    assert all("forward" not in m.__dict__ for m in model.modules())
    monkeypatch.setattr(gradients, "_agree", lambda *_: False)
    monkeypatch.setattr(gradients, "_is_rotary", lambda _: False)
    plain = gradient_gram(model, examples, weights=weights, show=False)
    assert np.abs(found.dot - plain.dot).max() < 2e-5 * np.abs(plain.dot).max()
    taken = (
        bool(norms or rotary) and kind != "gpt_neox"
    )  # which turns a quarter of each head, and does so in its own way
    assert (found.dot != plain.dot).any() == taken, "the way was not taken that is tested"


def test_a_norm_of_another_epsilon_or_function_is_left_alone():
    norm = LlamaRMSNorm(32)
    assert gradients._quickly(norm) is not None
    norm.variance_epsilon = 1.0
    assert gradients._quickly(norm) is not None, "its epsilon is read, whatever it is"

    class Other(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states) * 1.001

    assert gradients._quickly(Other(32)) is None
    assert gradients._quickly(LlamaRMSNorm(32).double()) is None
    broken = LlamaRMSNorm(32)
    with torch.no_grad():
        broken.weight[3] = float("nan")
    assert gradients._quickly(broken) is None, "nothing can be compared"


def test_weights_of_a_kind_of_their_own_multiply_in_their_own_way(monkeypatch):
    class Own(torch.Tensor):
        pass

    monkeypatch.setattr(gradients, "_onednn_is_faster", lambda threads: True)
    model = wide("qwen2")
    one, other, *_ = (m for m in model.modules() if isinstance(m, torch.nn.Linear))
    one.weight = torch.nn.Parameter(one.weight.detach().as_subclass(Own))
    with gradients._quick(model, gradients._Tape(2, "lora_b", 0, 4, 32.0, torch.float32, None)):
        assert "forward" in other.__dict__ and "forward" not in one.__dict__


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
@pytest.mark.parametrize("kind", ["llama tied, biases", "gpt2"])
def test_answers_longer_than_a_tied_matrix_is_wide(kind, batch_tokens):
    rng = np.random.default_rng(5)
    examples = [Example(rng.integers(1, 48, 2), rng.integers(1, 48, k)) for k in (25, 1, 28, 3)]
    model = build(kind)
    found = gradient_gram(model, examples, weights="full", batch_tokens=batch_tokens, show=False).dot
    assert np.abs(found - reference(model, examples, "full")).max() < 1e-10


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 5, 8, 31, 32, 33])
def test_few_rows_are_filled_up_and_cut_again(monkeypatch, rows, fast):
    monkeypatch.setattr(gradients, "_onednn_is_faster", lambda threads: fast)
    rng = np.random.default_rng(rows)
    a, b, bias = (torch.tensor(rng.normal(size=size), dtype=torch.float32) for size in ((rows, 96), (480, 96), 480))
    for one in (b, b.T.contiguous().T):
        found = gradients._times(a, one, bias)
        assert found.shape == (rows, 480)
        assert torch.allclose(found.double(), a.double() @ b.double().T + bias, rtol=1e-5, atol=1e-4)


IDLE = """
import torch
from toksuite_nb import gradients
torch.ones(2**22)  # once it is freed, blocks of up to its size come from the heap
gradients._trim()(0)
heap = gradients._Heap(2**24)
start = heap.size
heap.look()
assert heap.size == start, "nothing has grown"
blocks = [torch.ones(2**18) for _ in range(96)]
del blocks[::2]  # the others keep the gaps apart
before = heap.now()
assert before > start + 80 * 2**20
heap.look()
assert heap.now() < before - 40 * 2**20
assert heap.size > start + 40 * 2**20, "blocks in use are not asked for again"
assert all(bool((x == 1).all()) for x in blocks)
later = gradients._Heap(2**24)
more = [torch.ones(2**18) for _ in range(40)]
del more[::2]
before = later.now()
later.look()
assert later.size == later.start, "two steps are not three"
later.look(1)
assert later.start < later.size < before - 10 * 2**20
"""


@pytest.mark.skipif(gradients._trim() is None, reason="needs glibc")
def test_memory_that_lies_idle_is_given_back():
    done = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a build without oneDNN")
@pytest.mark.parametrize("share", [0.85, 0.95])
def test_the_other_library_has_to_be_faster_by_a_tenth(monkeypatch, share):
    taken = iter([1.0, share])
    monkeypatch.setattr(gradients, "_seconds", lambda *_: next(taken))
    assert gradients._onednn_is_faster.__wrapped__(1) == (share < 0.9)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_pieces_of_the_last_batch_are_not_put_aside(monkeypatch, kind):
    model, examples = build(kind), [Example([1, 2, 3, k], [4]) for k in range(6)]
    whole = gradient_gram(model, examples, rank=4, show=False).dot
    asked: list[int] = []
    begin, aside = gradients._Tape.begin, gradients._Piece.aside
    batches: list[int] = []
    monkeypatch.setattr(gradients._Tape, "begin", lambda self, batch, row: batches.append(len(batch)) or begin(self, batch, row))  # fmt: skip
    monkeypatch.setattr(gradients._Piece, "aside", lambda self, spool: asked.append(len(batches)) or aside(self, spool))
    found = gradient_gram(model, examples, rank=4, batch_tokens=10, show=False).dot
    assert len(set(asked)) == len(batches) - 2 > 0, "the first is an empty one, the last is not written"
    assert np.abs(found - whole).max() < 1e-10 * np.abs(whole).max()


def test_elsewhere_memory_is_left_to_the_allocator(monkeypatch):
    monkeypatch.setattr(gradients, "_trim", lambda: None)
    heap = gradients._Heap(0)
    heap.look()
    assert heap.now() == heap.size == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_what_is_put_aside_is_read_where_it_lies(tmp_path, dtype):
    spool = gradients._Spool(torch.device("cpu"), tmp_path)
    x = (torch.arange(6000) % 7).view(3, 2000).to(dtype)
    aside = spool.put(x.T)
    here = aside.get()
    assert here.dtype == dtype and torch.equal(here, x.T) and torch.equal(aside.part(1, 2), x.T[:, 1:3])
    here.zero_()
    assert torch.equal(aside.get(), x.T), "changes stay with the tensor"
    aside.free()
    end = spool.end
    other = spool.put(x)
    assert spool.end > end, "the place is in use while a tensor lies on it"
    del here
    end = spool.end
    again = spool.put(~x if dtype == torch.bool else -x)
    assert spool.end == end, "then it is used again"
    assert torch.equal(again.get(), ~x if dtype == torch.bool else -x) and torch.equal(other.get(), x)
    assert spool.put(x[:0]).get().shape == (0, 2000), "nothing needs no place"
    kept = other.get()
    spool.close()
    assert torch.equal(kept, x), "tensors outlive the file"


@pytest.mark.parametrize("most", [0, 2**30])
def test_graph_put_aside_keeps_views_and_refuses_what_changed(most, tmp_path):
    saved = gradients._Saved(gradients._Spool(torch.device("cpu"), tmp_path), most, set())
    x = torch.arange(8192.0).view(2, 4096)
    values = {"whole": x, "column": x[:, 5], "turned": x.T, "small": x[0, :3].clone()}
    packed = {name: saved.pack(value) for name, value in values.items()}
    assert saved.held == (0 if most == 0 else x.nbytes), "views of one tensor count once"
    for name, value in values.items():
        back = saved.unpack(packed[name])
        assert torch.equal(back, value) and back.stride() == value.stride()
    x.add_(1)
    if most:
        with pytest.raises(RuntimeError, match="changed in place"):
            saved.unpack(packed["whole"])
    else:  # the file holds what was saved
        assert torch.equal(saved.unpack(packed["whole"]), x - 1)
    packed.clear()
    assert saved.held == 0


def test_what_was_put_aside_is_put_aside_once(tmp_path):
    saved = gradients._Saved(gradients._Spool(torch.device("cpu"), tmp_path), 0, set())
    x = torch.arange(8192.0).view(2, 4096)
    packed = [saved.pack(x[:, k:]) for k in range(5)]
    assert len({id(stored) for stored, *_ in packed}) == 1 and saved.spool.end == x.nbytes
    x.add_(1)
    assert torch.equal(saved.unpack(saved.pack(x)), x), "what changed is another tensor"
    assert torch.equal(saved.unpack(packed[4]), x[:, 4:] - 1)
    old, at = saved.pack(x.clone()), -1
    for _ in range(100):  # until another tensor gets the memory that was freed
        other = torch.full((2, 4096), -1.0)
        at = other.data_ptr()
        back = saved.unpack(saved.pack(other))
        assert torch.equal(back, other)
        if at in saved.left:
            break
    assert at in saved.left and torch.equal(saved.unpack(old), x)


@pytest.mark.parametrize("weights", ["lora_b", "full"])
def test_the_other_library_gets_no_columns_of_a_wider_matrix(monkeypatch, weights):
    "For which it takes hundreds of times longer."
    given: list[bool] = []
    product = gradients._onednn
    monkeypatch.setattr(gradients, "_onednn", lambda a, b, *rest: given.append(a.is_contiguous() and b.is_contiguous()) or product(a, b, *rest))  # fmt: skip
    monkeypatch.setattr(gradients, "_onednn_is_faster", lambda threads: True)
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(1, 96, 40), rng.integers(1, 96, 1)) for _ in range(40)]
    gradient_gram(wide("qwen2"), examples, weights=weights, batch_tokens=10_000, show=False)
    assert given and all(given)


def test_logits_without_a_gradient_are_refused():
    class Detached(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits.detach()
            return out

    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = Detached(LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=64))
    with pytest.raises(ValueError, match="logits of Detached must carry a gradient"):
        gradient_gram(model, [([1, 2, 3], [4]), ([1, 2, 5], [6])], show=False)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_a_model_that_computes_without_gradients_is_refused(around):
    model, examples = build("llama"), some_examples()
    model.forward = around()(model.forward)
    with pytest.raises(ValueError, match="logits of LlamaForCausalLM must carry a gradient, got none"):
        gradient_gram(model, examples, show=False)
