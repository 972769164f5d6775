import fcntl
import subprocess
import sys

import pytest

from asesjax.core.errors import UserError, unknown
from asesjax.core.files import locked, read_json, read_jsonl, write_json, write_jsonl, write_text


def test_round_trip_and_no_temporary_files_left(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"x": (1, "é")})
    assert read_json(tmp_path / "deep" / "a.json") == {"x": [1, "é"]}
    write_jsonl(tmp_path / "b.jsonl", [{"a": 1}, {"a": "\n\u2028"}])
    assert list(read_jsonl(tmp_path / "b.jsonl")) == [(1, {"a": 1}), (2, {"a": "\n\u2028"})]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "body, words",
    [
        (b'{"a": 1}\n{"a": \n', ":2: not JSON"), (b"[1]\n", ":1: expected a JSON object, got list"),
        (b"null", ":1: expected a JSON object, got None"), (b"7", "a JSON object, got int"),
        (b'{"a": 1}\n{"a": "\xff"}', ":2: not JSON in UTF-8: 'utf-8' codec"),
        (b'{"a": ' + b"9" * 5000 + b"}", ":1: not JSON in UTF-8: a number of more than 4,300"),
        (b'{"a": ' + b"[" * 200_000 + b"}", ":1: not JSON in UTF-8: brackets"),
        (b'{"a": ' + b'{"a":' * 200_000 + b"}", ":1: not JSON in UTF-8: brackets"),
        (b"\x00", ":1: not JSON"),
    ],
)
@pytest.mark.parametrize("read", [read_json, lambda path: list(read_jsonl(path))])
def test_bad_json_is_named(tmp_path, read, body, words):
    path = tmp_path / "x.json"
    path.write_bytes(body)
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in str(error.value) and words in str(error.value)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="cannot read .*x.json: Is a directory"):
        read(path)
    with pytest.raises(UserError, match="cannot write .*x.json: what lies there is no file"):
        write_json(path, {})


def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "a.txt", "x")
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / ".folder.20.tmp/weights").mkdir(parents=True)
    names = ["a.txt", ".a.txt.17.tmp", "deep/.b.txt.18.tmp", ".c.tmp", ".d.x.tmp"]
    for name in names:
        (tmp_path / name).write_text("half")
    with open(tmp_path / ".a.txt.19.tmp", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # a process that is writing
        write_text(tmp_path / "a.txt", "whole")
        left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
        assert left == {*names, ".a.txt.19.tmp"} - {".a.txt.17.tmp"}
    with locked(tmp_path):
        left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"a.txt", ".c.tmp", ".d.x.tmp", ".lock"}


def test_absent_files_are_named(tmp_path):
    for read in (read_json, lambda path: list(read_jsonl(path))):
        with pytest.raises(UserError, match="absent.x does not exist"):
            read(tmp_path / "absent.x")


def test_two_processes_cannot_share_a_workdir(tmp_path):
    code = (
        "import sys\nfrom asesjax.core.files import locked\n"
        "from asesjax.core.errors import UserError\n"
        "try:\n    with locked(sys.argv[1]): print('free')\n"
        "except UserError as error: print(error)\n"
    )

    def other():
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout

    with locked(tmp_path):
        assert "another run is using workdir" in other()
    assert other() == "free\n"


def test_unknown_without_a_near_name_lists_all():
    assert str(unknown("verb", "zzz", ["run", "train"])) == "unknown verb 'zzz'; Valid: run, train"
