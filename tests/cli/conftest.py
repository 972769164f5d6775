import pytest
from shared.random_run import write_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose roles hold random parameters."""
    workdir = tmp_path_factory.mktemp("generate") / "run"
    write_run(workdir)
    return workdir
