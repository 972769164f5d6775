"""From prediction rows to the numbers of a results table, and a run's report of them."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from asesjax.core.files import read_json, read_jsonl
from asesjax.core.options import Config
from asesjax.core.signals import check_stop
from asesjax.core.stages import Stage
from asesjax.core.types import AS, Segment
from asesjax.evals.answers import is_correct, marker_of
from asesjax.evals.chains import first_wrong, wilson_interval
from asesjax.evals.text import corpus_bleu, rouge


def is_right(row: dict[str, Any], metric: str, template: str = "") -> bool:
    """Say whether a row ends in the right answer: that of the reference chain if none is given;
    ``template`` is ``data.answer_template``.
    """
    check_stop()
    reference = row["reference_answer"], metric, marker_of(template), row.get("reference_chain", "")
    return is_correct(row["chain"], *reference)


def accuracy(
    rows: Sequence[dict], metric: str, template: str = ""
) -> tuple[float, tuple[float, float]]:
    """Return the share of right answers and its 95 % Wilson interval over questions."""
    right = sum(is_right(row, metric, template) for row in rows)
    return right / len(rows), wilson_interval(right, len(rows))


def summary(rows: Sequence[dict], config: Config) -> dict[str, Any]:
    """Measure one file of predictions with references, as section ``evaluate`` and
    ``data.answer_template`` say.

    Besides counts: ``accuracy`` with its 95 % interval over questions, ``accuracy_authors`` (the
    released code's rule), ``chain_accuracy`` (share of chains right sentence by sentence),
    ``first_wrong`` (chains by the kind of their first wrong sentence) and ``accuracy_by_steps`` (by
    the abstractive sentences of the gold chain), all None without gold chains, BLEU and ROUGE from
    0 to 100 (None without reference chains), and the shares of chains that were cut off at a limit,
    stopped on a repetition, and ended properly (None where no row has a finish reason).
    """
    n = len(rows)
    evaluate, template = config.evaluate, config.data.answer_template
    share, interval = accuracy(rows, evaluate.metric, template)
    pairs = [(row["chain"], row["reference_chain"]) for row in rows if row["reference_chain"]]
    with_gold = [row for row in rows if row.get("gold")]
    ended = [row["finish_reason"] for row in rows if "finish_reason" in row]
    kinds: Counter[str] = Counter()
    by_steps: dict[int, list[dict]] = {}
    ends = {"truncated": ("length",), "done": ("end",), "repeated": ("repeated", "looping")}
    for row in with_gold:
        check_stop()
        kinds[_first_wrong_kind(row)] += 1
        by_steps.setdefault(sum(label == AS for _, label in row["gold"]), []).append(row)
    return {
        "questions": n,
        "accuracy": share,
        "accuracy_interval": interval,
        "accuracy_authors": sum(is_right(row, "authors", template) for row in rows) / n,
        "chain_accuracy": kinds["right"] / len(with_gold) if with_gold else None,
        "first_wrong": dict(kinds) if with_gold else None,
        "accuracy_by_steps": {
            str(steps): accuracy(own, evaluate.metric, template)[0]
            for steps, own in sorted(by_steps.items())
        } or None,
        **overlap(pairs, evaluate.language),
        "segments_per_chain": sum(len(row["segments"]) for row in rows) / n,
        "tokens_per_question": sum(row["tokens"] for row in rows) / n,
        **{
            f"{name}_share": sum(end in reasons for end in ended) / len(ended) if ended else None
            for name, reasons in ends.items()
        },
    }


def overlap(pairs: Sequence[tuple[str, str]], language: str) -> dict[str, float | None]:
    """Return BLEU and ROUGE of (chain, reference); None where there is no reference."""
    if not pairs:
        return dict.fromkeys(("bleu", "rouge_1", "rouge_2", "rouge_l"))
    chains, references = zip(*pairs, strict=True)
    bleu = corpus_bleu(chains, references, language)
    return {"bleu": bleu, **rouge(chains, references, language)}


def _first_wrong_kind(row: dict[str, Any]) -> str:
    wrong = first_wrong(row["chain"], [Segment(*pair) for pair in row["gold"]])
    return "right" if wrong.is_right else wrong.kind or "unlabelled"


def compared_chains(
    config: Config, workdir: Path, names: Sequence[str], without: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return every test question with its reference and what each method wrote: the chain as pairs
    of text and label, whether its answer ``is_right``, and the ``kind`` of its first wrong sentence
    ("right" for none; None without gold chains, and for methods ``without`` rationales).
    """
    by_name = {name: [row for _, row in read_jsonl(workdir / f"predictions/{name}/test.jsonl")]
               for name in names}  # fmt: skip
    out = []
    for rows in zip(*by_name.values(), strict=True):
        own = dict(zip(by_name, rows, strict=True))
        # A method may be taught another chain than the records'.
        first = own[names[0]]
        out.append({
            "id": first["id"], "question": first["question"], "answer": first["reference_answer"],
            "reference": first.get("gold") or [[first["reference_chain"], None]],
            "rows": [
                {"method": name, "answer": row["answer"], "finish_reason": row["finish_reason"],
                 "is_right": is_right(row, config.evaluate.metric, config.data.answer_template),
                 "kind": _first_wrong_kind(row) if row.get("gold") and name not in without
                 else None,
                 "segments": [[part["text"], part["label"]] for part in row["segments"]]}
                for name, row in own.items()
            ],
        })  # fmt: skip
    return out


def method_row(config: Config, workdir: Path, name: str, roles: Sequence[str]) -> dict:
    """Collect everything a run knows about one method: a row of ``report.json``."""
    folder = workdir / "predictions" / name
    row = {"method": name, "seed": config.seed}
    row |= summary([row for _, row in read_jsonl(folder / "test.jsonl")], config)
    results = [read_json(workdir / f"roles/{name}/{role}/result.json") for role in roles]
    row |= decode_speed(read_json(folder / "decode.json"))
    for what in ("seconds", "tokens", "steps"):
        row[f"train_{what}"] = sum(result[what] for result in results)
    seen, examples = (sum(result[what] for result in results) for what in ("seen", "examples"))
    row["train_passes"] = seen / examples if examples else 0.0
    row["curve"] = []
    row["selected_steps"] = [result["best_step"] for result in results]  # of each role
    for point in read_json(folder / "curve.json", list):
        rows = [r for _, r in read_jsonl(folder / point["file"])]
        share, interval = accuracy(rows, config.evaluate.metric, config.data.answer_template)
        row["curve"].append(point | {"accuracy": share, "interval": interval})
    return row


def before_training(workdir: Path, row: str, stages: Sequence[Stage]) -> dict[str, Any]:
    """Return what a row of the table took besides its own training: ``before``, which has name,
    ``tokens`` and ``seconds`` of each part, and their sums ``before_tokens`` and
    ``before_seconds``. ``stages`` are those that its training builds on.

    A stage that trains counts with its training tokens and seconds, like the row itself, another
    with the seconds that it ran. What only reads records is left out. Training that did more than
    train has the seconds in ``prepared.json`` beside its roles.
    """
    parts: list[dict[str, Any]] = []

    def add(name: str, tokens: int, seconds: float) -> None:
        parts.append({"name": name, "tokens": tokens, "seconds": seconds})

    def add_prepared(folder: Path) -> None:
        if (folder / "prepared.json").exists():
            for name, seconds in read_json(folder / "prepared.json").items():
                add(name, 0, seconds)

    for stage in stages:
        folders = [workdir / output for output in stage.outputs]
        results = [read_json(path) for own in folders for path in own.glob("*/result.json")]
        if results:
            tokens, seconds = (sum(one[key] for one in results) for key in ("tokens", "seconds"))
            add(stage.name, tokens, seconds)
        elif stage.needs:
            add(stage.name, 0, read_json(workdir / f"stages/{stage.name}.json")["seconds"])
        for folder in folders:
            add_prepared(folder)
    add_prepared(workdir / f"roles/{row}")
    sums = {f"before_{key}": sum(part[key] for part in parts) for key in ("tokens", "seconds")}
    return {"before": parts} | sums


def decode_speed(decode: dict[str, Any]) -> dict[str, float | None]:
    """Return questions a second, and ``slot_utilisation`` and ``row_utilisation``, the shares of
    decoder steps and encoded contexts that some question needed (None where not counted).
    ``decode`` holds ``questions``, ``seconds`` and perhaps ``decode.spec.Counts``.

    >>> decode_speed({"questions": 6, "seconds": 2.0, "slot_steps": 8, "useful_steps": 6})
    {'questions_per_second': 3.0, 'slot_utilisation': 0.75, 'row_utilisation': None}
    """

    def share(useful: str, of: str) -> float | None:
        return decode[useful] / decode[of] if decode.get(of) else None

    return {
        "questions_per_second": decode["questions"] / decode["seconds"],
        "slot_utilisation": share("useful_steps", "slot_steps"),
        "row_utilisation": share("useful_rows", "encoded_rows"),
    }


def build_report(
    config: Config, workdir: Path, roles: dict[str, Sequence[str]], before: dict[str, list[Stage]]
) -> dict[str, Any]:
    """Collect ``report.json`` from a run's files; ``roles`` of methods in the table's order, and
    the stages that the training of each builds on.
    """
    places = [f"{name}/{role}" for name, own in roles.items() for role in own]
    return {
        "name": config.name, "seed": config.seed, "budget": budget(config),
        "metric": config.evaluate.metric, "answer_template": config.data.answer_template,
        "against": config.evaluate.against,
        "metrics_files": {place: f"roles/{place}/metrics.jsonl" for place in places},
        "rows": [
            method_row(config, workdir, name, own) | before_training(workdir, name, before[name])
            for name, own in roles.items()
        ],
    }  # fmt: skip


def budget(config: Config) -> str:
    """Say in words what the methods have in common."""
    whole, each = "every method gets {:,} {}, shared evenly by its roles", "every role gets {:,} {}"
    for unit, (text, what) in {
        "steps": (whole, "optimizer steps"),
        "examples": (each, "of its own training examples"),
        "epochs": (each, "epochs over its own examples"),
        "tokens": (whole, "real (not padding) source and target tokens in training"),
    }.items():
        if n := getattr(config.train, unit):
            return text.format(n, what)
    return ""
