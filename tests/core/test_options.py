"""Sections of typed options: ranges, choices, tuples, variants, and what a stage reads."""

from unittest import mock

import pytest

from asesjax.cli.main import main
from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.options import (
    NOTHING,
    SECTIONS,
    all_fields,
    checked,
    option,
    parsed,
    range_text,
    reads,
    section,
)  # fmt: skip
from asesjax.core.registry import Registry
from asesjax.experiment import make_stages
from asesjax.methods.method import make_method
from asesjax.run import Run


@pytest.fixture
def fields():
    """A section of every kind of field, for one test."""
    with mock.patch.dict(SECTIONS):

        @section("made_up")
        class Options:
            """Made up."""

            share: float = option(0.5, "a share", least=0, below=1)
            count: int = option(2, "a number", above=0, most=9, changes="decode")
            kind: str = option("a", "a choice", choices=("a", "b"), changes=NOTHING)
            on: bool = option(False, "a switch")
            sizes: tuple[int, ...] = option((4, 8), "some sizes", least=1)
            names: tuple[str, ...] = option((), "some names")
            seeds: tuple[int, ...] = option((), "some numbers", items=int)

        yield {name.removeprefix("made_up."): field for name, field in all_fields().items()
               if name.startswith("made_up.")}  # fmt: skip


@pytest.mark.parametrize(
    "name, value, kept",
    [("share", 0, 0.0), ("share", 0.99, 0.99), ("count", 9, 9), ("kind", "b", "b"),
     ("on", True, True), ("sizes", [1, 2], (1, 2)), ("names", [], ()), ("seeds", (0, 3), (0, 3))],
)  # fmt: skip
def test_values_of_the_type_and_range_are_kept(fields, name, value, kept):
    found = checked(name, value, fields[name])
    assert found == kept and type(found) is type(kept)


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("share", 1.0, "share must be at least 0 and below 1, got 1.0"),
        ("share", -0.1, "at least 0"),
        ("share", float("nan"), "share must be a finite number"),
        ("share", True, "share must be a float, got True (bool)"),
        ("count", 0, "count must be above 0 and at most 9, got 0"),
        ("count", 10, "at most 9"),
        ("count", 2.0, "count must be an int, got 2.0 (float)"),
        ("on", 1, "on must be a bool"),
        ("kind", "c", "unknown kind 'c'"),
        ("sizes", (4, 0), "sizes must be at least 1 and at most 2147483647, got 0"),
        ("sizes", (4.0,), "sizes must hold only int"),
        ("sizes", 4, "sizes must be a list of int"),
        ("names", (1,), "names must hold only str"),
        ("seeds", (True,), "seeds must hold only int"),
    ],
)
def test_other_values_are_refused_with_type_or_range(fields, name, value, words):
    with pytest.raises(UserError) as error:
        checked(name, value, fields[name])
    assert words in str(error.value)


@pytest.mark.parametrize(
    "name, text, value",
    [("share", "0.25", 0.25), ("count", "3", 3), ("kind", "b", "b"), ("on", "True", True),
     ("sizes", "16", (16,)), ("sizes", "(16,)", (16,)), ("sizes", "16,32", (16, 32)),
     ("sizes", "[1]", [1]), ("sizes", "", ()), ("names", "a, b,", ("a", "b")),
     ("seeds", "1", (1,))],
)  # fmt: skip
def test_text_of_the_command_line_is_read_by_the_type(fields, name, text, value):
    assert parsed(name, text, fields[name]) == value


def test_choices_may_be_a_registry_that_grows():
    colours = Registry("colour")
    colours.register("red")(1)
    field = option("red", "a colour", choices=colours)
    field.name = "colour"
    with pytest.raises(UserError, match="unknown colour 'blue'"):
        checked("colour", "blue", field)
    colours.register("blue")(2)
    assert checked("colour", "blue", field) == "blue"
    with pytest.raises(UserError, match="colour 'blue' is registered twice"):
        colours.register("blue")(str)


def test_every_default_is_one_that_the_field_allows():
    base_config()
    for name, field in all_fields().items():
        assert checked(name, field.default, field) == field.default
        assert field.metadata["help"], name


def test_a_misspelt_field_gets_the_nearest_names_alone():
    with pytest.raises(UserError) as error:
        finish(base_config(), {"train.learning_rat": "1"})
    text = str(error.value)
    assert "unknown config field 'train.learning_rat'; did you mean 'train.learning_rate'" in text
    assert text.count("'") <= 8 and "Valid" not in text
    with pytest.raises(UserError, match="asesjax config lists all"):
        finish(base_config(), {"qqq": "1"})


ROWS = {"methods": "usm,calm", "variants.calm.method": "usm"}


def test_a_variant_has_options_of_its_own():
    config = finish(base_config(), ROWS | {"variants.calm.train.learning_rate": "1"})
    usm, calm = (make_method(name, config) for name in config.methods)
    assert type(usm) is type(calm) and (usm.name, calm.name) == ("usm", "calm")
    assert (usm.config.train.learning_rate, calm.config.train.learning_rate) == (0.05, 1.0)
    changed = config.changed({"seed": 3})
    assert make_method("calm", changed).config.seed == 3
    assert make_method("calm", changed).config.train.learning_rate == 1.0


def test_a_method_is_a_row_with_options_of_its_own_too():
    config = finish(base_config(), {"variants.usm.train.learning_rate": "1"})
    rates = [make_method(name, config).config.train.learning_rate for name in ("direct", "usm")]
    assert rates == [0.05, 1.0]


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"variants.calm.data.n_train": "5"}, "variants.calm.data.n_train: a variant has fields"),
        ({"variants.calm.vocab.size": "500"}, "a variant has fields of its own in sections of"),
        ({"variants.calm.evaluate.metric": "exact"}, "data, vocab, evaluate, mesh, log and of"),
        ({"variants.calm.mesh.data": "1"}, "a variant has fields of its own in sections of"),
        ({"variants.calm.seed": "5"}, "a variant has fields of its own in sections of"),
        ({"variants.calm": "usm"}, "a variant has fields of its own in sections of"),
        ({"variants.calm.train.stepps": "5"}, "did you mean 'train.steps'"),
        ({"variants.calm.train.steps": "-5"}, "variants.calm.train.steps must be at least 0"),
        ({"variants.calm.method": "usn"}, "unknown variants.calm.method 'usn'; did you mean 'usm'"),
        ({"methods": "usm,cal"}, "unknown method 'cal'; did you mean 'calm'"),
    ],
)
def test_wrong_variants_are_refused(overrides, words):
    with pytest.raises(UserError) as error:
        finish(base_config(), ROWS | overrides)
    assert words in str(error.value)


def test_rows_that_want_a_shared_stage_to_differ_are_refused_by_name(tmp_path):
    rows = {"methods": "kpod,calm", "variants.calm.method": "kpod",
            "train.normalize": "examples"}  # fmt: skip
    config = finish(base_config(), rows | {"variants.calm.kpod.n_clusters": "3"})
    with pytest.raises(UserError) as error:
        make_stages(Run(config, tmp_path))
    words = "stage kpod-difficulty is shared by rows that want different kpod.n_clusters"
    assert words in str(error.value)


def test_a_stage_reads_the_fields_that_change_it(fields):
    config = finish(base_config())
    assert reads(config, "made_up:decode") == {"made_up.count": 2}
    assert list(reads(config, "seed", "made_up")) == ["seed"] + [
        f"made_up.{name}" for name in fields if name != "kind"
    ]
    assert not {"train.scan_layers", "train.keep_last"} & set(reads(config, "train"))
    assert reads(config, "mesh") == {}


def test_the_command_shows_sections_and_fields(capsys):
    assert main(["config"]) == 0
    sections = capsys.readouterr().out
    assert all(f"\n{name or 'run'} " in f"\n{sections}" for name in SECTIONS)
    assert main(["config", "train.beta1"]) == 0
    out = capsys.readouterr().out
    assert out == "train.beta1 = 0.9\n    decay of the first moment; at least 0 and below 1\n"
    assert main(["config", "run"]) == 0
    assert capsys.readouterr().out.startswith("name = ''\n")
    assert main(["config", "train"]) == 0
    out = capsys.readouterr().out
    assert out.count(" = ") == sum(name.startswith("train.") for name in all_fields())
    assert "one of adamw, adafactor, lion, sgd" in out and "does not change results" in out
    assert main(["config", "train.beta"]) == 2
    assert "did you mean 'train.beta" in capsys.readouterr().err


def test_the_range_of_a_field_is_written_out():
    assert range_text(option(0.5, "a share", least=0, below=1)) == "at least 0 and below 1"
    assert range_text(option(0.5, "a share")) == ""


@pytest.mark.parametrize(
    "wrong, first",
    [("train.lr", "train.learning_rate"), ("lr", "train.learning_rate"), ("bs", "train.batch_size"),
     ("train.epoch", "train.epochs"), ("decode.bs", "decode.batch_size"),
     ("gama", "ases.gamma"), ("train.gamma", "ases.gamma"), ("trian.tokens", "train.tokens"),
     ("train.weight-decay", "train.weight_decay"), ("num_beams", "decode.beams")],
)  # fmt: skip
def test_a_wrong_field_gets_the_nearest_three_and_what_it_is_called_here(wrong, first):
    with pytest.raises(UserError, match=f"did you mean '{first}'") as told:
        finish(base_config(), {wrong: "1"})
    assert str(told.value).count(" or '") == 2
