"""asesjax data prints what the data is, of a configuration or of a run, and trains nothing."""

import json

import pytest

from asesjax.cli.main import main
from asesjax.core.files import read_json

ROWS = [
    {"id": i, "question": f"Ann has {i} dogs. How many legs?",
     "rationale": f"Ann has {i} dogs. Each dog has 4 legs. So {i} * 4 = {4 * i}.", "answer": 4 * i}
    for i in range(60)
]  # fmt: skip
CONFIG = """
from asesjax.config import base_config

def get_config(arg=""):
    c = base_config()
    c.methods = ("direct", "dsm", "usm")
    c.data.n_train = c.data.n_validation = c.data.n_test = 0
    c.vocab.split_digits = True
    c.ases.gamma = 0.5
    c.segment.strategy = arg or "entropy"
    return c
"""


@pytest.fixture
def command(tmp_path):
    """The command on a file of 60 good rows, a bad one and a wrong chain."""
    (tmp_path / "config.py").write_text(CONFIG)
    wrong = ROWS[1] | {"id": "wrong", "question": "Wrong?", "answer": 77}
    lines = [json.dumps(row) + "\n" for row in [*ROWS, {"id": "bad"}, wrong]]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    fields = {"source": "jsonl", "path": tmp_path / "rows.jsonl", "max_skipped_share": 0.1,
              "validation_share": 0.2, "only_right_chains": True}  # fmt: skip
    return ["data", *(f"--config.data.{name}={value}" for name, value in fields.items())]


def test_data_of_a_configuration(command, tmp_path, capsys):
    command += ["--config", f"{tmp_path}/config.py", "--output", f"{tmp_path}/view"]
    # Wide ones: lengths chosen from texts as alike as these pad next to nothing.
    command += ["--config.train.source_buckets=64,128", "--config.train.target_buckets=32,64"]
    assert main([*command, "--show", "2", "--segments", "3"]) == 0
    out = capsys.readouterr().out
    summary = read_json(tmp_path / "view/summary.json")
    counts = summary["records"]
    # The wrong chain is left out, or asked about where the hash has put it into the test split.
    assert sum(counts.values()) + sum(summary["skipped"].values()) == 62
    assert f"train: {counts['train']} records" in out
    assert "skipped 1 row: field 'question' is missing; the row has 'id'" in out
    assert "no scorer has been trained for entropy: segments by location" in out
    assert summary["strategy"] == "location"
    for role in ("direct/main", "dsm/es", "dsm/as", "usm/main"):
        assert f"examples of {role}" in out
        row = summary["roles"][role]
        assert 0 <= row["packed"]["padding_share"] < row["bucketed"]["padding_share"] < 1
    assert out.count("\n  target  ") == 8
    assert summary["roles"]["dsm/es"]["source"]["n"] == 2 * counts["train"]
    assert "target  (0.5) Each dog has 4 legs.</s>" in out  # AS by location, of weight gamma
    assert out.count("ES | ") == out.count("AS | ") == 6
    assert (tmp_path / "view/lengths.png").stat().st_size > 5000
    page = (tmp_path / "view/segments.html").read_text("utf-8")
    assert page.count("<b>Ann has") == counts["train"] and 'title="AS"' in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.py", "rows.jsonl", "view"]
    # Nothing is overwritten.
    assert main(command) == 2
    assert "lengths.png exists; nothing is overwritten" in capsys.readouterr().err


def test_a_run_keeps_its_data_and_its_segments(command, tmp_path, capsys):
    workdir = tmp_path / "run"
    config = ["--config", f"{tmp_path}/config.py:rouge", "--config.segment.beta=1.0"]
    assert main([*command, *config, "--workdir", f"{workdir}"]) == 0
    assert "segments by location" not in capsys.readouterr().out
    assert (workdir / "stages").is_dir() and not (workdir / "segments").exists()
    # From here on the run remembers its configuration.
    assert main(["data", "--workdir", f"{workdir}", "--show", "0", "--segments", "1"]) == 0
    out = capsys.readouterr().out
    assert "labelled by rouge" in out and "examples of" not in out


def test_an_example_that_fits_no_bucket_is_reported(command, tmp_path, capsys):
    config = ["--config", f"{tmp_path}/config.py:location", "--config.train.source_buckets=8,16"]
    assert main([*command, *config]) == 0
    out = capsys.readouterr().out
    assert "source tokens, more than the largest of train.source_buckets (8, 16)" in out


def test_control_characters_are_shown_as_escapes(command, tmp_path, capsys):
    """Of ids, questions, rationales and names of fields; the files keep them."""
    hidden = "\x1b[2J\x1b]0;t\x07\x9b8m\u202e\r"
    rows = [row | {"id": f"{hidden}{i}", "question": f"{hidden}{row['question']}",
                   "rationale": row["rationale"].replace("Each", f"{hidden}Each")}
            for i, row in enumerate(ROWS[:40])]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {f"{hidden}id": 1}]))
    config = ["--config", f"{tmp_path}/config.py:location", "--config.vocab.kind=byte"]
    assert main([*command, *config, "--show", "2", "--segments", "2"]) == 0
    out = capsys.readouterr().out
    segment = ["segment", "--strategy", "location", "--show", "2", f"--input={path}",
               f"--output={tmp_path}/out.jsonl", "--config.data.max_skipped_share=1.0"]  # fmt: skip
    assert main(segment) == 0
    both = capsys.readouterr()
    assert main(["segment", "--strategy", "location", f"--input={path}",
                 f"--output={path}.out"]) == 2  # fmt: skip
    for text in (out, both.out, both.err, capsys.readouterr().err):
        assert "\\x1b[2J" in text and not set("\x1b\x07\x9b\u202e\r") & set(text)
    assert hidden[:4] in json.loads((tmp_path / "out.jsonl").read_text().split("\n")[1])["id"]


def test_wrong_arguments_are_refused(capsys):
    assert main(["data"]) == 2
    assert "give --config FILE.py, --workdir of a run, or both" in capsys.readouterr().err
    assert main(["data", "--show", "-1"]) == 2


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_segment_reads_other_formats_and_writes_a_page(tmp_path, capsys, suffix):
    source = tmp_path / f"in.{suffix}"
    if suffix == "json":
        source.write_text(json.dumps(ROWS[:5]))
    else:
        lines = [",".join(f'"{value}"' for value in row.values()) for row in ROWS[:5]]
        source.write_text("\n".join([",".join(ROWS[0]), *lines]))
    command = ["segment", "--input", f"{source}", "--output", f"{tmp_path}/out.jsonl",
               "--strategy", "location", "--html", f"{tmp_path}/page.html"]  # fmt: skip
    assert main(command) == 0
    assert "5 rationales" in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text("utf-8").count('title="AS"') == 10
    (tmp_path / "out.jsonl").unlink()
    assert main(command) == 2
    assert "page.html exists" in capsys.readouterr().err
