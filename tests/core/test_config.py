"""Config files, overrides, and the configuration that a workdir remembers."""

import pytest

from asesjax.cli.main import main
from asesjax.config import (
    WORKDIR_FORMAT,
    base_config,
    finish,
    flatten,
    load_config,
    read_workdir,
    save_fields,
)  # fmt: skip
from asesjax.core.errors import UserError
from asesjax.core.files import write_json


def write(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(
        "from asesjax.config import base_config\n"
        "def get_config(arg=''):\n    c = base_config()\n" + body + "    return c\n"
    )
    return path


def test_file_argument_and_overrides(tmp_path):
    path = write(tmp_path, "    c.segment.beta = 1.0\n    c.seed = int(arg or 0)\n")
    assert load_config(str(path)).seed == 0
    config = load_config(f"{path}:7", {"train.learning_rate": "1", "methods": "usm,direct"})
    assert (config.seed, config.segment.beta, config.train.learning_rate) == (7, 1.0, 1.0)
    assert config.methods == ("usm", "direct")
    assert config.name == "mine:7"


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"segment.bta": "1"}, "segment.beta"),
        ({"segment.strategy": "entrpy"}, "did you mean 'entropy'"),
        ({"segment.beta": "high"}, "segment.beta must be a float, got 'high'"),
        ({"segment.beta": "nan"}, "segment.beta"),
        ({"train.steps": "1.5"}, "train.steps must be an int, got 1.5"),
        ({"model.tied": "1"}, "model.tied must be true or false"),
        ({"train.source_buckets": "64.0,128"}, "must hold only int"),
        ({"methods": "usm,dsmm"}, "did you mean 'dsm'"),
        ({"methods": "x" * 300}, "a row cannot be called"),
        ({"variants.a/b.method": "usm"}, "a row cannot be called 'a/b'"),
        ({"segment.beta": "1e999"}, "segment.beta must be a finite number, got inf"),
        ({"segment.beta": "9" * 400}, "segment.beta must be a finite number, got inf"),
        ({"segment.beta": "{{}}"}, "segment.beta must be a float, got '{{}}'"),
        ({"segment.beta": "(" * 9999}, "segment.beta must be a float, got '(((("),
        ({"seed": "9" * 9999}, "seed must be an int, got '9999"),
        ({"train.batch_size": str(2**31)}, "train.batch_size must be at least 1 and at most 10485"),
        ({"train.source_buckets": "0,"}, "train.source_buckets must be at least 1"),
        ({"ases.stop_text": "a\ud800b"}, "ases.stop_text is not UTF-8 text"),
        ({"data.path": "a\0b"}, "data.path holds the character of code 0"),
    ],
)
def test_wrong_overrides_are_explained(overrides, words):
    with pytest.raises(UserError) as error:
        finish(base_config(), overrides)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "body, words",
    [
        ("    c.segmnt = 1\n", "segment"),
        ("    c.segment.beta = 'high'\n", "segment.beta must be a float, got 'high' (str)"),
        ("    c.train.steps = 2.0\n", "train.steps must be an int, got 2.0 (float)"),
        ("    c.train = 3\n", "train"),
        ("    c.methods = 'usm'\n", "methods must be a list of str"),
        ("    c.plugins = 3\n", "plugins must be a list of str"),
        ("    c.name = 3\n", "name must be a str, got 3 (int)"),
        ("    c.name = '\\ud800'\n", "name is not UTF-8 text"),
        ("    c.seed = 10 ** 5000\n", "seed must be at least 0 and at most 2147483647, got a num"),
        ("    c.segment.strategy = 'entrpy'\n", "did you mean 'entropy'"),
    ],
)
def test_wrong_config_files_are_explained(tmp_path, body, words):
    path = write(tmp_path, body)
    with pytest.raises(UserError) as error:
        load_config(str(path))
    assert words in str(error.value)


def test_missing_file_and_missing_function(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_config(str(tmp_path / "absent.py"))
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(UserError, match="get_config"):
        load_config(str(empty))


@pytest.mark.parametrize(
    "top, body, words",
    [
        ("1 / 0\n", "return base_config()", "mine.py:2: ZeroDivisionError"),
        ("x = (\n", "return base_config()", "mine.py:2: "),
        ("\n", "return undefined", "mine.py:4: NameError"),
        ("\n", "return {}", "must return base_config() with fields changed, got dict"),
        ("\n", "pass", "must return base_config() with fields changed, got NoneType"),
        ("\n", "raise ValueError", "mine.py:4: ValueError"),
        ("import no_such_module\n", "pass", "mine.py:2: ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "pass", "mine.py:2: SystemExit: 3"),
        ("x = '\\0'\nexec(x)\n", "pass", "mine.py:3: "),
    ],
)
def test_what_a_config_file_raises_is_one_sentence_with_its_line(tmp_path, top, body, words):
    path = tmp_path / "mine.py"
    head = "from asesjax.config import base_config\n"
    path.write_text(f"{head}{top}def get_config(arg=''):\n    {body}\n")
    with pytest.raises(UserError) as error:
        load_config(str(path))
    assert words in str(error.value)


def test_rows_that_no_table_can_have_are_refused():
    for fields, words in (
        ({"methods": ""}, "methods is empty"),
        ({"variants.calm.train.steps": "3"}, "variants.calm.method is not set"),
    ):
        with pytest.raises(UserError, match=words):
            finish(base_config(), fields)


def test_every_field_survives_a_round_trip():
    fields = flatten(finish(base_config()))
    again = finish(
        base_config(),
        {
            name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for name, value in fields.items()
        },
    )
    assert flatten(again) == fields


def test_a_finished_config_does_not_change():
    config = finish(base_config(), {})
    for part, field in ((config, "seed"), (config.train, "steps"), (config.train, "stepps")):
        with pytest.raises(AttributeError):
            setattr(part, field, 3)
    changed = config.changed({"train.steps": 3})
    assert (changed.train.steps, config.train.steps) == (3, 0)
    with pytest.raises(UserError, match="did you mean 'train.steps'"):
        config.changed({"train.stepps": 3})


def test_a_workdir_remembers_its_configuration(tmp_path):
    config = finish(base_config(), {
        "methods": "usm,calm", "variants.calm.method": "usm", "seeds": "1,2",
        "variants.calm.train.learning_rate": "1",
    })  # fmt: skip
    save_fields(tmp_path, config)
    assert flatten(read_workdir(tmp_path)) == flatten(config)
    assert read_workdir(tmp_path, {"seed": "5"}).seed == 5


@pytest.mark.parametrize("found, number", [({}, 1), ({"workdir_format": 99}, 99)])
def test_a_workdir_of_another_format_is_refused_by_name(tmp_path, capsys, found, number):
    write_json(tmp_path / "config.json", {"seed": 0, "train.steps": 2} | found)
    config = write(tmp_path, "")
    with pytest.raises(UserError) as error:
        read_workdir(tmp_path)
    own = f"this version reads format {WORKDIR_FORMAT}"
    words = f"{tmp_path} is of workdir format {number} and {own}"
    assert words in str(error.value)
    for more in ([], ["--config", str(config)]):
        assert main(["run", "--workdir", str(tmp_path), *more]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "stages").exists()


def test_a_row_named_twice_is_refused():
    with pytest.raises(UserError, match="methods names usm twice; leave one out"):
        load_config("smoke", {"methods": "usm,direct,usm"})
