"""Random T5s of every kind, made and saved by transformers; converting and changing them."""

import functools

import jax
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from asesjax.cli.main import main
from asesjax.core.files import read_json, write_json

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VOCAB, LIMIT = 48, 44  # rows, and ids from here on that are never generated

# Odd on purpose: num_heads * d_kv is not d_model, stacks of different depth, few buckets.
_SHAPES = {
    "shallow": {"d_model": 20, "d_kv": 6, "d_ff": 28, "num_heads": 3, "num_layers": 1},
    "deep": {
        "d_model": 24, "d_kv": 10, "d_ff": 40, "num_heads": 4, "num_layers": 3,
        "num_decoder_layers": 2, "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-5,
    },
}  # fmt: skip
SHAPES = tuple(_SHAPES)
# v1_1_tied and mt5_tied are what transformers 5 makes of such a config: tied and not scaled.
KINDS = ("v1_0", "v1_1", "mt5", "v1_1_tied", "mt5_tied", "ul2")


@functools.cache
def make(kind: str, shape: str = "shallow"):
    """A random model in float32, in evaluation mode."""
    torch.manual_seed(KINDS.index(kind) * 2 + SHAPES.index(shape))
    mt5 = kind.startswith("mt5")
    config_class = transformers.MT5Config if mt5 else transformers.T5Config
    model_class = getattr(transformers, f"{'MT5' if mt5 else 'T5'}ForConditionalGeneration")
    config = config_class(
        vocab_size=VOCAB, dropout_rate=0.0, decoder_start_token_id=0,
        feed_forward_proj={"v1_0": "relu", "ul2": "gated-silu"}.get(kind, "gated-gelu"),
        tie_word_embeddings=kind == "v1_0", **_SHAPES[shape],
    )  # fmt: skip
    model = model_class(config).eval()
    untied = kind in ("v1_1", "mt5", "ul2")
    with torch.no_grad():
        if untied:
            head = torch.randn(VOCAB, config.d_model) * 0.4
            model.lm_head.weight = torch.nn.Parameter(head)
        for name, weight in model.named_parameters():
            if "layer_norm" in name:
                weight.mul_(1 + 0.2 * torch.randn_like(weight))
            if "EncDecAttention" in name:
                weight.mul_(2.5)  # what is written shall depend on what was read
        # An end mark that neither always wins nor never does.
        if untied:
            model.lm_head.weight[1].mul_(1.8)
        else:
            model.shared.weight.mul_(1.5 if kind == "v1_0" else 0.35)
            model.shared.weight[1].mul_(1.2 if (kind, shape) == ("v1_0", "shallow") else 3.0)
    return model


def save(model, folder, **more):
    """Save a model and return the folder."""
    model.save_pretrained(folder, **more)
    return folder


def load(folder):
    """Load a model that must hold exactly the tensors wanted."""
    model, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        folder, output_loading_info=True, dtype="auto"
    )
    assert not any(info.values()), info
    return model.eval()


def assert_same_tensors(one, other):
    """Bit for bit, every name."""
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


def prompts(seed: int, rows: int, length: int, limit: int = LIMIT) -> np.ndarray:
    """Random ids [rows, length] of random lengths, closed by the end mark, padded with 0."""
    rng = np.random.default_rng(seed)
    out = np.zeros((rows, length), np.int32)
    for row in out:
        n = rng.integers(1, length)
        row[:n] = rng.integers(2, limit, n)
        row[n] = 1
    return out


def run(model, source: np.ndarray, target_in: np.ndarray):
    """Encoder states and logits, with a mask over the padding."""
    source, target_in = (torch.from_numpy(x).long() for x in (source, target_in))
    out = model(
        input_ids=source, attention_mask=(source != 0).long(), decoder_input_ids=target_in
    )
    return out.encoder_last_hidden_state, out.logits


def greedy(model, source: np.ndarray, n: int) -> list[list[int]]:
    """Ids written for each row, the end mark included where there is one."""
    source = torch.from_numpy(source).long()
    out = model.generate(
        source, attention_mask=(source != 0).long(), do_sample=False, num_beams=1,
        max_new_tokens=n, suppress_tokens=[0, *range(LIMIT, VOCAB)],
    )  # fmt: skip
    rows = [row[1:] for row in out.tolist()]
    return [row[: row.index(1) + 1] if 1 in row else row for row in rows]


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


def refuse(capsys, *arguments):
    """Run a conversion that must be refused, and return the message."""
    capsys.readouterr()
    assert convert(*arguments) == 2
    return capsys.readouterr().err


def edit(folder, change_tensors=None, **fields):
    """Change the tensors and the config of a saved model; a field of None is removed."""
    config = read_json(folder / "config.json") | fields
    write_json(folder / "config.json", {k: v for k, v in config.items() if v is not None})
    if change_tensors:
        tensors = dict(load_file(folder / "model.safetensors"))
        change_tensors(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def equal(one, other):
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), one, other)
    return all(jax.tree.leaves(same))
