"""Questions a second of iterative generation: transformers against this package; JSON lines.

    .venv/bin/python tests/benchmarks/decode_vs_hf.py --data DIR --size small --batch 32

DIR holds gsm8k/test.jsonl and t5_vocab/spiece.model. All contestants run the same random weights
on the same questions of GSM8K and write, by force, as many segments of as many tokens as the
question's own rationale has sentences, so the work is the same; what they write is compared.
Without --data, questions are random ids and lengths are drawn from a table (``random_work.py``).

  authors      one question at a time, a call of ``generate`` for each segment, text tokenised anew
               (the ids that go in are the joined ones, or lengths would differ; without --data
               there is no tokenizer, and its time is left out)
  batched      batches of questions, a call of ``generate`` for each round on those not yet ended,
               padded to the longest, key-value cache, rows stop on their own
  plain        ``decode.iterative``
  continuous   ``decode.continuous``
  int8         the same with int8 weights (not one of the default contestants)

A line for each contestant says what it does a second: questions, operations (``mfu``: their share
of the device's bfloat16 peak), and least bytes, those of the decoder's weights once a step of the
whole batch and of each written id's keys and values. Then comes the floor of a decode step: bytes
and FLOPs against the copy bandwidth and matrix product rate measured here, the products of the very
shapes, and the step as it is. With --profile come the kernels of each contestant's first steps.
On an accelerator: --dtype bfloat16 --size base --batch 256. Contestants take turns (--repeats);
ratios are of medians.
"""

import argparse
import dataclasses
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import device
import jax
import jax.numpy as jnp
import numpy as np
import random_work

from asesjax.core.files import read_jsonl
from asesjax.decode import continuous
from asesjax.decode.predict import Decoder, predict
from asesjax.decode.spec import DecodeSpec, Limits
from asesjax.models import t5
from asesjax.models.hf_io import save_hf
from asesjax.models.presets import preset
from asesjax.models.t5_config import DTYPES, T5Config, token_flops
from asesjax.segmentation.pieces import piece_texts, split_sentences

THEIRS, OURS = ("authors", "batched"), ("plain", "continuous", "int8")
TINY = T5Config(32128, 128, 32, 512, 4, 2, 2, tied=False)


def load_work(data: Path, n: int, seed: int):
    """Questions, and the number of tokens of each sentence of their rationales."""
    # Here, because machines without sentencepiece run this without data.
    from asesjax.data.vocab import load_vocabulary

    vocab = load_vocabulary("sentencepiece", str(data / "t5_vocab/spiece.model"))
    rows = [row for _, row in read_jsonl(data / "gsm8k/test.jsonl")]
    order = np.random.default_rng(seed).permutation(len(rows))[:n]
    questions, plans = [], []
    for i in order:
        rationale = re.sub(r"<<.*?>>", "", rows[i]["answer"].partition("####")[0]).strip()
        texts = piece_texts(rationale, split_sentences(rationale))
        questions.append(vocab.encode(rows[i]["question"]))
        plans.append([max(1, len(vocab.encode(text))) for text in texts])
    return vocab, questions, plans


def chaotic(config: T5Config, seed: int):
    """Random weights so large that what is written depends on what was read."""

    def scale(path, x):
        name = jax.tree_util.keystr(path)
        return x * np.float32(3.0 if "encoder_decoder_attention" in name else 1.0)

    params = jax.tree_util.tree_map_with_path(scale, random_work.params(config, seed))
    # The end mark is never the most probable, so that every length is the one asked for.
    params["decoder"]["logits_dense"]["kernel"][:, 1] = 0.0
    return jax.device_put(params)


def hugging_face(args, config, params, vocab, n_ids):
    """Load the same weights with transformers, and make its two contestants."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        save_hf(folder, config, params)
        model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    on = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(on, getattr(torch, args.dtype)).eval()
    suppressed = [0, 1, *range(n_ids, config.vocab_size)]

    class RowLengths(transformers.StoppingCriteria):
        """Each row stops after a number of tokens of its own."""

        def __init__(self, lengths):
            self.lengths = torch.tensor(lengths, device=on)

        def __call__(self, input_ids, scores, **kwargs):
            return input_ids.shape[1] - 1 >= self.lengths

    def write(contexts, lengths):
        """The next segment of each context."""
        width = max(map(len, contexts)) + 1
        ids = np.zeros((len(contexts), width), np.int64)
        for row, context in zip(ids, contexts, strict=True):
            row[: len(context)] = context
            row[len(context)] = 1
        ids = torch.from_numpy(ids).to(on)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=(ids != 0).long(), do_sample=False, num_beams=1,
                max_new_tokens=max(lengths), suppress_tokens=suppressed,
                stopping_criteria=transformers.StoppingCriteriaList([RowLengths(lengths)]),
            )  # fmt: skip
        out = out[:, 1:].cpu().numpy()
        return [row[:n].astype(np.int32) for row, n in zip(out, lengths, strict=True)]

    def authors(questions, plans):
        chains = []
        for question, plan in zip(questions, plans, strict=True):
            chain = np.zeros(0, np.int32)
            for n in plan:
                context = np.concatenate([question, chain])
                if vocab:
                    vocab.encode(vocab.decode(context))  # paid for, and not used
                chain = np.concatenate([chain, write([context], [n])[0]])
            chains.append(chain)
        return chains

    def batched(questions, plans):
        chains = [np.zeros(0, np.int32) for _ in questions]
        for start in range(0, len(questions), args.batch):
            rows = range(start, min(start + args.batch, len(questions)))
            for n_round in range(max(len(plans[row]) for row in rows)):
                live = [row for row in rows if len(plans[row]) > n_round]
                contexts = [np.concatenate([questions[row], chains[row]]) for row in live]
                lengths = [plans[row][n_round] for row in live]
                for row, new in zip(live, write(contexts, lengths), strict=True):
                    chains[row] = np.concatenate([chains[row], new])
        return chains

    return {"authors": authors, "batched": batched}, torch


def ours(args, config, params, n_ids, plans):
    """Our two contestants and what they count."""
    room = max(map(len, plans))
    chain = max(map(sum, plans))
    spec = DecodeSpec(n_ids, chain, max(map(max, plans)), room)
    counts = {}

    def contestant(name):
        decoder = Decoder(
            plain=name == "plain", int8=name == "int8",
            batch_size=args.batch, encode_rows=args.encode_rows,
            buckets=tuple(args.buckets), context_lengths=tuple(args.context_lengths),
        )  # fmt: skip

        def generate(questions, plans):
            bounds = np.ones((len(plans), room), np.int64)
            for row, plan in zip(bounds, plans, strict=True):
                row[: len(plan)] = plan
            limits = Limits(np.array([len(plan) for plan in plans]), bounds, chain)
            own = counts[name] = {}
            out = predict(config, {"main": params}, questions, limits, spec, decoder, counts=own)
            return [generated.ids for generated in out]

        return generate

    return {name: contestant(name) for name in OURS}, counts


def least_work(config, batch, questions, plans):
    """Operations, and least bytes with ``batch`` rows a step, of writing these segments."""
    size, of_step = config.activation_dtype.itemsize, device.products(config, 1, 1, 1, 1).values()
    weights = sum(product.right for product in of_step if product.batch == 1)
    cached = 2 * config.n_decoder_layers * config.n_heads * config.d_kv  # a position
    flops = moved = 0.0
    for question, plan in zip(questions, plans, strict=True):
        context = len(question) + 1
        for n in plan:
            of_source, of_target = token_flops(config, context, n)
            flops += context * of_source + n * of_target
            moved += n * size * (weights / batch + cached * (context + n / 2))
            context += n
    return flops, moved


def floor(args, config, params):
    """A decode step against the machine: measured rates, and the step itself."""
    dtype = config.activation_dtype
    a = jnp.ones((4096, 4096) if jax.default_backend() != "cpu" else (1024, 1024), dtype)
    rate = 2 * a.shape[0] ** 3 / device.best_seconds(lambda a: a @ a, a)
    bandwidth = device.copy_rate()
    b, s, room, steps = args.batch, args.context, 32, 16
    tokens = jnp.ones((b, s), jnp.int32)
    encoded = jnp.zeros((b, s, config.d_model), dtype)
    cache = t5.start_cache(config, params, encoded, tokens, room)

    def run(params, cache, ids):
        def one(i, carry):
            cache, ids = carry
            logits, cache = t5.decode_step(config, params, cache, ids, jnp.full(b, i))
            return cache, jnp.argmax(logits, -1).astype(jnp.int32)

        return jax.lax.fori_loop(0, steps, one, (cache, ids))[1]

    seconds = device.best_seconds(run, params, cache, jnp.zeros(b, jnp.int32), n=5) / steps
    products = device.products(config, b, s, 1, room)
    flops = sum(product.flops for product in products.values())
    moved = dtype.itemsize * sum(product.right for product in products.values())
    times = device.product_times(products, dtype)
    return {
        "contestant": "floor of a step", "bytes": moved, "flops": flops,
        "bandwidth_gb_s": bandwidth / 1e9, "matmul_gflop_s": rate / 1e9,
        "floor_ms": 1e3 * max(moved / bandwidth, flops / rate), "step_ms": 1e3 * seconds,
        "over_floor": seconds / max(moved / bandwidth, flops / rate),
        "share_of_bandwidth": moved / bandwidth / seconds,
        "products_ms": sum(kind["ms"] for kind in times.values()), "products": times,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="absent: random ids of GSM8K's lengths")
    parser.add_argument("--size", choices=("tiny", "small", "base", "large"), default="small")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--encode-rows", type=int, default=0, help="0: the engine's default")
    parser.add_argument("--buckets", type=int, nargs="+", default=[64, 96, 192, 256])
    parser.add_argument("--context-lengths", type=int, nargs="*",
                        default=[48, 64, 80, 96, 112, 128, 160, 192, 256])  # fmt: skip
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--authors-questions", type=int, default=8)
    parser.add_argument("--context", type=int, default=128, help="source length of the floor")
    parser.add_argument("--contestants", nargs="+", choices=THEIRS + OURS,
                        default=["authors", "batched", "plain", "continuous"])  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="also kernels")
    args = parser.parse_args()

    if args.data:
        vocab, questions, plans = load_work(args.data, args.questions, args.seed)
        n_ids = vocab.size
    else:
        vocab, n_ids = None, random_work.IDS
        questions, plans = random_work.draw(args.questions, args.seed)
    # The shapes of T5 1.0 with a head of its own, which can be kept from ending segments.
    shape = TINY if args.size == "tiny" else preset(f"t5-{args.size}")
    config = dataclasses.replace(shape, tied=False, dtype=args.dtype, dropout=0.0)
    params = chaotic(config, args.seed)
    contestants, counts = ours(args, config, params, n_ids, plans)
    torch = None
    if set(THEIRS) & set(args.contestants):
        theirs, torch = hugging_face(args, config, params, vocab, n_ids)
        contestants = theirs | contestants
    contexts = sum(len(plan) for plan in plans)
    print(json.dumps({
        "size": args.size, "dtype": args.dtype, "batch": args.batch, "seed": args.seed,
        "questions": len(questions), "segments": contexts, "tokens": sum(map(sum, plans)),
        "backend": jax.default_backend(), "device": device.device_kind(torch),
        "jax": jax.__version__,
    }), flush=True)  # fmt: skip

    seconds: dict[str, list[float]] = {name: [] for name in args.contestants}
    chains = {}
    for repeat in range(args.repeats + 1):  # the first compiles and is not counted
        for name in args.contestants:
            n = args.authors_questions if name == "authors" else len(questions)
            if repeat == 0 and name in THEIRS:  # of which every call makes the same kernels
                n = 1 if name == "authors" else args.batch
            start = time.perf_counter()
            chains[name] = contestants[name](questions[:n], plans[:n])
            if repeat:
                seconds[name].append((time.perf_counter() - start) / n)
            print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    rates = {name: 1 / statistics.median(times) for name, times in seconds.items()}
    # Rounding turns near ties, and what follows then differs: what is compared is the work.
    order = ("batched", "plain", "continuous", *args.contestants)
    reference = next(chains[name] for name in order if name in chains)
    for name in args.contestants:
        times, written, batch = seconds[name], chains[name], 1 if name == "authors" else args.batch
        same = [np.array_equal(*pair) for pair in zip(written, reference, strict=False)]
        n, by = len(written), torch if name in THEIRS else None
        flops, moved = least_work(config, batch, questions[:n], plans[:n])
        line = {
            "contestant": name, "questions_per_second": rates[name],
            "slowest": 1 / max(times), "fastest": 1 / min(times),
            # Ours end a chain whose segment is the one before again; the others write on.
            "tokens_written": sum(map(len, written)), "of_tokens": sum(map(sum, plans[:n])),
            "same_chains": sum(same), "of": len(same),
            "ratio_to": {other: rates[name] / rate for other, rate in rates.items()},
            "tflop_s": flops * rates[name] / n / 1e12,
            "mfu": device.share_of_peak(flops * rates[name] / n, by),
            "least_gb_s": moved * rates[name] / n / 1e9,
            "peak_memory_bytes": device.peak_memory(by),
        }  # fmt: skip
        if own := counts.get(name):
            line["slot_utilisation"] = own["useful_steps"] / own["slot_steps"]
            line["encoded_rows_used"] = own["useful_rows"] / own["encoded_rows"]
        print(json.dumps(line), flush=True)
    if set(OURS) & set(args.contestants):
        print(json.dumps(floor(args, config, params)), flush=True)
        print(json.dumps({"compilations": continuous.run._cache_size()}), flush=True)
    if args.profile:
        for name in args.contestants:
            n = 1 if name == "authors" else args.batch
            few = [[min(8, plan[0])] for plan in plans[:n]]
            work = lambda name=name, n=n, few=few: contestants[name](questions[:n], few)  # noqa: E731
            work()
            kernels = device.top_kernels(work, torch if name in THEIRS else None)
            print(json.dumps({"contestant": name, "questions_profiled": n} | kernels), flush=True)


if __name__ == "__main__":
    main()
