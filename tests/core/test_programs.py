"""A process does not fill its memory maps with programs."""

import jax
import jax.numpy as jnp
import pytest

from asesjax.core import programs


@pytest.mark.skipif(not programs._LIMIT.is_file(), reason="Linux counts memory maps")
def test_programs_are_dropped_near_the_limit_alone(tmp_path, monkeypatch):
    limit = tmp_path / "max_map_count"
    monkeypatch.setattr(programs, "_LIMIT", limit)
    double = jax.jit(lambda x: x * 2)
    double(jnp.ones(3))
    limit.write_text("10000000\n")
    assert not programs.drop_programs() and double._cache_size() == 1
    limit.write_text("30\n")
    assert programs.drop_programs() and double._cache_size() == 0


def test_other_systems_have_no_such_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_LIMIT", tmp_path / "missing")
    assert not programs.drop_programs()
