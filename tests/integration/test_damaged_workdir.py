"""One file of a workdir is damaged: whoever reads it says so in a line, or nothing has changed.

Nothing is trained or decoded again: where a run would begin to, it ends there, and has told so.
"""

import dataclasses
import hashlib
import os
import random
import re
import shutil

import jax
import numpy as np
import pytest

from asesjax.cli.main import main
from asesjax.core import files
from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.core.stages import run_stages
from asesjax.experiment import execute, open_run
from asesjax.run import load_method
from asesjax.training import checkpoint, loop

pytestmark = pytest.mark.long

SMOKE = os.path.join(os.path.dirname(__file__), "../../configs/smoke.py")
SMALL = ["--config.data.n_train=16", "--config.data.n_test=4", "--config.methods=direct,usm",
         "--config.train.save_every_steps=2"]  # fmt: skip
APPENDED = ("run.jsonl", ".lock", "metrics.jsonl", "config.json")  # in place: copied, not linked
LOOKED_AT = ("compiled", "tensorboard", "profile")  # nothing of a run reads them


class Goes(Exception):
    """A stage would run, or training would go on."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("damage") / "run"
    fields = ["--config.train.steps=4", "--config.decode.curve_questions=2"]
    assert main(["run", "--config", SMOKE, "--workdir", str(workdir), *SMALL, *fields]) == 0
    return workdir


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run that was stopped in the training of direct."""
    workdir = tmp_path_factory.mktemp("damage") / "half"
    save, n = checkpoint.Checkpoints.save, []

    def save_and_stop(self, *args):
        save(self, *args)
        n.append(1)
        if len(n) == 2:
            self.wait()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", save_and_stop)
        patch.setattr(loop, "Checkpoints", checkpoint.Checkpoints)
        fields = ["--config.train.steps=6", "--config.train.evaluate_every_share=1.0"]
        command = ["run", "--config", SMOKE, "--workdir", str(workdir), *SMALL, *fields]
        assert main(command) == 130
    assert not read_json(workdir / "stages/train-direct.json")["finished"]
    return workdir


def flipped(content, rng):
    place = rng.randrange(len(content))
    other = bytes([content[place] ^ (1 << rng.randrange(8))])
    return content[:place] + other + content[place + 1 :]


def other_digit(content, rng):
    digits = [match.start() for match in re.finditer(rb"[0-9]", content)] or [0]
    place = rng.choice(digits)
    return content[:place] + b"%d" % ((content[place] + 1) % 10) + content[place + 1 :]


def lines(change):
    def changed(content, rng):
        own = content.splitlines(keepends=True) or [b""]
        change(own, rng.randrange(len(own)))
        return b"".join(own)

    return changed


def inside(what):
    def changed(content, rng):
        """Put something in the place of a value of a JSON file, or anywhere in another."""
        places = list(re.finditer(rb'(?<=: )("[^"\n]*"|[0-9.e-]+|true|false|null)', content))
        if not places:
            return content[: len(content) // 2] + what + content[len(content) // 2 :]
        at = rng.choice(places)
        return content[: at.start()] + what + content[at.end() :]

    return changed


def swap(own, i):
    own[i], own[i - 1] = own[i - 1], own[i]


DAMAGE = {
    "gone": None, "a folder": None, "empty": lambda content, rng: b"",
    "cut": lambda content, rng: content[: rng.randrange(len(content))],
    "a bit": flipped, "a digit": other_digit, "more": lambda content, rng: content + b"x\n",
    "line gone": lines(lambda own, i: own.pop(i)),
    "line twice": lines(lambda own, i: own.insert(i, own[i])),
    "lines swapped": lines(swap), "null": inside(b"null"), "a list": inside(b"[]"),
    "an object": inside(b"{}"), "a text": inside(b'"x"'), "99": inside(b"99"),
    "deep": inside(b"[" * 50_000), "digits": inside(b"9" * 5000), "no text": inside(b"\xff\xfe"),
    "only null": lambda content, rng: b"null", "only a list": lambda content, rng: b"[]",
    "only an object": lambda content, rng: b"{}", "surrogate": inside(b'"\\ud800"'),
}  # fmt: skip


def damage(workdir, name, kind, rng):
    path = workdir / name
    content = path.read_bytes()
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes(DAMAGE[kind](content, rng) if content else b"x")


def copied(source, target):
    def copy(a, b):
        (shutil.copy2 if os.path.basename(a) in APPENDED else os.link)(a, b)

    shutil.copytree(source, target, copy_function=copy, ignore=shutil.ignore_patterns(*LOOKED_AT))
    return target


def names_of(workdir):
    found = sorted(p.relative_to(workdir) for p in workdir.rglob("*") if p.is_file())
    return [str(p) for p in found if not set(LOOKED_AT).intersection(p.parts)]


def digest(tree):
    sums = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        sums.update(np.asarray(leaf).tobytes())
    return sums.hexdigest()


def seen_of_finished(workdir, capfd, patch):
    """What the verbs show of a finished run: its report, its data, its parameters, each a UserError
    where that is told.
    """
    patch.setattr("asesjax.experiment.run_stages", would_run)
    capfd.readouterr()
    seen = {}
    for verb in ("run", "data"):
        try:
            status = main([verb, "--workdir", str(workdir)])
        except Goes as stage:
            seen[verb] = f"would run {stage}"
            capfd.readouterr()
            continue
        out, error = capfd.readouterr()
        told = status == 2 and error.startswith("asesjax: ") and len(error) < 3000
        assert status == 0 or told, error
        seen[verb] = "told" if told else re.sub(r"/\S+", "", out)
    for name in ("direct", "usm"):
        try:
            seen[name] = digest(load_method(open_run(None, workdir), name).params)
        except UserError as error:
            seen[name] = f"told {len(str(error)) < 3000}"
        if "warning" in capfd.readouterr().err:
            seen[name] = "told True"
    return seen


def would_run(stages, workdir, redo, say, before, **rest):
    def goes(stage):
        def run():
            raise Goes(stage.name)

        return run

    stages = [dataclasses.replace(stage, run=goes(stage)) for stage in stages]
    return run_stages(stages, workdir, redo, say, before, **rest)


def seen_of_half(workdir, capfd, patch):
    """What training goes on with: state, cursor, examples, and the metrics that are kept."""
    seen, capture = {}, {}
    restore, plan = checkpoint.restore_newest, loop.make_plan

    def restored(*args, **kwargs):
        found = restore(*args, **kwargs)
        capture["state"] = found and (digest(found[0]), {k: v for k, v in found[1].items()})
        return found

    def planned(examples, *args, **kwargs):
        capture["examples"] = digest([[e.inputs, e.targets, e.weights] for e in examples])
        return plan(examples, *args, **kwargs)

    def feed(items):
        raise Goes("training")

    patch.setattr(checkpoint, "restore_newest", restored)
    patch.setattr(loop, "make_plan", planned)
    patch.setattr(loop, "prefetch", feed)
    capfd.readouterr()
    try:
        execute(open_run(None, workdir), ("train-direct",))
    except Goes:
        seen = capture
        metrics = workdir / "roles/direct/main/metrics.jsonl"
        seen["metrics"] = metrics.read_bytes()
    except (UserError, OSError) as error:  # of both cli/main.py makes a line
        return {"told": len(str(error)) < 3000}
    if "warning" in capfd.readouterr().err:
        return {"told": True}
    return seen


SEEN = {"finished": seen_of_finished, "half": seen_of_half}


def silent_changes(source, which, chosen, tmp_path, capfd):
    """Try damages; return those that end in anything but the same, a line, or work done anew."""
    wrong, count = [], {"same": 0, "told": 0}
    with pytest.MonkeyPatch.context() as patch:
        clean = SEEN[which](copied(source, tmp_path / "clean"), capfd, patch)
        assert "told" not in str(clean.values()), clean
    for i, (name, kind) in enumerate(chosen):
        workdir = copied(source, tmp_path / str(i))
        damage(workdir, name, kind, random.Random(f"{name} {kind}"))
        files._same.clear()
        try:
            with pytest.MonkeyPatch.context() as patch:
                seen = SEEN[which](workdir, capfd, patch)
        except BaseException as error:
            wrong.append(f"{name}, {kind}: {type(error).__name__}: {str(error)[:300]}")
            continue
        finally:
            shutil.rmtree(workdir)
        told = any(re.match("told|would run", str(value)) for value in seen.values())
        differs = [key for key in clean if seen.get(key) != clean[key]
                   and not re.match("told|would run", str(seen.get(key)))]  # fmt: skip
        count["told" if told or "told" in seen else "same"] += 1
        if differs and "told" not in seen:
            wrong.append(f"{name}, {kind}: {', '.join(differs)} changed without a word")
    with capfd.disabled():
        print(f"{which}: {len(chosen)} damages, {count}")
    return wrong


@pytest.mark.parametrize("which", ["finished", "half"])
def test_a_sample_of_damages(which, request, tmp_path, capfd):
    source = request.getfixturevalue(which)
    everything = [(name, kind) for name in names_of(source) for kind in DAMAGE]
    chosen = random.Random(29).sample(everything, 100)
    wrong = silent_changes(source, which, chosen, tmp_path, capfd)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("which", ["finished", "half"])
def test_every_damage_to_every_file(which, request, tmp_path, capfd):
    source = request.getfixturevalue(which)
    everything = [(name, kind) for name in names_of(source) for kind in DAMAGE]
    wrong = silent_changes(source, which, everything, tmp_path, capfd)
    assert not wrong, "\n".join(wrong)
