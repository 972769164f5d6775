"""Every shipped config builds; the ones that a small change makes quick go through all stages."""

from pathlib import Path

import pytest

from asesjax.cli.main import main
from asesjax.config import load_config
from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.experiment import make_stages
from asesjax.run import Run

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [path for path in sorted((ROOT / "configs").rglob("*.py")) if path.stem != "common"]
ARGUMENTS = {
    "answer_only": ["", "gsm8k"],
    "baselines": ["", "gsm8k"],
    "evidence/chunks": ["0", "2", "6,tiny"],
    "compare": ["", "tiny"],
    "gsm8k": ["", "tiny", "code", "tiny,code"],
    "kpod": ["", "start", "gsm8k", "ases"],
    "skip_thinking": ["", "letters", "svamp"],
    "socratic": ["", "gsm8k", "strategyqa", "unified", "whole", "whole,equations,planner"],
    "tpu": ["", "t5-xl", "t5-xxl"],
    "quickstart": ["", "epochs"],
    "cpet": ["", "tiny"],
    "evidence/data_efficiency": ["", "controls", "epochs", "tiny"],
    "evidence/segmentation": ["", "beta", "gamma", "tiny"],
    "svamp": ["", "equations"],
    "symbolic": ["", "coin_flip", "date_understanding", "tracking_shuffled_objects"],
}
NAMES = {path: path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in CONFIGS}
CASES = [(path, argument) for path in CONFIGS for argument in ARGUMENTS.get(NAMES[path], [""])]


@pytest.mark.parametrize("path, argument", CASES, ids=lambda x: getattr(x, "stem", x))
def test_every_config_builds(path, argument, tmp_path):
    config = load_config(f"{path}:{argument}" if argument else str(path), {"seeds": ""})
    names = [stage.name for stage in make_stages(Run(config, tmp_path))]
    assert names[0] == "data" and names[-1] == "report"
    own = path.relative_to(ROOT), NAMES[path]
    assert any(f"asesjax run --config {name}" in path.read_text() for name in own)


def test_unknown_arguments_are_explained():
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        load_config(f"{ROOT / 'configs/gsm8k.py'}:tinny")
    with pytest.raises(UserError, match="^configs/smoke.py takes no argument, got 'foo'"):
        load_config("smoke:foo")


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES.get)
def test_no_argument_is_dropped(path):
    with pytest.raises(UserError, match="argument|data.source|checkpoint in .*foo"):
        load_config(f"{path}:foo")


@pytest.mark.long
def test_reports_go_through_every_stage(tmp_path):
    small = {
        "data.n_train": 40, "data.n_validation": 8, "data.n_test": 8, "train.tokens": 0,
        "train.steps": 2, "train.batch_size": 8, "train.evaluate_every_share": 1.0,
        "model.d_model": 16, "model.d_ff": 16, "model.n_heads": 2, "model.d_kv": 8,
        "train.source_buckets": "(192,)", "train.target_buckets": "(96,)",
        "decode.batch_size": 8,
        "decode.context_lengths": "()", "decode.max_chain_tokens": 16,
        "decode.max_segment_tokens": 8, "decode.max_rounds": 2,
        "segment.strategy": "location", "methods": "usm",
    }  # fmt: skip
    overrides = [f"--config.{name}={value}" for name, value in small.items()]
    command = ["run", "--config", str(ROOT / "configs/reports.py"), "--workdir", str(tmp_path)]
    assert main([*command, *overrides]) == 0
    report = read_json(tmp_path / "report.json")
    assert report["metric"] == "exact" and report["rows"][0]["questions"] == 8
    # Without direct there is no scorer, and only the scores that need none are compared.
    assert set(report["segmentation"]["agreement"]) == {"bleu", "rouge", "location"}
