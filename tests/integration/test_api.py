"""The package from Python, with what the command line says of the same."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import asesjax
from asesjax.cli.main import main
from asesjax.config import load_config
from asesjax.core.errors import UserError
from asesjax.core.files import read_jsonl, write_jsonl
from asesjax.core.types import AS, ES, Record, Segment
from asesjax.data.corpus import encode_record
from asesjax.data.vocab import load_saved
from asesjax.decode.score import score_examples
from asesjax.experiment import open_run
from asesjax.models import t5
from asesjax.run import model_config
from asesjax.training.checkpoint import save_params

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {"methods": ("direct", "dsm", "usm", "short"), "data.n_train": 24, "data.n_test": 6,
          "variants.short.method": "usm", "variants.short.decode.max_rounds": 1,
          "decode.question_buckets": (64,), "vocab.size": 200}  # fmt: skip
CHAIN = [Segment("Amy has 5 apples. ", ES), Segment("So 5 + 3 = 8.", AS)]
QUESTION = "Amy has 5 apples. Ben has 3 more. How many apples does Ben have?"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose roles hold random parameters."""
    workdir = tmp_path_factory.mktemp("api") / "run"
    config = load_config(str(ROOT / "configs/smoke.py"))
    assert asesjax.train(config, workdir, FIELDS, until="data") == {}
    run = open_run(None, workdir)
    assert run.config.name == "smoke" and not (workdir / "roles").exists()
    model = model_config(run, load_saved(workdir / "vocab"))
    seeds = {"direct/main": 0, "usm/main": 1, "short/main": 1, "dsm/es": 2, "dsm/as": 3}
    for role, seed in seeds.items():
        params = jax.tree.map(lambda x: 2.5 * x, t5.init(model, jax.random.key(seed)))
        save_params(workdir / f"roles/{role}/checkpoints", params)
    return workdir


def test_importing_is_light():
    code = ("import sys, asesjax; "
            "heavy = {'jax', 'numpy', 'ml_collections', 'asesjax.api'} & set(sys.modules); "
            "assert not heavy, heavy; assert all(map(callable, (asesjax.train, asesjax.segment, "
            "asesjax.load)))")  # fmt: skip
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_loaded_row_answers_as_the_command_line_does(workdir, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_jsonl(source, [{"question": QUESTION.replace("5", str(n))} for n in range(6)])
    command = ["generate", "--workdir", str(workdir), "--method", "usm"]
    assert main([*command, "--input", str(source), "--output", str(target)]) == 0
    there = [found for _, found in read_jsonl(target)]
    answers = asesjax.load(workdir, "usm").generate([found["question"] for found in there])
    for answer, found in zip(answers, there, strict=True):
        names = "question", "chain", "answer", "tokens", "finish_reason"
        assert [getattr(answer, name) for name in names] == [found[name] for name in names]
        assert [vars(segment) for segment in answer.segments] == found["segments"]
        assert "".join(segment.text for segment in answer.segments) == answer.chain


def test_fields_of_decoding_may_change(workdir, capsys):
    usm, short = asesjax.load(workdir, "usm"), asesjax.load(workdir, "short")
    assert len(usm.generate(QUESTION)[0].segments) > 1
    assert usm.generate(QUESTION, max_rounds=1) == short.generate([QUESTION])
    assert short.generate(QUESTION, max_rounds=3) == usm.generate(QUESTION)
    command = ["generate", "--workdir", str(workdir), "--method", "short", "--question", QUESTION]
    assert main([*command, "--config.decode.max_rounds=3"]) == 0  # not that of the row
    assert capsys.readouterr().out.count(" | ") == len(usm.generate(QUESTION)[0].segments)
    drawn = {"sampler": "sample", "samples": 3, "temperature": 2.0}
    two = usm.generate([QUESTION] * 2, **drawn)
    assert two[0].chain != two[1].chain
    assert usm.generate(QUESTION, first=1, **drawn) == two[1:]


@pytest.mark.parametrize("row", ["direct", "dsm", "usm"])
def test_scores_are_those_of_the_training_examples(workdir, row):
    """Where a rationale begins with AS, ESM's passing has a score of its own, as in training."""
    loaded = asesjax.load(workdir, row)
    method, vocab = loaded.trained.method, loaded.trained.vocab
    chains = [CHAIN, [Segment("5 + 3 = 8. ", AS), Segment("Amy has 5.", ES)]]
    records, want = [], []
    for number, chain in enumerate(chains):
        ends = np.cumsum([0, *(len(part.text) for part in chain)])
        notes = {"pieces": np.stack([ends[:-1], ends[1:]], 1).ravel(),
                 "labels": np.array([(ES, AS).index(part.label) for part in chain])}  # fmt: skip
        records.append(Record(str(number), QUESTION, "".join(part.text for part in chain), ""))
        encoded = encode_record(vocab, records[-1], "", notes)
        found = {}
        for role, examples in method.examples(encoded, vocab).items():
            scores = score_examples(loaded.trained.model, loaded.trained.params[role], examples,
                                    (), ())  # fmt: skip
            found |= {one.id: own for one, own in zip(examples, scores, strict=True)}
        want.append([found[name] for name in sorted(found)])
    given = [record.rationale for record in records] if row == "direct" else chains
    for ours, theirs in zip(loaded.score(records, given), want, strict=True):
        assert ours.log_probability < 0
        own = zip(ours.log_probabilities, ours.entropies, strict=True)
        for (log_probability, entropy), (nll, same) in zip(own, theirs, strict=True):
            np.testing.assert_allclose(-log_probability, nll, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(entropy, same, rtol=1e-4, atol=1e-5)


def test_a_rationale_is_cut_and_labelled(workdir):
    text = "".join(part.text for part in CHAIN)
    for fields in ({}, {"strategy": "location"}):
        assert asesjax.segment("Amy has 5 apples.", text, **fields) == CHAIN
    direct = asesjax.load(workdir, "direct")
    segments = asesjax.segment(QUESTION, text, scorer=direct, strategy="loss")
    (scores,) = direct.score([QUESTION], [text])
    per_piece = [part.label for part in segments]
    assert "".join(part.text for part in segments) == text and set(per_piece) == {ES, AS}
    assert len(scores.log_probabilities) == 1


def test_mistakes_say_what_to_change(workdir):
    usm = asesjax.load(workdir, "usm")
    for call, words in (
        (lambda: asesjax.load(workdir, "ussm"), "did you mean 'usm'"),
        (lambda: asesjax.load(workdir, "usm", rounds=2), "max_rounds"),
        (lambda: asesjax.load(workdir / "none", "usm"), "holds no run yet"),
        (lambda: usm.generate(["x"], temperature=0.5), "decode.sampler=sample, too"),
        (lambda: usm.generate([""]), "question 1 is empty"),
        (lambda: usm.generate(["apples " * 600]), "question 1: its question has"),
        (lambda: usm.generate([3]), "question 1 must be a text, got int"),
        (lambda: usm.generate(["x"], int8=True), "give it to asesjax.load"),
        (lambda: usm.generate(["x"], max_rounds="many"), "max_rounds must be an int"),
        (lambda: usm.score(["x"], []), "here of 1; got a list of 0"),
        (lambda: asesjax.load(workdir, "direct").score(["x"], [CHAIN]), "join their texts"),
        (lambda: asesjax.segment("x", "y.", strategy="entropy"), "needs a trained scorer"),
        (lambda: asesjax.segment("x", "y.", scorer=usm), "load a row such as direct"),
        (lambda: asesjax.train("smok", workdir), "did you mean 'smoke'"),
        (lambda: asesjax.train("smoke", workdir, {"train.lr": 1.0}), "unknown config field"),
        (lambda: asesjax.train("smoke", workdir, {"train.steps": "x"}), "train.steps must be"),
    ):
        with pytest.raises(UserError) as told:
            call()
        assert words in str(told.value), told.value
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        asesjax.lode  # noqa: B018
