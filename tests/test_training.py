"Training of a suite: kills, processes, streams, loaded tokenizers, and what it refuses without touching anything."

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import toksuite_nb.suite as suite_module  # noqa: E402
from toksuite_nb.suite import (  # noqa: E402
    SuiteConfig,
    TextStream,
    check_tokenizer,
    initial_model,
    load_suite,
    n_weights,
    pack,
    published_suite,
    published_tokenizers,
    read_config,
    suite_corpus,
    train_model,
    train_suite,
    train_tokenizers,
)
from toksuite_nb.tokenizer import load_tokenizer  # noqa: E402

HERE = Path(__file__).parent
TINY = SuiteConfig(
    tokenizers=("bpe",),
    hidden_size=16,
    heads=2,
    layers=2,
    intermediate_size=24,
    steps=50,
    step_documents=6,
    warmup=5,
    vocab_size=400,
    context=64,
)
ENV = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="module")
def corpus():
    return suite_corpus().head(200)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_killed_training_goes_on_to_the_same_weights(tmp_path, corpus):
    config = replace(TINY, steps=150, data=str(tmp_path / "corpus.jsonl"))
    corpus.write_ndjson(tmp_path / "corpus.jsonl")
    config.write(tmp_path / "config.json")
    command = [sys.executable, "-m", "toksuite_nb.suite", tmp_path / "config.json", tmp_path / "killed", "--every", "5"]
    job = subprocess.Popen(command, env=ENV, stderr=subprocess.DEVNULL)
    begun = tmp_path / "killed/.bpe.checkpoint"
    end = time.monotonic() + 120
    while not list(begun.glob("step-*")) and job.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    job.kill()
    assert job.wait() == -signal.SIGKILL, "training ended before it could be killed"
    assert not (tmp_path / "killed/bpe").exists()
    reached = int(sorted(begun.glob("step-*"))[-1].name[5:])
    assert 5 <= reached < 150
    train_suite(config, tmp_path / "killed", show_progress=False)
    train_suite(config, tmp_path / "whole", show_progress=False)
    assert not begun.exists()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.fixture(scope="module")
def launched(tmp_path_factory, corpus):
    "Three suites trained by two processes: from memory in parts, from a stream, and with sharded weights."
    folder = tmp_path_factory.mktemp("launched")
    (folder / "hub").mkdir()
    corpus.select("text").write_ndjson(folder / "corpus.jsonl")
    corpus.select("text").write_parquet(folder / "hub/train.parquet")
    memory, stream = (replace(TINY, data=data) for data in (str(folder / "corpus.jsonl"), f"hub:{folder / 'hub'}"))
    jobs = [
        {"name": "memory", "micro_rows": 1, "config": memory},
        {"name": "stream", "config": stream},
        {"name": "sharded", "sharded": True, "config": memory},
    ]
    for job in jobs:
        job.pop("config").write(folder / f"{job['name']}.json")
    (folder / "jobs.json").write_text(json.dumps(jobs))
    options = (
        "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    )
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *options.split()]
    env = ENV | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([*command, HERE / "launched.py", folder], env=env, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("of 2 processes") == 2, run.stdout
    return folder


@pytest.mark.parametrize("name", ["memory", "stream", "sharded"])
def test_two_processes_learn_what_one_does(name, launched, tmp_path):
    _, alone = train_suite(read_config(launched / f"{name}.json"), tmp_path / "s", show_progress=False)
    together = pl.read_csv(launched / name / "bpe/curve.csv")
    assert together.height == 50
    assert together.select("documents", "tokens", "bytes").equals(alone.select("documents", "tokens", "bytes"))
    assert (together["loss"] - alone["loss"]).abs().max() < 1e-3
    models = [load_suite(folder)["bpe"].model for folder in (launched / name, tmp_path / "s")]
    for one, other in zip(*(m.parameters() for m in models), strict=True):
        assert torch.allclose(one, other, atol=2e-3)


def test_a_stream_goes_on_where_it_was(tmp_path, corpus):
    corpus.select("text").head(100).write_parquet(tmp_path / "train.parquet")
    config, stream = replace(TINY, steps=110, step_documents=3), TextStream(str(tmp_path))  # more than one pass
    tokenizer = train_tokenizers(TINY, corpus)["bpe"]
    models = [initial_model(config, tokenizer) for _ in range(2)]
    curves = [
        train_model(config, model, tokenizer, stream, show_progress=False, checkpoint=tmp_path / "c", every=97)
        for model in models
    ]
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step-00000097"]
    assert curves[0].equals(curves[1]), "the second run began at step 97, elsewhere in the stream"
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_a_stream_reads_what_a_frame_holds(tmp_path, corpus):
    corpus.select(body="text").head(7).write_parquet(tmp_path / "train.parquet")
    reader = TextStream(str(tmp_path), column="body").open()
    assert reader.take(10) == [*corpus["text"].to_list()[:7], *corpus["text"].to_list()[:3]]
    with pytest.raises(ValueError, match="must have texts in column 'text', got none"):
        TextStream(str(tmp_path)).open().take(1)


def test_progress_shows_loss_and_time_left(corpus, capsys):
    tokenizer = train_tokenizers(TINY, corpus)["bpe"]
    train_model(TINY, initial_model(TINY, tokenizer), tokenizer, corpus["text"].to_list())
    shown = capsys.readouterr().err
    assert "training bpe" in shown and "loss " in shown and "<" in shown


@pytest.mark.parametrize("budget", ["text", "tokens"])
def test_batches_of_the_shipped_scale_waste_little(budget):
    config = SuiteConfig(budget=budget, steps=40)
    corpus = suite_corpus(config)
    tokenizers = train_tokenizers(replace(config, tokenizers=("bytes", "bpe")), corpus)
    for name, tokenizer in tokenizers.items():
        documents = [[1, *ids, 1] for ids in tokenizer.encode(corpus["text"].to_list())]
        steps = suite_module.step_documents(config, [len(ids) for ids in documents])
        packed = [pack([documents[i] for i in chosen], config.context) for chosen in steps]
        empty = sum((p.document < 0).sum() for p in packed) / sum(p.document.size for p in packed)
        assert empty <= 0.05, f"{name} under budget={budget!r}: {empty:.1%} of the positions hold nothing"


def test_packing_needs_no_more_rows_than_full_width_does(corpus):
    documents = [[1] * n for n in corpus["text"].str.len_bytes().to_list()[:50]]
    packed = pack(documents, 200)
    assert (packed.document >= 0).sum() == sum(map(len, documents))
    assert len(packed.ids) == len(suite_module._first_fit(sorted(map(len, documents), reverse=True), 200))


# ---- tokenizers that exist


def test_loaded_tokenizers_train_and_reload(tmp_path, corpus):
    learnt = train_tokenizers(replace(TINY, tokenizers=("wordpiece",)), corpus)["wordpiece"]
    suite_module._in_hub_format(learnt, "", 64).save_pretrained(tmp_path / "mine")
    config = replace(TINY, tokenizers=("bpe",), loaded={"mine": str(tmp_path / "mine"), "byt5": "bytes"}, steps=3)
    models, _ = train_suite(config, tmp_path / "s", corpus=corpus, show_progress=False)
    assert list(models) == ["bpe", "mine", "byt5"]
    text = "The currency of Finland is the Euro"
    assert models["byt5"].tokenizer.encode([text]) == load_tokenizer("bytes").encode([text])
    assert models["mine"].tokenizer.encode([text]) == learnt.encode([text])
    assert models["mine"].tokenizer.specials == learnt.specials
    record = json.loads((tmp_path / "s/suite.json").read_text())
    assert record["config"]["loaded"] == [["mine", str(tmp_path / "mine")], ["byt5", "bytes"]]
    named = tmp_path / "s/byt5/tokenizer.load.json"
    named.write_text(named.read_text().replace(models["byt5"].tokenizer.content_hash, "0" * 32))
    with pytest.raises(ValueError, match="must be the tokenizer that 'byt5' was trained with, got another"):
        load_suite(tmp_path / "s")


def test_a_subset_is_trained_to_the_same_weights(tmp_path, corpus):
    config = replace(TINY, tokenizers=("bytes", "bpe"), steps=4)
    train_suite(config, tmp_path / "all", corpus=corpus, show_progress=False)
    for name in ("bpe", "bytes"):
        models, curves = train_suite(config, tmp_path / "one", corpus=corpus, names=[name], show_progress=False)
        assert list(models) == [name] and curves["model"].unique().to_list() == [name]
    assert files(tmp_path / "all") == files(tmp_path / "one")
    with pytest.raises(KeyError, match="unknown models"):
        train_suite(config, tmp_path / "one", corpus=corpus, names=["gpt"])


# ---- what is refused


def test_a_tokenizer_that_drops_letters_is_refused_before_anything_is_written(tmp_path, corpus):
    from tokenizers import Tokenizer, models, pre_tokenizers

    latin = Tokenizer(models.BPE(vocab={"</s>": 0} | {chr(97 + i): i + 1 for i in range(26)}, merges=[]))
    latin.pre_tokenizer = pre_tokenizers.Whitespace()
    latin.add_special_tokens(["</s>"])
    latin.save(str(tmp_path / "tokenizer.json"))
    strict = Tokenizer(models.WordLevel({"the": 0}, unk_token="<unk>"))  # whose unknown token is not in its vocabulary
    strict.save(str(tmp_path / "strict.json"))
    for name in ("tokenizer", "strict"):
        config = replace(TINY, tokenizers=(), loaded={"latin": str(tmp_path / f"{name}.json")})
        with pytest.raises(ValueError, match="must have a token for every letter, an unknown token, or bytes"):
            train_suite(config, tmp_path / "s", corpus=pl.DataFrame({"text": ["latin", "پول ایران"]}))
        assert not (tmp_path / "s").exists()
    check_tokenizer(load_tokenizer(str(tmp_path / "tokenizer.json")), ["plain latin words"])


def test_a_stream_is_checked_for_dropped_letters_too(tmp_path):
    from tokenizers import Tokenizer, models

    latin = Tokenizer(models.BPE(vocab={"</s>": 0} | {chr(97 + i): i + 1 for i in range(26)}, merges=[]))
    latin.add_special_tokens(["</s>"])
    latin.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "hub").mkdir()
    pl.DataFrame({"text": ["abc"] * 3 + ["پول"]}).write_parquet(tmp_path / "hub/train.parquet")
    tokenizer = load_tokenizer(str(tmp_path / "tokenizer.json"), name="latin")
    with pytest.raises(ValueError, match="got 'latin' without any for 3 letters"):
        train_model(
            TINY, initial_model(TINY, tokenizer), tokenizer, TextStream(str(tmp_path / "hub")), show_progress=False
        )


@pytest.mark.parametrize("change", ["config", "tokenizer", "corpus"])
def test_a_checkpoint_of_something_else_is_refused_and_kept(change, tmp_path, corpus):
    tokenizers = train_tokenizers(replace(TINY, tokenizers=("bpe", "wordpiece")), corpus)
    config, tokenizer, texts = replace(TINY, steps=3), tokenizers["bpe"], corpus["text"].to_list()
    train_model(
        config, initial_model(config, tokenizer), tokenizer, texts, show_progress=False, checkpoint=tmp_path, every=2
    )
    before = files(tmp_path)
    if change == "config":
        config = replace(config, learning_rate=1e-3)
    elif change == "tokenizer":
        tokenizer = tokenizers["wordpiece"]
    else:
        texts = texts[1:]
    with pytest.raises(ValueError, match=f"must be of the same training, got another {change} in"):
        train_model(config, initial_model(config, tokenizer), tokenizer, texts, checkpoint=tmp_path)
    assert files(tmp_path) == before


def test_too_little_room_is_said_before_training(tmp_path, corpus, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(suite_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match="room for 1 models and two checkpoints") as caught:
        train_suite(TINY, tmp_path / "s", corpus=corpus)
    assert caught.value.errno == 28 and not (tmp_path / "s/bpe").exists()


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, corpus, monkeypatch):
    "On a file system of its own, filled while training goes on."
    config = replace(TINY, steps=25)
    small = tmp_path / "small"
    small.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small]).returncode:
        pytest.skip("a file system of its own needs root")
    try:
        save, saved = suite_module._save_checkpoint, []

        def fill_after_the_first(*args):
            save(*args)
            saved.append(args)
            if len(saved) == 1:
                room = shutil.disk_usage(small).free
                (small / "other").write_bytes(b"\0" * (room - 20_000))

        monkeypatch.setattr(suite_module, "_save_checkpoint", fill_after_the_first)
        with pytest.raises(OSError, match=r"got no space left .* What was written before is whole"):
            train_suite(config, small / "s", corpus=corpus, show_progress=False, every=10)
        assert [p.name for p in (small / "s/.bpe.checkpoint").iterdir()] == ["step-00000010"]
        (small / "other").unlink()
        train_suite(config, small / "s", corpus=corpus, show_progress=False)
        monkeypatch.undo()
        train_suite(config, tmp_path / "whole", corpus=corpus, show_progress=False)
        assert files(small / "s") == files(tmp_path / "whole")
    finally:
        subprocess.run(["umount", small], check=True)


# ---- the published scale


def test_the_published_configuration_has_the_published_size():
    config = published_suite()
    assert n_weights(config, 32_000) == 1_415_682_048, "the number that the TokenMonster result files print"
    assert config.names == tuple(published_tokenizers) and len(config.names) == 14
    assert config.steps * config.step_tokens == 104_857_600_000
    with pytest.raises(KeyError, match="unknown tokenizers"):
        published_suite(["GPT-5"])


def test_a_configuration_survives_its_file(tmp_path):
    for config in (SuiteConfig(), published_suite(), *suite_module.suite_scales.values()):
        config.write(tmp_path / "c.json")
        assert read_config(tmp_path / "c.json") == config
    (tmp_path / "c.json").write_text('{"tokenizers": ["bpe"], "optimiser": "muon"}')
    with pytest.raises(ValueError, match=r"must hold fields of SuiteConfig, got \['optimiser'\]"):
        read_config(tmp_path / "c.json")


def test_half_precision_and_tied_rows_train_and_reload(tmp_path, corpus):
    config = replace(TINY, steps=4, precision="bfloat16", tied=True)
    models, curve = train_suite(config, tmp_path / "s", corpus=corpus, show_progress=False)
    model = models["bpe"].model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert curve["loss"].is_finite().all()
