"""Fifteen ways to get a gradient Gram wrong. Each test fails on the behaviour it is named after."""

import copy
import warnings

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from toksuite_nb import gradients
from toksuite_nb.gradients import Example, batching_effect, gradient_gram, sketch

SIZES = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
WAYS = {"kept": {"batch_tokens": 10_000}, "aside": {"batch_tokens": 20}, "lock-step": {"batch_tokens": 20, "lock_step": True}}  # fmt: skip


Tape = gradients._Tape


def llama(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return shaken(LlamaForCausalLM(LlamaConfig(**(SIZES | options))))


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():  # fresh norms are all ones and biases all zeros, which would hide mistakes
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.double().eval()


def some(n: int = 6, seed: int = 1) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [Example([1, *rng.integers(0, 48, 2 * k), 2], rng.integers(0, 48, 1 + k % 3)) for k in range(1, n + 1)]


def loss(model: torch.nn.Module, e: Example) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([[*e.prompt, *e.answer]])).logits[0, len(e.prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(e.answer))


def explicit(model: torch.nn.Module, examples: list[Example]) -> list[dict[str, torch.Tensor]]:
    "Gradients by plain autograd, one example at a time."
    names, values = zip(*model.named_parameters(), strict=True)
    return [
        {
            name: g
            for name, g in zip(names, torch.autograd.grad(loss(model, e), values, allow_unused=True), strict=True)
            if g is not None
        }
        for e in examples
    ]


def gram(rows: list[dict[str, torch.Tensor]]) -> np.ndarray:
    flat = torch.stack([torch.cat([g.flatten() for g in row.values()]) for row in rows])
    return (flat @ flat.T).numpy()


def exact(model: torch.nn.Module, examples: list[Example], **options) -> None:
    "The `full` Gram equals the explicit one."
    found = gradient_gram(model, examples, weights="full", show=False, **options)
    assert np.abs(found.dot - gram(explicit(model, examples))).max() < 1e-10, "not the explicit gradients' products"


@pytest.mark.parametrize("way", WAYS)
def test_trap_1_padding_adds_nothing(way):
    model, examples = llama(), [Example([1, 5], [7]), Example([1, *range(3, 40)], [8, 9, 3]), Example([1, 5, 6], [2])]
    together = gradient_gram(model, examples, weights="full", show=False, **WAYS[way]).dot
    pair = gradient_gram(
        model, examples[::2], weights="full", show=False
    ).dot  # without the long one hardly any padding
    assert np.abs(together[::2, ::2] - pair).max() < 1e-12
    exact(model, examples, **WAYS[way])


@pytest.mark.parametrize("weights", ["lora_b", "full"])
@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_trap_1_what_a_batch_does_to_a_gradient_is_measured(weights, batch_tokens, attention):
    model, examples = llama(attn_implementation=attention), some()
    found = batching_effect(model, examples, weights=weights, rank=4, batch_tokens=batch_tokens, show=False)
    assert found["example"].to_list() == list(range(6))
    assert found.select((pl.col("cosine") - 1).abs().max(), (pl.col("norm_ratio") - 1).abs().max(), pl.col("loss_change").abs().max()).row(0) < (1e-12,) * 3  # fmt: skip


def test_trap_1_a_model_that_looks_at_its_batch_is_found_out():
    class Looking(LlamaForCausalLM):
        "Its logits depend on how many rows there are."

        def forward(self, input_ids, **options):
            out = super().forward(input_ids, **options)
            out.logits = out.logits * (1 + (len(input_ids) > 1)) ** torch.linspace(0, 1, out.logits.shape[-1])
            return out

    torch.manual_seed(0)
    model = shaken(Looking(LlamaConfig(**SIZES, attn_implementation="eager")))
    found = batching_effect(model, [Example([1, 5, k], [7]) for k in range(4)], rank=4, batch_tokens=8, show=False)
    assert (found["cosine"] < 0.999).all() and (found["loss_change"].abs() > 1e-3).all()
    alone = batching_effect(model, [Example([1, 5, 2], [7])], rank=4, show=False)
    assert alone["cosine"].item() == pytest.approx(1) and alone["loss_change"].item() == 0


def test_trap_1_an_example_without_a_gradient_has_no_effect():
    model = llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[47] = float("nan")
    found = batching_effect(model, [Example([1, 47], [2]), Example([1, 5], [2])], rank=4, show=False)
    assert found["cosine"].is_null().to_list() == [True, False] == found["loss_change"].is_null().to_list()


def test_trap_2_logits_are_one_position_before_their_labels():
    model, example = llama(), Example([1, 5, 9], [4, 3])
    found = gradient_gram(model, [example, Example([1, 5, 9, 4], [3])], weights="full")
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([[1, 5, 9, 4, 3]])).logits[0].log_softmax(-1)
    assert found.losses[0] == pytest.approx(-float(logp[2, 4] + logp[3, 3]) / 2, abs=1e-12)
    assert found.losses[1] == pytest.approx(-float(logp[3, 3]), abs=1e-12)


def test_trap_3_each_example_keeps_its_own_mean():
    model, examples = llama(), [Example([1, 5], [7]), Example([1, 6], [8, 9, 10, 11])]
    dots = [gradient_gram(model, [*examples, *more], weights="full").dot[:2, :2] for more in ([], some(5))]
    assert np.abs(dots[0] - dots[1]).max() < 1e-12, (
        "the dots must not depend on how many examples or tokens are in the batch"
    )
    exact(model, examples)


class Shared(torch.nn.Module):
    "A small causal LM with one block that is run twice, learned positions, and a head that is the embedding's weight, used without a module."

    def __init__(self, dim: int = 12):
        super().__init__()
        self.config = LlamaConfig(vocab_size=48, max_position_embeddings=64)
        self.embed, self.place = torch.nn.Embedding(48, dim), torch.nn.Embedding(64, dim)
        self.mix = torch.nn.Parameter(torch.randn(dim))
        self.block = torch.nn.Sequential(torch.nn.Linear(dim, dim), torch.nn.Tanh(), torch.nn.LayerNorm(dim))

    def get_input_embeddings(self):
        return self.embed

    def hidden(self, input_ids):
        x = self.embed(input_ids)
        x += self.place(torch.arange(input_ids.shape[1])[None])  # in place, on the output of a hooked module
        for _ in range(2):
            x = x + self.block(x.cumsum(1) * 0.3)
        return x * self.mix

    def forward(self, input_ids, attention_mask=None):
        return type("Output", (), {"logits": self.hidden(input_ids) @ self.embed.weight.T})()


@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
def test_trap_4_tied_repeated_and_broadcast_parameters(batch_tokens):
    torch.manual_seed(0)
    exact(shaken(Shared()), some(), batch_tokens=batch_tokens)
    exact(llama(tie_word_embeddings=True), some(), batch_tokens=batch_tokens)
    gpt2 = shaken(GPT2LMHeadModel(GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=4, n_positions=64)))
    exact(gpt2, some(), batch_tokens=batch_tokens)
    twice = llama()
    twice.model.layers[1].mlp = twice.model.layers[0].mlp
    exact(twice, some(), batch_tokens=batch_tokens)


def test_trap_5_bias_gradients_are_summed_before_they_are_multiplied():
    model, examples = llama(attention_bias=True, mlp_bias=True), some()
    layers = gradient_gram(model, examples, weights="full", per_layer=True).layers
    grads = explicit(model, examples)
    for name in [name for name in layers if name.endswith("bias")]:
        assert np.abs(layers[name] - gram([{name: g[name]} for g in grads])).max() < 1e-12, name


def test_trap_6_zero_and_not_finite_gradients_are_reported():
    model = llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[40] = float("nan")
    with pytest.warns(UserWarning, match=r"examples \[1\] have a gradient that is not finite"):
        found = gradient_gram(model, [Example([1, 2], [3]), Example([1, 40], [3]), Example([1, 4, 5], [3])])
    assert found.unusable == (1,) and np.isnan(found.cosine[1]).all() and np.isfinite(found.cosine[0, 2])
    with torch.no_grad():
        model.model.embed_tokens.weight[40] = 0
        model.lm_head.weight.zero_()
    found = gradient_gram(model, some(3))
    assert found.unusable == (0, 1, 2) and "gradient of zero" in found.notes[0] and np.isnan(found.cosine).all()


def test_trap_7_dropout_is_off():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=4, n_positions=64)).double()
    off = gradient_gram(model.eval(), some(), weights="full").dot
    on = gradient_gram(model.train(), some(), weights="full").dot
    assert np.array_equal(off, on) and model.training


def test_trap_8_sums_are_in_single_precision_at_least():
    # contributions of tokens that nearly cancel, in half precision
    torch.manual_seed(0)
    a, b = torch.randn(2, 6, 32, 48).bfloat16()
    a[:, 16:], b[:, 16:] = a[:, :16] * 1.1, -b[:, :16]
    formed = torch.einsum("ntp,ntq->npq", b.double(), a.double()).flatten(1)
    truth = formed @ formed.T
    norms = truth.diag().sqrt()
    pieces = [gradients._Piece(torch.arange(6), b.float(), a.float())]
    for fast in (True, False):
        gradients_faster, gradients._pairs_are_faster = gradients._pairs_are_faster, lambda *sizes, fast=fast: fast
        try:
            found = gradients._gram_of(pieces, (48, 48), 6, torch.device("cpu"), torch.float32, gradients._Scratch())
        finally:
            gradients._pairs_are_faster = gradients_faster
        assert found.dtype == torch.float64
        assert float(((found - truth) / norms / norms[:, None]).abs().max()) < 1e-4
    rough = ((b @ b.mT).float() * (a @ a.mT).float()).sum((1, 2)) / truth.diag()  # what rounded token products give
    assert float((rough - 1).abs().max()) > 1e-3, "the case is too easy to tell the two apart"


@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
@pytest.mark.parametrize("way", WAYS)
def test_trap_8_a_model_in_half_precision_is_summed_as_in_double(weights, way, monkeypatch):
    model, examples = llama().bfloat16(), some()
    single = gradient_gram(model, examples, weights=weights, rank=4, show=False, **WAYS[way])
    monkeypatch.setattr(gradients, "_Tape", lambda *given: Tape(*given[:5], torch.float64, *given[6:]))
    double = gradient_gram(model, examples, weights=weights, rank=4, show=False, **WAYS[way])
    assert np.abs(single.cosine - double.cosine).max() < 1e-5
    monkeypatch.setattr(gradients, "_Tape", lambda *given: Tape(*given[:5], torch.bfloat16, *given[6:]))
    rough = gradient_gram(model, examples, weights=weights, rank=4, show=False, **WAYS[way])
    assert np.abs(rough.cosine - double.cosine).max() > 1e-4, "the case is too easy to tell the two apart"


def half_and_truth(head: float) -> tuple[torch.nn.Module, torch.nn.Module]:
    "A model in float16, and the same numbers in double precision; gradients are as small as the numbers of the head."
    half = llama()
    with torch.no_grad():
        half.lm_head.weight.mul_(head)
    return half.half(), copy.deepcopy(half).double()


@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
@pytest.mark.parametrize("way", WAYS)
def test_trap_8_small_gradients_do_not_become_zero_in_float16(weights, way, monkeypatch):
    half, truth = half_and_truth(1e-5)
    options = {"weights": weights, "modules": ["q_proj", "v_proj", "up_proj"], "show": False} | WAYS[way]
    expected = gradient_gram(truth, some(), **options)

    def off() -> float:
        return float(np.abs(gradient_gram(half, some(), **options).cosine - expected.cosine).max())

    scaled = off()
    assert np.allclose(gradient_gram(half, some(), **options).norms, expected.norms, rtol=0.01)
    monkeypatch.setattr(gradients, "_scales", lambda model: (1.0,))
    assert scaled < 0.003 < 0.03 < off()


@pytest.mark.parametrize("way", WAYS)
def test_trap_8_a_scale_with_which_something_overflows_is_given_up(way, monkeypatch):
    half, examples = half_and_truth(1)[0], some()
    tried: list[float] = []
    passes = gradients._passes
    monkeypatch.setattr(gradients, "_passes", lambda *given, **how: tried.append(given[4]) or passes(*given, **how))
    monkeypatch.setattr(gradients, "_scales", lambda model: (1.0,))
    plain = gradient_gram(half, examples, show=False, **WAYS[way])
    monkeypatch.setattr(gradients, "_scales", lambda model: (2.0**40, 2.0**4, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gradient_gram(half, examples, show=False, **WAYS[way])
    assert tried == [1, 2**40, 2**4] and not found.notes
    assert np.abs(found.dot - plain.dot).max() < 1e-2 * plain.dot.max()


def test_trap_8_only_float16_is_scaled():
    model = llama()
    scales = {dtype: gradients._scales(model.to(dtype)) for dtype in (torch.float64, torch.float32, torch.bfloat16)}
    assert set(scales.values()) == {(1.0,)}
    with torch.autocast("cpu", torch.float16):
        assert len(gradients._scales(model)) == 3
    assert len(gradients._scales(model.half())) == 3


def test_trap_9_output_gradient_and_input_may_differ_in_type():
    class Wide(torch.nn.Linear):
        def forward(self, x):  # as adapters do: computes in its own type, answers in the input's
            return torch.nn.functional.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)

    model, plain = llama().float(), llama()
    for layer in model.model.layers:
        up = layer.mlp.up_proj
        wide = Wide(up.in_features, up.out_features, bias=False).double()
        with torch.no_grad():
            wide.weight.copy_(up.weight)
        layer.mlp.up_proj = wide
    for weights in ("lora_b", "seed_free", "full"):
        mixed, same = (gradient_gram(m, some(), weights=weights, rank=4).cosine for m in (model, plain))
        assert np.abs(mixed - same).max() < 1e-4


class Packed(torch.nn.Module):
    "A quantised linear layer: whole numbers and a scale."

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.weight = torch.nn.Parameter((linear.weight / scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x):
        return x @ (self.weight.to(x.dtype) * self.scale).T


@pytest.mark.parametrize("weights", ["lora_b", "seed_free"])
def test_trap_10_quantised_layers_are_hooked_as_modules(weights):
    packed = llama()
    rounded = copy.deepcopy(packed)
    with torch.no_grad():
        for one, other in zip(packed.model.layers, rounded.model.layers, strict=True):
            for name in ("gate_proj", "up_proj", "down_proj"):
                layer = Packed(getattr(one.mlp, name))
                getattr(other.mlp, name).weight.copy_(layer.weight * layer.scale)
                setattr(one.mlp, name, layer)
    found, expected = (gradient_gram(m, some(), weights=weights, rank=4).dot for m in (packed, rounded))
    assert np.abs(found - expected).max() < 1e-12
    with pytest.raises(
        ValueError, match=r"needs floating-point weights, got .*int8.*Quantised weights have no gradient"
    ):
        gradient_gram(packed, some(), weights="full")


def test_trap_11_fused_and_transposed_layers_give_the_same():
    gpt2 = shaken(GPT2LMHeadModel(GPT2Config(vocab_size=48, n_embd=16, n_layer=1, n_head=4, n_positions=64)))
    turned = copy.deepcopy(gpt2)
    for block in turned.transformer.h:
        for owner, name in ((block.attn, "c_attn"), (block.attn, "c_proj"), (block.mlp, "c_fc"), (block.mlp, "c_proj")):
            conv = getattr(owner, name)
            linear = torch.nn.Linear(*conv.weight.shape).double()
            with torch.no_grad():
                linear.weight.copy_(conv.weight.T)
                linear.bias.copy_(conv.bias)
            setattr(owner, name, linear)
    for weights in ("lora_b", "seed_free", "full"):
        one, other = (gradient_gram(m, some(), weights=weights, rank=4).dot for m in (gpt2, turned))
        assert np.abs(one - other).max() < 1e-12
    grads = explicit(gpt2, some())
    fused = [g["transformer.h.0.attn.c_attn.weight"] for g in grads]
    parts = sum(gram([{str(k): g.split(16, dim=1)[k]} for g in fused]) for k in range(3))
    assert np.abs(gradient_gram(gpt2, some(), weights="full", modules="c_attn", per_layer=True).layers["transformer.h.0.attn.c_attn.weight"] - parts).max() < 1e-12  # fmt: skip


def test_trap_12_fused_experts_are_exact_or_named():
    torch.manual_seed(0)
    config = MixtralConfig(**SIZES, num_local_experts=3, num_experts_per_tok=2, experts_implementation="eager")
    model = shaken(MixtralForCausalLM(config))
    exact(model, some(4))
    found = gradient_gram(model, some(4), rank=4)
    assert any("matrices outside linear layers take no part" in note and "experts" in note for note in found.notes)


class Checkpointed(torch.nn.Module):
    "A causal LM whose blocks are computed again in the backward pass."

    def __init__(self, reentrant: bool | None, dim: int = 12):
        super().__init__()
        self.config, self.reentrant = LlamaConfig(vocab_size=48), reentrant
        self.embed, self.head = torch.nn.Embedding(48, dim), torch.nn.Linear(dim, 48)
        self.blocks = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(dim, dim), torch.nn.Tanh(), torch.nn.LayerNorm(dim)) for _ in range(3)])  # fmt: skip

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids).cumsum(1) * 0.3
        for block in self.blocks:
            x = x + (block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant))
        return type("Output", (), {"logits": self.head(x)})()


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
@pytest.mark.parametrize("batch_tokens", [20, 10_000])
def test_trap_13_checkpoints_count_once(reentrant, weights, batch_tokens):
    torch.manual_seed(0)
    plain = shaken(Checkpointed(None))
    again = shaken(Checkpointed(reentrant))
    again.load_state_dict(plain.state_dict())
    options = {"weights": weights, "rank": 4, "batch_tokens": batch_tokens, "show": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gradient_gram(again, some(), **options).dot
    assert np.abs(found - gradient_gram(plain, some(), **options).dot).max() < 1e-12
    if weights == "full":
        assert np.abs(found - gram(explicit(plain, some()))).max() < 1e-10


class InPlace(Checkpointed):
    "A causal LM that changes a layer's output where it stands."

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids).cumsum(1) * 0.3
        for block in self.blocks:
            y = block[0](x)
            y *= 0.5
            y.add_(1).relu_()
            x = x + block[2](y)
        return type("Output", (), {"logits": self.head(x)})()


def test_trap_14_changes_in_place_after_a_layer():
    torch.manual_seed(0)
    model = shaken(InPlace(None))
    exact(model, some())
    linear = gradient_gram(model, some(), weights="lora_b", rank=4, seed=3)
    rows = [
        {
            str(k): 8 * g[f"blocks.{k}.0.weight"] @ torch.tensor(sketch(f"blocks.{k}.0", 12, rank=4, seed=3)).T
            for k in range(3)
        }
        for g in explicit(model, some())
    ]
    assert np.abs(linear.dot - gram(rows)).max() < 1e-10
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()), "hooks must be gone"


@pytest.mark.parametrize("weights", ["lora_b", "seed_free", "full"])
def test_trap_15_a_gram_is_symmetric_positive_and_free_of_order(weights):
    model, examples = llama(), [*some(), some()[0]]
    found = gradient_gram(model, examples, weights=weights, rank=4)
    assert np.array_equal(found.dot, found.dot.T) and (np.diag(found.dot) > 0).all()
    assert np.linalg.eigvalsh(found.dot).min() > -1e-10 * np.trace(found.dot)
    assert found.cosine[0, -1] == pytest.approx(1, abs=1e-12)
    order = [3, 6, 1, 5, 0, 2, 4]
    for options in WAYS.values():
        other = gradient_gram(model, [examples[i] for i in order], weights=weights, rank=4, show=False, **options)
        assert np.abs(other.dot - found.dot[np.ix_(order, order)]).max() < 1e-11
