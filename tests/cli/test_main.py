"""Verbs, help, and mistakes that must end in one clear line."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from asesjax.cli.main import VERBS, main
from asesjax.core.signals import check_stop
from asesjax.segmentation.records import read_segments

GOOD = {"id": "1", "question": "Ann has 3 dogs.", "rationale": "Ann has 3 dogs. So 3 * 4 = 12.",
        "answer": "12"}  # fmt: skip


def write(path, *lines):
    path.write_text("".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines))
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"asesjax {verb}" in out and "Exit status: 0; 2 for" in out and "42 when" in out


def test_help_lists_the_verbs(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


def test_bash_completes_verbs_fields_and_choices(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def completed(*words):
        last = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_asesjax"
        shell = ["bash", "-c", f'{script}\n{last}\necho "${{COMPREPLY[@]}}"']
        return subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split()

    assert completed("asesjax", "gen") == ["generate"]
    assert completed("asesjax", "run", "--config.segment.strat") == ["--config.segment.strategy"]
    assert completed("asesjax", "run", "--config.segment.strategy", "ent") == ["entropy"]
    assert completed("asesjax", "run", "--config", "smo") == ["smoke"]
    assert main(["completion", "zsh"]) == 0 and "#compdef asesjax" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, words",
    [
        (["rum"], "did you mean 'run'"),
        (["run", "--workdir", "w", "--config", "absent.py"], "absent.py does not exist"),
        (["run", "--workdir", "w"], "holds no run yet"),
        (["evaluate", "--predictions", "absent", "--config.seed=1"], "takes no --config"),
        (["evaluate", "--predictions", "absent.jsonl"], "absent.jsonl does not exist"),
        (["evaluate", "--predictions", "x", "--metric", "numerc"], "did you mean 'numeric'"),
        (["segment"], "--workdir"),
        (["run", "--workdir", "w", "--config.seed"], "needs a value"),
        (["run", "--workdir", "w", "--config.seed=1", "--config.seed=2"], "given twice"),
        (["run", "--workdir", ""], "--workdir is empty"),
        (["data", "--workdir", " "], "--workdir is empty"),
        (["run", "--workdir", "w" * 300], "File name too long"),
        (["run", "--workdir", "w", "--config", "c" * 300 + ".py"], "File name too long"),
        (["evaluate", "--predictions", "p" * 300], "File name too long"),
        (["generate", "--workdir", "w", "--method", "m\udcff"],
         "argument 5 of --method, 'm\\udcff', is not"),
        (["m\udcff", "--help"], "argument 1, 'm\\udcff', is not"),
        (["r" * 5000], "unknown verb"),
    ],
)
def test_mistakes_give_one_line(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("asesjax: ") and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "extra, words",
    [
        (["--coordinator", "host"], "expected the HOST:PORT of process 0"),
        (["--processes", "2", "--process", "0"], "expected the HOST:PORT of process 0"),
        (["--coordinator", "h:1", "--processes", "2", "--process", "2"], "--process 2; expected"),
        (["--coordinator", "auto", "--process", "1"], "leave them out"),
    ],
)
def test_contradicting_process_arguments_are_refused(extra, words, capsys, tmp_path):
    assert main(["run", "--workdir", str(tmp_path / "w"), *extra]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def fails(monkeypatch, tmp_path, failure):
    def open_run(*_):
        failure()

    monkeypatch.setattr("asesjax.experiment.open_run", open_run)
    return main(["run", "--workdir", str(tmp_path / "w")])


@pytest.mark.parametrize("numbers, status", [
    ([signal.SIGTERM], 42), ([signal.SIGINT], 130), ([signal.SIGTERM] * 2, 42),
    ([signal.SIGTERM, signal.SIGINT], 130),
])  # fmt: skip
def test_a_signal_ends_a_verb_with_one_line(monkeypatch, tmp_path, capsys, numbers, status):
    before = [signal.getsignal(number) for number in numbers]

    def work():
        for number in numbers:
            os.kill(os.getpid(), number)
        check_stop()

    assert fails(monkeypatch, tmp_path, work) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert "the same command resumes" in line
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_gives_one_line(monkeypatch, tmp_path, capsys, number):
    def failure():
        raise OSError(number, os.strerror(number), "w/scores/train.jsonl")

    assert fails(monkeypatch, tmp_path, failure) == 2
    error = capsys.readouterr().err
    assert f"cannot read or write w/scores/train.jsonl: {os.strerror(number)}" in error
    with pytest.raises(OSError):
        fails(monkeypatch, tmp_path, lambda: os.stat(tmp_path / "nothing"))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: no room")])
def test_memory_that_is_not_enough_gives_one_line(monkeypatch, tmp_path, capsys, error):
    def failure():
        raise error

    assert fails(monkeypatch, tmp_path, failure) == 2
    assert "there is not enough memory" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a fault"):
        error = RuntimeError("a fault")
        fails(monkeypatch, tmp_path, failure)


def test_segment_a_file(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", GOOD)
    target = tmp_path / "out.jsonl"
    command = ["segment", "--input", str(source), "--output", str(target), "--strategy", "rouge"]
    assert main([*command, "--config.segment.beta=1.0", "--show", "1"]) == 0
    out = capsys.readouterr().out
    assert "ES | Ann has 3 dogs." in out and "AS | So 3 * 4 = 12." in out
    provenance, (row,) = read_segments(target)
    assert provenance["strategy"] == "rouge" and "".join(row.texts) == row.text
    assert main(command) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_a_beta_that_labels_nothing_as_is_said_with_one_that_would(tmp_path, capsys):
    record = {
        "id": "1",
        "question": "Ann has 3 dogs, Ben has 4 times as many dogs as Ann, and "
        "Cleo has 5 fewer dogs than Ben does.",
        "answer": "7",
        "rationale": "Ann has 3 dogs here. Ben has 3 * 4 = 12. Cleo has 12 - 5 = 7.",
    }
    source = write(tmp_path / "in.jsonl", *(record | {"id": str(i)} for i in range(3)))
    command = ["segment", "--input", str(source), "--strategy", "bleu"]
    first = [*command, "--output", str(tmp_path / "1.jsonl"), "--config.segment.beta=1.4"]
    assert main(first) == 0
    error = capsys.readouterr().err
    assert "warning: 0.0% of all pieces are AS; 0% of the rationales have both labels" in error
    beta = float(error.partition("segment.beta=")[2])
    second = [
        *command,
        "--output",
        str(tmp_path / "2.jsonl"),
        f"--config.segment.beta={beta - 1e-4}",
    ]
    assert main(second) == 0
    assert capsys.readouterr().err == ""
    provenance, rows = read_segments(tmp_path / "2.jsonl")
    assert 1.0 <= provenance["beta"] < 1.4
    assert all(set(row.labels) == {"ES", "AS"} for row in rows)
    assert main([*command, "--output", str(tmp_path / "3.jsonl")]) == 0
    assert read_segments(tmp_path / "3.jsonl")[0]["beta"] == 1.0  # its own


@pytest.mark.parametrize(
    "lines, words",
    [
        ([GOOD, "{not json\n"], ["in.jsonl:2", "JSON"]),
        ([{k: v for k, v in GOOD.items() if k != "rationale"}], ["in.jsonl:1", "'rationale'"]),
        ([GOOD | {"rationale": "  "}], ["in.jsonl:1", "'rationale'", "empty"]),
        ([GOOD | {"question": ["x", "y"]}], ["in.jsonl:1", "'question'"]),
        ([GOOD, GOOD], ["in.jsonl:2: has the question and rationale of", "in.jsonl:1"]),
    ],
)
def test_bad_records_name_file_line_and_field(tmp_path, capsys, lines, words):
    source = write(tmp_path / "in.jsonl", *lines)
    target = tmp_path / "out.jsonl"
    command = ["segment", "--input", str(source), "--output", str(target)]
    assert main([*command, "--strategy", "location"]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not target.exists()


def test_entropy_without_a_model_is_explained(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", GOOD)
    command = ["segment", "--input", str(source), "--output", str(tmp_path / "out.jsonl")]
    assert main([*command, "--strategy", "entropy"]) == 2
    assert "needs a trained scorer" in capsys.readouterr().err


def test_predictions_without_a_field_name_it(tmp_path, capsys):
    path = write(tmp_path / "p.jsonl", {"chain": "x"})
    assert main(["evaluate", "--predictions", str(path)]) == 2
    assert "p.jsonl:1: field 'segments' is missing" in capsys.readouterr().err


ANSWERED = {"chain": "Fish swim.\n#### no\n#### yes", "segments": [], "tokens": 3,
            "reference_answer": "no", "reference_chain": "Fish swim. #### no"}  # fmt: skip


def test_answers_of_files_behind_the_words_of_a_template(tmp_path, capsys):
    command = ["evaluate", "--predictions", str(write(tmp_path / "p.jsonl", ANSWERED))]
    command += ["--metric", "exact"]
    for more, accuracy in (([], 0.0), (["--answer-template", "#### {answer}"], 1.0)):
        assert main([*command, *more]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["accuracy"], found["done_share"]) == (accuracy, None)
    assert main([*command, "--answer-template", "####"]) == 2
    assert "must hold {answer}, got '####'" in capsys.readouterr().err
    for bad in ({"chain": 5}, {"tokens": True}, {"gold": [["x"]]}, {"reference_answer": None}):
        write(tmp_path / "p.jsonl", ANSWERED | bad)
        assert main(command) == 2
        assert f"p.jsonl:1: field '{next(iter(bad))}' must be" in capsys.readouterr().err


def test_asking_for_help_does_not_load_jax():
    code = "import sys; from asesjax.cli.main import main; main([]); print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.endswith("False\n")
