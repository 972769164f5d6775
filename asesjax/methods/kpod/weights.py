"""Training of KPOD's token weights (Feng et al. 2024, section 3.1 and equations 4 to 7).

A token of the rationale is kept with the probability of its weight; a T5 predicts the answer from
the question and a prefix of what is left. With z the logits of ``models.keypoint``:

    m_j = 1 with probability sigmoid(z_j), else 0
    L   = E_k[-log P(answer | question, first k tokens of r[m])] + alpha * mean_j sigmoid(z_j)

with k uniform in 1..|r|, drawn once an example and step: the paper's sum over all prefixes plus
alpha times the expected number of kept tokens, divided by |r|. A masked token has the embedding of
<extra_id_0> (the paper does not say); zeros would meet T5's RMS norm, whose derivative at 0 is a
thousand, and drown the gradient in noise.

The gradient of a logit is w (1 - w) times L(m_j = 1) - L(m_j = 0), the integral of dL/dm_j from 0
to 1. So in every step a quarter of the tokens, drawn anew, stand at a uniform point between, and
their slopes there are samples of it (ours; unbiased but for the rest of that quarter, which is
partly masked too). The paper's Gumbel-softmax, straight through (``kpod.mask=gumbel``), takes the
slope at 0 or 1, where predictors are flat; on the embedded task it found an eighth of the true
effect, so it is not the default.

In the first part of training the predictor learns alone (ours, ``kpod.predictor_share``; the paper
has a large pretrained predictor), from masks that keep a random share, all of it half the time, and
mostly long prefixes. A small predictor that does not read rationales yet does better without them,
so weights fall, and what is masked it never learns to read (Jethani et al. 2021, REAL-X).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from asesjax import losses
from asesjax.core.types import Example, Params
from asesjax.data.corpus import EncodedRecord
from asesjax.data.examples import make_example
from asesjax.data.vocab import Vocabulary
from asesjax.models import keypoint, t5
from asesjax.models.t5_config import T5Config, token_flops
from asesjax.training.objective import Objective

_PARTLY = 0.25  # share of the tokens that gradients are measured at in a step


class WeightLoss(NamedTuple):
    """What the loss depends on besides parameters and batch."""

    alpha: float  # price of keeping a whole rationale, in nats
    alone: bool  # the predictor alone is trained, by random masks for which nothing is asked
    mask_id: int  # whose embedding stands for masked tokens
    answer_length: int  # A, tokens of the longest answer, the end of sequence included
    # of Gumbel-softmax; 0: gradients are measured at partly masked tokens instead
    temperature: float = 0.0
    predictor: T5Config | None = None  # its shape, where it has one of its own


def weight_example(vocab: Vocabulary, record: EncodedRecord, n_rationale: int) -> Example:
    """Return question -> whole chain, with weight 0 on the rationale and 1 on the answer."""
    ids = record.chain.ids
    weights = (np.arange(len(ids) + 1) >= n_rationale).astype(np.float32)
    return make_example(vocab, record.record.id, [record.question.ids], [ids], weights=weights)


@functools.lru_cache(maxsize=8)
def weights_objective(config: T5Config, settings: WeightLoss) -> Objective:
    """Return the objective of token weights.

    Its sums count examples, so both ways of ``train.normalize`` are the mean over examples. In
    training ``nll`` is that of an answer in nats and ``loss`` is L, so the mean weight is ``(loss -
    nll) / alpha`` once weights are trained. In evaluation ``nll_sum`` is L too, which
    ``train.keep_best`` then compares; its draws depend on the example alone.
    """

    def loss(params, batch, key, train):
        nll, kept, correct, n = batch_sums(config, settings, params, batch, key, train)
        return losses.LossSums(nll + settings.alpha * kept, jax.lax.stop_gradient(nll), n, correct)

    def evaluate(params, batch, train):
        key, together = jax.random.key(0), settings._replace(alone=False)
        nll, kept, correct, n = batch_sums(config, together, params, batch, key, train, False)
        total = nll + settings.alpha * kept
        return losses.LossSums(total, total, n, correct)

    def flops(source_length, target_length):
        # The encoder reads both sides; the decoder writes the answer alone.
        length = source_length + target_length
        shape = settings.predictor or config
        encoder, decoder = token_flops(shape, length, settings.answer_length)
        return encoder, encoder + decoder * settings.answer_length / target_length

    return Objective(
        init=functools.partial(keypoint.init, config, predictor=settings.predictor),
        logical_axes=functools.partial(keypoint.logical_axes, config, settings.predictor),
        loss=loss,
        evaluate=evaluate,
        draws=True,
        token_flops=flops,
    )


def batch_sums(
    config: T5Config,
    settings: WeightLoss,
    params: Params,
    batch: dict[str, jax.Array],
    key: jax.Array,
    train: Any,
    is_training: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Draw masks and prefixes and predict the answers. What an example draws depends on ``key`` and
    its ``example_index`` alone. With ``is_training`` dropout acts and some tokens are partly
    masked, for the gradient. Returns float32 sums over examples: nll of the answers, mean weights
    of the rationales' tokens, shares of right answer tokens; and the number of examples.
    """
    tokens, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    is_rationale = (tokens != 0) & (weights == 0)
    length = is_rationale.sum(1)
    key, dropout_key = jax.random.split(key)
    own_keys = jax.vmap(functools.partial(jax.random.fold_in, key))(batch["example_index"])
    if settings.alone:
        own = jnp.zeros(tokens.shape)  # none is asked, so nothing is paid
        draw = functools.partial(_draw_alone, size=tokens.shape[1])
        masks, n_given = jax.vmap(draw)(own_keys, length)
    else:
        logits = keypoint.weight_logits(config, params, tokens, is_rationale)
        own = jax.nn.sigmoid(logits)
        masks, n_given = jax.vmap(_draw)(own_keys, length, own)
        if is_training and settings.temperature:
            gumbel = functools.partial(_gumbel, temperature=settings.temperature)
            masks = jax.vmap(gumbel)(own_keys, logits)
        elif is_training:
            masks = jax.vmap(_partly)(own_keys, masks, own)
    kept = jnp.sum(own * is_rationale, axis=1) / jnp.maximum(length, 1)

    source, index = _prefix(batch["encoder_input_tokens"], tokens, n_given)
    whole = jnp.ones(batch["encoder_input_tokens"].shape, masks.dtype)
    keep = jnp.take_along_axis(jnp.concatenate([whole, masks], 1), index, 1)[..., None]
    embedded = keypoint.read(config, params, source)
    mask = keypoint.read(config, params, jnp.int32(settings.mask_id))
    keep = keep.astype(embedded.dtype)
    answer, answer_weights = _answers(tokens, weights, length, settings.answer_length)
    inputs = {
        "encoder_input_tokens": source,
        "encoder_embeddings": keep * embedded + (1 - keep) * mask,
        "decoder_input_tokens": jnp.pad(answer, ((0, 0), (1, 0)))[:, :-1],
    }
    if not (config.dropout and is_training):
        dropout_key = None
    shape, predictor = settings.predictor or config, params["predictor"]
    hidden = t5.forward(shape, predictor, inputs, dropout_key, train.remat, train.scan_layers)
    sums = losses.hidden_cross_entropy(
        functools.partial(t5.logits, shape, predictor), hidden, answer, answer_weights
    )
    n = losses.count_examples(batch)
    correct = sums.correct_sum * n * losses.inverse(sums.weight_sum)
    return sums.loss_sum, kept.sum(), correct, n


def _draw(key: jax.Array, length: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw masks [T], 0 or 1, and how many tokens, 1 to ``length``, a prefix has."""
    of_masks, of_prefix = jax.random.split(key)
    kept = jax.random.bernoulli(of_masks, weights)
    n_given = jax.random.randint(of_prefix, (), 1, jnp.maximum(length, 1) + 1)
    return kept.astype(jnp.float32), n_given


def _draw_alone(key: jax.Array, length: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Draw masks and a prefix for a predictor that learns alone; the longest of four prefixes."""
    of_share, of_masks, of_prefix = jax.random.split(key, 3)
    share = jnp.minimum(1.0, 2 * jax.random.uniform(of_share))
    kept = jax.random.bernoulli(of_masks, share, (size,))
    n_given = jax.random.randint(of_prefix, (4,), 1, jnp.maximum(length, 1) + 1).max()
    return kept.astype(jnp.float32), n_given


def _partly(key: jax.Array, masks: jax.Array, weights: jax.Array) -> jax.Array:
    """Put some of the masks [T] between 0 and 1, with gradients as the module's text says."""
    of_which, of_place = jax.random.split(jax.random.fold_in(key, 2))
    chosen = jax.random.bernoulli(of_which, _PARTLY, masks.shape)
    place = jax.random.uniform(of_place, masks.shape)
    through = (weights - jax.lax.stop_gradient(weights)) / _PARTLY
    return jnp.where(chosen, place + through, masks)


def _gumbel(key: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
    """Draw masks [T], 0 or 1, with the gradient of sigmoid((z + logistic noise) / temperature):
    Gumbel-softmax of two classes, straight through (equation 4).
    """
    noisy = logits + jax.random.logistic(jax.random.fold_in(key, 2), logits.shape)
    soft = jax.nn.sigmoid(noisy / temperature)
    return (noisy > 0) + (soft - jax.lax.stop_gradient(soft))


def _prefix(
    question: jax.Array, tokens: jax.Array, n_given: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Lay question, the first ``n_given`` [B] tokens of the rationale and end of sequence side by
    side. Returns ids [B, S + T], padding last, and their places in ``question`` [B, S] and
    ``tokens`` [B, T] joined.
    """
    n_question = (question != 0).sum(1, keepdims=True) - 1
    n_given = n_given[:, None]
    joined = jnp.concatenate([question, tokens], 1)
    place = jnp.arange(joined.shape[1])[None]
    in_tokens = question.shape[1] + place - n_question
    index = jnp.where(place < n_question + n_given, in_tokens, n_question)
    index = jnp.where(place < n_question, place, jnp.maximum(index, 0))
    ids = jnp.take_along_axis(joined, index, 1)
    return jnp.where(place <= n_question + n_given, ids, 0), index


def _answers(
    tokens: jax.Array, weights: jax.Array, start: jax.Array, size: int
) -> tuple[jax.Array, jax.Array]:
    """Cut [B, size] out of tokens and weights [B, T], from ``start`` [B] on, 0 behind the end."""
    place = start[:, None] + jnp.arange(size)
    inside = place < tokens.shape[1]
    index = jnp.minimum(place, tokens.shape[1] - 1)
    cut = lambda x: jnp.where(inside, jnp.take_along_axis(x, index, 1), 0)  # noqa: E731
    return cut(tokens), cut(weights)


@functools.partial(jax.jit, static_argnums=0)
def token_weights(config: T5Config, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
    """Return the probability w of each token of the rationale, float32 [B, T]; 1 for tokens of the
    answer, 0 for padding.
    """
    tokens, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    is_rationale = (tokens != 0) & (weights == 0)
    logits = keypoint.weight_logits(config, params, tokens, is_rationale)
    return jnp.where(is_rationale, jax.nn.sigmoid(logits), (tokens != 0).astype(jnp.float32))
