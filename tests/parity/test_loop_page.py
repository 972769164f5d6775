"""The script of the page of models writes USM's chains with transformers alone."""

import importlib.util
import re
import sys
from pathlib import Path

import jax

import asesjax
from asesjax.data.sources import read_records
from asesjax.data.vocab import load_saved
from asesjax.experiment import open_run
from asesjax.models import t5
from asesjax.run import model_config
from asesjax.training.checkpoint import save_params
from asesjax.training.describe import Description

PAGE = Path(__file__).resolve().parents[2] / "asesjax/models/README.md"
BOUNDS = {"max_rounds": 4, "max_segment": 8, "max_chain": 24}


def test_the_page_writes_our_chains(hf, tmp_path, monkeypatch):
    (text,) = re.findall("```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "loop.py").write_text(text)
    workdir = tmp_path / "run"
    small = {"data.n_train": 24, "data.n_test": 12, "vocab.size": 200, "methods": ("usm",),
             "decode.question_buckets": (96,), "decode.batch_size": 8} | {
        "decode.max_rounds": 4, "decode.max_segment_tokens": 8, "decode.max_chain_tokens": 24}
    asesjax.train("smoke", workdir, small, until="data")
    run, vocab = open_run(None, workdir), load_saved(workdir / "vocab")
    model = model_config(run, vocab)
    params = jax.tree.map(lambda x: 2.5 * x, t5.init(model, jax.random.key(1)))
    # Ends are as frequent as a trained model's.
    kernel = params["token_embedder"]["embedding"]
    for end in (vocab.eos_id, vocab.sentinel(0)):
        kernel = kernel.at[end].multiply(3.0)
    params["token_embedder"]["embedding"] = kernel
    description = Description(model, vocab, "usm", "main")
    save_params(workdir / "roles/usm/main/checkpoints", params, description)
    assert hf.convert("--to-hf", tmp_path / "hf", "--checkpoint", workdir / "roles/usm/main") == 0

    monkeypatch.setattr(sys, "argv", ["loop.py", str(tmp_path / "hf")])
    spec = importlib.util.spec_from_file_location("loop_page", tmp_path / "loop.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    questions = [record.question for record in read_records(workdir / "data/test.jsonl")]
    answers = asesjax.load(workdir, "usm").generate(questions)
    assert [page.chain(question, **BOUNDS) for question in questions] == [a.chain for a in answers]
    assert {answer.finish_reason for answer in answers} == {"end", "length", "repeated"}
