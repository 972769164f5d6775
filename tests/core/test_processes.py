"""A single process; tests/training/test_processes.py starts several."""

import socket

import pytest

from asesjax.core import processes, run_card
from asesjax.core.errors import UserError


def test_a_single_process_is_first_and_works_alone(capsys):
    processes.start("")
    assert processes.is_first() and not processes.several()
    done = []
    with processes.leading() as together:
        together(0, lambda: done.append("together"))()
    processes.say("heard")
    assert done == ["together"] and capsys.readouterr().out == "heard\n"


def test_errors_of_the_leader_pass_through():
    with pytest.raises(KeyError), processes.leading() as together:
        together(0, {}.popitem)()


def test_a_single_process_compares_nothing():
    processes.check_same({"seed": object()})


def test_start_timeout_must_be_positive():
    with pytest.raises(UserError, match="--start-timeout must be above 0 seconds, got 0"):
        processes.start("host:80", 2, 0, timeout=0)


def test_missing_processes_are_an_error():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=rf"waited 1 s at localhost:{port} for process 1 of 2\."):
        processes.start(f"localhost:{port}", 2, 0, timeout=0.5)
    assert not processes.several()


def test_auto_without_a_cluster_is_refused(monkeypatch):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # where libtpu is installed, jax would ask
    with pytest.raises(UserError, match="found neither a TPU pod nor SLURM nor Open MPI"):
        processes.start("auto", timeout=1)


def test_source_facts_change_with_the_source(tmp_path, monkeypatch):
    (tmp_path / "asesjax").mkdir()
    file = tmp_path / "asesjax/a.py"
    file.write_text("a = 1\n")
    monkeypatch.setattr(run_card, "ROOT", tmp_path)
    first = run_card.source_facts()
    assert first["commit"] is None and first["package jax"]
    file.write_text("a = 2\n")
    second = run_card.source_facts()
    assert {name for name in first if first[name] != second[name]} == {"source"}
    monkeypatch.setenv("ASESJAX_COMMIT", "abc")
    assert run_card.source_facts()["commit"] == "abc"


@pytest.mark.parametrize(
    "arguments",
    [("host:80",), ("host:80", 2), ("host:80", 2, 2), ("host:80", 2, -1), ("80", 2, 0), ("", 2, 0),
     ("host:x", 2, 0), ("auto", 2, None)],
)  # fmt: skip
def test_arguments_that_do_not_fit_together_are_refused(arguments):
    with pytest.raises(UserError, match="--process"):
        processes.start(*arguments)


@pytest.mark.parametrize(
    ("environment", "auto", "all_of_them"),
    [
        ({}, True, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, True, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, True, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "1,4(x12)"}, True, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_GPUS_PER_TASK": "1"}, True, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "8"}, False, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, True, False),
    ],
)
def test_a_task_uses_all_devices_but_those_of_other_tasks(
    environment, auto, all_of_them, monkeypatch
):
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_GPUS_PER_TASK", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes._has_devices(auto) == all_of_them
