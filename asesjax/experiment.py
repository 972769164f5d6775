"""The whole job in stages, each of which can be interrupted, continued and kept.

    data -> train direct -> score -> segment -> train the other methods -> decode -> report

Everything a run knows lies in its workdir:

    config.json  run.json             configuration; versions, command and machine of each start
    data/  vocab/                     records of each split; the vocabulary
    roles/<method>/<role>/            checkpoints, metrics.jsonl, TensorBoard files
    scores/  segments/                pieces with scores; labelled segments; agreement with gold
    predictions/<method>/             chains for the test split and for the learning curve
    report.json  report.md  figures/  what came out
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from asesjax.core.config import STRATEGIES, base_config, finish, flatten, load_config
from asesjax.core.errors import UserError
from asesjax.core.files import locked, read_json, read_jsonl, write_json, write_jsonl
from asesjax.core.run_card import add_run_card
from asesjax.core.stages import Stage, run_stages
from asesjax.core.types import Example, Params
from asesjax.data.batching import token_counts
from asesjax.data.examples import chain_text
from asesjax.data.sources import SPLITS, load_records, read_records, write_records
from asesjax.data.symbols import ALPHABET
from asesjax.data.vocab import (
    Vocabulary,
    audit,
    load_saved,
    load_vocabulary,
    train_vocabulary,
    unknown_share,
    with_symbols,
)
from asesjax.decode.score import score_examples
from asesjax.evals.report import build_report
from asesjax.evals.runner import answer_questions, check_beams, prediction_row
from asesjax.methods.method import Method, Prepared
from asesjax.methods.registry import get_method
from asesjax.methods.scoring import ScoredRecord, score_records, segment_scored
from asesjax.models import t5
from asesjax.models.t5_config import T5Config
from asesjax.segment.label import f1_from_counts, merge_segments, segmentation_f1
from asesjax.segment.pieces import Piece
from asesjax.segment.records import read_segments, write_segments
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import param_shardings
from asesjax.sharding.rules import rules
from asesjax.train.checkpoint import read_cursor, restore_params
from asesjax.train.duration import n_steps
from asesjax.train.loop import train
from asesjax.viz.report import write_report

MODEL_STRATEGIES = ("entropy", "loss")  # those that ask a trained scorer
# Fields that change how a run is watched, saved or placed, but not what comes out.
_FREE = (
    "train.log_every_steps", "train.save_every_steps", "train.stop_after_steps",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration and the folder it runs in."""

    config: ConfigDict
    workdir: Path
    say: Callable[[str], None] = functools.partial(print, flush=True)

    def __truediv__(self, name: str) -> Path:
        return self.workdir / name


def open_run(spec: str | None, workdir: str | Path, overrides: dict[str, str] | None = None) -> Run:
    """Open a run by a config file, or by what its workdir remembers.

    Args:
      spec: ``file.py`` or ``file.py:arg``; None for a workdir that has run before.
      workdir: folder of the run; need not exist when ``spec`` is given.
      overrides: dotted field to text.

    Raises:
      UserError: no such file, no configuration in the workdir, or a wrong field.
    """
    workdir = Path(workdir)
    if spec:
        return Run(load_config(spec, overrides), workdir)
    saved = workdir / "config.json"
    if not saved.is_file():
        raise UserError(f"{workdir} holds no run yet; give --config FILE.py")
    config = base_config()
    fields = {}
    for name, value in read_json(saved).items():
        fields[name] = tuple(value) if isinstance(value, list) else value
    config.update_from_flattened_dict(fields)
    return Run(finish(config, overrides or {}, str(saved)), workdir)


def execute(run: Run, until: tuple[str, ...] = ("report",), redo: bool = False) -> None:
    """Run the stages up to and including some of them; finished ones are kept.

    Args:
      run: from ``open_run``.
      until: names of stages; those they need run first.
      redo: move aside the outputs of stages whose configuration changed, and run them again.

    Raises:
      UserError: anything a user can mend; what was written before stays.
    """
    stages = {stage.name: stage for stage in make_stages(run)}
    wanted: set[str] = set()

    def want(name: str) -> None:
        if name not in wanted:
            wanted.add(name)
            for other in stages[name].needs:
                want(other)

    for name in until:
        want(name)
    with locked(run.workdir):
        # A run that goes on, and roles of one shape, find their programs compiled.
        jax.config.update("jax_compilation_cache_dir", str(run / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        fields = flatten(run.config)
        chosen = [stage for name, stage in stages.items() if name in wanted]
        ran = run_stages(
            chosen, fields, run.workdir, redo, run.say,
            before=lambda: (write_json(run / "config.json", fields), add_run_card(run.workdir)),
        )
    if "report" in wanted and "report" not in ran:
        run.say("\n" + (run / "report.md").read_text(encoding="utf-8"))


def make_stages(run: Run) -> list[Stage]:
    """List the stages of a run in an order in which each comes after those it needs."""
    config = run.config
    fields = [name for name in flatten(config) if name not in _FREE]
    of = lambda *sections: tuple(n for n in fields if n.split(".")[0] in sections)  # noqa: E731
    methods = [get_method(name) for name in config.methods]
    for method in methods:
        check_beams(method, config)
    segmented = [m for m in methods if m.segmented]
    scorer = config.segment.strategy in MODEL_STRATEGIES and segmented
    trained = [m for m in methods if not m.segmented]
    if scorer and "direct" not in config.methods:
        trained.append(get_method("direct"))
    has_scorer = any(m.name == "direct" for m in trained)

    stages = [
        Stage("data", lambda: prepare_data(run), ("seed", *of("data", "vocab")),
              outputs=("data", "vocab"))
    ]  # fmt: skip

    def train_stage(method: Method, needs: tuple[str, ...], more: tuple[str, ...] = ()) -> Stage:
        return Stage(
            f"train-{method.name}",
            functools.partial(train_method, run, method),
            ("seed", *of("model", "train"), *more),
            needs,
            outputs=(f"roles/{method.name}",),
        )

    stages += [train_stage(method, ("data",)) for method in trained]
    if segmented:
        cut = ("segment.short", "segment.min_words", "segment.given", "segment.reduce")
        stages += [
            Stage("score", lambda: score_pieces(run, has_scorer), (*cut, "evaluate.language"),
                  ("data", *(("train-direct",) if has_scorer else ())), outputs=("scores",)),
            Stage("segment", lambda: segment_pieces(run), of("segment"), ("score",),
                  outputs=("segments",)),
        ]  # fmt: skip
        more = ("ases.gamma", "ases.end_of_chain")
        stages += [train_stage(method, ("data", "segment"), more) for method in segmented]
    for method in methods:
        stages.append(
            Stage(
                f"decode-{method.name}",
                functools.partial(decode_method, run, method),
                (*of("decode"), *(of("ases") if method.segmented else ())),
                (f"train-{method.name}",),
                outputs=(f"predictions/{method.name}",),
            )
        )
    needs = [f"decode-{method.name}" for method in methods] + (["segment"] if segmented else [])
    stages.append(
        Stage("report", lambda: make_report(run), ("name", "methods", *of("evaluate")),
              tuple(needs), outputs=("report.json", "report.md", "figures"))
    )  # fmt: skip
    return stages


def prepare_data(run: Run) -> None:
    """Write the records of every split and the vocabulary."""
    config = run.config
    counts: dict[str, Any] = {}
    skipped: dict[str, str] = {}  # place -> reason; splits of one file report the same rows
    texts: list[str] = []
    fields: dict[str, list[str]] = {}
    for split in SPLITS:
        records, left_out = load_records(config.data, split, config.seed)
        write_records(run / f"data/{split}.jsonl", records)
        skipped |= dict(left_out)
        counts[split] = len(records)
        for name in ("question", "rationale", "answer"):
            fields[f"{split}.{name}"] = [getattr(record, name) for record in records]
        run.say(f"  {split}: {len(records)} records")
        if split == "train":
            texts = [record.question for record in records]
            texts += [chain_text(record, config.data.answer_template) for record in records]
    for reason, n in Counter(skipped.values()).most_common():
        run.say(f"  skipped {n} rows: {reason}")
    write_json(run / "data/counts.json", {"records": counts, "skipped": skipped})
    v = config.vocab
    if v.kind == "train":
        corpus = [*texts, ALPHABET] if v.symbols else texts
        vocab = train_vocabulary(corpus, None, v.size, v.split_digits, v.extra_ids)
    else:
        vocab = load_vocabulary(v.kind, v.path, v.extra_ids)
    if v.symbols:
        vocab = with_symbols(vocab)
    losses = audit(vocab, fields)
    write_json(run / "data/audit.json", losses)
    for row in losses:
        if row["unknown"]:
            run.say(f"  {row['field']}: {row['unknown']} of {row['tokens']} tokens unknown, most "
                    f"often {', '.join(map(repr, row['lost']))}")
    unknown, total, lost = unknown_share(vocab, texts)
    if vocab.symbols:
        plain_unknown, plain_total, _ = unknown_share(vocab.plain, texts)
        run.say(f"  symbols: {total} training tokens instead of {plain_total}, of which "
                f"{plain_unknown} would be unknown")
    run.say(f"  vocabulary: {vocab.size} ids; {unknown} of {total} training tokens unknown")
    if unknown > v.max_unknown_share * total:
        raise UserError(
            f"the vocabulary cannot write {unknown} of {total} training tokens "
            f"({unknown / total:.2%}), more than vocab.max_unknown_share allows; most often "
            f"{', '.join(map(repr, lost))}. Raise it, or set vocab.symbols=true or vocab.kind=train"
        )
    vocab.save(run / "vocab")


def model_config(run: Run, vocab: Vocabulary) -> T5Config:
    """Return the model's shape: as many rows as ids, rounded up to a multiple of 128 as in T5."""
    return T5Config.from_config(run.config.model, -(-vocab.size // 128) * 128)


def role_folder(run: Run, method: Method, role: str) -> Path:
    """Return the folder of one parameter set."""
    return run / f"roles/{method.name}/{role}"


def load_role(run: Run, method: Method, role: str, step: int | None = None) -> Params:
    """Restore the parameters of a role, of its last checkpoint unless a step is given."""
    config = model_config(run, load_saved(run / "vocab"))
    return restore_params(role_folder(run, method, role), _placed_shapes(run, config), step)


def load_method(run: Run, name: str) -> tuple[Method, T5Config, tuple[Params, ...], Vocabulary]:
    """Load everything that decoding with a trained method takes.

    Returns:
      The method, the model's shape, the parameters of each role, and the vocabulary.
    """
    method, vocab = get_method(name), load_saved(run / "vocab")
    params = tuple(load_role(run, method, role) for role in method.roles)
    return method, model_config(run, vocab), params, vocab


def _mesh(run: Run):
    mesh = run.config.mesh
    return make_mesh(mesh.data, mesh.fsdp, mesh.tensor)


def _placed_shapes(run: Run, config: T5Config) -> Params:
    shapes = jax.eval_shape(lambda key: t5.init(config, key), jax.random.key(0))
    on = param_shardings(_mesh(run), rules(run.config.mesh.preset), t5.logical_axes(config), shapes)
    return jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
        shapes, on,
    )  # fmt: skip


def train_method(run: Run, method: Method) -> None:
    """Train the roles of a method, which share the budget evenly."""
    config = run.config
    vocab = load_saved(run / "vocab")
    examples = {split: _examples(run, method, vocab, split) for split in ("train", "validation")}
    model = model_config(run, vocab)
    start = None
    if config.model.init_from:
        start = restore_params(config.model.init_from, _placed_shapes(run, model))
    for role in method.roles:
        mine = examples["train"][role]
        if not mine:
            raise UserError(
                f"method {method.name}: no segment of the training rationales goes to role {role}; "
                "change segment.beta or segment.strategy"
            )
        steps = n_steps(
            config.train, float(token_counts(mine).sum(1).mean()), len(mine), 1 / len(method.roles)
        )
        folder = role_folder(run, method, role)
        result = train(
            config.train, model, mine, examples["validation"][role], folder, config.seed,
            mesh=_mesh(run), rules=rules(config.mesh.preset), init_params=start, n_steps=steps,
            role=f"{method.name}/{role}",
        )  # fmt: skip
        write_json(
            folder / "result.json",
            {"examples": len(mine), "steps": result.steps, "tokens": result.tokens,
             "seconds": result.seconds, "kept_steps": list(result.kept_steps)},
        )  # fmt: skip


def _examples(
    run: Run, method: Method, vocab: Vocabulary, split: str
) -> dict[str, list[Example]]:
    records = read_records(run / f"data/{split}.jsonl")
    segments: list = [None] * len(records)
    if method.segmented:
        _, rows = read_segments(run / f"segments/{split}.jsonl")
        merge = run.config.segment.merge_adjacent
        segments = [tuple(merge_segments(row.texts, row.labels, merge)) for row in rows]
    questions = vocab.encode_batch([record.question for record in records])
    out: dict[str, list[Example]] = {role: [] for role in method.roles}
    for record, question, parts in zip(records, questions, segments, strict=True):
        made = method.examples(Prepared(record, question, parts), run.config, vocab)
        for role, items in made.items():
            out[role] += items
    return out


def score_pieces(run: Run, has_scorer: bool) -> None:
    """Cut the chains of training and validation into pieces and score them by every strategy."""
    config = run.config
    vocab = load_saved(run / "vocab")
    scorer = None
    if has_scorer:
        direct = get_method("direct")
        params, model = load_role(run, direct, "main"), model_config(run, vocab)
        buckets = config.train.source_buckets, config.train.target_buckets
        scorer = lambda examples: score_examples(model, params, examples, *buckets)  # noqa: E731
    for split in ("train", "validation"):
        records = read_records(run / f"data/{split}.jsonl")
        rows = score_records(records, config, vocab, scorer)
        write_jsonl(run / f"scores/{split}.jsonl", map(dataclasses.asdict, rows))


def segment_pieces(run: Run) -> None:
    """Label the pieces by the chosen strategy, and compare every strategy with gold labels."""
    s = run.config.segment
    provenance = {k: v for k, v in flatten(run.config).items() if k.startswith("segment.")}
    agreement: dict[str, dict[str, float]] = {}
    for split in ("train", "validation"):
        scored = [
            ScoredRecord(**row | {"pieces": tuple(Piece(*pair) for pair in row["pieces"])})
            for _, row in read_jsonl(run / f"scores/{split}.jsonl")
        ]
        rows = segment_scored(scored, s.strategy, s.beta)
        write_segments(run / f"segments/{split}.jsonl", rows, provenance)
        gold = [record.gold for record in read_records(run / f"data/{split}.jsonl")]
        if split == "train" and all(gold):
            agreement = _agreement(scored, gold, s.beta)
    write_json(run / "segments/agreement.json", agreement)
    for name, scores in agreement.items():
        chosen = " (chosen)" if name == s.strategy else ""
        run.say(
            f"  {name:9} F1 against gold: {scores['macro_f1']:.3f} "
            f"(ES {scores['es_f1']:.3f}, AS {scores['as_f1']:.3f}), "
            f"with beta 1: {scores['macro_f1_at_beta_1']:.3f}{chosen}"
        )


def _agreement(scored: list[ScoredRecord], gold: list, beta: float) -> dict[str, dict]:
    """F1 of each strategy's labels against gold ones, at the configured beta and at 1."""

    def f1(strategy: str, beta: float) -> dict[str, float]:
        rows = zip(segment_scored(scored, strategy, beta), gold, strict=True)
        return f1_from_counts(
            np.sum([segmentation_f1(row.pieces, row.labels, g) for row, g in rows], axis=0)
        )

    return {
        name: f1(name, beta) | {"macro_f1_at_beta_1": f1(name, 1.0)["macro_f1"]}
        for name in STRATEGIES
        if name == "location" or name in scored[0].scores
    }


def decode_method(run: Run, method: Method) -> None:
    """Answer the test questions, and validation questions with each kept checkpoint."""
    config = run.config
    vocab = load_saved(run / "vocab")
    model = model_config(run, vocab)
    results = [read_json(role_folder(run, method, r) / "result.json") for r in method.roles]
    folder = run / f"predictions/{method.name}"
    curve = []
    records = read_records(run / "data/validation.jsonl")[: config.decode.curve_questions]
    for kept in zip(*(result["kept_steps"] for result in results), strict=True):
        params = tuple(
            load_role(run, method, role, step)
            for role, step in zip(method.roles, kept, strict=True)
        )
        answers, _ = answer_questions(
            method, model, params, config, vocab, records, _mesh(run)
        )
        rows = [
            prediction_row(*pair, method, config, vocab)
            for pair in zip(records, answers, strict=True)
        ]
        cursors = [
            read_cursor(role_folder(run, method, role), step)
            for role, step in zip(method.roles, kept, strict=True)
        ]
        name = f"curve-{len(curve)}.jsonl"
        write_jsonl(folder / name, rows)
        curve.append({
            "file": name, "steps": list(kept),
            "tokens": sum(sum(c["totals"][k] for k in ("source_tokens", "target_tokens"))
                          for c in cursors),
            "seconds": sum(c["seconds"] for c in cursors),
        })  # fmt: skip
    write_json(folder / "curve.json", curve)
    records = read_records(run / "data/test.jsonl")
    params = tuple(load_role(run, method, role) for role in method.roles)
    answers, seconds = answer_questions(
        method, model, params, config, vocab, records, _mesh(run), timed=True
    )
    rows = [
        prediction_row(*pair, method, config, vocab) for pair in zip(records, answers, strict=True)
    ]
    write_jsonl(folder / "test.jsonl", rows)
    write_json(folder / "decode.json", {"questions": len(records), "seconds": seconds})
    for row in rows[:1]:
        run.say(f"  {row['question'][:200]}\n  -> {row['chain'][:300]}")


def make_report(run: Run) -> None:
    """Measure the predictions, print the table and draw the figures."""
    methods = [get_method(name) for name in run.config.methods]
    roles = {method.name: method.roles for method in methods}
    segmented = [method.name for method in methods if method.segmented]
    report = build_report(run.config, run.workdir, roles, segmented)
    run.say("\n" + write_report(run.workdir, report))
