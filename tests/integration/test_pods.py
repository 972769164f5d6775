"""Scores, weights, skip data and predictions are the same from any number of processes."""

import random
import shutil
import signal
import time

import pytest
from shared.processes import ROOT, ended, run_in

from asesjax.cli.main import main
from asesjax.core.errors import EXIT_LOST
from asesjax.core.files import read_json, read_jsonl, read_record

pytestmark = pytest.mark.long

RUN = ["--config", str(ROOT / "configs/smoke.py")]
FEW = ["--config.methods=direct,usm", "--config.decode.sampler=sample", "--config.decode.samples=2",
       "--config.data.n_test=13"]  # fmt: skip
MANY = ["--config.methods=direct,usm,kpod,cwt,skip_thinking", "--config.kpod.weight_epochs=1.0",
        "--config.train.normalize=examples", "--config.chunk.chunking=search",
        "--config.vocab.extra_ids=12", "--config.decode.curve_questions=2"]  # fmt: skip
PASSES = ("score", "decode-", "skip-data", "kpod-weights", "kpod-difficulty", "segment", "report")
MADE = ("scores", "segments", "predictions", "curves", "skip", "kpod/weights", "kpod/difficulty")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a function of fields: a whole run of n processes that share eight devices."""
    done = {}

    def run(fields, n=1):
        if (key := (*fields, n)) not in done:
            workdir = tmp_path_factory.mktemp("pods") / "run"
            if n == 1:
                assert main(["run", *RUN, "--workdir", str(workdir), *fields]) == 0
            else:
                statuses, said = ended(start(workdir, n, *fields))
                assert statuses == [0] * n, "".join(said)
            done[key] = workdir
        return done[key]

    return run


def without_passes(source, workdir):
    """Copy a run with nothing but its data and what was trained."""
    shutil.copytree(source, workdir)
    for name in MADE:
        shutil.rmtree(workdir / name, ignore_errors=True)
    for record in (workdir / "stages").iterdir():
        if record.name.startswith(PASSES):
            record.unlink()
    return workdir


def start(workdir, n, *fields):
    return run_in(n, *RUN, "--workdir", workdir, *fields)


def made(workdir):
    """Everything that passes over data write, but for how long they took."""
    files = [path for name in MADE for path in sorted((workdir / name).rglob("*"))]
    return {
        str(path.relative_to(workdir)): path.read_bytes() for path in files
        if path.is_file() and path.name != "decode.json"
    }  # fmt: skip


def test_two_processes_write_the_same_bytes(trained, tmp_path):
    whole = trained(FEW)
    workdir = without_passes(whole, tmp_path / "run")
    statuses, (first, second) = ended(start(workdir, 2, *FEW))
    assert statuses == [0, 0], first + second
    assert made(workdir) == made(whole)
    assert "questions/s" in first and "questions/s" not in second
    one, two = (read_json(w / "predictions/usm/decode.json") for w in (whole, workdir))
    assert one["useful_steps"] == two["useful_steps"] and "processes" not in one
    assert [own["questions"] for own in two["processes"]] == [7, 6]


def test_two_processes_answer_a_file_with_the_same_bytes(trained, tmp_path):
    workdir = trained(FEW)
    asked = ["--workdir", workdir, "--method", "usm", "--log-probabilities",
             "--input", workdir / "data/test.jsonl", "--output"]  # fmt: skip
    assert main(["generate", *map(str, asked), str(tmp_path / "one.jsonl")]) == 0
    whole = (tmp_path / "one.jsonl").read_bytes()
    begun = tmp_path / "two.jsonl"
    begun.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    shutil.copy(tmp_path / "one.jsonl.run.json", tmp_path / "two.jsonl.run.json")
    statuses, (first, second) = ended(run_in(2, *asked, begun, verb="generate"))
    assert statuses == [0, 0], first + second
    assert begun.read_bytes() == whole
    assert "resumes behind 3 of 13 answers" in first and "13 answers" in first
    assert "jsonl" not in second
    statuses, said = ended(run_in(2, *asked[:4], "--question", "?", verb="generate"))
    assert statuses == [2, 2] and all("share the questions of --input" in one for one in said)


@pytest.mark.slow
def test_four_processes_write_the_same_bytes(trained, tmp_path):
    whole = trained(MANY)
    workdir = without_passes(whole, tmp_path / "run")
    statuses, said = ended(start(workdir, 4, *MANY))
    assert statuses == [0] * 4, "".join(said)
    assert made(workdir) == made(whole)


@pytest.mark.slow
def test_processes_that_share_parameters_write_the_same_chains(trained, tmp_path):
    whole = trained(MANY)
    workdir = without_passes(whole, tmp_path / "run")
    across = ["--config.mesh.passes=all", "--config.mesh.preset=fsdp", "--config.mesh.fsdp=8",
              "--config.mesh.data=1"]  # fmt: skip
    statuses, said = ended(start(workdir, 2, *MANY, *across))
    assert statuses == [0, 0], "".join(said)
    names = sorted(str(path.relative_to(whole)) for path in whole.glob("predictions/*/test.jsonl"))
    assert len(names) == 5
    for name in names:
        for (_, row), (_, other) in zip(read_jsonl(whole / name), read_jsonl(workdir / name),
                                        strict=True):  # fmt: skip
            assert row.pop("log_probability") == pytest.approx(other.pop("log_probability"))
            assert row == other


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_of_any_process_change_nothing(trained, tmp_path):
    """Twenty times, with another number of processes each time."""
    whole, rng = trained(MANY), random.Random(5)
    workdir = without_passes(whole, tmp_path / "run")
    for _ in range(20):
        processes = start(workdir, n := rng.choice([1, 2, 4]), *MANY)
        time.sleep(rng.uniform(8, 40))
        processes[rng.randrange(n)].send_signal(signal.SIGKILL)
        statuses, said = ended(processes)
        assert set(statuses) <= {0, -signal.SIGKILL, EXIT_LOST}, "".join(said)
        if rng.random() < 0.3:  # or most are killed where all is done
            shutil.rmtree(workdir)
            without_passes(whole, workdir)
    statuses, said = ended(start(workdir, 2, *MANY))
    assert statuses == [0, 0], "".join(said)
    assert made(workdir) == made(whole)


STAGES = ("data", "train-direct", "score", "segment", "train-usm", "kpod-weights",
          "kpod-difficulty", "train-cwt", "skip-data", "decode-usm", "report")  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", STAGES)
def test_kills_in_a_stage_change_nothing(stage, trained, tmp_path):
    """Twenty times, at a random moment of the stage: any process of 1, 2 or 4 in what is the same
    to the bit from any number; any of two in training, and before it, which is not.
    """
    numbers = [1, 2, 4] if stage.startswith(PASSES) else [2]
    whole, rng = trained(MANY, numbers[0]), random.Random(STAGES.index(stage))
    records = sorted((whole / "stages").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    later = [path.stem for path in records]
    later = later[later.index(stage) :]
    seconds = read_record(whole / f"stages/{stage}.json")["seconds"]
    workdir, hit = tmp_path / "run", 0
    while True:
        if not workdir.exists() or finished(workdir, stage):
            shutil.rmtree(workdir, ignore_errors=True)
            shutil.copytree(whole, workdir)
            for name in later:
                drop(workdir, name)
        if hit == 20:
            break
        processes = start(workdir, n := rng.choice(numbers), *MANY)
        said = iter(processes[0].stdout.readline, "")
        if any(line.startswith((f"[{stage}] starts", f"[{stage}] resumes")) for line in said):
            time.sleep(rng.uniform(0, 1.5 * seconds))
            hit += not finished(workdir, stage)
        processes[rng.randrange(n)].send_signal(signal.SIGKILL)
        statuses, said = ended(processes)
        assert set(statuses) <= {0, -signal.SIGKILL, EXIT_LOST}, "".join(said)
    statuses, said = ended(start(workdir, numbers[0], *MANY))
    assert statuses == [0] * numbers[0], "".join(said)
    found, wanted = ({name: content for name, content in made(folder).items()
                      if "curve.json" not in name} for folder in (workdir, whole))  # fmt: skip
    assert found == wanted  # but for the seconds of training


def finished(workdir, stage):
    path = workdir / f"stages/{stage}.json"
    return path.exists() and read_record(path)["finished"]


def drop(workdir, stage):
    """Remove what a stage wrote, and its record."""
    path = workdir / f"stages/{stage}.json"
    for name in read_record(path)["files"]:
        (workdir / name).unlink(missing_ok=True)
        if name.startswith("roles/"):  # its checkpoints
            shutil.rmtree((workdir / name).parent, ignore_errors=True)
    path.unlink()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSTOP], ids=["stopped", "hangs"])
def test_all_end_where_one_does_not_go_on(number, trained, tmp_path, monkeypatch):
    """Process 1 stops in the pass over the test questions."""
    plugin = tmp_path / "stops.py"
    plugin.write_text(
        "import os, signal\n"
        "from asesjax.core import processes\n"
        "from asesjax.jobs import curve\n"
        # Only one that hangs is to be given up; one that is stopped may come to it late.
        f"processes.START_TIMEOUT = {5.0 if number == signal.SIGSTOP else 300.0}\n"
        "answer = curve.answer_questions\n"
        "def stops(*args):\n"
        "    if processes.part()[0] == 1:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "    return answer(*args)\n"
        "curve.answer_questions = stops\n"
    )
    workdir = without_passes(trained(FEW), tmp_path / "run")
    first, second = start(workdir, 2, *FEW, f"--config.plugins={plugin}")
    try:
        said = first.communicate(timeout=400)[0]
    finally:
        first.kill()
        if number == signal.SIGSTOP:
            second.kill()
        said_too = second.communicate(timeout=400)[0]
    if number == signal.SIGSTOP:
        assert first.returncode == EXIT_LOST, said  # after START_TIMEOUT
        assert "process 1" in said and "was waited for" in said
    else:
        assert [first.returncode, second.returncode] == [42, 42], said + said_too
