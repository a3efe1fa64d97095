"Ranks of embedding rows against unused ones, in odd models and with wrong arguments."

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from toksuite_nb.tokenizer import load_tokenizer
from toksuite_nb.undertrained import _measured, embedding_ranks, unused_rows


def held(rows: int = 300, tied: bool = False, dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    "A small model with more rows than the tokenizer has tokens."
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=rows, tie_word_embeddings=tied, **sizes)
    return SimpleNamespace(model=LlamaForCausalLM(config).to(dtype).eval(), tokenizer=load_tokenizer("bytes"))


def plain(matrix: np.ndarray, ids: list[int]) -> np.ndarray:
    "The three measures, row by row."
    rows = []
    for i, x in enumerate(matrix):
        mean = matrix[[k for k in ids if k != i]].mean(0)
        a, b = x - matrix.mean(0), mean - matrix.mean(0)
        rows.append((np.linalg.norm(x - mean), 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b), np.linalg.norm(x)))
    return np.array(rows).T


def test_measures_equal_plain_ones_over_several_blocks():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(1500, 2048))
    ids = [0, 3, 700, 1499]
    found = _measured(torch.tensor(matrix), ids)
    np.testing.assert_allclose(np.array(list(found.values())), plain(matrix, ids), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_in_double(dtype):
    model = held(dtype=dtype)
    frame = embedding_ranks(model, unused=[259, 260, 299]).sort("id")
    expected = plain(model.model.get_output_embeddings().weight.detach().double().numpy(), [259, 260, 299])
    np.testing.assert_allclose(frame.select("distance", "cosine", "norm").to_numpy().T, expected, rtol=1e-9)


def test_sides():
    apart, tied = held(), held(tied=True)
    assert set(embedding_ranks(apart, side="input")["side"]) == {"input"}
    assert set(embedding_ranks(apart)["side"]) == {"output"}
    both = [embedding_ranks(tied, side=side) for side in ("input", "output")]
    assert both[0].equals(both[1])
    assert set(both[0]["side"]) == {"tied"}


def test_a_row_that_is_no_number_has_no_rank():
    model = held()
    model.model.get_output_embeddings().weight.data[65] = float("nan")
    frame = embedding_ranks(model, unused=[260, 261], measure="norm")
    last = frame.row(-1, named=True)
    assert (last["id"], last["norm"], last["rank"]) == (65, None, None)
    assert frame["rank"].drop_nulls().max() == 299
    with pytest.raises(ValueError, match="rows of unused tokens must be numbers"):
        embedding_ranks(model, unused=[65, 260])


def test_equal_rows_share_a_rank_and_need_no_direction():
    model = held()
    model.model.get_output_embeddings().weight.data[:] = 1.0
    frame = embedding_ranks(model)
    assert set(frame["rank"]) == {1}
    assert set(frame["distance"]) == {0.0}


def test_fewer_rows_than_tokens():
    model = held(rows=250)
    assert unused_rows(model)["id"].max() == 249
    assert embedding_ranks(model).height == 250


def test_every_row_behind_the_last_token_is_unused_and_has_no_bytes():
    model = held()
    beyond = unused_rows(model).filter(reason="row without a token")["id"].to_list()
    assert beyond == list(range(259, 300))
    assert embedding_ranks(model).filter(pl.col("id") >= 259)["bytes"].null_count() == 41


def test_a_rank_is_one_more_than_the_rows_that_are_nearer():
    model = held()
    # three rows of the same values share a rank, and the next comes three later
    model.model.get_output_embeddings().weight.data[10:13] = 0.0
    for measure in ("distance", "norm"):
        frame = embedding_ranks(model, measure=measure)
        assert frame.filter(pl.col("id").is_in([10, 11, 12]))["rank"].n_unique() == 1
        values = frame[measure].to_numpy()
        assert frame["rank"].to_list() == [1 + int((values < value).sum()) for value in values]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"unused": []}, "two or more of the rows 0 to 299, and not all, got 0"),
        ({"unused": [7]}, "got 1 from 7 to 7"),
        ({"unused": [7, 300]}, "got 2 from 7 to 300"),
        ({"unused": [-1, 7]}, "got 2 from -1 to 7"),
        ({"unused": range(300)}, "and not all, got 300"),
        ({"side": "both"}, "side must be 'input' or 'output'"),
        ({"measure": "rank"}, "measure one of"),
    ],
)
def test_wrong_values_are_named(options, part):
    with pytest.raises(ValueError, match=part):
        embedding_ranks(held(), **options)


def test_wrong_kinds_are_named():
    for unused in ("ab", [1.5, 2], 7, [True, False, True]):
        with pytest.raises(TypeError, match="unused must be token ids"):
            embedding_ranks(held(), unused=unused)
    for wrong in (None, "gpt2", held().model):
        with pytest.raises(TypeError, match="needs a model together with its tokenizer"):
            embedding_ranks(wrong)
