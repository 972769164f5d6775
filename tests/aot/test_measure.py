"""Whether a program fits, messages of the compiler, and the estimate, with invented numbers."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from asesjax.aot.hlo import Traffic
from asesjax.aot.measure import as_row, estimate, measure, needed_in_refusal
from asesjax.aot.programs import Program
from asesjax.aot.topology import CHIPS, CPU, GIB
from asesjax.core.errors import UserError
from asesjax.training.meter import peak_flops

V5E = CHIPS["v5e"]
TEXT = """\
ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %all-reduce.1 = f32[8]{0} all-reduce(%a), replica_groups={{0,1}}, to_apply=%add
}
"""


def compiled(peak):
    sizes = {"argument": 2 * GIB, "output": GIB, "alias": GIB, "temp": 20 * GIB,
             "generated_code": 5, "peak_memory": peak}  # fmt: skip
    memory = {f"{k}_size_in_bytes": v for k, v in sizes.items()}
    memory["peak_memory_in_bytes"] = peak
    return types.SimpleNamespace(
        memory_analysis=lambda: types.SimpleNamespace(**memory),
        cost_analysis=lambda: {"flops": 7.0},
        as_text=lambda: TEXT,
    )


def program(compile_=None, kind="TPU v5 lite", **fields):
    device = types.SimpleNamespace(device_kind=kind)
    mesh = types.SimpleNamespace(devices=np.array([device]), shape={"data": 1})
    lowered = types.SimpleNamespace(compile=compile_)
    mine = {"name": "train", "what": "batch 8", "mesh": mesh, "lower": lambda: lowered,
            "flops": 1e12, "tokens": 100, "weights": GIB, "state": GIB}  # fmt: skip
    return Program(**mine | fields)


def refusing(message):
    def compile_():
        raise jax.errors.JaxRuntimeError(message)

    return program(compile_)


@pytest.mark.parametrize(
    "peak, held, fits",
    [(V5E.hbm, 0, True), (V5E.hbm + 1, 0, False), (V5E.hbm - GIB, GIB, True),
     (V5E.hbm - GIB, GIB + 1, False)],
)  # fmt: skip
def test_a_program_fits_up_to_the_last_byte(peak, held, fits):
    """The peak counts: temporaries are not all alive at once."""
    found = measure(program(lambda: compiled(peak), held=held), V5E)
    assert found.fits is fits and found.needed == peak + held
    assert found.memory["temporaries"] > V5E.hbm


def test_every_program_fits_a_cpu():
    assert measure(program(lambda: compiled(10**15), kind="cpu"), CPU).fits


def test_parameters_larger_than_the_chip_are_not_compiled():
    found = measure(program(lambda: pytest.fail("compiled"), state=V5E.hbm, held=1), V5E)
    assert not found.fits and found.needed == V5E.hbm + 1 and "alone" in found.refusal


def test_a_refusal_for_memory_is_a_result():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (34.46G) exceeds available HBM (15.75G).\nmore lines"
    )
    found = measure(refusing(message), V5E)
    assert not found.fits and found.memory is None
    assert found.needed == int(34.46 * GIB)
    assert found.refusal.startswith("Ran out of memory") and "\n" not in found.refusal
    assert as_row(found, V5E)["fits"] is False


def test_another_failure_is_an_error_with_its_message():
    with pytest.raises(UserError, match=r"failed on train \(batch 8\).*INTERNAL: bad groups"):
        measure(refusing("INTERNAL: bad groups\nstack"), V5E)


@pytest.mark.parametrize(
    "message, needed",
    [("temporaries (1.56T) exceeds available HBM (15.75G).", int(1.56 * 2**40)),
     ("Ran out of memory in memory space hbm. Used 29.14G of 15.75G hbm. Exceeded by",
      int(29.14 * GIB)),
     ("Used 512.00M of 1.00K", 512 * 2**20),
     ("no number at all", None)],
)  # fmt: skip
def test_needed_memory_in_a_refusal(message, needed):
    assert needed_in_refusal(message) == needed


def test_the_estimate_has_the_time_of_each_part_alone():
    mine = program(flops=197e12, recomputed=4 / 3)
    found = estimate(mine, V5E, 1e12, Traffic(sent=100e9, moved=819e9))
    assert found == pytest.approx({"compute": 4 / 3, "memory": 1.0, "links": 0.5})
    # The compiler counts more where no loop hides anything.
    assert estimate(mine, V5E, 394e12, Traffic())["compute"] == pytest.approx(2.0)
    # Of a token it counts everything around it too.
    token = dataclasses.replace(mine, name="decode", recomputed=1.0)
    assert estimate(token, V5E, 394e12, Traffic())["compute"] == pytest.approx(1.0)
    assert estimate(program(kind="cpu"), CPU, 1.0, Traffic()) == {}


def test_a_row_is_json_with_everything():
    found = measure(program(lambda: compiled(3 * GIB)), V5E)
    row = json.loads(json.dumps(as_row(found, V5E)))
    assert row["fits"] and row["memory"]["peak"] == 3 * GIB and row["hbm"] == V5E.hbm
    assert row["collectives"] == {"all-reduce": {"count": 1, "bytes": 32}}
    assert row["bytes_sent"] == 32 and row["bytes_moved"] == 64
    assert set(row["estimated_seconds"]) == {"compute", "memory", "links"}


@pytest.mark.parametrize(
    "kind, generation",
    [("TPU v4", "v4"), ("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v6 lite", "v6e")],
)
def test_every_chip_has_rates_and_peak_flops(kind, generation):
    chip = CHIPS[generation]
    assert peak_flops(kind) > 0 and chip.hbm_rate > 0 and chip.link_rate > 0
    assert chip.hbm > 15 * GIB
