"""Files that runs write."""

import pytest

from asesjax.core.files import read_jsonl
from asesjax.core.ragged import read_annotations


@pytest.fixture(scope="session")
def annotations():
    """A function that reads arrays of the records of a split: name to a list for each record."""

    def read(workdir, file, split="train"):
        ids = [record["id"] for _, record in read_jsonl(workdir / f"data/{split}.jsonl")]
        found = read_annotations(workdir / file, ids)
        return {name: [row.tolist() for row in ragged.rows()] for name, ragged in found.items()}

    return read
