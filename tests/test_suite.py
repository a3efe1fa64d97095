"The suite: one beginning, reproducible training, and shipped models that everybody can load."

import json
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from toksuite_nb.core import content_hash  # noqa: E402
from toksuite_nb.items import load_benchmark  # noqa: E402
from toksuite_nb.perturb import perturb_items  # noqa: E402
from toksuite_nb.robustness import verdicts  # noqa: E402
from toksuite_nb.score import score  # noqa: E402
from toksuite_nb.store import data_dir, manifest  # noqa: E402
from toksuite_nb.suite import (  # noqa: E402
    SuiteConfig,
    initial_model,
    initial_models,
    load_suite,
    main,
    pack,
    packed_loss,
    step_documents,
    suite_corpus,
    suite_names,
    suite_scales,
    train_suite,
    train_tokenizers,
)
from toksuite_nb.supervocab import token_keys  # noqa: E402

TINY = SuiteConfig(
    hidden_size=16, heads=2, layers=2, intermediate_size=24, steps=3, step_documents=6, warmup=1, vocab_size=600
)
ROWS = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def corpus():
    return suite_corpus()


@pytest.fixture(scope="module")
def tokenizers(corpus):
    return train_tokenizers(TINY, corpus)


@pytest.fixture(scope="module")
def starts(tokenizers):
    return {name: dict(model.named_parameters()) for name, model in initial_models(TINY, tokenizers).items()}


@pytest.fixture(scope="module")
def suite():
    return load_suite()


def test_trunks_start_equal_bit_for_bit(starts):
    first = starts["bytes"]
    for name, weights in starts.items():
        assert list(weights) == list(first)
        different = [p for p in first if p not in ROWS and not torch.equal(first[p], weights[p])]
        assert not different, f"{name} starts with another trunk: drawn in sequence instead of by name? {different}"


@pytest.mark.parametrize("pair", list(combinations(suite_names, 2)), ids="-and-".join)
def test_tokens_of_equal_bytes_share_their_rows_and_others_do_not(pair, starts, tokenizers):
    one, two = (token_keys(tokenizers[name]) for name in pair)
    other = {key: i for i, key in reversed(list(enumerate(two)))}
    shared = [(i, other[key]) for i, key in enumerate(one) if key in other]
    assert len([i for i, _ in shared if one[i].kind != "role"]) > 20, f"{pair} share hardly a token"
    assert {one[i].value for i, _ in shared if one[i].kind == "role"} == {b"pad", b"bos", b"unk"}
    own = [i for i, key in enumerate(one) if key not in other][:50]
    for place in ROWS:
        mine, theirs = starts[pair[0]][place].detach(), starts[pair[1]][place].detach()
        left, right = mine[[i for i, _ in shared]], theirs[[j for _, j in shared]]
        assert torch.equal(left, right), f"{place}: rows of shared tokens differ between {pair}"
        for i in own:
            assert not (theirs == mine[i]).all(1).any(), (
                f"{place}: {one[i]} is not in {pair[1]}, and starts with one of its rows"
            )


def test_every_key_of_every_recipe_and_loaded_tokenizer_has_one_row_of_its_own(corpus):
    names = suite_scales["small"].names
    some = train_tokenizers(replace(TINY, tokenizers=names, loaded={"byt5": "bytes"}), corpus)
    trunk = None
    rows = {place: {} for place in ROWS}
    for name, tokenizer in some.items():
        weights = dict(initial_model(TINY, tokenizer).named_parameters())
        for place in ROWS:
            for key, row in zip(token_keys(tokenizer), weights[place].detach().numpy(), strict=True):
                assert rows[place].setdefault(key, row.tobytes()) == row.tobytes(), f"{name}: {key} starts elsewhere"
        own = {place: weight for place, weight in weights.items() if place not in ROWS}
        trunk = trunk or own
        assert all(torch.equal(trunk[place], own[place]) for place in trunk)
    for place, drawn in rows.items():
        assert len(set(drawn.values())) == len(drawn), f"{place}: two keys share a row"


def test_starting_values_do_not_depend_on_the_company(tokenizers, starts):
    alone = initial_models(replace(TINY, tokenizers=("bpe",)), {"bpe": tokenizers["bpe"]})["bpe"]
    for place, weight in alone.named_parameters():
        assert torch.equal(weight, starts["bpe"][place]), f"{place} depends on which other tokenizers are in the suite"


def test_another_seed_starts_elsewhere(tokenizers, starts):
    other = dict(initial_models(replace(TINY, seed=1), {"bpe": tokenizers["bpe"]})["bpe"].named_parameters())
    assert not any(torch.equal(other[p], starts["bpe"][p]) for p in other if other[p].ndim == 2)


def test_making_models_leaves_the_global_generator_alone(tokenizers):
    before = torch.get_rng_state()
    initial_models(TINY, {"bytes": tokenizers["bytes"]})
    assert torch.equal(before, torch.get_rng_state())


def test_tokenizers_are_the_same_in_another_process(tokenizers):
    code = (
        "from toksuite_nb.suite import *; import json;"
        "c = SuiteConfig(vocab_size=600);"
        "print(json.dumps({n: t.content_hash for n, t in train_tokenizers(c, suite_corpus()).items()}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = {name: tokenizer.content_hash for name, tokenizer in tokenizers.items()}
    there = json.loads(run.stdout.splitlines()[-1])
    assert there == here, "a trainer went through a hash table in random order"


def test_bytes_are_those_of_byt5(tokenizers):
    text = "é 月\n𝐀\x00"
    assert tokenizers["bytes"].encode([text]) == [[b + 3 for b in text.encode()]]
    assert tokenizers["bytes"].vocab_size == 259


def test_no_normalisation_means_none(tokenizers):
    styled = "𝐓𝐡𝐞 ﬁ"
    for name in ("bytes", "bpe"):
        joined = b"".join(tokenizers[name].pieces[i] for i in tokenizers[name].encode([styled])[0])
        assert joined == styled.encode(), f"{name} rewrites its text"
    for name in ("bpe-nfkc", "bpe-nfkc-lower", "unigram-nfkc"):
        assert tokenizers[name].encode([styled]) == tokenizers[name].encode(["The fi"])
    assert tokenizers["bpe-nfkc-lower"].encode(["The fi"]) == tokenizers["bpe-nfkc-lower"].encode(["the FI"])


def test_packed_documents_do_not_see_each_other(tokenizers, corpus):
    model = initial_models(replace(TINY, tokenizers=("bpe",)), {"bpe": tokenizers["bpe"]})["bpe"].double()
    documents = [[1, *ids, 1] for ids in tokenizers["bpe"].encode(corpus["text"].to_list()[:40:4])]
    with torch.no_grad():
        together = packed_loss(model, pack(documents, 64)).item()
        alone = [packed_loss(model, pack([ids], 64)).item() for ids in documents]
    weights = [len(ids) - 1 for ids in documents]
    assert together == pytest.approx(np.average(alone, weights=weights), abs=1e-12)


def test_packing_keeps_every_token_and_wastes_little(tokenizers, corpus):
    documents = [[1, *ids, 1] for ids in tokenizers["bpe"].encode(corpus["text"].to_list())]
    packed = pack(documents, 256)
    assert sorted(packed.ids[packed.document >= 0].tolist()) == sorted(i for ids in documents for i in ids)
    assert packed.waste < 0.05
    long = pack([list(range(3, 103))], 16)
    assert long.ids[long.document >= 0].tolist() == list(range(3, 103)), "a long document continues in another row"


def test_a_text_budget_gives_every_model_the_same_documents():
    config = replace(TINY, steps=20)
    short, long = (list(step_documents(config, [n] * 30)) for n in (5, 50))
    assert short == long
    stream = [i for step in short for i in step]
    passes = [set(stream[k : k + 30]) for k in range(0, 120, 30)]
    assert all(len(documents) == 30 for documents in passes), "a pass reads every document once"


def test_a_token_budget_gives_every_model_the_same_number_of_tokens():
    config = replace(TINY, budget="tokens", step_tokens=100, steps=20)
    for n in (5, 50):
        read = [len(step) * n for step in step_documents(config, [n] * 30)]
        assert min(read) >= 100 and max(read) < 100 + n


def test_training_again_gives_the_same_bytes(tmp_path, corpus):
    config, few = replace(TINY, tokenizers=("unigram-nfkc", "wordpiece")), corpus[:150]
    _, curve = train_suite(config, tmp_path / "one", corpus=few, show_progress=False)
    _, again = train_suite(config, tmp_path / "two", corpus=few, show_progress=False)
    assert curve.equals(again)
    for path in (p for p in (tmp_path / "one").rglob("*") if p.is_file()):
        twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == twin.read_bytes(), f"{path.name} differs between two runs"


def test_a_finished_model_is_not_trained_again_and_a_missing_one_is(tmp_path, corpus):
    config, few = replace(TINY, tokenizers=("bytes", "bpe")), corpus[:150]
    train_suite(config, tmp_path / "s", corpus=few, show_progress=False)
    kept = (tmp_path / "s/bytes/model.safetensors").stat().st_mtime_ns
    lost = (tmp_path / "s/bpe/model.safetensors").read_bytes()
    for path in (tmp_path / "s/bpe").iterdir():
        path.unlink()
    (tmp_path / "s/bpe").rmdir()
    with pytest.raises(FileNotFoundError, match=r"got none for \['bpe'\]"):
        load_suite(tmp_path / "s")
    train_suite(config, tmp_path / "s", corpus=few, show_progress=False)
    assert (tmp_path / "s/bytes/model.safetensors").stat().st_mtime_ns == kept
    assert (tmp_path / "s/bpe/model.safetensors").read_bytes() == lost


def test_a_folder_of_something_else_is_left_alone(tmp_path, corpus):
    config, few = replace(TINY, tokenizers=("bytes",)), corpus[:50]
    train_suite(config, tmp_path / "s", corpus=few, show_progress=False)
    before = {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"differs in config_hash, learning_rate 0\.004, not 0\.1"):
        train_suite(replace(config, learning_rate=0.1), tmp_path / "s", corpus=few)
    with pytest.raises(ValueError, match="differs in corpus_hash"):
        train_suite(config, tmp_path / "s", corpus=corpus[:51])
    assert before == {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()}
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="got other files"):
        train_suite(config, tmp_path, corpus=few)


@pytest.mark.parametrize(
    "bad", [pl.DataFrame({"text": []}), pl.DataFrame({"text": ["a", " "]}), pl.DataFrame({"t": ["a"]})]
)
def test_a_corpus_without_text_is_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="the corpus must be a frame with a column 'text' of non-empty strings"):
        train_suite(TINY, tmp_path / "s", corpus=bad)
    assert not (tmp_path / "s").exists()


def test_unknown_models_are_named(suite):
    with pytest.raises(KeyError, match="unknown models"):
        load_suite(names=["bpe", "gpt"])


# ---- the shipped suite


def test_shipped_configuration_is_the_default_one():
    record = json.loads((data_dir() / "suite/suite.json").read_text())
    assert record["config_hash"] == SuiteConfig().hash, "the defaults changed: run make suite"
    for name in suite_names:
        own = json.loads((data_dir() / "suite" / name / "training.json").read_text())
        assert own["config_hash"] == record["config_hash"]


def test_shipped_corpus_and_tokenizers_are_made_again_from_the_data():
    import babel

    record = json.loads((data_dir() / "suite/suite.json").read_text())
    kept = pl.read_ndjson(data_dir() / "suite/corpus.jsonl")
    assert record["corpus_hash"] == content_hash(kept["text"].to_list())
    made = train_tokenizers(SuiteConfig(), kept)
    assert {name: tokenizer.content_hash for name, tokenizer in made.items()} == record["tokenizer_hashes"]
    if babel.__version__ == record["versions"]["babel"]:
        assert kept.equals(suite_corpus()), "the sentences or the items changed: run make suite"


def test_shipped_corpus_holds_nothing_of_the_written_questions_and_nothing_styled():
    texts = pl.read_ndjson(data_dir() / "suite/corpus.jsonl")["text"].to_list()
    whole = "\n".join(texts)
    written = load_benchmark("embedded").filter(pl.col("domain") != "cldr")["question"].to_list()
    assert not [question for question in written if question in whole]
    styled = [c for c in sorted(set(whole)) if ord(c) >= 0x1D400 or 0xFF21 <= ord(c) <= 0xFF5A]
    assert not styled


def test_shipped_files_are_small_and_in_the_manifest():
    files = [path for path in (data_dir() / "suite").rglob("*") if path.is_file()]
    listed = set(manifest()["name"])
    assert not [path.name for path in files if path.relative_to(data_dir()).as_posix() not in listed]
    assert sum(path.stat().st_size for path in files) <= 60e6
    assert max(path.stat().st_size for path in files) < 3e6
    assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".pkl", ".pickle")]


@pytest.mark.parametrize("name", suite_names)
def test_shipped_models_load_with_transformers_and_agree(name, suite):
    from transformers import AutoTokenizer, LlamaForCausalLM

    own = suite[name]
    theirs, tokenizer = LlamaForCausalLM.from_pretrained(own.folder), AutoTokenizer.from_pretrained(own.folder)
    texts = ["The month after May is June", "五月的下一个月是 六月", "Gökyüzü ve İstanbul", "ماه بعد از مه", "𝐓𝐡𝐞 🙂"]
    for text, ids in zip(texts, own.tokenizer.encode(texts), strict=True):
        assert tokenizer(text, add_special_tokens=False).input_ids == ids
        with torch.no_grad():
            inputs = torch.tensor([[1, *ids]])
            assert torch.equal(theirs(inputs).logits, own.model(inputs).logits)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (
        0,
        1,
        1,
        2,
    )


@pytest.fixture(scope="module")
def right(suite):
    items = load_benchmark("embedded").filter(pl.col("domain") == "cldr")
    english = items.filter(pl.col("lang") == "en")
    bold = perturb_items(english, ["mathematical_bold"], seed=0)
    everything = pl.concat([items, bold], how="diagonal_relaxed")
    scores = pl.concat([score(m.model, m.tokenizer, everything, name=n, show_progress=False) for n, m in suite.items()])
    labels = everything.select("item_id", "lang", "perturbation")
    return verdicts(scores, everything, norm="char").join(labels, on="item_id")


@pytest.mark.parametrize("name", suite_names)
def test_each_model_knows_the_facts_in_every_language(name, right):
    own = right.filter((pl.col("model") == name) & (pl.col("perturbation") == "canonical"))
    accuracy = dict(own.group_by("lang").agg(pl.col("correct").mean()).iter_rows())
    assert len(accuracy) == 5 and min(accuracy.values()) >= 0.9, accuracy


@pytest.mark.parametrize("name", suite_names)
def test_nfkc_decides_what_bold_letters_cost(name, right):
    own = right.filter((pl.col("model") == name) & (pl.col("lang") == "en"))
    accuracy = dict(own.group_by("perturbation").agg(pl.col("correct").mean()).iter_rows())
    drop = 1 - accuracy["mathematical_bold"] / accuracy["canonical"]
    assert drop <= 0.05 if "nfkc" in name else drop >= 0.5, accuracy


def test_a_card_says_what_it_was_trained_on():
    for name in suite_names:
        card = Path(data_dir() / "suite" / name / "README.md").read_text(encoding="utf-8")
        assert "license: apache-2.0" in card and "Trained on" in card and "without any perturbed text" in card


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "read_config: needs the file of a configuration"),
        ("{bad", "read_config: the file must be JSON in UTF-8"),
        ("[]", "read_config: the file must hold fields of SuiteConfig"),
    ],
)
def test_the_command_line_says_what_is_wrong_without_a_traceback(written, said, tmp_path, capsys):
    config = tmp_path / "config.json"
    if written is not None:
        config.write_text(written, encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        main([str(config), str(tmp_path / "out")])
    assert f"error: {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_line_refuses_names_and_folders_before_it_trains(tmp_path, capsys):
    config, taken = tmp_path / "config.json", tmp_path / "taken"
    SuiteConfig(steps=1).write(config)
    taken.write_text("mine", encoding="utf-8")
    for args, said in (
        ((tmp_path / "out", "--names", "nope"), "train_suite: unknown models ['nope']"),
        ((tmp_path / "out", "--every", "0"), "train_suite: every must be a whole number of at least 1"),
        ((taken,), "train_suite: the folder must be new or a folder, got the file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([str(config), *map(str, args)])
        assert f"error: {said}" in capsys.readouterr().err
    assert taken.read_text(encoding="utf-8") == "mine"
