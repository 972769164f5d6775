"""``generate --input``: files that resume after any interruption."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import pytest
from shared.environment import xla_flags
from shared.random_run import VOCAB, generate

from asesjax.cli import generate_file
from asesjax.core.files import read_json, read_jsonl, write_json
from asesjax.evals.runner import n_compilations
from asesjax.experiment import open_run
from asesjax.models import t5
from asesjax.run import model_config
from asesjax.training.checkpoint import save_params

SAMPLE = ["--config.decode.sampler=sample"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(generate_file, "CHUNK_CHAINS", 12)
    monkeypatch.setattr(generate_file, "CHUNK_BATCHES", 1)


def questions(n=30, own=True):
    """Rows of every kind: bounds and beginnings of their own, or none."""
    rng = random.Random(3)
    rows = [{"question": "".join(rng.choices("abc é", k=rng.randint(2, 9))) + "?"}
            for _ in range(n)]  # fmt: skip
    for i, row in enumerate(rows if own else []):
        row |= {"id": f"q{i}", "answer": "3"} if i % 2 else {}
        row |= {"max_rounds": 1 + i % 3, "max_segment_tokens": [2, 4][: i % 3] or 5}
        row |= {"max_chain_tokens": 5 + i % 8, "prefix": "b"[: i % 2]}
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path):
    return [row for _, row in read_jsonl(path)]


@pytest.fixture(scope="module")
def whole(workdir, tmp_path_factory):
    """A file of questions, and the answers of a command that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    source, target = write(folder / "in.jsonl", questions()), folder / "out.jsonl"
    patch = pytest.MonkeyPatch()
    with patch.context() as p:
        p.setattr(generate_file, "CHUNK_CHAINS", 12)
        p.setattr(generate_file, "CHUNK_BATCHES", 1)
        assert generate(workdir, *command(source, target)) == 0
    return source, target


def command(source, target):
    return ["--input", source, "--output", target, "--log-probabilities", *SAMPLE]


def test_rows_hold_what_is_promised(whole, capsys):
    rows = read(whole[1])
    assert [row["question"] for row in rows] == [row["question"] for row in questions()]
    assert [row["id"] for row in rows[:4]] == ["1", "q1", "3", "q3"]
    for given, row in zip(questions(), rows, strict=True):
        ids = sum((part["ids"] for part in row["segments"]), [])
        assert VOCAB.decode(ids) == row["chain"] and row["chain"].startswith(given["prefix"])
        assert row["finish_reason"] in ("end", "length", "repeated")
        assert row["reference_answer"] == given.get("answer", "")
        sizes = [len(part["ids"]) for part in row["segments"]]
        assert len(sizes) <= given["max_rounds"] and sum(sizes) <= given["max_chain_tokens"]
        bounds = given["max_segment_tokens"]
        bounds = bounds if isinstance(bounds, list) else [bounds]
        assert all(n <= bounds[min(i, len(bounds) - 1)] for i, n in enumerate(sizes))
        steps = sum((part["log_probabilities"] for part in row["segments"]), [])
        assert row["log_probability"] <= sum(steps) + 1e-3  # end marks have theirs too
    assert len({row["chain"] for row in rows}) > 20
    assert read_json(f"{whole[1]}.run.json")["finished"] is True


def test_a_finished_output_is_left_alone(whole, workdir, capsys):
    before = whole[1].read_bytes(), whole[1].stat().st_mtime_ns
    assert generate(workdir, *command(*whole)) == 0
    assert "is complete: 30 answers" in capsys.readouterr().out
    assert (whole[1].read_bytes(), whole[1].stat().st_mtime_ns) == before


def cuts(content):
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    rng = random.Random(5)
    return [0, 1, ends[0], ends[11], ends[11] - 1, ends[12], ends[-2], len(content) - 1,
            *rng.sample(range(len(content)), 6)]  # fmt: skip


def test_cut_anywhere_it_resumes_to_the_same_bytes(whole, workdir, tmp_path, capsys):
    source, target = whole
    content, card = target.read_bytes(), read_json(f"{target}.run.json")
    before = n_compilations()
    for cut in cuts(content):
        again = tmp_path / f"{cut}.jsonl"
        again.write_bytes(content[:cut])
        write_json(f"{again}.run.json", card | {"finished": False})
        assert generate(workdir, *command(source, again)) == 0
        assert again.read_bytes() == content, cut
        assert read_json(f"{again}.run.json") == card
        captured = capsys.readouterr()
        assert "30 answers" in captured.out and "warning" not in captured.err
        assert ("resumes behind" in captured.err) == (b"\n" in content[:cut])
    assert n_compilations() == before


def test_what_stands_together_does_not_depend_on_where_it_stopped(
    whole, workdir, tmp_path, monkeypatch
):
    """On some devices and shapes the last bits depend on it, so that bytes alone prove little."""
    source, target = whole
    lines, again = target.read_bytes().splitlines(keepends=True), tmp_path / "out.jsonl"
    real, asked, call = generate_file.stream_answers, [], []

    def recording(*args):
        _, part, decoder, _ = args
        asked.append(part.rows.tolist())
        call.append((decoder, [value.shape for value in part.limits], len(part.forced[0])))
        return real(*args)

    monkeypatch.setattr(generate_file, "stream_answers", recording)
    borders = generate_file.chunks(30, 1, 4)
    assert len(borders) > 1
    for there in (0, 1, borders[0][1] - 1, borders[0][1], 29):
        again.write_bytes(b"".join(lines[:there]))
        write_json(f"{again}.run.json", read_json(f"{target}.run.json"))
        asked.clear()
        assert generate(workdir, *command(source, again)) == 0
        assert asked == [list(range(*border)) for border in borders if border[1] > there]
    assert len({str((decoder, [s[1:] for s in shapes], f)) for decoder, shapes, f in call}) == 1


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 42), (signal.SIGINT, 130)])
def test_a_signal_stops_it_at_once_and_it_resumes(
    whole, workdir, tmp_path, capsys, monkeypatch, number, status
):
    source, target = whole
    again, real = tmp_path / "out.jsonl", generate_file.prediction_row

    def signalled(*args):
        os.kill(os.getpid(), number)
        return real(*args)

    monkeypatch.setattr(generate_file, "prediction_row", signalled)
    assert generate(workdir, *command(source, again)) == status
    assert "the same command resumes" in capsys.readouterr().err
    monkeypatch.setattr(generate_file, "prediction_row", real)
    assert generate(workdir, *command(source, again)) == 0
    assert again.read_bytes() == target.read_bytes()

    # While it waits for a question that nobody types.
    reading, writing = os.pipe()
    with os.fdopen(reading) as nothing, os.fdopen(writing, "w"):
        monkeypatch.setattr("sys.stdin", nothing)
        threading.Timer(1.0, os.kill, (os.getpid(), number)).start()
        assert generate(workdir, "--interactive") == status


def test_stopped_by_hand_it_resumes(whole, workdir, tmp_path, capsys, monkeypatch):
    source, target = whole
    again, seen = tmp_path / "out.jsonl", []
    real = generate_file.prediction_row

    def stopping(*args):
        seen.append(read(again))
        if len(seen) in (1, 9, 30):
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(generate_file, "prediction_row", stopping)
    for _ in range(3):
        assert generate(workdir, *command(source, again)) == 130
    assert "the same command resumes" in capsys.readouterr().err
    # Every row was in the file before the next one was made.
    assert [len(rows) for rows in seen[1:9]] == list(range(8))
    monkeypatch.setattr(generate_file, "prediction_row", real)
    assert generate(workdir, *command(source, again)) == 0
    assert again.read_bytes() == target.read_bytes()


@pytest.mark.parametrize(
    "more, words",
    [
        (["--config.decode.temperature=0.5"], "config.decode.temperature: 1.0 -> 0.5"),
        (["--config.decode.seed=1"], "config.decode.seed: 0 -> 1"),
        (["--method", "dsm"], "method: 'usm' -> 'dsm'"),
        ([], "log_probabilities: True -> False"),
    ],
)
def test_other_settings_do_not_resume(whole, workdir, tmp_path, capsys, more, words):
    source, target = whole
    content = target.read_bytes()
    again = tmp_path / "out.jsonl"
    again.write_bytes(content[:200])
    write_json(f"{again}.run.json", read_json(f"{target}.run.json"))
    flag = ["--log-probabilities"] if more else []
    more = [*flag, *more]
    assert generate(workdir, "--input", source, "--output", again, *SAMPLE, *more) == 2
    error = capsys.readouterr().err
    assert words in error and "Nothing is overwritten" in error
    assert again.read_bytes() == content[:200]


def test_other_questions_or_a_foreign_file_do_not_resume(whole, workdir, tmp_path, capsys):
    source, target = whole
    rows = questions()
    rows[20]["question"] = "another?"
    other = write(tmp_path / "in.jsonl", rows)
    assert generate(workdir, *command(other, target)) == 2
    assert "input.sha256: " in capsys.readouterr().err

    content = target.read_bytes()
    foreign = tmp_path / "out.jsonl"
    foreign.write_bytes(content)
    assert generate(workdir, *command(source, foreign)) == 2
    assert "no out.jsonl.run.json beside it" in capsys.readouterr().err
    write_json(f"{foreign}.run.json", read_json(f"{target}.run.json"))
    first, second, *rest = content.splitlines(keepends=True)
    for wrong in (second + first, b"{not json}\n", first * 2):
        foreign.write_bytes(wrong)
        assert generate(workdir, *command(source, foreign)) == 2
        assert "out.jsonl:" in capsys.readouterr().err
        assert foreign.read_bytes() == wrong
    foreign.write_bytes(content + first)
    assert generate(workdir, *command(source, foreign)) == 2
    assert "31 rows for 30 questions" in capsys.readouterr().err


def test_rows_that_come_out_otherwise_are_told(whole, workdir, tmp_path, capsys):
    source, target = whole
    first, *rest = target.read_bytes().splitlines(keepends=True)
    again = tmp_path / "out.jsonl"
    again.write_bytes(first.replace(b'"tokens": ', b'"tokens": 1'))
    card = read_json(f"{target}.run.json")
    write_json(f"{again}.run.json", card | {"versions": card["versions"] | {"jax": "0.1"}})
    assert generate(workdir, *command(source, again)) == 0
    error = capsys.readouterr().err
    assert "versions.jax: '0.1' -> " in error and "row 1 of" in error
    assert again.read_bytes().splitlines(keepends=True)[1:] == rest


def test_two_at_once_are_refused(whole, workdir, tmp_path, capsys):
    import fcntl

    target = tmp_path / "out.jsonl"
    with open(target, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert generate(workdir, *command(whole[0], target)) == 2
    assert "another process is writing" in capsys.readouterr().err


def test_chunks_cover_all_and_know_only_the_input(monkeypatch):
    for n in range(1, 80):
        for samples in (1, 3, 20):
            for batch in (1, 4, 30):
                borders = generate_file.chunks(n, samples, batch)
                assert [i for start, end in borders for i in range(start, end)] == list(range(n))
                if len(borders) > 1:
                    assert min(end - start for start, end in borders) * samples >= batch


GOOD = {"question": "ab?"}


@pytest.mark.parametrize(
    "row, words",
    [
        ({"question": " "}, "in.jsonl:2: field 'question' is empty"),
        ({"question": ["a", "b"]}, "in.jsonl:2: field 'question' must be text, got a list of 2"),
        ({"question": "a <extra_id_0>"}, "in.jsonl:2: field 'question' holds <extra_id_0>"),
        (GOOD | {"answer": float("nan")}, "in.jsonl:2: field 'answer': NaN is no number"),
        ({"question": "a" * 25}, "in.jsonl:2: its question has 25 tokens"),
        (GOOD | {"max_rounds": 0}, "in.jsonl:2: field 'max_rounds' must be a whole number from 1"),
        (GOOD | {"max_rounds": 4}, "from 1 to 3 (decode.max_rounds)"),
        (GOOD | {"max_chain_tokens": 2.5}, "in.jsonl:2: field 'max_chain_tokens'"),
        (GOOD | {"max_chain_tokens": True}, "in.jsonl:2: field 'max_chain_tokens'"),
        (GOOD | {"max_segment_tokens": [3, 0]}, "or a list of such"),
        (GOOD | {"max_segment_tokens": []}, "in.jsonl:2: field 'max_segment_tokens'"),
        (GOOD | {"max_segment_tokens": [2, 2, 2, 2]}, "bounds for 4 segments"),
        (GOOD | {"prefix": 3}, "in.jsonl:2: field 'prefix' must be a text"),
        (GOOD | {"prefix": "abcdef"}, "in.jsonl:2: field 'prefix': the prefix has 6 tokens"),
        (GOOD | {"prefix": "ab", "max_chain_tokens": 2}, "fewer than the 2"),
        ({"question": "a\ud800"}, "in.jsonl:2: field 'question' holds half a surrogate pair"),
    ],
)
def test_bad_rows_are_named_before_anything_is_generated(workdir, tmp_path, capsys, row, words):
    source = write(tmp_path / "in.jsonl", [GOOD, row])
    assert generate(workdir, "--input", source, "--output", tmp_path / "out.jsonl") == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


@pytest.mark.timeout(60)
def test_an_output_that_is_no_file_is_not_read(workdir, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", questions(1))
    for target in ("/dev/full", "/dev/zero", tmp_path):
        assert generate(workdir, "--input", source, "--output", target) == 2
        assert f"--output {target} is no file that can be continued" in capsys.readouterr().err


def test_bad_files_are_named(workdir, tmp_path, capsys):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    for content, words in (
        (b'{"question": "a?"}\n{"question": "\xff"}\n', "in.jsonl:2: not JSON in UTF-8"),
        (b'{"question": "a?", "question": "b?"}', "in.jsonl:1: field 'question' stands twice"),
        (b"[" * 100_000, "in.jsonl:1: not JSON in UTF-8: brackets are nested too deeply"),
        (b"", "holds no questions"),
        (b"{\n", "in.jsonl:1: not JSON"),
    ):
        source.write_bytes(content)
        assert generate(workdir, "--input", source, "--output", target) == 2
        assert words in capsys.readouterr().err
    assert generate(workdir, "--input", tmp_path / "x", "--output", target) == 2
    assert "cannot read" in capsys.readouterr().err
    write(source, [GOOD])
    (tmp_path / "file").write_text("")
    assert generate(workdir, "--input", source, "--output", tmp_path / "file/out.jsonl") == 2
    assert "cannot write" in capsys.readouterr().err


def test_logits_that_are_not_finite_are_reported(workdir, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", questions(5, own=False))
    target, damaged = tmp_path / "out.jsonl", tmp_path / "run"
    (damaged / "roles/usm").mkdir(parents=True)
    (damaged / "vocab").symlink_to(workdir / "vocab")
    shutil.copy(workdir / "config.json", damaged)
    model = model_config(open_run(None, damaged), VOCAB)
    params = t5.init(model, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    save_params(damaged / "roles/usm/main/checkpoints", params)
    assert generate(damaged, "--input", source, "--output", target, *SAMPLE) == 0
    assert "(others: 5 nonfinite); where" in capsys.readouterr().out
    for row in read(target):
        assert row["finish_reason"] == "nonfinite"
        assert row["chain"] == "" and row["answer"] is None and not row["cut_segments"]


def test_chains_that_vote(workdir, tmp_path):
    source = write(tmp_path / "in.jsonl", questions(7, own=False))
    one, three = tmp_path / "one.jsonl", tmp_path / "three.jsonl"
    for target in (one, three):
        more = [*SAMPLE, "--config.decode.samples=3"] if target == three else SAMPLE
        assert generate(workdir, "--input", source, "--output", target, *more) == 0
    assert len({row["chain"] for row in read(one)}) > 1
    for row in read(three):
        assert row["samples"] == 3 >= sum(row["votes"].values())
        assert row["answer"] == (next(iter(row["votes"])) if row["votes"] else None)
        assert row["tied"] in (True, False)


def test_one_device_writes_what_eight_do(workdir, tmp_path, monkeypatch):
    source = write(tmp_path / "in.jsonl", questions(9, own=False))
    chains = []
    for name in ("eight", "one"):
        if name == "one":
            monkeypatch.setattr(generate_file, "own_mesh", lambda run: None)
        target = tmp_path / f"{name}.jsonl"
        assert generate(workdir, "--input", source, "--output", target, *SAMPLE) == 0
        chains.append([row["chain"] for row in read(target)])
    assert chains[0] == chains[1]


@pytest.mark.slow
def test_killed_it_resumes_to_the_same_bytes(workdir, tmp_path):
    source = write(tmp_path / "in.jsonl", questions(400))
    lines = [
        "import sys", "from asesjax.cli import generate_file, main",
        "generate_file.CHUNK_CHAINS, generate_file.CHUNK_BATCHES = 50, 1",
        "sys.exit(main.main(sys.argv[1:]))",
    ]  # fmt: skip

    def start(target):
        return subprocess.Popen(
            [sys.executable, "-c", "\n".join(lines), "generate", "--workdir", str(workdir),
             "--method", "usm", *map(str, command(source, target))],
            env=os.environ | {"XLA_FLAGS": xla_flags(1), "PYTHONWARNINGS": "error"},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    assert start(whole).wait() == 0
    stopped = []
    for share in (0.01, 0.4, 0.7):
        process = start(killed)
        deadline = time.time() + 300
        while not killed.exists() or killed.stat().st_size <= share * whole.stat().st_size:
            assert process.poll() is None and time.time() < deadline
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        stopped.append(killed.stat().st_size)
        assert whole.read_bytes().startswith(killed.read_bytes())
    assert stopped == sorted(set(stopped)) and stopped[-1] < whole.stat().st_size
    assert start(killed).wait() == 0
    assert killed.read_bytes() == whole.read_bytes()
