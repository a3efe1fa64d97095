"""What a GPU computes beside what the CPU computes, and how much of its memory that takes."""

import copy
import gc
from contextlib import nullcontext

import numpy as np
import pytest
import test_coslow
import test_gradients
import test_lm
import torch
import transformers as tf
from test_finetune import COPY
from test_gradient_traps import SIZES, Checkpointed, shaken
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding

from toksuite_nb.cells import assemble_gram, gram_cells, score_cells
from toksuite_nb.coslow import confidence, cos_low, select_low_confidence
from toksuite_nb.finetune import FinetuneConfig, exact_match, finetune, measure_curve
from toksuite_nb.gradients import Example, Gram, gradient_gram
from toksuite_nb.items import load_benchmark
from toksuite_nb.lm import LM, TokenPath, load_lm
from toksuite_nb.run import Processes, collect, run_cells
from toksuite_nb.score import score
from toksuite_nb.suite import SuiteConfig, initial_model, load_suite, pack, packed_loss, train_model
from toksuite_nb.tokenizer import load_tokenizer

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

WEIGHTS = ("lora_b", "seed_free", "full")
WAYS = {
    "one batch": {},
    "several batches": {"batch_tokens": 20, "lock_step": False},
    "one by one": {"batch_tokens": 1, "lock_step": False},
    "lock-step": {"batch_tokens": 20},
    "lock-step, on disk": {"batch_tokens": 20, "lock_step": True, "offload": True},
    "aside, on disk": {"batch_tokens": 20, "lock_step": False, "offload": True},
}


def moved(model: torch.nn.Module) -> torch.nn.Module:
    "A copy on the GPU."
    return copy.deepcopy(model).to(DEVICE)


def apart(found: np.ndarray, truth: np.ndarray) -> float:
    "Largest difference, as a share of the largest value."
    return float(np.abs(found - truth).max() / np.abs(truth).max())


def grams(model: torch.nn.Module, there: torch.nn.Module, examples: list, **options) -> tuple[Gram, Gram]:
    "Of the CPU and of the GPU."
    plain = {key: value for key, value in options.items() if key != "offload"}
    return gradient_gram(model, examples, show=False, **plain), gradient_gram(there, examples, show=False, **options)


@pytest.fixture
def double(monkeypatch):
    "Norms and rotations of transformers round to single precision inside; here they are double, as the rest of the model."

    def norm(self, x):
        return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    def rotation(self, x, position_ids):
        angles = position_ids[..., None].double() * self.inv_freq.double()
        angles = torch.cat([angles, angles], -1)
        return angles.cos().to(x), angles.sin().to(x)

    for kind in (LlamaRMSNorm, Qwen2RMSNorm):
        monkeypatch.setattr(kind, "forward", norm)
    for kind in (LlamaRotaryEmbedding, Qwen2RotaryEmbedding):
        monkeypatch.setattr(kind, "forward", rotation)


@pytest.fixture(scope="module")
def bpe():
    return load_suite(names=["bpe"])["bpe"]


# gradients


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", ["llama", "llama tied, biases", "qwen2", "gpt2"])
def test_gram_in_double_precision_is_that_of_the_cpu(double, tmp_path, kind, weights, way):
    options = WAYS[way] | ({"offload": tmp_path} if "offload" in WAYS[way] else {})
    model, examples = test_gradients.build(kind), test_gradients.some_examples()
    here, there = grams(model, moved(model), examples, weights=weights, seed=3, rank=4, per_layer=True, **options)
    assert apart(there.dot, here.dot) < 1e-10, "a step is in single precision, or takes part on one device only"
    assert np.allclose(there.losses, here.losses, rtol=1e-10)
    assert list(there.layers) == list(here.layers)
    for name, layer in here.layers.items():
        assert np.abs(there.layers[name] - layer).max() < 1e-10 * np.abs(here.dot).max(), name
    assert there.notes == here.notes and not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_gram_in_single_precision_differs_by_rounding_only(tmp_path, kind, weights, way):
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(1, 96, k), rng.integers(1, 96, 1 + k % 3)) for k in (3, 90, 200, 41)]
    options = WAYS[way] | ({"offload": tmp_path} if "offload" in WAYS[way] else {})
    model = test_gradients.wide(kind)
    truth = gradient_gram(copy.deepcopy(model).double(), examples, weights=weights, show=False)
    found = gradient_gram(moved(model), examples, weights=weights, show=False, **options)
    assert apart(found.dot, truth.dot) < 2e-5, "products in TF32, or sums in half precision"


@pytest.mark.parametrize("lock_step", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", ["gpt-neox", "gemma2", "mistral"])
def test_further_architectures_agree_up_to_their_own_single_precision(kind, weights, lock_step):
    rng = np.random.default_rng(2)
    examples = [Example(rng.integers(3, 48, n), rng.integers(3, 48, 1 + n % 4)) for n in (1, 2, 9, 40, 197)]
    model = test_gradients.build(kind)
    options = {"weights": weights, "rank": 4, "batch_tokens": 200, "lock_step": lock_step}
    here, there = grams(model, moved(model), examples, **options)
    assert apart(there.dot, here.dot) < 1e-4


@pytest.mark.parametrize("weights", WEIGHTS)
def test_modules_that_need_a_way_of_their_own(double, weights):
    "A module that is called twice, fused experts, and rows that are told apart only as long as there are five."
    model, examples = test_gradients.build("llama"), test_gradients.some_examples()
    model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.up_proj
    here, there = grams(model, moved(model), examples, weights=weights, rank=4, batch_tokens=20)
    assert apart(there.dot, here.dot) < 1e-10

    torch.manual_seed(0)
    config = tf.MixtralConfig(**SIZES, num_local_experts=3, num_experts_per_tok=2, experts_implementation="eager")
    model = shaken(tf.MixtralForCausalLM(config))
    here, there = grams(model, moved(model), examples, weights=weights, rank=4)
    assert apart(there.dot, here.dot) < 1e-4 and there.notes == here.notes

    class Mixing(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) if len(x) == 5 else self.inner(x.flatten(0, 1)).view(x.shape)

    model = test_gradients.build("llama")
    model.model.layers[0].mlp = Mixing(model.model.layers[0].mlp)
    here, there = grams(model, moved(model), examples, weights=weights, rank=4)
    assert apart(there.dot, here.dot) < 1e-10, "an exception of a hook is lost in the thread of the backward pass"


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("batch_tokens", [20, 10_000])
def test_checkpoints_count_once(reentrant, weights, batch_tokens):
    torch.manual_seed(0)
    model, examples = shaken(Checkpointed(reentrant)), test_gradients.some_examples()
    here, there = grams(model, moved(model), examples, weights=weights, rank=4, batch_tokens=batch_tokens)
    assert apart(there.dot, here.dot) < 1e-10, "a module that is computed again in the backward thread counts twice"


def test_a_model_set_to_checkpoint_its_blocks(double):
    model, examples = test_gradients.build("llama"), test_gradients.some_examples()
    there = moved(model).train()
    there.gradient_checkpointing_enable()
    here, there = grams(model, there, examples, weights="full", batch_tokens=20)
    assert apart(there.dot, here.dot) < 1e-10


@pytest.mark.parametrize("attention", ["as it is", "math", "eager"])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_cosines_in_half_precision(kind, weights, attention, dtype, tolerance):
    "Weights are rounded first, so that only what is computed with them differs."
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(1, 96, k), rng.integers(1, 96, 1 + k % 3)) for k in (3, 90, 200, 41, 60, 7)]
    half = moved(test_gradients.wide(kind)).to(dtype)
    truth = gradient_gram(copy.deepcopy(half).float(), examples, weights=weights, show=False)
    if attention == "eager":
        half.set_attn_implementation("eager")
    for way in ("one batch", "several batches", "lock-step"):
        with sdpa_kernel(SDPBackend.MATH) if attention == "math" else nullcontext():
            found = gradient_gram(half, examples, weights=weights, show=False, **WAYS[way])
        assert found.unusable == () and np.isfinite(found.dot).all()
        worst = np.abs(found.cosine - truth.cosine).max()
        assert worst < tolerance, f"{way}: cosines are off by {worst:.3f}"


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_number_too_large_for_half_precision_is_reported(weights):
    model = moved(test_gradients.build("llama")).half()
    examples = [Example([1, 2, 3], [4]), Example([1, 40, 3], [4]), Example([1, 5, 6, 7], [4, 9])]
    with torch.no_grad():
        model.model.embed_tokens.weight[40] = 1e6
    with pytest.warns(UserWarning, match=r"examples \[1\] have a gradient that is not finite"):
        found = gradient_gram(model, examples, weights=weights, rank=4, show=False)
    assert found.unusable == (1,)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_on_the_model(tmp_path, way):
    options = WAYS[way] | ({"offload": tmp_path} if "offload" in WAYS[way] else {})
    model, examples = moved(test_gradients.build("llama")).train(), test_gradients.some_examples()
    model.model.embed_tokens.weight.requires_grad_(False)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    states, state = (
        [x.clone() for x in model.state_dict().values()],
        torch.cuda.get_rng_state() if DEVICE == "cuda" else 0,
    )

    def fail(*_):
        raise RuntimeError("stop")

    for stopped in (False, True):
        handle = model.model.layers[1].mlp.down_proj.register_full_backward_hook(fail) if stopped else None
        if handle is None:
            gradient_gram(model, examples, weights="full", show=False, **options)
        else:
            with pytest.raises(RuntimeError, match="stop"):
                gradient_gram(model, examples, weights="full", show=False, **options)
            handle.remove()
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
        assert all("forward" not in m.__dict__ and m.training for m in model.modules())
        assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["model.embed_tokens.weight"]
        assert [n for n, p in model.named_parameters() if p.grad is not None] == ["lm_head.weight"]
        assert all(torch.equal(a, b) for a, b in zip(states, model.state_dict().values(), strict=True))
    assert DEVICE != "cuda" or torch.equal(state, torch.cuda.get_rng_state())


def deep(layers: int) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 1000, "hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 4}
    with torch.device(DEVICE):
        return tf.LlamaForCausalLM(
            tf.LlamaConfig(**sizes, num_hidden_layers=layers, max_position_embeddings=512)
        ).eval()


def grown(work) -> tuple[int, int]:
    "Bytes on the GPU at the peak and after `work`, on top of those before; what stays after a first call does not count."
    work()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    work()
    gc.collect()
    return torch.cuda.max_memory_allocated() - start, torch.cuda.memory_allocated() - start


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_gpu_memory_in_lock_step_does_not_grow_with_the_layers(tmp_path, weights, on_disk):
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(3, 1000, n), rng.integers(3, 1000, 2)) for n in rng.integers(50, 300, 32)]
    options = {"weights": weights, "batch_tokens": 1024, "lock_step": True, "show": False}
    options |= {"offload": tmp_path} if on_disk else {}
    peaks = {}
    for layers in (4, 8):
        model = deep(layers)
        peaks[layers], left = grown(lambda model=model: gradient_gram(model, examples, **options))
        assert left <= 0, f"{left} bytes are still held"
    print(f"\n{weights}: {peaks[4] / 2**20:.0f} MiB with 4 layers, {peaks[8] / 2**20:.0f} MiB with 8")
    assert peaks[8] < 1.15 * peaks[4]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_gpu_memory_is_given_back(weights):
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(3, 1000, n), rng.integers(3, 1000, 2)) for n in rng.integers(50, 300, 16)]
    model = deep(4)
    for options in ({}, {"batch_tokens": 1024}):
        _, left = grown(lambda options=options: gradient_gram(model, examples, weights=weights, show=False, **options))
        assert left <= 0, f"{left} bytes are still held"


# confidence and CoS-Low


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_confidence_is_that_of_the_cpu(double, kind, batch_size):
    model = test_coslow.build(kind)
    options = {"max_new_tokens": 6, "batch_size": batch_size, "show": False}
    here, there = (confidence(m, test_coslow.Bytes(), test_coslow.PROMPTS, **options) for m in (model, moved(model)))
    same = ["i", "answer", "n_tokens", "note"]
    assert there.select(same).equals(here.select(same))
    for name in ("confidence", "perplexity"):
        assert np.allclose(there[name], here[name], rtol=1e-9), name


def test_the_same_examples_are_picked_and_give_the_same_value(double):
    rng = np.random.default_rng(0)
    prompts = ["".join(map(chr, rng.integers(97, 123, rng.integers(3, 30)))) for _ in range(80)]
    labels = rng.integers(3, 259, 80)
    model, tokenizer, values, picks = test_coslow.build(), test_coslow.Bytes(), [], []
    for one in (model, moved(model)):
        told = confidence(one, tokenizer, prompts, max_new_tokens=3, show=False)
        picks.append(select_low_confidence(told, fraction=0.25, n=12, seed=1)["i"].to_list())
        examples = [Example(tokenizer.encode([prompts[i]])[0], [labels[i]]) for i in picks[-1]]
        values.append(cos_low(gradient_gram(one, examples, seed=5, rank=16, show=False), seed=0))
    assert picks[0] == picks[1]
    for name in ("value", "low", "high"):
        assert getattr(values[1], name) == pytest.approx(getattr(values[0], name), abs=1e-9), name


# scoring


@pytest.mark.parametrize("name", test_lm.MODELS)
def test_log_probabilities_are_those_of_the_cpu(name):
    model, groups = test_lm.MODELS[name](), test_lm.random_groups(1)
    here, there = LM(model, test_lm.Letters()), LM(moved(model), test_lm.Letters())
    assert there.packs is test_lm.PACKS[name], "the probe misjudges this architecture on a GPU"
    assert (there.shares, there.lines is None) == (here.shares, here.lines is None)
    for expected, found in zip(here.logprobs(groups), there.logprobs(groups), strict=True):
        for x, y in zip(expected, found, strict=True):
            np.testing.assert_allclose(y, x, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_a_shared_prompt_changes_no_number(name):
    model, groups = test_lm.MODELS[name](), test_lm.random_groups(8, n=6, shared_prompt=300)
    here, there = LM(model, test_lm.Letters()), LM(moved(model), test_lm.Letters())
    for expected, found in zip(here.logprobs(groups), there.logprobs(groups, batch_tokens=1000), strict=True):
        for x, y in zip(expected, found, strict=True):
            np.testing.assert_allclose(y, x, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_packing_is_found_in_half_precision(dtype):
    model, groups = moved(test_lm.MODELS["llama"]()).to(dtype), test_lm.random_groups(4)
    packed, apart = (LM(model, test_lm.Letters(), packing=packing) for packing in (True, False))
    assert packed.packs and packed.shares
    errors = [
        np.abs(x - y).mean()
        for a, b in zip(packed.logprobs(groups), apart.logprobs(groups), strict=True)
        for x, y in zip(a, b, strict=True)
    ]
    assert np.mean(errors) < 0.3


@pytest.mark.parametrize("pmi", [False, True])
def test_scores_of_a_model_from_a_folder_are_those_of_the_cpu(bpe, pmi):
    items = load_benchmark("embedded")[::9]
    here, there = load_lm(bpe.folder), load_lm(bpe.folder, device=DEVICE)
    assert there.model.device.type == DEVICE
    expected, found = (score(lm, None, items, pmi=pmi, show_progress=False) for lm in (here, there))
    measured = ["loglikelihood", "unconditional"]
    assert found.drop(measured).equals(expected.drop(measured))
    for name in measured[: 1 + pmi]:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-3)
    small = score(there, None, items, pmi=pmi, batch_tokens=200, show_progress=False)
    np.testing.assert_allclose(small["loglikelihood"], found["loglikelihood"], atol=1e-3)


class Many(test_lm.Letters):
    vocab_size = 131_072


def large_vocabulary() -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.device(DEVICE):
        return tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=Many.vocab_size, **sizes)).eval()


def long_texts(n: int, length: int) -> list[list[TokenPath]]:
    rng = np.random.default_rng(0)
    return [[TokenPath(tuple(rng.integers(3, Many.vocab_size, length).tolist()), 1)] for _ in range(n)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_memory_of_scoring_is_bounded(dtype):
    lm = LM(large_vocabulary().to(dtype), Many())
    assert lm.packs and lm.lines
    whole = 4096 * lm.n_ids * 4
    peaks = [grown(lambda n=n: lm.logprobs(long_texts(n, 128))) for n in (32, 128)]
    print(f"\n{dtype}: {peaks[0][0] / 2**20:.0f} MiB, logits in one piece {whole / 2**20:.0f} MiB")
    assert peaks[0][0] < whole / 2 and peaks[1][0] < 1.1 * peaks[0][0]
    assert all(left <= 0 for _, left in peaks)


def test_gpu_memory_that_runs_out_halves_the_batch():
    lm, texts = LM(large_vocabulary(), Many()), long_texts(1024, 400)
    expected = lm.logprobs(texts[:32])
    gc.collect()
    torch.cuda.empty_cache()
    total, before = torch.cuda.get_device_properties(0).total_memory, torch.cuda.memory_stats()["num_ooms"]
    try:  # of this process's allocator alone; the masks of all texts together are larger
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total)
        found = lm.logprobs(texts, batch_tokens=2**20)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_stats()["num_ooms"] > before, "memory did not run out"
    for x, y in zip(expected, found[:32], strict=True):
        np.testing.assert_allclose(y[0], x[0], atol=1e-4)


# fine-tuning and training


@pytest.mark.parametrize("method", ["full", "lora"])
def test_fine_tuning_learns_and_leaves_the_model_alone(bpe, method):
    config = FinetuneConfig(2e-3, budgets=(0, 64), method=method, steps=40, batch_size=16, max_new_tokens=3)
    there = moved(bpe.model)
    states, state = [x.clone() for x in there.state_dict().values()], torch.get_rng_state()
    tuned, losses = finetune(there, bpe.tokenizer, COPY, config, n=64, seed=0, show=False)
    assert all(p.device.type == DEVICE for p in tuned.parameters())
    assert losses[-5:].mean() < 0.7 * losses[:5].mean()
    _, expected = finetune(bpe.model, bpe.tokenizer, COPY, config, n=64, seed=0, show=False)
    assert np.allclose(losses[:2], expected[:2], rtol=1e-3), "other batches, or another start, than on the CPU"
    assert exact_match(tuned, bpe.tokenizer, COPY, max_new_tokens=3).height == 80
    assert set(tuned.state_dict()) == set(there.state_dict()) and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(states, there.state_dict().values(), strict=True))


def test_a_curve_has_the_same_cells_on_both_devices(bpe, tmp_path):
    config = FinetuneConfig(2e-3, budgets=(0, 300), steps=60, batch_size=16, max_new_tokens=3)
    there = measure_curve(moved(bpe.model), bpe.tokenizer, COPY, config, seeds=(0,), folder=tmp_path, show=False)
    assert there["metric"][0] < 0.2 and there["metric"][1] > 0.8
    here = measure_curve(bpe.model, bpe.tokenizer, COPY, config, seeds=(0,), folder=tmp_path, show=False)
    assert here.equals(there), "what one device computed, the other computes again"


def test_half_precision_can_be_fine_tuned(bpe):
    config = FinetuneConfig(2e-3, steps=20, batch_size=16, max_new_tokens=3)
    tuned, losses = finetune(moved(bpe.model).bfloat16(), bpe.tokenizer, COPY, config, n=64, seed=0, show=False)
    assert np.isfinite(losses).all() and losses[-5:].mean() < losses[:5].mean()
    assert next(tuned.parameters()).dtype == torch.bfloat16


TEXTS = [f"The {a} of {b} is {c}." for a in ("colour", "size", "name") for b in ("sky", "grass", "sea") for c in ("blue", "green")]  # fmt: skip


def test_the_loss_of_packed_documents_is_that_of_the_cpu(bpe):
    packed = pack(bpe.tokenizer.encode(TEXTS), 64)
    with torch.no_grad():
        here, there = (packed_loss(model, packed) for model in (bpe.model, moved(bpe.model)))
    assert there.device.type == DEVICE and float(there) == pytest.approx(float(here), rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_takes_the_gpu_and_goes_on_from_a_checkpoint(tmp_path, precision):
    config = SuiteConfig(("bytes",), hidden_size=32, intermediate_size=48, layers=2, steps=12, step_documents=8, warmup=2,
                         context=64, precision=precision)  # fmt: skip
    tokenizer, curves = load_tokenizer("bytes"), []
    for _ in range(2):  # the second finds the checkpoint of step 8
        model = initial_model(config, tokenizer)
        options = {"checkpoint": tmp_path, "every": 8, "show_progress": False}
        curves.append(train_model(config, model, tokenizer, TEXTS, **options)["loss"].to_numpy())
        assert next(model.parameters()).device.type == DEVICE
    assert curves[0][-3:].mean() < 0.8 * curves[0][:3].mean()
    assert np.allclose(curves[0], curves[1], rtol=1e-2)


# cells, which choose their device themselves


@pytest.mark.parametrize("executor", [None, Processes(1, devices=("0",))], ids=["in process", "worker"])
def test_cells_take_the_gpu_and_give_what_the_cpu_gives(bpe, tmp_path, executor):
    items = load_benchmark("embedded")[::60]
    examples = test_gradients.some_examples(5)
    scores, blocks = score_cells({"bpe": bpe.folder}, items, shard=5), gram_cells(bpe.folder, examples, block=2)
    run_cells([*scores, *blocks], tmp_path, show_progress=False, **({} if executor is None else {"executor": executor}))
    expected = score(bpe.model, bpe.tokenizer, items, name="bpe", show_progress=False)
    found = collect(scores, tmp_path)
    np.testing.assert_allclose(found["loglikelihood"], expected["loglikelihood"], atol=1e-3)
    gram = assemble_gram(blocks, tmp_path)
    assert apart(gram.dot, gradient_gram(bpe.model, examples, show=False).dot) < 1e-4
