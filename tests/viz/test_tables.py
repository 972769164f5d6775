import json

import pytest

from asesjax.cli.main import main
from asesjax.core.types import Segment
from asesjax.viz.compare import comparison, mean_interval
from asesjax.viz.segments import segments_html, segments_text
from asesjax.viz.tables import results_table


def report(seed, accuracies, strategy="entropy"):
    rows = [
        {"method": method, "seed": seed, "accuracy": accuracy, "chain_accuracy": None,
         "bleu": 50.0, "segmentation_f1": 0.5, "train_tokens": 1000}
        for method, accuracy in accuracies.items()
    ]  # fmt: skip
    return {"name": "x", "budget": "b", "strategy": strategy, "rows": rows}


def test_means_only_over_seeds_of_one_setting():
    text = comparison(
        {
            "a": report(0, {"direct": 0.5, "usm": 0.6}),
            "b": report(1, {"direct": 0.7, "usm": 0.8}),
            "c": report(0, {"usm": 0.1}, strategy="location"),
        }
    )
    rows, means = text.split("\n\n")
    assert rows.count("\n| ") == 5
    assert [line.split("|")[1].strip() for line in means.splitlines()[2:]] == ["direct", "usm"]
    assert "| 60.0 | 14.1 |" in " ".join(means.split()).replace("  ", " ")
    assert "location" not in means


def test_a_single_seed_claims_nothing():
    assert "\n\n" not in comparison({"a": report(0, {"usm": 0.5})})


def test_t_interval_against_a_table():
    # t(0.975, 4) = 2.776; mean 3 sd 1.5811 of 1..5 per cent.
    assert mean_interval([0.01, 0.02, 0.03, 0.04, 0.05]) == ("3.0", "1.6", "1.0..5.0")


def test_columns_without_values_are_left_out():
    row = {"method": "usm", "accuracy": 0.5, "accuracy_interval": (0.4, 0.6), "bleu": None}
    table = results_table([row])
    assert "50.0" in table and "40.0..60.0" in table and "BLEU" not in table
    assert "| - " not in table


def test_segments_are_escaped_and_labelled():
    segments = [Segment("<b> 1 < 2. ", "ES"), Segment("So & so.", None)]
    page = segments_html(segments, "a < b?")
    assert "&lt;b&gt; 1 &lt; 2. " in page and "a &lt; b?" in page and 'title="unlabelled"' in page
    assert segments_text(segments, colour=False) == "ES | <b> 1 < 2.\n-- | So & so."
    assert "\x1b[" in segments_text(segments)


@pytest.mark.parametrize("more", [["--redo"], ["--config.seed=1"]])
def test_comparing_takes_no_configuration(tmp_path, capsys, more):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report(0, {"usm": 0.5})))
    folders = [str(tmp_path / name) for name in "ab"]
    assert main(["report", "--workdir", *folders]) == 0
    assert "95 % interval" in capsys.readouterr().out
    assert main(["report", "--workdir", *folders, *more]) == 2
    assert "one --workdir only" in capsys.readouterr().err
