"""The weighting module and its loss, against definitions written out for one example at a time."""

import dataclasses
import functools
import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.types import Example
from asesjax.data.batching import eval_batches
from asesjax.methods.kpod import weights as kpod_weights
from asesjax.methods.kpod.weights import WeightLoss, token_weights, weights_objective
from asesjax.models import keypoint, t5
from asesjax.sharding.mesh import make_mesh
from asesjax.training.loop import train
from asesjax.training.step import loss_and_gradients

MODEL = t5.T5Config(
    vocab_size=24, d_model=16, d_kv=8, d_ff=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=1
)
LOSS = WeightLoss(alpha=0.5, alone=False, mask_id=23, answer_length=4)
EOS = 1
forward = jax.jit(t5.forward, static_argnums=0)


def example(i=0, n_question=3, n_rationale=5, n_answer=2, random=None):
    """Question, rationale and answer of random ids; the answer closes with end of sequence."""
    random = random or np.random.default_rng(i)
    ids = lambda n: random.integers(2, 20, n).astype(np.int32)  # noqa: E731
    targets = np.concatenate([ids(n_rationale), ids(n_answer), [EOS]]).astype(np.int32)
    weights = (np.arange(len(targets)) >= n_rationale).astype(np.float32)
    return Example(f"e{i}", np.append(ids(n_question), EOS).astype(np.int32), targets, weights)


def examples(n=6):
    random = np.random.default_rng(1)
    return [
        example(i, *random.integers(1, [6, 9, 4]), random=random) for i in range(n)
    ]


def make_batch(items, shape=(8, 14)):
    (batch,) = eval_batches(items, len(items), shape[:1], shape[1:])
    return batch


def settings(**changes):
    c = base_config()
    c.train.update(changes)
    return finish(c).train


@functools.partial(jax.jit, static_argnums=0)
def train_sums(objective, params, batch, key):
    return objective.loss(params, batch, key, settings())


@functools.partial(jax.jit, static_argnums=0)
def eval_sums(objective, params, batch):
    return objective.evaluate(params, batch, settings())


@functools.partial(jax.jit, static_argnums=0)
def gradients(objective, params, batch):
    return loss_and_gradients(objective, settings(), params, batch, jax.random.key(0))


@pytest.fixture(scope="module")
def params():
    return keypoint.init(MODEL, jax.random.key(0))


def with_bias(params, bias):
    """Logits around ``bias``: far up everything is kept, far down nothing."""
    weighting = params["weighting"] | {"bias": jnp.full(1, bias)}
    return params | {"weighting": weighting}


@jax.jit
def log_probabilities(predictor, inputs):
    hidden = t5.forward(MODEL, predictor, inputs)
    return jax.nn.log_softmax(t5.logits(MODEL, predictor, hidden))


def one_nll(predictor, table, source, mask, answer):
    """Negative log-likelihood of an answer, where masked source tokens have another embedding."""
    rows = np.where(mask[:, None], table[23], table[source])
    inputs = {
        "encoder_input_tokens": source[None],
        "encoder_embeddings": jnp.asarray(rows)[None],
        "decoder_input_tokens": np.concatenate([[0], answer[:-1]])[None].astype(np.int32),
    }
    log_p = log_probabilities(predictor, inputs)
    return -float(log_p[0, np.arange(len(answer)), answer].sum())


def parts(item):
    """Question without end of sequence, rationale and answer of an example."""
    n = int((item.weights == 0).sum())
    return item.inputs[:-1], item.targets[:n], item.targets[n:]


def test_the_encoder_takes_embeddings_instead_of_tokens(params):
    """What the encoder reads is the table's rows; tokens then tell padding alone."""
    batch = make_batch(examples())
    predictor = params["predictor"]
    tokens = batch["encoder_input_tokens"]
    rows = jnp.take(predictor["token_embedder"]["embedding"], tokens, axis=0)
    want = forward(MODEL, predictor, batch)
    other = batch | {"encoder_embeddings": rows, "encoder_input_tokens": (tokens != 0) * 7}
    np.testing.assert_array_equal(want, forward(MODEL, predictor, other))
    twice = forward(MODEL, predictor, other | {"encoder_embeddings": rows + 1})
    assert np.abs(want - twice).max() > 1e-3


def test_weights_do_not_depend_on_positions(params):
    """Tokens in another order have their weights in that order; equal tokens weigh the same."""
    tokens = np.array([[4, 9, 4, 12, 7, 0, 0]], np.int32)
    mask = tokens != 0
    logits = np.asarray(keypoint.weight_logits(MODEL, params, tokens, mask))[0]
    np.testing.assert_allclose(logits[0], logits[2], rtol=1e-5)
    order = [3, 0, 4, 2, 1]
    shuffled = tokens.copy()
    shuffled[0, :5] = tokens[0, order]
    again = np.asarray(keypoint.weight_logits(MODEL, params, shuffled, mask))[0]
    np.testing.assert_allclose(again[:5], logits[order], rtol=1e-4, atol=1e-6)
    assert len(np.unique(logits[[0, 1, 3, 4]].round(6))) == 4
    # Padding changes nothing, company does.
    longer = np.pad(tokens, ((0, 0), (0, 5)))
    padded = np.asarray(keypoint.weight_logits(MODEL, params, longer, longer != 0))[0]
    np.testing.assert_allclose(padded[:5], logits[:5], rtol=1e-5)
    alone = np.asarray(keypoint.weight_logits(MODEL, params, tokens, tokens == 4))[0]
    assert abs(alone[0] - logits[0]) > 1e-6


def test_question_and_prefix_are_joined_without_gaps():
    items = examples()
    batch = make_batch(items)
    n_given = np.array([min(2 + i % 3, len(parts(item)[1])) for i, item in enumerate(items)])
    index = batch["example_index"]
    ids, places = kpod_weights._prefix(
        batch["encoder_input_tokens"], batch["decoder_target_tokens"], n_given[index]
    )
    joined = np.concatenate([batch["encoder_input_tokens"], batch["decoder_target_tokens"]], 1)
    for row, i in enumerate(index):
        question, rationale, _ = parts(items[i])
        want = [*question, *rationale[: n_given[i]], EOS]
        got = np.asarray(ids[row]).tolist()
        assert got == want + [0] * (len(got) - len(want))
        assert joined[row, places[row][: len(want)]].tolist() == want


@pytest.mark.parametrize("bias, masked", [(60.0, False), (-60.0, True)], ids=["kept", "masked"])
def test_the_loss_is_the_mean_over_prefixes(params, bias, masked):
    """With masks that are certain, many draws come to the mean over all prefixes, written out."""
    params = with_bias(params, bias)
    items = examples(3)
    batch = make_batch(items)
    table = np.asarray(params["embedding"])
    want = []
    for item in items:
        question, rationale, answer = parts(item)
        terms = []
        for k in range(1, len(rationale) + 1):
            source = np.concatenate([question, rationale[:k], [EOS]]).astype(np.int32)
            hidden = np.zeros(len(source), bool)
            hidden[len(question) : -1] = masked
            terms.append(one_nll(params["predictor"], table, source, hidden, answer))
        want.append(terms)
    low, high = (sum(f(terms) for terms in want) for f in (min, max))

    @jax.jit
    def draw(key):
        return kpod_weights.batch_sums(MODEL, LOSS, params, batch, key, settings(), False)

    keys = jax.random.split(jax.random.key(5), 600)
    nll, kept, _, n = jax.vmap(draw)(keys)
    np.testing.assert_allclose(kept, 0 if masked else 3, atol=1e-6)
    assert (np.asarray(n) == 3).all()
    assert nll.min() > low - 1e-3 and nll.max() < high + 1e-3
    error = float(nll.std()) / 600**0.5
    assert abs(float(nll.mean()) - sum(map(np.mean, want))) < 4 * error + 1e-4


def test_gradients_of_a_mask_average_to_its_effect():
    """Even of a loss that is flat at both ends, where a slope at 0 or 1 would say nothing."""
    logits = jnp.array([-1.0, 0.3, 2.0])
    weights = jax.nn.sigmoid(logits)
    effect = lambda m: jax.nn.sigmoid(12 * m - 5)  # noqa: E731

    @jax.jit
    def gradient(key):
        masks, _ = kpod_weights._draw(key, jnp.int32(3), weights)
        partly = lambda z: kpod_weights._partly(key, masks, jax.nn.sigmoid(z))  # noqa: E731
        return jax.grad(lambda z: effect(partly(z)).sum())(logits), partly(logits) - masks

    n = 40_000
    found, moved = jax.vmap(gradient)(jax.random.split(jax.random.key(2), n))
    want = weights * (1 - weights) * (effect(1.0) - effect(0.0))
    error = np.asarray(found).std(0) / n**0.5
    assert (np.abs(np.asarray(found).mean(0) - want) < 4 * error).all()
    assert (4 * error < 0.1 * want).all()
    # Only those that are chosen move; all others are 0 or 1 and have no gradient.
    np.testing.assert_array_equal(np.asarray(found) != 0, np.asarray(moved) != 0)
    assert abs((np.asarray(moved) != 0).mean() - 0.25) < 4 * 0.5 / (3 * n) ** 0.5


def test_gradients_of_weights_are_those_of_the_mean_over_all_masks(params):
    """Against all masks of a short rationale, written out."""
    params = with_bias(params, 0.5)
    item = example(3, n_rationale=3)
    batch = make_batch([item])
    question, rationale, answer = parts(item)
    is_rationale = (np.arange(14) < 3)[None]
    logits = keypoint.weight_logits(MODEL, params, batch["decoder_target_tokens"], is_rationale)
    weights = np.asarray(jax.nn.sigmoid(logits))[0, :3]
    want = 0.0
    for keep in itertools.product([0, 1], repeat=3):
        chance = np.where(keep, weights, 1 - weights)
        # d/dz of the chance: that of the others, times w (1 - w) and the sign of the mask.
        slope = sum(np.sign(m - 0.5) * weights[j] * (1 - weights[j]) * np.delete(chance, j).prod()
                    for j, m in enumerate(keep))  # fmt: skip
        for k in (1, 2, 3):
            source = np.concatenate([question, rationale[:k], [EOS]]).astype(np.int32)
            masked = np.zeros(len(source), bool)
            masked[len(question) : -1] = np.array(keep[:k]) == 0
            table = np.asarray(params["embedding"])
            want += slope / 3 * one_nll(params["predictor"], table, source, masked, answer)

    check_mean_gradient(LOSS, params, batch, want, 30_000)


def check_mean_gradient(loss, params, batch, want, n):
    """The mean over ``n`` keys of the gradient of the bias agrees with ``want``, which it can."""

    def gradient(key):
        def nll(bias):
            own = with_bias(params, bias)
            return kpod_weights.batch_sums(MODEL, loss, own, batch, key, settings())[0]

        return jax.grad(nll)(0.5)

    keys = jax.random.split(jax.random.key(4), n)
    found = np.asarray(jax.lax.map(gradient, keys, batch_size=500))
    error = found.std() / len(found) ** 0.5
    assert 4 * error < 0.2 * abs(want)
    assert abs(found.mean() - want) < 4 * error


def test_gumbel_masks_have_the_gradient_of_soft_ones():
    """Straight through: the mean over the noise of what the loss says at 0 or 1, written out."""
    logits, price = jnp.array([-1.0, 0.3, 2.0]), jnp.array([2.0, -1.0, 0.5])
    u = (np.arange(200_000) + 0.5) / 200_000
    noisy = np.asarray(logits)[:, None] + np.log(u) - np.log1p(-u)

    for temperature in (1.0, 0.5):

        def gradient(key, t=temperature):
            masks = lambda z: kpod_weights._gumbel(key, z, t)  # noqa: E731
            return jax.grad(lambda z: (price * masks(z) ** 2).sum())(logits), masks(logits)

        n = 40_000
        found, masks = jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(2), n))
        assert set(np.unique(masks).tolist()) == {0.0, 1.0}
        weights = np.asarray(jax.nn.sigmoid(logits))
        np.testing.assert_allclose(np.asarray(masks).mean(0), weights, atol=4 * 0.5 / n**0.5)
        soft = 1 / (1 + np.exp(-noisy / temperature))
        # d(price m^2) is 2 price m, and m is 1 above 0.
        slopes = 2 * np.asarray(price)[:, None] * (noisy > 0) * soft * (1 - soft) / temperature
        error = np.asarray(found).std(0) / n**0.5
        assert (np.abs(np.asarray(found).mean(0) - slopes.mean(1)) < 4 * error + 1e-4).all()


def test_gumbel_gradients_of_weights_are_those_of_the_estimator(params):
    """Of a rationale of one token: its loss has the slope at 0 or at 1, by the noise."""
    params = with_bias(params, 0.5)
    item = example(3, n_rationale=1)
    batch, loss = make_batch([item]), LOSS._replace(temperature=1.0)
    question, rationale, answer = parts(item)
    source = np.concatenate([question, rationale, [EOS]]).astype(np.int32)
    table = params["embedding"]

    def nll(mask):
        blend = mask * table[rationale[0]] + (1 - mask) * table[23]
        rows = table[source].at[len(question)].set(blend)
        inputs = {
            "encoder_input_tokens": source[None], "encoder_embeddings": rows[None],
            "decoder_input_tokens": np.concatenate([[0], answer[:-1]])[None].astype(np.int32),
        }  # fmt: skip
        log_p = log_probabilities(params["predictor"], inputs)
        return -log_p[0, np.arange(len(answer)), answer].sum()

    slope = jax.jit(jax.grad(nll))
    is_rationale = (np.arange(14) < 1)[None]
    tokens = batch["decoder_target_tokens"]
    z = float(keypoint.weight_logits(MODEL, params, tokens, is_rationale)[0, 0])
    u = (np.arange(100_000) + 0.5) / 100_000
    noisy = z + np.log(u) - np.log1p(-u)
    soft = 1 / (1 + np.exp(-noisy))
    at = np.array([slope(0.0), slope(1.0)])
    want = (at[(noisy > 0).astype(int)] * soft * (1 - soft)).mean()
    check_mean_gradient(loss, params, batch, want, 4000)


WIDE = dataclasses.replace(MODEL, d_model=24, d_kv=4, n_heads=3, d_ff=40)


def test_a_predictor_of_another_width_trains_and_gives_weights(tmp_path):
    objective = weights_objective(MODEL, LOSS._replace(predictor=WIDE, temperature=1.0))
    start = keypoint.init(MODEL, jax.random.split(jax.random.key(0))[0], WIDE)
    assert start["projection"].shape == (16, 24)
    names = objective.logical_axes()
    jax.tree.map(lambda x, own: np.testing.assert_equal(x.ndim, len(own)), start, names)
    fields = settings(
        batch_size=6, tokens=0, steps=3, source_buckets=(8,), target_buckets=(14,),
        rate_factors=(f"{keypoint.FROZEN}=0",), evaluate_every_share=1.0,
    )  # fmt: skip
    one = make_mesh(devices=jax.devices()[:1])
    params = train(fields, objective, examples(), [], tmp_path, 0, mesh=one, n_steps=3).params
    for path, leaf in jax.tree.leaves_with_path(jax.tree.map(np.subtract, params, start)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.any(leaf) == (name != "embedding"), name
    batch = make_batch(examples())
    weights = np.asarray(token_weights(MODEL, params, batch))
    inside = (batch["decoder_loss_weights"] == 0) & (batch["decoder_target_tokens"] != 0)
    assert ((0 < weights[inside]) & (weights[inside] < 1)).all()


def test_a_trained_predictor_reads_the_student_by_least_squares():
    student = t5.init(MODEL, jax.random.key(0))
    other = t5.init(WIDE, jax.random.key(1))
    way = jax.random.normal(jax.random.key(2), (16, 24))
    table = student["token_embedder"]["embedding"]
    rows = jnp.concatenate([table @ way, jnp.ones((3, 24))])  # more rows than the student has
    other["token_embedder"]["embedding"] = rows
    params = keypoint.from_student(MODEL, student, jax.random.key(3), WIDE, other)
    np.testing.assert_allclose(params["projection"], way, atol=1e-4)
    tokens = jnp.array([[4, 9, 4, 0]])
    np.testing.assert_allclose(keypoint.read(MODEL, params, tokens), rows[tokens], atol=1e-4)
    assert params["predictor"] is other


def test_a_token_is_kept_with_the_probability_of_its_weight(params):
    batch = make_batch(examples(1))
    logits = keypoint.weight_logits(
        MODEL, params, batch["decoder_target_tokens"],
        (batch["decoder_loss_weights"] == 0) & (batch["decoder_target_tokens"] != 0),
    )  # fmt: skip
    draw = functools.partial(
        kpod_weights._draw, length=jnp.int32(4), weights=jax.nn.sigmoid(logits[0])
    )
    masks, n_given = jax.vmap(draw)(jax.random.split(jax.random.key(3), 4000))
    assert set(np.unique(masks).tolist()) == {0.0, 1.0}
    weights = np.asarray(token_weights(MODEL, params, batch))[0]
    n = int((batch["decoder_loss_weights"][0] == 0).sum() - (weights == 0).sum())
    kept = np.asarray(masks).mean(0)
    np.testing.assert_allclose(kept[:n], weights[:n], atol=4 * 0.5 / 4000**0.5)
    counts = np.bincount(np.asarray(n_given), minlength=6)
    assert counts[0] == counts[5] == 0
    np.testing.assert_allclose(counts[1:5] / 4000, 0.25, atol=4 * 0.43 / 4000**0.5)


def test_exported_weights_are_1_on_the_answer_and_0_on_padding(params):
    items = examples()
    batch = make_batch(items)
    weights = np.asarray(token_weights(MODEL, params, batch))
    for row, i in enumerate(batch["example_index"]):
        n, length = len(parts(items[i])[1]), len(items[i].targets)
        assert ((0 < weights[row, :n]) & (weights[row, :n] < 1)).all()
        assert (weights[row, n:length] == 1).all() and (weights[row, length:] == 0).all()


def test_only_the_embedding_has_no_gradient(params):
    objective = weights_objective(MODEL, LOSS)
    batch = make_batch(examples())
    _, _, grads = gradients(objective, params, batch)
    for path, leaf in jax.tree.leaves_with_path(grads):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(leaf).all()
        assert np.any(leaf) == (name != "embedding"), name


def test_a_predictor_trained_alone_has_the_only_gradients(params):
    alone, together = (weights_objective(MODEL, LOSS._replace(alone=x)) for x in (True, False))
    batch = make_batch(examples())
    sums, _, grads = gradients(alone, params, batch)
    for path, leaf in jax.tree.leaves_with_path(grads):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.any(leaf) == name.startswith("predictor/"), name
    # Nothing is asked for what the masks keep, and nothing depends on the weights.
    for bias in (-60.0, 60.0):
        other = train_sums(alone, with_bias(params, bias), batch, jax.random.key(0))
        assert float(other.loss_sum) == float(other.nll_sum)
        np.testing.assert_allclose(other.nll_sum, sums.nll_sum, rtol=1e-5)
    # Validation measures the weights all the same.
    said = [float(eval_sums(own, params, batch).nll_sum) for own in (alone, together)]
    assert said[0] == said[1]


def test_a_predictor_trained_alone_sees_uniform_shares_and_long_prefixes():
    n, size = 4000, 400
    draw = functools.partial(kpod_weights._draw_alone, length=jnp.int32(10), size=size)
    masks, n_given = jax.vmap(draw)(jax.random.split(jax.random.key(3), n))
    share, error = np.asarray(masks).mean(1), 4 * 0.5 / n**0.5
    assert abs((share == 1).mean() - 0.5) < error + 1 / size
    for bound in (0.2, 0.5, 0.8):  # the other half is uniform
        assert abs((share < bound).mean() - bound / 2) < error
    shares = np.bincount(np.asarray(n_given), minlength=11) / n
    np.testing.assert_allclose(np.cumsum(shares), (np.arange(11) / 10) ** 4, atol=error)


def test_sums_add_up_over_microbatches_and_ignore_padding_rows(params):
    """What an example draws depends on itself alone, and every sum counts examples."""
    objective, items = weights_objective(MODEL, LOSS), examples()
    whole = eval_sums(objective, params, make_batch(items))
    assert float(whole.weight_sum) == len(items)
    assert 0 <= float(whole.correct_sum) <= len(items)
    padded = [eval_sums(objective, params, b) for b in eval_batches(items, 4, (8,), (14,))]
    assert len(padded) == 2
    np.testing.assert_allclose(sum(p.nll_sum for p in padded), whole.nll_sum, rtol=1e-5)
    assert sum(float(p.weight_sum) for p in padded) == len(items)
    again = eval_sums(objective, params, make_batch(items))
    assert [float(x) for x in again] == [float(x) for x in whole]
    # Training tells the price of what is kept apart: loss - nll = alpha * kept share.
    biased = with_bias(params, 60.0)
    sums = train_sums(objective, biased, make_batch(items), jax.random.key(1))
    np.testing.assert_allclose(sums.loss_sum - sums.nll_sum, LOSS.alpha * len(items), rtol=1e-5)


def copied(n=64, length=6):
    """Questions whose answer is the one high id of the rationale; the other ids say nothing."""
    random = np.random.default_rng(7)
    out = []
    for i in range(n):
        rationale = random.integers(2, 12, length)
        key = random.integers(14, 18)
        rationale[0] = key
        targets = np.concatenate([rationale, [key, EOS]]).astype(np.int32)
        weights = (np.arange(len(targets)) >= length).astype(np.float32)
        out.append(Example(f"c{i}", np.array([3, EOS], np.int32), targets, weights))
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights of the copied task for several prices, from a predictor that began alone."""
    fields = settings(
        batch_size=16, tokens=0, steps=400, source_buckets=(4,), target_buckets=(8,),
        optimizer="adamw", learning_rate=3e-3, normalize="examples", warmup_share=0.0,
        rate_factors=(f"{keypoint.FROZEN}=0",), log_every_steps=200, evaluate_every_share=1.0,
    )  # fmt: skip
    folder, items, out = tmp_path_factory.mktemp("roles"), copied(), {}

    def go_on(name, until, **changes):
        objective = weights_objective(MODEL, LOSS._replace(answer_length=2, **changes))
        one = make_mesh(devices=jax.devices()[:1])
        return train(
            fields, objective, items, [], folder / name, 0, mesh=one, n_steps=400, until=until
        ).params

    go_on("alone", 160, alone=True)
    batch = make_batch(items[:16], (4, 8))
    for alpha in (0.03, 0.5, 30.0):
        shutil.copytree(folder / "alone", folder / str(alpha))
        params = go_on(str(alpha), 400, alpha=alpha)
        out[alpha] = params, np.asarray(token_weights(MODEL, params, batch))[:, :6]
    return out


@pytest.mark.long
def test_the_kept_share_falls_as_alpha_rises(trained):
    kept = [weights.mean() for _, weights in trained.values()]
    assert kept[0] > kept[1] > kept[2]


def test_what_the_answer_needs_weighs_more_than_the_rest(trained):
    """Not for every kind of answer: one of the four may be told from no other being there."""
    _, weights = trained[0.5]
    assert weights[:, 0].max() > 0.9
    assert weights[:, 0].mean() > 10 * weights[:, 1:].mean()


def test_the_embedding_is_not_trained(trained):
    start = keypoint.init(MODEL, jax.random.split(jax.random.key(0))[0])
    params, _ = trained[0.5]
    np.testing.assert_array_equal(params["embedding"], start["embedding"])
    # And the predictor began as the student that a run with this seed begins with.
    student = t5.init(MODEL, jax.random.split(jax.random.key(0))[0])
    jax.tree.map(np.testing.assert_array_equal, start["predictor"], student)
    assert (
        np.abs(params["predictor"]["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]
               - student["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]).max() > 1e-3
    )  # fmt: skip
