"""The data stage of real configurations, and Chinese reports through the whole job."""

import json
from pathlib import Path

import pytest

from asesjax.cli.main import main
from asesjax.config import load_config
from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.data.sources import WRONG_CHAIN, read_records
from asesjax.data.vocab import load_saved
from asesjax.experiment import execute, open_run
from asesjax.jobs.data import prepare_data
from asesjax.run import Run

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ["Ann has {0} dogs. How many?", "Ben has {0} more. How many?"]


def write(folder, answer):
    """Rows of two kinds of question; ``answer`` says what the file calls right."""
    rows = [
        {"id": f"{i}-{k}", "question": text.format(i), "rationale": f"There are {i}.",
         "answer": answer(i)}
        for i in range(60)
        for k, text in enumerate(TEMPLATES)
    ]  # fmt: skip
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    return {"data.source": "json", "data.path": str(path), "data.n_train": "0",
            "data.n_validation": "0", "data.n_test": "0", "methods": "direct"}  # fmt: skip


def test_filtered_chains_are_counted_and_the_metric_is_part_of_the_stage(tmp_path):
    fields = write(tmp_path, lambda i: i if i % 3 else i + 1)
    fields |= {"data.only_right_chains": "true", "data.split_by": "id"}
    said = []
    workdir, config = tmp_path / "run", str(ROOT / "configs/smoke.py")
    run = Run(load_config(config, fields), workdir, said.append)
    execute(run, ("data",))
    counts = read_json(workdir / "data/counts.json")
    reasons = set(counts["skipped"].values())
    n = len(counts["skipped"])
    assert reasons == {WRONG_CHAIN} and 20 <= n <= 40
    assert f"  skipped {n} rows: {WRONG_CHAIN}" in said
    assert sum(counts["records"].values()) + n == 120
    for split in ("train", "validation"):
        kept = read_records(workdir / f"data/{split}.jsonl")
        assert all(record.answer in record.rationale for record in kept)
    asked = read_records(workdir / "data/test.jsonl")
    assert any(record.answer not in record.rationale for record in asked)
    with pytest.raises(UserError, match="evaluate.metric"):
        execute(open_run(None, workdir, {"evaluate.metric": "exact"}), ("data",))


def test_a_metric_that_cannot_read_the_references_is_refused_before_training(tmp_path):
    fields = write(tmp_path, lambda i: "yes" if i % 2 else "no")
    run = Run(load_config(str(ROOT / "configs/smoke.py"), fields), tmp_path / "run")
    with pytest.raises(UserError, match="'(yes|no)' holds no number.*use evaluate.metric=exact"):
        prepare_data(run)
    fields["evaluate.metric"] = "exact"
    prepare_data(Run(load_config(str(ROOT / "configs/smoke.py"), fields), tmp_path / "run"))


def test_byte_fallback_writes_what_training_never_showed(tmp_path):
    fields = write(tmp_path, lambda i: i) | {"vocab.size": "400", "vocab.byte_fallback": "true"}
    run = Run(load_config(str(ROOT / "configs/smoke.py"), fields), tmp_path)
    prepare_data(run)
    vocab = load_saved(tmp_path / "vocab")
    text = "肝脏形态可，SUVmax：３．６；½ <x>\nq"
    assert vocab.decode(vocab.encode(text)) == text
    assert vocab.unk_id not in vocab.encode(text)


@pytest.mark.data
@pytest.mark.slow
def test_chinese_reports_go_through_every_stage(data_folder, tmp_path):
    small = {
        "data.path": data_folder / "cpet/cpet.csv.gz", "data.n_train": 40,
        "data.n_validation": 8, "data.n_test": 8, "train.tokens": 0, "train.steps": 2,
        "train.source_buckets": "(768,)", "train.target_buckets": "(256,)",
        "train.evaluate_every_share": 1.0, "decode.batch_size": 8,
        "decode.context_lengths": "()", "decode.max_rounds": 2,
        "decode.max_segment_tokens": 8, "decode.max_chain_tokens": 16, "decode.curve_questions": 4,
    }  # fmt: skip
    overrides = [f"--config.{name}={value}" for name, value in small.items()]
    command = ["run", "--config", f"{ROOT}/configs/cpet.py:tiny", "--workdir", str(tmp_path)]
    assert main([*command, *overrides]) == 0
    report = read_json(tmp_path / "report.json")
    assert [row["method"] for row in report["rows"]] == ["direct", "dsm", "usm"]
    assert all(row["questions"] == 8 and row["bleu"] >= 0 for row in report["rows"])
    # Nothing of a report is unknown or changed but runs of spaces.
    vocab = load_saved(tmp_path / "vocab")
    for split in ("train", "validation", "test"):
        for record in read_records(tmp_path / f"data/{split}.jsonl"):
            for text in (record.question, record.rationale):
                assert vocab.decode(vocab.encode(text)) == " ".join(text.split())
    assert all(row["unknown"] == 0 for row in read_json(tmp_path / "data/audit.json", list))


def test_a_data_file_that_has_changed_is_told(tmp_path):
    fields = write(tmp_path, str)
    path, config = tmp_path / "rows.json", str(ROOT / "configs/smoke.py")
    run = Run(load_config(config, fields), tmp_path / "run", lambda line: None)
    execute(run, ("data",))
    content = path.read_text()
    path.write_text(content)  # the same again
    execute(run, ("data",))
    path.write_text(content.replace("dogs", "cats"))
    with pytest.raises(UserError, match=r"stage data: content of data.path: .*SHA-256"):
        execute(run, ("data",))
    execute(run, ("data",), redo=True)
    assert "cats" in (run / "data/train.jsonl").read_text()
    path.unlink()  # what was read is kept
    execute(run, ("data",))
