"""Configuration: every field with its default and meaning, config files, command-line overrides.

A config file is Python with ``get_config(arg: str = "") -> ConfigDict``. It starts from
``base_config()`` and sets fields; ``--config path.py:arg`` hands it ``arg``, and
``--config.section.field=value`` changes one field afterwards. A field that is not in
``base_config()`` is an error wherever it comes from.
"""

import ast
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from asesjax.core.errors import UserError, unknown

SOURCES = (
    "synthetic_math", "synthetic_reports", "synthetic_letters", "gsm8k", "gsm8k_socratic", "svamp",
    "strategyqa", "palm_svamp", "palm_cqa", "coin_flip", "date_understanding",
    "last_letter_concatenation", "tracking_shuffled_objects", "jsonl", "json", "csv",
)  # fmt: skip
STRATEGIES = ("entropy", "loss", "bleu", "rouge", "location")
METHODS = (
    "answer_only", "direct", "dsm", "usm", "cwt", "skip_thinking", "full_thinking", "socratic",
    "socratic_unified", "step_by_step", "in_context", "diverse", "kpod", "kpod_without_weights",
    "kpod_without_weights_in_difficulty", "kpod_without_progression", "kpod_without_diversity",
    "kpod_self_paced", "usm_kpod", "dsm_kpod",
)  # fmt: skip

# Fields that may hold one of a few names, for the error that lists them.
CHOICES = {
    "data.source": SOURCES,
    "data.wording": ("plain", "varied"),
    "data.fact_order": ("in_order", "shuffled"),
    "data.split_by": ("question", "id"),
    "vocab.kind": ("train", "sentencepiece", "byte"),
    "model.mlp": ("relu", "gated-gelu"),
    "model.dtype": ("float32", "bfloat16"),
    "train.optimizer": ("adamw", "adafactor", "lion", "sgd"),
    "train.remat": ("none", "dots", "full"),
    "train.keep_best": ("", "validation_loss", "validation_accuracy"),
    "train.schedule": ("cosine", "inverse_square_root", "constant"),
    "train.normalize": ("weights", "examples"),
    "segment.strategy": STRATEGIES,
    "segment.short": ("merge", "drop", "keep"),
    "segment.given": ("question", "prefix"),
    "segment.reduce": ("sum", "mean"),
    "ases.end_of_chain": ("sentinel", "stop_text"),
    "decode.engine": ("continuous", "synchronous"),
    "decode.mode": ("greedy", "sample"),
    "evaluate.metric": ("numeric", "authors", "exact"),
    "chunk.chunking": ("average", "search"),
    "chunk.objective": ("total", "mean_of_means"),
    "chunk.skip": ("one_pass", "stages"),
    "chunk.order": ("front_to_back", "back_to_front"),
    "chunk.continuation": ("student", "teacher"),
    "socratic.plan": ("step", "whole"),
    "socratic.guidance": ("none", "operators", "equations"),
    "socratic.guide_source": ("oracle", "planner"),
    "in_context.ask": ("few_chain", "few_answer", "zero_chain", "zero_answer"),
    "kpod.schedule": ("progressive", "self_paced", "none"),
    "kpod.given": ("decoder", "encoder"),
    "mesh.preset": ("dp", "fsdp", "tp", "fsdp_tp"),
}


def base_config() -> ConfigDict:
    """Return the defaults of every field. Config files change what they need and no more."""
    c = ConfigDict()
    c.name = ""  # shown in reports; the config file's name when empty
    c.seed = 0  # of initialisation, batch order and generated data
    c.seeds = ()  # the whole job for each of them, in WORKDIR/seed-N, and then all compared
    c.methods = ("answer_only", "direct", "dsm", "usm")  # rows of the results table, in order

    c.data = d = ConfigDict()
    d.source = "synthetic_math"  # one of SOURCES
    d.path = ""  # folder of a named data set; a file of jsonl, json, csv, perhaps with {split}
    d.n_train = 700  # records kept of each split, 0 for all
    d.n_validation = 100
    d.n_test = 500
    d.validation_share = 0.1  # taken from the training records where a source has no such split
    d.test_share = 0.1
    d.split_by = "question"  # equal questions never part; "id": equal ids
    d.question_field = "question"  # names of the fields of jsonl, json and csv
    d.rationale_field = "rationale"
    d.answer_field = "answer"
    d.id_field = "id"
    d.steps_field = "steps"  # [[subquestion, text], ...], where rows have it
    d.others_field = "rationales"  # a list of further rationales, where rows have it
    d.answer_template = "The answer is {answer}."  # closes the chain; "" where answers are empty
    d.strip_calculator = True  # remove <<48/2=24>> marks
    d.max_skipped_share = 0.0  # stop when more records than this share cannot be used
    # Leave out teacher chains that do not end in the right answer (by evaluate.metric), except in
    # the test split.
    d.only_right_chains = False
    # The embedded generators (sources synthetic_*):
    d.min_steps = 2  # computed values in a problem
    d.max_steps = 4
    d.max_value = 20  # of any given or computed number
    d.n_distractors = 0  # facts nobody needs
    d.wording = "plain"  # "varied" draws among templates
    d.fact_order = "in_order"  # or "shuffled"
    d.held_out_templates = False  # test questions use templates that training never shows
    d.n_fillers = 0  # sentences in each rationale that nobody needs (synthetic_math)
    d.n_rationales = 1  # rationales of a question, worded in different ways (synthetic_math)

    c.vocab = v = ConfigDict()
    v.kind = "train"  # train a SentencePiece model on the training texts, or load one, or bytes
    v.path = ""  # of the SentencePiece model (kind "sentencepiece")
    v.size = 256  # pieces of a trained vocabulary, an upper bound
    v.extra_ids = 100  # sentinels <extra_id_0> ... behind the pieces
    v.split_digits = False  # of a trained vocabulary: one piece a digit, not a number
    v.byte_fallback = False  # of a trained vocabulary: bytes for unseen characters, text as it is
    v.symbols = False  # write what the pieces cannot spell (< { } ^ line breaks) as escapes
    v.max_unknown_share = 0.0  # stop when more of the training pieces than this are unknown

    c.model = m = ConfigDict()
    m.preset = ""  # a released shape (models/presets.py) in the place of the eight fields below
    m.d_model = 64
    m.d_ff = 256
    m.n_heads = 4
    m.d_kv = 16  # width of a head
    m.n_encoder_layers = 2
    m.n_decoder_layers = 2
    m.mlp = "relu"  # T5 v1.0; "gated-gelu" is v1.1 and Flan
    m.tied = True  # output shares the input embedding, scaled by d_model**-0.5 (v1.0)
    m.dropout = 0.0
    m.dtype = "float32"  # of activations; parameters, norms, softmax and losses are float32
    m.init_from = ""  # folder of a role, or of a checkpoint, that every role starts from

    c.train = t = ConfigDict()
    t.batch_size = 32  # rows (examples) in an optimizer step, all devices together
    t.microbatches = 1  # gradient accumulation inside the step
    # The length of training: exactly one of these four is not 0. "tokens" are real (not padding)
    # source and target tokens of a method, shared by its roles: it matches compute.
    t.steps = 0
    t.examples = 0
    t.epochs = 0.0
    t.tokens = 4_000_000
    t.optimizer = "adafactor"
    t.learning_rate = 0.05  # peak; with adafactor relative to the size of a parameter
    t.schedule = "cosine"
    t.warmup_share = 0.06  # of all steps
    t.final_share = 0.05  # of the peak, where the cosine ends
    t.weight_decay = 0.0
    t.beta1 = 0.9
    t.beta2 = 0.99
    t.clip_norm = 1.0  # 0: no clipping
    t.rate_factors = ()  # "regex=factor" of the learning rate, by parameter name; 0 freezes
    t.ema_decay = 0.0  # above 0: what is evaluated and kept is a running average of parameters
    t.skip_nonfinite = False  # leave out updates with NaN or infinity instead of stopping
    t.remat = "none"  # backward keeps all, "dots" (products of parameters) or "full" (layer inputs)
    t.scan_layers = False  # compile one layer for a whole stack: for deep models
    t.label_smoothing = 0.0
    t.z_loss = 0.0
    t.normalize = "weights"  # divide the summed loss by the weights, or by the examples
    t.source_buckets = (64, 96, 128)  # lengths that batches are padded to
    t.target_buckets = (16, 80)
    # Above 0, examples share rows whose longer side has so many positions at most, and batch_size
    # counts rows; the buckets then serve validation and scoring alone.
    t.packed_length = 0
    t.log_every_steps = 20
    t.evaluate_every_share = 0.25  # of all steps: loss on validation, and a kept checkpoint
    # What a role hands on: its last checkpoint, or the best evaluated one by "validation_loss" or
    # "validation_accuracy".
    t.keep_best = ""
    t.patience = 0  # above 0: stop when so many evaluations in a row were not the best (keep_best)
    t.save_every_steps = 200
    t.keep_last = 2  # newest checkpoints that stay; those of evaluations stay anyway
    t.profile_steps = (0, 0)  # first and last step of a profile in the role's folder; (0, 0): none

    c.segment = s = ConfigDict()
    s.strategy = "entropy"
    s.beta = 1.4  # label AS above beta times the mean score ([code])
    s.reduce = "sum"  # of token scores over a piece; "mean" divides by its words
    s.given = "question"  # what the scorer sees before a piece; "prefix" adds the earlier pieces
    s.short = "merge"  # pieces of min_words words or fewer: merge, drop ([code]) or keep
    s.min_words = 3
    s.merge_adjacent = True  # neighbours with one label become one segment ([paper])

    c.ases = a = ConfigDict()
    a.gamma = 1.0  # loss weight of AS tokens; ES tokens weigh 1
    a.end_of_chain = "sentinel"  # the last target ends with sentinel 0; or "stop_text" ([code])
    a.stop_text = "answer is"

    c.decode = g = ConfigDict()
    g.engine = "continuous"  # slots take new questions at once; "synchronous" waits for the batch
    g.batch_size = 100  # questions written at once
    g.max_rounds = 12  # segments a chain ([code]: 5 rounds of two)
    g.max_segment_tokens = 64  # new tokens a segment ([code]: 100)
    g.max_chain_tokens = 96  # new tokens a chain, direct's single segment too
    g.beams = 1  # above 1: beam search of each segment, by the synchronous engine
    g.length_penalty = 1.0  # of beam search, as in transformers: above 0 favours long chains
    g.mode = "greedy"  # the most probable token; or "sample", drawn as the next four say
    g.temperature = 1.0
    g.top_k = 0  # draw from the k most probable tokens alone; 0 for all
    g.top_p = 1.0  # of those from the fewest that reach this share; 1 for all
    g.seed = 0  # of what is drawn
    g.samples = 1  # chains drawn for a question; above 1 their answers vote (self-consistency)
    g.prefix = ""  # what every chain begins with
    g.repeat_ngram = 0  # n: a segment that writes n tokens in a row again ends there; 0: never
    g.question_buckets = (64, 128, 256, 512)  # lengths that questions are padded to
    g.encode_rows = 0  # contexts the continuous engine encodes at once; 0: batch_size / 8
    g.context_lengths = (64, 128, 192)  # lengths it pads contexts to, besides the longest
    g.int8 = False  # round weights to int8 with a scale a channel: less to read, other ids
    g.curve_questions = 100  # validation questions decoded at each kept checkpoint; 0: no curves

    c.evaluate = e = ConfigDict()
    e.metric = "numeric"
    e.language = "en"  # "zh": BLEU's Chinese tokenizer, ROUGE over characters

    c.mesh = x = ConfigDict()
    x.preset = "dp"
    x.data = -1  # one of the three may be -1: what is left of the devices
    x.fsdp = 1
    x.tensor = 1
    x.slices = 1  # TPU slices that the data axis goes over

    c.chunk = k = ConfigDict()  # chunk-wise training and skip-thinking
    k.n_chunks = 4  # M: chunks a rationale is cut into, fewer where it has fewer sentences
    k.chunking = "search"  # cuts move where the student's loss wants them; "average": never
    k.refreshes = 2  # times in training that they move, evenly spread
    k.threshold = 0.01  # nats a token that a moved cut must gain
    k.objective = "total"  # what it must gain in: the loss of both chunks' tokens together;
    # "mean_of_means": the mean of their means
    k.mark_from = 1  # sentinel that marks the first stage; M + 2 more follow: [answer], skip, full
    k.skip = "one_pass"  # how kept chunks are written: at once, or in "stages" that name the next
    k.order = "front_to_back"  # in which chunks are left out on trial; or "back_to_front"
    k.continuation = "student"  # who goes on behind a chunk left out on trial; or the "teacher"
    k.protect_first = False  # never leave out the first chunk
    k.protect_last = False
    k.mix = 0.25  # share of the chunk-wise items that skip_thinking and full_thinking train on too

    c.socratic = o = ConfigDict()
    o.plan = "step"  # each subquestion when those before are answered; "whole": all at once
    o.guidance = "none"  # what the decomposer sees of the steps: their "operators" or "equations"
    o.guide_source = "oracle"  # of guides at test time: the record's steps, or a role "planner"
    o.history = True  # the solver reads all steps so far, not the last subquestion alone
    o.single_steps = False  # a rationale without steps is one step, and no error
    o.ask_mark = "ask:"  # begin the inputs of socratic_unified, whose tasks share parameters
    o.solve_mark = "solve:"
    o.guide_mark = "guide:"

    c.step_by_step = b = ConfigDict()
    b.alpha = 0.5  # share of a question's weight that its answer gets; 1: answers alone; 0: none
    b.predict_prefix = "predict:"  # before questions that ask for the answer
    b.explain_prefix = "explain:"  # for the rationale; marks like <extra_id_1> are shorter

    c.in_context = i = ConfigDict()
    i.formats = CHOICES["in_context.ask"]  # rows of each question: few or zero worked examples,
    i.ask = "few_chain"  # chain or answer; and the one used when questions are answered
    i.shots = 2  # worked examples a question is shown, all training records
    i.chain_prompt = "Let's think step by step."  # behind questions that ask for the chain
    i.answer_prompt = "The answer:"

    c.kpod = p = ConfigDict()  # weighted tokens, and rationales learned from their end
    p.weight_epochs = 5.0  # passes over the training questions that the token weights train for
    p.alpha = 0.5  # price of keeping a whole rationale, in nats (the paper says 0.5 and 0.7)
    p.predictor_share = 0.5  # of their training, in which the predictor alone learns to answer
    p.weighted_loss = True  # of the student; False: every token weighs 1
    p.weighted_difficulty = True  # False: a step's difficulty is its plain mean loss
    p.schedule = "progressive"  # of what is given; "self_paced": whole rationales; "none": nothing
    p.n_stages = 10  # T; one epoch each in the paper, half of all epochs together
    p.progressive_share = 0.5  # of training that the stages take
    p.start_share = 0.3  # C0 / B: share of the whole difficulty asked for before the first stage
    p.power = 0.5  # p: the ceiling rises with the (p + 1)th power of time
    p.steps_at_once = 1  # steps that a chosen question stops being given in a stage
    p.beta = 12.0  # worth of choosing questions from many clusters, in nats
    p.n_clusters = 5
    p.word_vectors = ""  # GloVe's text format; "": clusters of the student's encoder states
    p.given = "decoder"  # where given steps stand: a prefix without weight, or the "encoder"
    return c


def load_config(spec: str, overrides: dict[str, str] | None = None) -> ConfigDict:
    """Load ``path.py`` or ``path.py:arg`` and apply overrides.

    Args:
      spec: path of a config file, optionally followed by ``:`` and an argument for it.
      overrides: dotted field to value as written on the command line.

    Returns:
      A locked ConfigDict whose fields are exactly those of ``base_config()``.

    Raises:
      UserError: no such file, no ``get_config`` in it, unknown field, or a value of another type.
    """
    path, _, arg = spec.partition(".py:")
    path = Path(path + ".py" if arg else spec)
    if not path.is_file():
        raise UserError(f"config file {path} does not exist; give --config path/to/file.py[:arg]")
    loader = importlib.util.spec_from_file_location("asesjax_config_file", path)
    if loader is None or loader.loader is None:
        raise UserError(f"config file {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(loader)
    try:
        loader.loader.exec_module(module)
        config = module.get_config(arg)
    except UserError:
        raise
    except (AttributeError, KeyError) as error:
        # ConfigDict locks itself, so a misspelt field lands here.
        raise UserError(f"{path}: {str(error).strip()}") from error
    except (TypeError, SyntaxError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    config = ConfigDict(config)
    if not config.name:
        config.name = path.stem + (f":{arg}" if arg else "")
    return finish(config, overrides or {}, str(path))


def finish(config: ConfigDict, overrides: dict[str, str], origin: str = "config") -> ConfigDict:
    """Apply overrides, check every field against ``base_config()`` and lock.

    Args:
      config: a config made from ``base_config()``.
      overrides: dotted field to text; the text is read as a Python literal where the field is not
        a string.
      origin: named in errors about fields that came with ``config``.

    Raises:
      UserError: unknown field, value of another type, or a name outside the field's choices.

    Example:
      >>> finish(base_config(), {"segment.beta": "1.0"}).segment.beta
      1.0
      >>> finish(base_config(), {"segment.bta": "1.0"})
      Traceback (most recent call last):
      asesjax.core.errors.UserError: unknown config field 'segment.bta'; did you mean ...
    """
    base = flatten(base_config())
    fields = flatten(config)
    for name in fields:
        if name not in base:
            raise unknown(f"field in {origin}:", name, base)
    for name, text in overrides.items():
        if name not in base:
            raise unknown("config field", name, base)
        fields[name] = _parse(name, text, base[name])
    for name, default in base.items():
        fields[name] = _check(name, fields.get(name, default), default)
    out = base_config()
    for name, value in fields.items():
        section, _, leaf = name.rpartition(".")
        (out[section] if section else out)[leaf] = value
    return out.lock()


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Return dotted field names and values, in the order of the sections.

    Example:
      >>> flatten(base_config())["train.schedule"]
      'cosine'
    """
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{key}.{name}": leaf for name, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def fingerprint(fields: dict[str, Any]) -> str:
    """Return a short stable hash of some fields, the same in every process and version.

    Example:
      >>> fingerprint({"a": 1}) == fingerprint({"a": 1}) != fingerprint({"a": 2})
      True
    """
    text = json.dumps(fields, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _kind(name: str, default: tuple) -> type:
    """What a tuple holds; an empty one holds text, but for numbers of seeds."""
    if default:
        return type(default[0])
    return int if name == "seeds" else str


def _parse(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    if isinstance(default, tuple) and _kind(name, default) is str:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(default, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"{name} must be true or false, got {text!r}")
    if isinstance(default, tuple) and not text:
        return ()
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise UserError(
            f"{name} must be a {type(default).__name__}, got {text!r}"
        ) from None
    if isinstance(default, tuple) and not isinstance(value, list | tuple):
        value = (value,)
    return value


def _check(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        kind = _kind(name, default)
        if not all(type(item) is kind for item in value):
            raise UserError(f"{name} must hold only {kind.__name__}, got {value!r}")
        value = tuple(value)
    elif isinstance(default, float) and type(value) is int:
        value = float(value)
    elif type(value) is not type(default):
        raise UserError(
            f"{name} must be a {type(default).__name__}, got {value!r} "
            f"({type(value).__name__})"
        )
    if name in CHOICES and value not in CHOICES[name]:
        raise unknown(name, value, CHOICES[name])
    if name == "methods":
        for item in value:
            if item not in METHODS:
                raise unknown("method in methods:", item, METHODS)
    if isinstance(value, float) and value != value:
        raise UserError(f"{name} must be a number, got {value!r}")
    return value
