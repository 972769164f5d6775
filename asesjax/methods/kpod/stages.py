"""KPOD's stages: token weights, difficulties and clusters, and a schedule for each variant.

In order: ``train-kpod-weights``, ``kpod-weights`` (writes the weights down), ``kpod-difficulty``
(asks the untouched student, so that it may come before), ``schedule-<variant>``.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from asesjax.core.errors import UserError
from asesjax.core.files import read_jsonl, write_json, write_jsonl, write_text
from asesjax.core.stages import Stage
from asesjax.core.types import Example, Params
from asesjax.data.batching import eval_batches
from asesjax.data.sources import read_records
from asesjax.data.vocab import Vocabulary, load_saved
from asesjax.decode.score import score_examples
from asesjax.jobs.training import role_examples, role_steps, train_role
from asesjax.methods.kpod.clusters import cluster, state_vectors, word_vectors
from asesjax.methods.kpod.method import WEIGHT_NOTES, WEIGHT_STAGE, WEIGHTS, fields, settings
from asesjax.methods.kpod.schedule import Settings, make_schedule, step_difficulties
from asesjax.methods.kpod.steps import encode_steps
from asesjax.methods.kpod.view import weights_page, weights_text
from asesjax.methods.kpod.weights import WeightLoss, token_weights, weights_objective
from asesjax.methods.method import Method
from asesjax.models import keypoint
from asesjax.models.t5_config import T5Config
from asesjax.run import Run, load_start, model_config, own_mesh, role_folder, untouched
from asesjax.sharding.place import param_shardings
from asesjax.sharding.rules import rules
from asesjax.train.checkpoint import restore_params

_DIFFICULTY = "kpod/difficulty/train.jsonl"
# Of the section train, what the weighting module does not follow: how long the student trains, and
# on what rows.
_OF_STUDENT = {
    "train.steps", "train.examples", "train.epochs", "train.tokens", "train.normalize",
    "train.packed_length", "train.rate_factors", "train.label_smoothing", "train.z_loss",
}  # fmt: skip
# Of the learning rate, for the weighting module (ours). At the full rate the noise of a few hundred
# steps takes weights so near to 0 that no gradient brings them back.
_WEIGHTING_RATE = 0.05
_SHOWN = 100  # rationales of the page
_BATCH = 64  # of what is only looked at


def stages(
    run: Run, methods: Sequence[Method], of: Callable[..., tuple[str, ...]]
) -> list[Stage]:
    """List the stages that some methods need before they are trained.

    Args:
      run: the run.
      methods: all that are trained.
      of: names of the configuration fields of some sections that change results.
    """
    out = []
    weighted = [method for method in methods if WEIGHT_STAGE in method.needs]
    if weighted:
        own = [name for name in of("model", "train") if name not in _OF_STUDENT]
        loss = tuple(f"kpod.{n}" for n in ("weight_epochs", "alpha", "predictor_share"))
        out += [
            Stage("train-kpod-weights", lambda: train_weights(run), ("seed", *own, *loss),
                  ("data",), outputs=(f"roles/{WEIGHTS.name}",), together=True),
            Stage(WEIGHT_STAGE, lambda: export_weights(run), (), ("train-kpod-weights",),
                  outputs=("kpod/weights",)),
        ]  # fmt: skip
    scheduled = [method for method in weighted if f"schedule-{method.name}" in method.needs]
    if scheduled:
        cut = ("kpod.n_clusters", "kpod.word_vectors")
        out.append(
            Stage("kpod-difficulty", lambda: measure_losses(run), ("seed", *of("model"), *cut),
                  ("data",), outputs=("kpod/difficulty",))
        )  # fmt: skip
    for method in scheduled:
        read = ("schedule", "weighted_difficulty", "n_stages", "start_share", "power", "beta",
                "steps_at_once")  # fmt: skip
        out.append(
            Stage(f"schedule-{method.name}", functools.partial(schedule, run, method),
                  fields(method.name, *read), (WEIGHT_STAGE, "kpod-difficulty"),
                  outputs=(f"kpod/{method.name}",))
        )  # fmt: skip
    return out


def train_weights(run: Run) -> None:
    """Train the weighting module by the loop that trains students."""
    vocab = load_saved(run / "vocab")
    model = model_config(run, vocab)
    examples, validation = (
        role_examples(run, WEIGHTS, vocab, split)["weights"] for split in ("train", "validation")
    )
    loss = weight_loss(run.config, vocab, [*examples, *validation])
    start = load_start(run, model)
    if start is not None:
        key = jax.random.key(run.config.seed)
        start = jax.jit(functools.partial(keypoint.from_student, model))(start, key)
    own = dataclasses.replace(run, config=_weights_config(run.config))
    steps = role_steps(own, examples)
    alone = round(run.config.kpod.predictor_share * steps)
    for is_alone, until in ((True, alone), (False, steps)):
        if until:  # what is finished already returns at once
            goal = weights_objective(model, loss._replace(alone=is_alone))
            train_role(own, WEIGHTS, "weights", goal, examples, validation, steps, start, until)


def weight_loss(config: ConfigDict, vocab: Vocabulary, examples: list[Example]) -> WeightLoss:
    """Return the loss of the token weights as the configuration says.

    Raises:
      UserError: a field out of its range.
    """
    kpod = config.kpod
    if kpod.alpha < 0 or not 0 <= kpod.predictor_share < 1:
        raise UserError(
            "kpod.alpha must be 0 or more and kpod.predictor_share at least 0 and below 1, got "
            f"{kpod.alpha} and {kpod.predictor_share}"
        )
    longest = max(int(example.weights.sum()) for example in examples)
    return WeightLoss(kpod.alpha, False, vocab.sentinel(0), longest)


def _weights_config(config: ConfigDict) -> ConfigDict:
    """Return the configuration that the weighting module is trained with."""
    if config.kpod.weight_epochs <= 0:
        raise UserError(f"kpod.weight_epochs must be above 0, got {config.kpod.weight_epochs}")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        t = config.train
        t.steps, t.examples, t.tokens, t.epochs = 0, 0, 0, config.kpod.weight_epochs
        t.packed_length, t.normalize = 0, "examples"
        t.rate_factors = (f"{keypoint.FROZEN}=0", f"{keypoint.WEIGHTING}={_WEIGHTING_RATE}")
    return config


def export_weights(run: Run) -> None:
    """Write the weight of every token of every chain, and show some."""
    vocab = load_saved(run / "vocab")
    model = model_config(run, vocab)
    params = _load_weights(run, model)
    for split in ("train", "validation"):
        records = read_records(run / f"data/{split}.jsonl")
        examples = role_examples(run, WEIGHTS, vocab, split)["weights"]
        weights = _all_weights(run, model, params, examples)
        rows = []
        for record, own in zip(records, weights, strict=True):
            chain = encode_steps(vocab, record, run.config)
            own = [round(weight, 5) for weight in own[:-1].tolist()]
            rows.append({
                "id": record.id, "tokens": chain.tokens, "weights": own,
                "n_rationale": chain.n_rationale,
            })  # fmt: skip
        write_jsonl(run / WEIGHT_NOTES.format(split=split), rows)
        if split == "train":
            _show(run, [record.question for record in records], rows)


def _show(run: Run, questions: list[str], rows: list[dict]) -> None:
    of_rationale = np.concatenate([row["weights"][: row["n_rationale"]] for row in rows])
    run.say(
        f"  mean weight of a rationale's tokens {of_rationale.mean():.3f}; "
        f"{(of_rationale > 0.5).mean():.1%} weigh more than 0.5"
    )
    cut = [(q, row["tokens"], row["weights"]) for q, row in zip(questions, rows, strict=True)]
    run.say(f"  {weights_text(*cut[0][1:])}")
    write_text(run / "kpod/weights/train.html", weights_page("Token weights", cut[:_SHOWN]))


def _load_weights(run: Run, model: T5Config) -> Params:
    mesh = own_mesh(run)
    shapes = jax.eval_shape(functools.partial(keypoint.init, model), jax.random.key(0))
    axes = keypoint.logical_axes(model)
    on = param_shardings(mesh, rules(run.config.mesh.preset), axes, shapes)
    target = jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
        shapes, on,
    )  # fmt: skip
    return restore_params(role_folder(run, WEIGHTS, "weights"), target)


def _all_weights(
    run: Run, model: T5Config, params: Params, examples: list[Example]
) -> list[np.ndarray]:
    """Weights of the targets of each example, float32 [T]."""
    out: list = [None] * len(examples)
    buckets = run.config.train.source_buckets, run.config.train.target_buckets
    for batch in eval_batches(examples, _BATCH, *buckets):
        values = jax.device_get(token_weights(model, params, batch))
        for row, index in enumerate(batch["example_index"].tolist()):
            if index >= 0:
                out[index] = values[row, : len(examples[index].targets)]
    return out


def measure_losses(run: Run) -> None:
    """Score every rationale with the untouched student, and divide the questions into clusters."""
    vocab, kpod = load_saved(run / "vocab"), run.config.kpod
    model = model_config(run, vocab)
    params = untouched(run, model)
    records = read_records(run / "data/train.jsonl")
    examples = role_examples(run, WEIGHTS, vocab, "train")["weights"]
    buckets = run.config.train.source_buckets, run.config.train.target_buckets
    scores = score_examples(model, params, examples, *buckets, _BATCH)
    if kpod.word_vectors:
        vectors, n_unknown = word_vectors(kpod.word_vectors, [r.question for r in records])
        run.say(f"  {n_unknown} of {len(records)} questions have no word with a vector")
    else:
        vectors = state_vectors(model, params, examples, buckets[0], _BATCH)
    labels = cluster(vectors, kpod.n_clusters, run.config.seed)
    rows = []
    for record, (nll, _), label in zip(records, scores, labels.tolist(), strict=True):
        chain = encode_steps(vocab, record, run.config)
        losses = [round(loss, 6) for loss in nll[: chain.n_rationale].tolist()]
        rows.append(
            {"id": record.id, "ends": chain.ends.tolist(), "losses": losses, "cluster": label}
        )
    write_jsonl(run / _DIFFICULTY, rows)
    mean = np.mean(np.concatenate([row["losses"] for row in rows]))
    run.say(f"  {mean:.3f} nats a token; clusters of {np.bincount(labels).tolist()} questions")


def schedule(run: Run, method: Method) -> None:
    """Decide what is given at each stage, and write it for each record."""
    own = settings(run.config, method.name)
    rows = [row for _, row in read_jsonl(run / _DIFFICULTY)]
    weights = [row["weights"] for _, row in read_jsonl(run / WEIGHT_NOTES.format(split="train"))]
    difficulties = [
        step_difficulties(row["losses"], row["ends"], w if own["weighted_difficulty"] else None)
        for row, w in zip(rows, weights, strict=True)
    ]
    clusters = np.array([row["cluster"] for row in rows])
    losses = np.array([np.mean(row["losses"]) for row in rows])
    wanted = Settings(
        own["schedule"], own["n_stages"], own["start_share"], own["power"], own["beta"],
        own["steps_at_once"],
    )  # fmt: skip
    made = make_schedule(difficulties, clusters, losses, wanted)
    folder = run / f"kpod/{method.name}"
    write_jsonl(folder / "train.jsonl", (
        {"id": row["id"], "ends": row["ends"], "difficulty": d.round(6).tolist(),
         "given": column.tolist()}
        for row, d, column in zip(rows, difficulties, made.given.T, strict=True)
    ))  # fmt: skip
    # The loss on validation is that of whole rationales.
    vocab = load_saved(run / "vocab")
    write_jsonl(folder / "validation.jsonl", (
        {"id": record.id, "ends": encode_steps(vocab, record, run.config).ends.tolist(),
         "given": [0, 0]}
        for record in read_records(run / "data/validation.jsonl")
    ))  # fmt: skip
    write_json(folder / "schedule.json", {
        "settings": wanted._asdict(), "total": float(made.ceiling[-1]),
        "ceiling": made.ceiling.tolist(), "difficulty": made.difficulty.tolist(),
        "given_mean": made.given.mean(1).tolist(), "chosen": list(made.chosen),
        "solver": list(made.solver), "clusters": np.bincount(clusters).tolist(),
    })  # fmt: skip
    total = made.ceiling[-1]
    run.say(
        f"  {sum(map(len, difficulties))} steps of {len(rows)} questions; of their difficulty "
        f"{total:.1f} the stages ask for "
        + ", ".join(f"{share:.0%}" for share in made.difficulty / max(total, 1e-9))
    )
