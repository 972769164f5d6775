"""A T5 forward pass in NumPy, one position at a time, to compare with. Written from the paper."""

import math

import numpy as np


def bucket(distance, bidirectional, n_buckets=32, max_distance=128):
    """Bucket of key position minus query position, by counting up to it."""
    offset = 0
    if bidirectional:
        n_buckets //= 2
        if distance > 0:
            offset = n_buckets
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = n_buckets // 2
    if distance < exact:
        return offset + distance
    # The k-th logarithmic bucket starts at exact * (max_distance / exact) ** (k / n).
    n = n_buckets - exact
    k = 0
    while k + 1 < n and distance**n >= exact ** (n - k - 1) * max_distance ** (k + 1):
        k += 1
    return offset + exact + k


def norm(x, scale, epsilon):
    return x / math.sqrt(np.mean(x**2) + epsilon) * scale


def gelu_new(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mlp(p, x):
    if "wi" in p:
        inner = np.maximum(x @ p["wi"]["kernel"], 0)
    else:
        inner = gelu_new(x @ p["wi_0"]["kernel"]) * (x @ p["wi_1"]["kernel"])
    return inner @ p["wo"]["kernel"]


def attend(p, query, seen, n_heads, biases):
    """One query vector over a list of vectors; biases[j] is [H]."""
    q = (query @ p["query"]["kernel"]).reshape(n_heads, -1)
    k = [(x @ p["key"]["kernel"]).reshape(n_heads, -1) for x in seen]
    v = [(x @ p["value"]["kernel"]).reshape(n_heads, -1) for x in seen]
    out = []
    for h in range(n_heads):
        scores = np.array([q[h] @ k[j][h] + biases[j][h] for j in range(len(seen))])
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out.append(sum(w * v[j][h] for j, w in enumerate(weights)))
    return np.concatenate(out) @ p["out"]["kernel"]


def forward(config, params, source, target_inputs):
    """Logits [T, V] of one example of plain ids without padding, in float64."""

    def wide(tree):
        if isinstance(tree, dict):
            return {k: wide(v) for k, v in tree.items()}
        return np.asarray(tree, np.float64)

    params = wide(params)
    table = params["token_embedder"]["embedding"]
    n_heads, epsilon = config.n_heads, config.layer_norm_epsilon
    zero = np.zeros(n_heads)

    def bias(stack, i, j):
        relpos = stack["relpos_bias"]["rel_embedding"]
        return relpos[:, bucket(j - i, stack is params["encoder"])]

    def sublayer(xs, scale, f):
        normed = [norm(x, scale["scale"], epsilon) for x in xs]
        return [x + f(i, normed) for i, x in enumerate(xs)]

    enc = params["encoder"]
    xs = [table[t] for t in source]
    for n in range(config.n_encoder_layers):
        p = enc[f"layers_{n}"]

        def look(i, seen, p=p):
            biases = [bias(enc, i, j) for j in range(len(seen))]
            return attend(p["attention"], seen[i], seen, n_heads, biases)

        xs = sublayer(xs, p["pre_attention_layer_norm"], look)
        xs = sublayer(xs, p["pre_mlp_layer_norm"], lambda i, s, p=p: mlp(p["mlp"], s[i]))
    memory = [norm(x, enc["encoder_norm"]["scale"], epsilon) for x in xs]

    dec = params["decoder"]
    xs = [table[t] for t in target_inputs]
    for n in range(config.n_decoder_layers):
        p = dec[f"layers_{n}"]

        def look_back(i, seen, p=p):
            biases = [bias(dec, i, j) for j in range(i + 1)]
            return attend(p["self_attention"], seen[i], seen[: i + 1], n_heads, biases)

        def look_over(i, seen, p=p):
            none = [zero] * len(memory)
            return attend(p["encoder_decoder_attention"], seen[i], memory, n_heads, none)

        xs = sublayer(xs, p["pre_self_attention_layer_norm"], look_back)
        xs = sublayer(xs, p["pre_cross_attention_layer_norm"], look_over)
        xs = sublayer(xs, p["pre_mlp_layer_norm"], lambda i, s, p=p: mlp(p["mlp"], s[i]))
    hidden = np.stack([norm(x, dec["decoder_norm"]["scale"], epsilon) for x in xs])
    if config.tied:
        return hidden / math.sqrt(config.d_model) @ table.T
    return hidden @ dec["logits_dense"]["kernel"]
