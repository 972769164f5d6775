"""One process alone; several are started in tests/train/test_processes.py."""

import pytest

from asesjax.core import processes
from asesjax.core.errors import UserError


def test_one_process_is_first_and_leads_nobody(capsys):
    processes.start("")
    assert processes.is_first() and not processes.several()
    done = []
    with processes.leading() as together:
        together(0, lambda: done.append("together"))()
    processes.say("heard")
    assert done == ["together"] and capsys.readouterr().out == "heard\n"


def test_errors_of_the_leader_are_its_own():
    with pytest.raises(KeyError), processes.leading() as together:
        together(0, {}.popitem)()


@pytest.mark.parametrize(
    "arguments",
    [("host:80",), ("host:80", 2), ("host:80", 2, 2), ("host:80", 2, -1), ("80", 2, 0), ("", 2, 0),
     ("host:x", 2, 0), ("auto", 2, None)],
)  # fmt: skip
def test_arguments_that_do_not_fit_together_are_told(arguments):
    with pytest.raises(UserError, match="--process"):
        processes.start(*arguments)
