"""The baselines through the command line, on GSM8K."""

from pathlib import Path

import numpy as np
import pytest

from asesjax.cli.main import main
from asesjax.core.files import read_json
from asesjax.data.sources import read_records

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.data
def test_gsm8k_goes_through_every_stage(tmp_path, data_folder, annotations):
    workdir = tmp_path / "gsm8k"
    small = {
        "data.path": data_folder / "gsm8k", "data.n_train": 32, "data.n_validation": 8,
        "data.n_test": 8, "train.tokens": 0, "train.steps": 4, "train.batch_size": 8,
        "train.evaluate_every_share": 1.0, "model.d_model": 16, "model.d_ff": 16,
        "model.n_heads": 2, "model.d_kv": 8, "decode.batch_size": 8,
        "decode.context_lengths": "()", "decode.curve_questions": 8,
        "decode.max_chain_tokens": 16, "decode.question_buckets": "(1536,)",
        "train.source_buckets": "(1536,)", "train.target_buckets": "(512,)",
    }  # fmt: skip
    overrides = [f"--config.{name}={value}" for name, value in small.items()]
    spec = f"{ROOT / 'configs/baselines.py'}:gsm8k"
    assert main(["run", "--config", spec, "--workdir", str(workdir), *overrides]) == 0
    names = ("answer_only", "direct", "step_by_step", "in_context")
    rows = {row["method"]: row for row in read_json(workdir / "report.json")["rows"]}
    assert tuple(rows) == names and all(row["questions"] == 8 for row in rows.values())
    counts = [read_json(workdir / f"roles/{name}/main/result.json")["examples"] for name in names]
    assert counts == [32, 32, 64, 128]
    train = [record.question for record in read_records(workdir / "data/train.jsonl")]
    for split in ("train", "validation"):
        shown = annotations(workdir, f"in_context/{split}.npz", split)["shown"]
        own = read_records(workdir / f"data/{split}.jsonl")
        for record, places in zip(own, shown, strict=True):
            questions = [train[place] for place in places]
            assert len(set(questions)) == 2 and record.question not in questions
    assert np.isfinite([row["bleu"] for row in rows.values()]).all()
