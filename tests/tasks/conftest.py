"""One small prepared run, its tasks registered; without seqio everything here is skipped."""

import pytest

pytest.importorskip("seqio")

from asesjax import jobs  # noqa: E402
from asesjax.core.config import base_config, finish  # noqa: E402
from asesjax.run import Run  # noqa: E402
from asesjax.tasks.register import register_run  # noqa: E402

FIELDS = {
    "data.n_train": "60", "data.n_validation": "12", "data.n_test": "7",
    "segment.strategy": "location", "ases.gamma": "0.37",
}  # fmt: skip


def prepared_run(folder, **fields):
    run = Run(finish(base_config(), FIELDS | fields), folder, say=lambda text: None)
    jobs.prepare_data(run)
    jobs.score_pieces(run, has_scorer=False)
    jobs.segment_pieces(run)
    return run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    run = prepared_run(tmp_path_factory.mktemp("run"))
    register_run(run, "small")
    return run
