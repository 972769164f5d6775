"""Memory and time of a training step by ``train.remat`` and ``train.scan_layers``.

    python tests/benchmarks/remat_memory.py [--layers=4] [--width=64] [--batch=16] [--length=64]
        [--vocab=256] [--optimizer=adafactor] [--shard] [--run]

Prints one JSON line for each setting: MiB of temporary memory of the compiled step, without its
state (``memory_analysis``), processor seconds of tracing and of compiling (of all threads of this
process), with ``--run`` also seconds of a step. ``--shard`` divides it over all devices with fsdp.
The batch has as many source as target positions.
"""

import argparse
import itertools
import json
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in dict(layers=4, width=64, batch=16, length=64, vocab=256).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--optimizer", default="adafactor")
    parser.add_argument("--shard", action="store_true")
    parser.add_argument("--run", action="store_true")
    args = parser.parse_args()

    import jax
    import numpy as np

    from asesjax.models import t5
    from asesjax.sharding.mesh import make_mesh
    from asesjax.sharding.place import batch_sharding, param_shardings, put_batch, replicated, rules
    from asesjax.training import optim, state, step
    from asesjax.training.options import TrainOptions

    width, layers = args.width, args.layers
    model = t5.T5Config(
        args.vocab, width, 16, 4 * width, max(1, width // 16), layers, layers, mlp="gated-gelu"
    )
    mesh = make_mesh(1, -1) if args.shard else make_mesh(devices=jax.devices()[:1])
    preset = rules("fsdp" if args.shard else "dp")
    shapes = jax.eval_shape(lambda key: t5.init(model, key), jax.random.key(0))
    on = param_shardings(mesh, preset, t5.logical_axes(model), shapes)
    tokens = np.random.default_rng(0).integers(2, args.vocab, (args.batch, args.length))
    batch = {
        name: tokens.astype(np.int32)
        for name in ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    }
    batch["decoder_loss_weights"] = np.ones(tokens.shape, np.float32)
    batch["example_index"] = np.arange(args.batch, dtype=np.int32)
    batch = put_batch(mesh, batch)
    first = None
    for scanned, remat in itertools.product((False, True), ("none", "dots", "full")):
        train = TrainOptions(scan_layers=scanned, remat=remat, optimizer=args.optimizer)
        optimizer = optim.make_optimizer(train, 10)
        target = state.state_target(optimizer, shapes, on, mesh)
        run = step.make_train_step(model, train, optimizer, target, batch_sharding(mesh))
        key = jax.device_put(jax.random.key(0), replicated(mesh))
        start = time.process_time()
        lowered = run.lower(target, batch, key)
        traced = time.process_time()
        program = lowered.compile()
        compiled = time.process_time()
        row = {
            "layers": layers, "optimizer": args.optimizer, "remat": remat, "scan_layers": scanned,
            "temp_mib": round(program.memory_analysis().temp_size_in_bytes / 2**20, 2),
            "trace_s": round(traced - start, 2), "compile_s": round(compiled - traced, 2),
        }  # fmt: skip
        if args.run:
            if first is None:
                first = state.init_state(optimizer, target, lambda k: t5.init(model, k), key)
            now, seconds = jax.tree.map(jax.numpy.copy, first), []
            for _ in range(6):
                start = time.perf_counter()
                now, metrics = program(now, batch, key)
                jax.block_until_ready(metrics)
                seconds.append(time.perf_counter() - start)
            row["step_s"] = round(sorted(seconds)[3], 4)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
