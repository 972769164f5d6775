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
    [('{"a": 1}\n{"a": \n', ":2: not JSON"), ("[1]\n", ":1: expected a JSON object, got list")],
)
def test_bad_lines_are_named(tmp_path, body, words):
    path = tmp_path / "x.jsonl"
    path.write_text(body)
    with pytest.raises(UserError) as error:
        list(read_jsonl(path))
    assert f"{path}{words}" in str(error.value)


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
