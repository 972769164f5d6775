"""Options of training."""

from asesjax.core.options import NOTHING, option, section

# Measures of a role alone on its validation examples, and of the chains that all roles write.
OF_ROLES, DECODED = ("validation_loss", "validation_accuracy"), ("answer_accuracy", "bleu")


@section("train")
class TrainOptions:
    """Length, batches, optimizer and loss of the training of a role."""

    batch_size: int = option(32, "rows (examples) of an optimizer step, all devices together",
                             least=1, most=2**20)  # fmt: skip
    microbatches: int = option(1, "gradient accumulation inside a step; 0: in as few parts as the "
                               "memory of a device asks, known before training", least=0,
                               most=2**20)  # fmt: skip
    steps: int = option(
        0, "length of training in optimizer steps of a method, shared by its roles; exactly one of "
        "steps, examples, epochs and tokens is not 0", least=0,
    )  # fmt: skip
    examples: int = option(0, "length of training in examples, of each role", least=0)
    epochs: float = option(0.0, "length of training in passes of each role over its own examples",
                           least=0, most=10**6)  # fmt: skip
    tokens: int = option(
        4_000_000, "length of training in real (not padding) source and target tokens of a method, "
        "shared by its roles: it matches compute", least=0, most=10**13)  # fmt: skip
    records: int = option(0, "train on the first so many training records, 0 for all: rows of one "
                          "run may so learn from different numbers", least=0)  # fmt: skip
    optimizer: str = option("adafactor", "the optimizer",
                            choices=("adamw", "adafactor", "lion", "sgd"))  # fmt: skip
    learning_rate: float = option(
        0.05, "peak; with adafactor relative to the size of a parameter", above=0
    )
    schedule: str = option("cosine", "of the learning rate",
                           choices=("cosine", "inverse_square_root", "constant"))  # fmt: skip
    warmup_share: float = option(0.06, "share of all steps that the rate rises", least=0, below=1)
    final_share: float = option(0.05, "share of the peak where the cosine ends", least=0, most=1)
    weight_decay: float = option(0.0, "decoupled weight decay", least=0)
    beta1: float = option(0.9, "decay of the first moment", least=0, below=1)
    beta2: float = option(0.99, "decay of the second moment", least=0, below=1)
    clip_norm: float = option(1.0, "largest norm of a gradient; 0: no clipping", least=0)
    rate_factors: tuple[str, ...] = option(
        (), 'items "regex=factor" of the learning rate, by parameter name; 0 freezes'
    )
    ema_decay: float = option(
        0.0, "above 0, a running average of the parameters is evaluated and kept", least=0, below=1
    )
    skip_nonfinite: bool = option(
        False, "leave out updates with NaN or infinity instead of stopping", changes=NOTHING
    )
    remat: str = option(
        "none", "what the backward pass recomputes: nothing, all but products of parameters, or "
        "all but the inputs of layers", choices=("none", "dots", "full"), changes=NOTHING,
    )  # fmt: skip
    scan_layers: bool = option(False, "compile one layer for a whole stack: for deep models",
                               changes=NOTHING)  # fmt: skip
    label_smoothing: float = option(0.0, "share of the target spread over all ids", least=0,
                                    below=1)  # fmt: skip
    z_loss: float = option(0.0, "weight of the squared log normalizer", least=0)
    normalize: str = option("weights", "divide the summed loss by the weights or by the examples",
                            choices=("weights", "examples"))  # fmt: skip
    source_buckets: tuple[int, ...] = option(
        (), "lengths that sources are padded to; (): chosen from the examples' own",
        items=int, least=1, most=2**20,
    )  # fmt: skip
    target_buckets: tuple[int, ...] = option(
        (), "lengths that targets are padded to; (): chosen from the examples' own",
        items=int, least=1, most=2**20,
    )  # fmt: skip
    packed_length: int = option(
        0, "above 0, examples share rows whose longer side has so many positions at most, and "
        "batch_size counts rows; buckets then serve validation and scoring alone",
        least=0, most=2**20)  # fmt: skip
    log_every_steps: int = option(20, "steps between lines of metrics.jsonl", least=1,
                                  changes=NOTHING)  # fmt: skip
    evaluate_every_share: float = option(
        0.25, "share of all steps between validations, each of which keeps a checkpoint",
        least=0.001,
        most=1,
    )  # fmt: skip
    keep_best: str = option(
        "", "select the best evaluated checkpoint by this instead of the last one: of each role by "
        "loss or token accuracy on its validation examples, of all roles together by answers or "
        "BLEU of their chains for the first decode.curve_questions validation questions",
        choices=("", *OF_ROLES, *DECODED),
    )  # fmt: skip
    patience: int = option(0, "above 0: stop when so many evaluations in a row were not the best "
                           "(needs keep_best)", least=0)  # fmt: skip
    save_every_steps: int = option(200, "steps between checkpoints; 0: at evaluations only",
                                   least=0, changes=NOTHING)  # fmt: skip
    keep_last: int = option(2, "newest checkpoints that stay; those of evaluations always stay",
                            least=1, changes=NOTHING)  # fmt: skip
    profile_steps: tuple[int, ...] = option(
        (0, 0), "first and last step of a profile in the role's folder; (0, 0): none",
        changes=NOTHING,
    )  # fmt: skip

    @property
    def parts(self) -> int:
        """Return into how many parts a batch is cut; 1 where that is not chosen yet."""
        return self.microbatches or 1
