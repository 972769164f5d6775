"""KPOD's stages: token weights, difficulties and clusters, and a schedule for each row.

In order: ``train-kpod-weights``, ``kpod-weights`` (writes the weights down), ``kpod-difficulty``
(asks the untouched student, so that it may come before), ``schedule-<row>``.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.files import write_json, write_text
from asesjax.core.options import Config, reads
from asesjax.core.processes import apart, is_first
from asesjax.core.ragged import Ragged, read_annotations, write_annotations
from asesjax.core.stages import Stage
from asesjax.core.types import Example, Params
from asesjax.data.corpus import EncodedRecord, read_corpus
from asesjax.data.vocab import Vocabulary, load_saved
from asesjax.decode.passes import map_batches
from asesjax.decode.score import score_examples
from asesjax.jobs.training import role_steps, train_role, whole_roles, write_result
from asesjax.methods.kpod.clusters import cluster, state_vectors, word_vectors
from asesjax.methods.kpod.options import KpodOptions
from asesjax.methods.kpod.schedule import make_schedule, step_difficulties
from asesjax.methods.kpod.steps import step_ends
from asesjax.methods.kpod.weights import (
    WeightLoss,
    token_weights,
    weight_example,
    weights_objective,
)
from asesjax.methods.method import check_all_records
from asesjax.models import keypoint
from asesjax.models.t5_config import T5Config
from asesjax.run import (
    Run,
    load_described,
    load_start,
    model_config,
    own_mesh,
    placed,
    role_folder,
    untouched,
)
from asesjax.training.checkpoint import restore_params
from asesjax.training.describe import describe_start
from asesjax.training.options import DECODED
from asesjax.viz.weights import weights_page, weights_text

WEIGHTS = "kpod/weights/{split}.npz"  # array weights: of each token of a chain
WEIGHTS_STAGE = "kpod-weights"
_ROW = "kpod_weights"  # folder of the weighting module among the roles
_DIFFICULTY = "kpod/difficulty/train.npz"  # arrays losses [tokens], ends [steps], cluster [1]
_SPLITS = ("train", "validation")
# Of the learning rate, for the weighting module (ours). At the full rate the noise of a few hundred
# steps takes weights so near to 0 that no gradient brings them back.
_WEIGHTING_RATE = 0.05
_SHOWN = 100  # rationales of the page
_BATCH = 64  # of what is only scored


def weight_stages(run: Run, config: Config) -> list[Stage]:
    """Return the stages that train the weighting module and write the weights. Raises UserError for
    options that do not name one predictor, or ``train.records``.
    """
    check_all_records(config, "KPOD's token weights")
    shape, place = config.kpod.predictor_shape, config.kpod.predictor_from
    if place and shape or shape and len(shape) != 5:
        raise UserError(
            "kpod.predictor_shape must be d_model, d_ff, d_kv, heads and layers, or () where "
            f"kpod.predictor_from is set, whose shape is taken; got {shape}"
        )
    own = dataclasses.replace(run, config=_weights_config(config))
    return [
        Stage("train-kpod-weights", lambda: train_weights(own),
              reads(own.config, "seed", "model", "train", "kpod:weights"), ("data",),
              outputs=(f"roles/{_ROW}",), together=True,
              whole=lambda: whole_roles(own, _ROW, ("weights",))),
        Stage(WEIGHTS_STAGE, lambda: export_weights(own), {}, ("train-kpod-weights",),
              outputs=("kpod/weights",), together=True),
    ]  # fmt: skip


def schedule_stages(run: Run, config: Config, row: str) -> list[Stage]:
    """Return the stages that measure difficulties and decide what is given to a row's student."""
    own = dataclasses.replace(run, config=config)
    return [
        Stage("kpod-difficulty", lambda: measure_losses(own),
              reads(config, "seed", "model", "kpod:clusters"), ("data",),
              outputs=("kpod/difficulty",), together=True),
        Stage(f"schedule-{row}", lambda: schedule(own, row), reads(config, "kpod:schedule"),
              (WEIGHTS_STAGE, "kpod-difficulty"), outputs=(f"kpod/{row}",)),
    ]  # fmt: skip


def _weights_config(config: Config) -> Config:
    # What the student writes says nothing about the weights; nor may the predictor, once it gains
    # nothing alone, end the training of the weights, which begins after it.
    decoded = {"train.keep_best": "validation_loss"} if config.train.keep_best in DECODED else {}
    return config.changed(decoded | {
        "train.patience": 0,
        "train.steps": 0, "train.examples": 0, "train.tokens": 0,
        "train.epochs": config.kpod.weight_epochs, "train.packed_length": 0,
        "train.normalize": "examples", "train.label_smoothing": 0.0, "train.z_loss": 0.0,
        "train.rate_factors": (f"{keypoint.FROZEN}=0", f"{keypoint.WEIGHTING}={_WEIGHTING_RATE}"),
    })  # fmt: skip


def _corpus(run: Run, split: str) -> list[EncodedRecord]:
    return read_corpus(run.workdir, split, run.config.data.answer_template)


def _weight_examples(records: Sequence[EncodedRecord], vocab: Vocabulary) -> list[Example]:
    return [weight_example(vocab, record, int(step_ends(record)[-1])) for record in records]


def train_weights(run: Run) -> None:
    """Train the weighting module by the loop that trains students."""
    vocab = load_saved(run / "vocab")
    model = model_config(run, vocab)
    examples, validation = (_weight_examples(_corpus(run, split), vocab) for split in _SPLITS)
    shape = predictor_shape(run, model)
    loss = weight_loss(run.config.kpod, vocab, [*examples, *validation], shape)
    start, place = load_start(run, model), run.config.kpod.predictor_from
    if start is not None or place:
        begun = None
        if place:
            assert shape is not None  # a checkpoint has one
            begun = load_described(run, describe_start(place), shape)
        make = jax.jit(functools.partial(keypoint.from_student, model, predictor=shape))
        start = untouched(run, model) if start is None else start
        start = make(start, jax.random.key(run.config.seed), trained=begun)
    steps = role_steps(run, examples)
    alone = round(run.config.kpod.predictor_share * steps)
    for is_alone, until in ((True, alone), (False, steps)):
        if until:  # what is finished already returns at once
            objective = weights_objective(model, loss._replace(alone=is_alone))
            result = train_role(
                run, _ROW, "weights", objective, examples, validation, steps, start, until
            )
    write_result(run, _ROW, "weights", result)


def predictor_shape(run: Run, model: T5Config) -> T5Config | None:
    """Return the shape of a predictor of its own, None where it is the student's. Raises UserError
    for another vocabulary.
    """
    place, shape = run.config.kpod.predictor_from, run.config.kpod.predictor_shape
    if shape:
        names = "d_model", "d_ff", "d_kv", "n_heads", "n_encoder_layers", "n_decoder_layers"
        own = dict(zip(names, (*shape, shape[-1]), strict=True))
        return dataclasses.replace(model, **own)
    if not place:
        return None
    start, vocab = describe_start(place), load_saved(run / "vocab")
    if start.vocab is not None and start.vocab.fingerprint != vocab.fingerprint:
        raise UserError(
            f"kpod.predictor_from {place} has another vocabulary than this run; the predictor "
            "reads and writes the student's ids: give a checkpoint of the same vocabulary"
        )
    return dataclasses.replace(start.model, dropout=model.dropout, dtype=model.dtype)


def weight_loss(
    kpod: KpodOptions,
    vocab: Vocabulary,
    examples: Sequence[Example],
    predictor: T5Config | None = None,
) -> WeightLoss:
    """Return the loss of the token weights."""
    longest = max(int(example.weights.sum()) for example in examples)
    temperature = kpod.temperature if kpod.mask == "gumbel" else 0.0
    return WeightLoss(kpod.alpha, False, vocab.sentinel(0), longest, temperature, predictor)


def export_weights(run: Run) -> None:
    """Write the weight of every token of every chain, and show some."""
    vocab = load_saved(run / "vocab")
    model = model_config(run, vocab)
    shape = predictor_shape(run, model)
    init = functools.partial(keypoint.init, model, predictor=shape)
    shapes = jax.eval_shape(init, jax.random.key(0))
    target = placed(run, shapes, keypoint.logical_axes(model, shape), own_mesh(run))
    params = restore_params(role_folder(run, _ROW, "weights"), target)
    for split in _SPLITS:
        records = _corpus(run, split)
        weights = _all_weights(run, model, params, _weight_examples(records, vocab))
        weights = [np.round(own[:-1].astype(np.float64), 5) for own in weights]
        if not is_first():
            continue
        write_annotations(
            run / WEIGHTS.format(split=split), [one.record.id for one in records],
            weights=Ragged.of(weights, np.float32),
        )  # fmt: skip
        if split == "train":
            _show(run, records, weights)


def _show(run: Run, records: Sequence[EncodedRecord], weights: Sequence[np.ndarray]) -> None:
    of_rationale = np.concatenate(
        [own[: step_ends(one)[-1]] for one, own in zip(records, weights, strict=True)]
    )
    run.say(
        f"  mean weight of a rationale's tokens {of_rationale.mean():.3f}; "
        f"{(of_rationale > 0.5).mean():.1%} weigh more than 0.5"
    )
    cut = [(one.record.question, one.chain.token_texts(), own.tolist())
           for one, own in zip(records[:_SHOWN], weights, strict=False)]  # fmt: skip
    run.say(f"  {weights_text(*cut[0][1:])}")
    write_text(run / "kpod/weights/train.html", weights_page("Token weights", cut))


def _all_weights(
    run: Run, model: T5Config, params: Params, examples: list[Example]
) -> list[np.ndarray]:
    buckets = run.config.train.source_buckets, run.config.train.target_buckets
    function = functools.partial(token_weights, model, params)
    rows = map_batches(function, examples, *buckets, _BATCH, own_mesh(run))
    return [row[: len(one.targets)] for row, one in zip(rows, examples, strict=True)]


def measure_losses(run: Run) -> None:
    """Score every rationale with the untouched student, and divide the questions into clusters."""
    vocab, kpod = load_saved(run / "vocab"), run.config.kpod
    model = model_config(run, vocab)
    mesh = own_mesh(run)
    params = untouched(run, model, mesh)
    records = _corpus(run, "train")
    examples = _weight_examples(records, vocab)
    buckets = run.config.train.source_buckets, run.config.train.target_buckets
    scores = score_examples(model, params, examples, *buckets, _BATCH, mesh)
    if kpod.word_vectors:
        vectors, n_unknown = word_vectors(kpod.word_vectors, [r.record.question for r in records])
        run.say(f"  {n_unknown} of {len(records)} questions have no word with a vector")
    else:
        vectors = state_vectors(model, params, examples, *buckets, _BATCH, mesh)
    if not is_first():
        return
    with apart():
        labels = cluster(vectors, kpod.n_clusters, run.config.seed)
    ends = [step_ends(record) for record in records]
    losses = [np.round(nll[: own[-1]].astype(np.float64), 6)
              for (nll, _), own in zip(scores, ends, strict=True)]  # fmt: skip
    write_annotations(
        run / _DIFFICULTY, [one.record.id for one in records],
        ends=Ragged.of(ends, np.int32), losses=Ragged.of(losses, np.float64),
        cluster=Ragged.of(labels[:, None], np.int32),
    )  # fmt: skip
    mean = np.mean(np.concatenate(losses))
    run.say(f"  {mean:.3f} nats a token; clusters of {np.bincount(labels).tolist()} questions")


def schedule(run: Run, row: str) -> None:
    """Decide what is given at each stage, and write it for each record."""
    options, records = run.config.kpod, _corpus(run, "train")
    ids = [one.record.id for one in records]
    notes = read_annotations(run / _DIFFICULTY, ids)
    ends, losses = (list(notes[name].rows()) for name in ("ends", "losses"))
    weights = read_annotations(run / WEIGHTS.format(split="train"), ids)["weights"].rows()
    difficulties = [
        step_difficulties(loss, own, w if options.weighted_difficulty else None)
        for loss, own, w in zip(losses, ends, weights, strict=True)
    ]
    clusters = notes["cluster"].values
    made = make_schedule(difficulties, clusters, np.array([np.mean(x) for x in losses]), options)
    write_annotations(
        run / f"kpod/{row}/train.npz", ids, ends=Ragged.of(ends, np.int32),
        given=Ragged.of(list(made.given.T), np.int32),
        difficulty=Ragged.of([d.round(6) for d in difficulties], np.float64),
    )  # fmt: skip
    # The loss on validation is that of whole rationales.
    held_out = _corpus(run, "validation")
    write_annotations(
        run / f"kpod/{row}/validation.npz", [one.record.id for one in held_out],
        ends=Ragged.of([step_ends(one) for one in held_out], np.int32),
        given=Ragged.of([[0, 0]] * len(held_out), np.int32),
    )  # fmt: skip
    settings: dict[str, Any] = {
        name.partition(".")[2]: value for name, value in reads(run.config, "kpod:schedule").items()
    }
    write_json(run / f"kpod/{row}/schedule.json", {
        "settings": settings, "total": float(made.ceiling[-1]),
        "ceiling": made.ceiling.tolist(), "difficulty": made.difficulty.tolist(),
        "given_mean": made.given.mean(1).tolist(), "chosen": list(made.chosen),
        "solver": list(made.solver), "clusters": np.bincount(clusters).tolist(),
    })  # fmt: skip
    total = made.ceiling[-1]
    run.say(
        f"  {sum(map(len, difficulties))} steps of {len(records)} questions; of their difficulty "
        f"{total:.1f} the stages ask for "
        + ", ".join(f"{share:.0%}" for share in made.difficulty / max(total, 1e-9))
    )
