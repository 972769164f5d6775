"""What is known at the start is told at the start: before any training, and before any work."""

import importlib.util

import pytest

from asesjax.cli.main import main

CONFIG = """
from asesjax.config import base_config

def get_config(arg=""):
    c = base_config()
    c.methods = ("direct", "usm")
    c.data.n_train, c.data.n_validation, c.data.n_test = 20, 5, 5
    c.train.tokens, c.train.steps, c.train.batch_size = 0, 2, 4
    return c
"""


@pytest.mark.parametrize(
    "fields, told",
    [
        (["vocab.extra_ids=0"], "0 sentinels, no <extra_id_0>; set vocab.extra_ids"),
        (["methods=direct,cwt", "chunk.mark_from=95"], "sentinels 95 to"),
        (["model.vocab_rows=100"], "model.vocab_rows is 100, fewer than the"),
        (["methods=direct,late", "variants.late.method=direct",
          "variants.late.train.source_buckets=(8,)"], "train.source_buckets (8,)"),
        (["methods=direct,late", "variants.late.method=usm",
          "variants.late.train.source_buckets=(8,)", "variants.late.train.target_buckets=(8,)"],
         "row late: question and chain of record"),
        (["methods=direct,late", "variants.late.method=usm",
          "variants.late.train.packed_length=16"],
         "row late: question and chain of record"),
    ],
)  # fmt: skip
def test_what_a_row_lacks_is_told_before_any_row_is_trained(tmp_path, capsys, fields, told):
    (tmp_path / "c.py").write_text(CONFIG)
    command = ["run", "--config", str(tmp_path / "c.py"), "--workdir", str(tmp_path / "run")]
    assert main([*command, *(f"--config.{field}" for field in fields)]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run/roles").exists()


def test_packages_of_the_report_are_asked_for_before_the_data(tmp_path, capsys, monkeypatch):
    (tmp_path / "c.py").write_text(CONFIG)
    monkeypatch.setattr("asesjax.experiment.find_spec",
                        lambda name: name != "sacrebleu" and importlib.util.find_spec(name) or None)
    command = ["--config", str(tmp_path / "c.py"), "--workdir", str(tmp_path / "run")]
    assert main(["run", *command]) == 2
    assert "the report needs sacrebleu" in capsys.readouterr().err
    assert main(["train", *command, "--config.train.keep_best=bleu"]) == 2
    assert "train.keep_best=bleu needs sacrebleu" in capsys.readouterr().err
    assert not (tmp_path / "run/data").exists()

