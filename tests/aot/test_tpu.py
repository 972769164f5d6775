"""`asesjax compile` for a TPU slice by the real compiler, with no TPU.

Needs libtpu. TEST_TPU=1 bash tests/run.sh installs it in .venv-tpu and runs this file there.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--config.methods=usm", "--config.model.d_model=256", "--config.model.d_ff=512",
    "--config.model.n_heads=4", "--config.model.d_kv=64", "--config.model.dtype=bfloat16",
    "--config.decode.context_lengths=()", "--config.mesh.preset=fsdp_tp", "--config.mesh.data=1",
    "--config.mesh.fsdp=4", "--config.mesh.tensor=2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def libtpu():
    if importlib.util.find_spec("libtpu") is None:
        message = "no libtpu here; TEST_TPU=1 bash tests/run.sh runs these tests where it is"
        if os.environ.get("ASESJAX_REQUIRE_TPU") == "1":
            pytest.fail(message)
        pytest.skip(message)


def compile_(*arguments):
    # A process of its own: the verb sets what libtpu and jax read when they start.
    return subprocess.run(
        [sys.executable, "-m", "asesjax.cli.main", "compile", "--config", "configs/quickstart.py",
         *arguments], cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_train_and_decode_for_eight_chips(tmp_path):
    rows = tmp_path / "rows.jsonl"
    done = compile_("--topology", "v5e:2x4", *SMALL, "--json", str(rows))
    assert done.returncode == 0, done.stderr
    assert "8 x TPU v5 lite, 15.75 GiB each" in done.stdout and "ESTIMATE" in done.stdout
    train, decode = (json.loads(line) for line in rows.read_text().splitlines())
    for row in (train, decode):
        assert row["fits"] and row["mesh"] == {"data": 1, "fsdp": 4, "tensor": 2}
        memory = row["memory"]
        assert 0 < memory["peak"] < 2**30 and memory["aliased"] > 0  # the state is donated
        assert {"all-gather", "all-reduce"} <= set(row["collectives"])
        assert min(row["estimated_seconds"].values()) > 0
    assert train["memory"]["arguments"] >= train["parameters"]
    # Of the parameters each chip lacks three quarters of what its tensor half holds.
    assert train["bytes_sent"] > 3 / 4 * train["parameters"]


def test_a_step_that_does_not_fit_gets_a_change_that_does(tmp_path):
    rows = tmp_path / "rows.jsonl"
    done = compile_(
        "--topology", "v5e:2x4", "--only", "train", *SMALL, "--json", str(rows),
        "--config.train.batch_size=131072", "--config.train.source_buckets=(512,)",
        "--config.train.target_buckets=(512,)", "--config.train.microbatches=8",
        "--config.model.n_encoder_layers=1", "--config.model.n_decoder_layers=1",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    first, *tried = (json.loads(line) for line in rows.read_text().splitlines())
    assert not first["fits"] and first["needed"] > first["hbm"] and first["refusal"]
    assert [row["change"] for row in tried][:1] == [{"train.microbatches": "16"}]
    assert tried[-1]["fits"] and tried[-1]["needed"] < first["hbm"]
    assert [row["fits"] for row in tried].count(True) == 1
    changes = " ".join(f"--config.{k}={v}" for k, v in tried[-1]["change"].items())
    assert f"smallest change {changes}\n" in done.stdout


@pytest.mark.parametrize(
    "topology, words",
    [("v5e:3x3", "knows no such slice"), ("v5e:4x4", "there are 16 devices")],
)
def test_wrong_topologies_are_explained(topology, words):
    done = compile_("--topology", topology, *SMALL)
    assert done.returncode == 2 and words in done.stderr
    assert "Traceback" not in done.stderr
