"""Rows of different lengths in a file: a round trip, and what is refused by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.core.errors import UserError
from asesjax.core.ragged import Ragged, read_annotations, write_annotations

ROWS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=6)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.text(max_size=4))
def test_what_was_written_is_read(tmp_path_factory, rows, name):
    path = tmp_path_factory.getbasetemp() / "ragged/notes.npz"
    ids = [f"{name}/{i}" for i in range(len(rows))]
    halves = [[value / 2 for value in row] for row in rows]
    numbers, shares = Ragged.of(rows, np.int32), Ragged.of(halves, np.float64)
    write_annotations(path, ids, numbers=numbers, shares=shares)
    found = read_annotations(path, ids)
    assert list(found) == ["numbers", "shares"]
    for ragged, want, dtype in zip(found.values(), (rows, halves), (np.int32, np.float64),
                                   strict=True):  # fmt: skip
        assert ragged.values.dtype == dtype and ragged.ends.dtype == np.int64
        assert [row.tolist() for row in ragged.rows()] == want
    assert [file.name for file in path.parent.iterdir()] == ["notes.npz"]


@pytest.fixture
def path(tmp_path):
    rows = Ragged.of([np.arange(50), np.arange(7)], np.int32)
    write_annotations(tmp_path / "notes.npz", ["a", "b"], places=rows)
    return tmp_path / "notes.npz"


@pytest.mark.parametrize("ids", [["a"], ["b", "a"], ["a", "b", "c"], []])
def test_annotations_of_other_records_are_refused(path, ids):
    with pytest.raises(UserError, match="notes.npz is of other records; run again with --redo"):
        read_annotations(path, ids)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.99])
def test_a_cut_file_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="notes.npz is damaged .* remove it and run again"):
        read_annotations(path, ["a", "b"])


def test_a_changed_or_missing_file_is_refused(path):
    content = bytearray(path.read_bytes())
    place = content.index(np.arange(50, dtype=np.int32).tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="notes.npz is damaged"):
        read_annotations(path, ["a", "b"])
    np.savez(path, values=np.zeros(3))
    with pytest.raises(UserError, match="notes.npz is damaged"):
        read_annotations(path, ["a", "b"])
    path.unlink()
    with pytest.raises(UserError, match="notes.npz does not exist; run the stage that writes it"):
        read_annotations(path, ["a", "b"])
