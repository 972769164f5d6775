"""One small prepared run with its tasks registered. The tests here skip where seqio is absent."""

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

FIELDS = {
    "data.n_train": "60", "data.n_validation": "12", "data.n_test": "7",
    "segment.strategy": "location", "ases.gamma": "0.37",
}  # fmt: skip


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A function that prepares data and segments of a run with some fields changed."""
    from asesjax.config import base_config, finish
    from asesjax.jobs import data as data_jobs
    from asesjax.methods.ases import stages as segmentation
    from asesjax.run import Run

    def prepare(**fields):
        named = {name.replace("__", "."): value for name, value in fields.items()}
        config = finish(base_config(), FIELDS | named)
        run = Run(config, tmp_path_factory.mktemp("run"), say=lambda text: None)
        data_jobs.prepare_data(run)
        segmentation.score_pieces(run)
        segmentation.segment_pieces(run)
        return run

    return prepare


@pytest.fixture(scope="session")
def run(prepared):
    from asesjax.tasks.register import register_run

    run = prepared()
    register_run(run, "small")
    return run
