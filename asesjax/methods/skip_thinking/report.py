"""What skip-thinking leaves out, in its training data and in what it writes, by gold labels.

The answer does not need sentences with the gold label ``FILLER``. Precision is the share of the
sentences left out that are filler, recall the share of the filler left out (labels: ours).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from asesjax.core.files import read_json, read_jsonl
from asesjax.core.types import FILLER, Record, Segment
from asesjax.methods.method import ReportPart
from asesjax.methods.skip_thinking.view import skipping_lines
from asesjax.run import Run
from asesjax.segmentation.pieces import piece_texts, split_sentences
from asesjax.viz.curves import accuracy_by_length


def sentence_labels(text: str, gold: Sequence[Segment]) -> list[tuple[str, str | None]]:
    """Cut a text into sentences and give each the gold label that most of its characters have. The
    text is the joined text of the gold segments, or its beginning.

    >>> gold = [Segment("Now then. ", FILLER), Segment("So 6.", "AS")]
    >>> sentence_labels("Now then. So 6.", gold)
    [('Now then.', 'FILLER'), ('So 6.', 'AS')]
    """
    of = [segment.label for segment in gold for _ in segment.text]
    pieces = split_sentences(text)
    return [
        (_normal(sentence), Counter(of[start:end]).most_common(1)[0][0])
        for sentence, (start, end) in zip(piece_texts(text, pieces), pieces, strict=True)
    ]


def skipping_report(run: Run, rows: Sequence[dict[str, Any]]) -> ReportPart:
    """Collect the report's facts: ``data`` has ``left_out`` of each split (None without skip data),
    ``methods`` the ``seconds_per_question`` of each method and, with gold labels, ``written``.
    """
    path, methods = run / "skip/summary.json", {}
    for row in rows:
        name = row["method"]
        methods[name] = {"seconds_per_question": 1 / row["questions_per_second"]}
        chains = [chain for _, chain in read_jsonl(run / f"predictions/{name}/test.jsonl")]
        if all(chain.get("gold") for chain in chains):
            methods[name] |= written(chains)
    facts = {"data": read_json(path) if path.exists() else None, "methods": methods}
    figure = accuracy_by_length(rows, run / "figures/accuracy_by_length.png")
    return ReportPart("skipping", facts=facts, lines=skipping_lines(rows, facts), figures=[figure])


def left_out(rows: Sequence[dict[str, Any]], records: Sequence[Record]) -> dict[str, Any]:
    """Sum up the skip data of a split, rows of ``skip/<split>.jsonl``.

    ``left_out_by_place`` has shares of the first, middle and last chunks; ``right_before`` and
    ``right_after`` are the shares of records answered rightly from all chunks and from those kept.
    With gold labels there are also ``sentences`` and ``left_out`` (counts by label) and
    ``precision`` and ``recall`` of filler (None where undefined).
    """
    places: Counter[str] = Counter()
    gone: Counter[str] = Counter()
    sentences: Counter[str] = Counter()
    sentences_gone: Counter[str] = Counter()
    for row, record in zip(rows, records, strict=True):
        n = len(row["chunks"])
        for m in range(n):
            place = "first" if m == 0 else "last" if m == n - 1 else "middle"
            places[place] += 1
            gone[place] += m not in row["kept"]
        if record.gold:
            own, own_gone = _labels_left_out(row, record.gold)
            sentences += own
            sentences_gone += own_gone
    n_chunks = sum(places.values())
    summary: dict[str, Any] = {
        "records": len(rows),
        "chunks": n_chunks,
        "kept_share": 1 - sum(gone.values()) / n_chunks,
        "left_out_by_place": {place: gone[place] / n for place, n in places.items()},
        "right_before": sum(row["right_before"] for row in rows) / len(rows),
        "right_after": sum(row["right_after"] for row in rows) / len(rows),
    }
    if sentences:
        summary |= {
            "sentences": dict(sentences),
            "left_out": {label: sentences_gone[label] for label in sentences},
            "precision": _share(sentences_gone[FILLER], sentences_gone.total()),
            "recall": _share(sentences_gone[FILLER], sentences[FILLER]),
        }
    return summary


def written(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare what a method wrote with what it might have left out; all ``rows`` have ``gold``.

    A needed sentence is left out where the chain does not hold it to the letter; filler is whatever
    sentence is filler in some gold chain. Returns ``sentences_per_chain`` without the answer
    sentence, ``filler_per_chain``, ``reference_filler`` (of the gold chain), ``needed_present``
    (share of the gold sentences by label), and ``precision`` and ``recall`` of leaving out filler.
    """
    golds = []
    for row in rows:
        gold = [Segment(*pair) for pair in row["gold"]]
        golds.append(sentence_labels("".join(segment.text for segment in gold), gold))
    filler = {sentence for gold in golds for sentence, label in gold if label == FILLER}
    total: Counter[str | None] = Counter()
    present: Counter[str | None] = Counter()
    n_written = n_filler = filler_gone = 0
    for row, gold in zip(rows, golds, strict=True):
        text = row["chain"]
        chain = [_normal(sentence) for sentence in piece_texts(text, split_sentences(text))]
        n_written += len(chain) - 1
        n_own = sum(sentence in filler for sentence in chain)
        n_filler += n_own
        filler_gone += max(0, sum(label == FILLER for _, label in gold) - n_own)
        closing = gold[-1][0]  # the answer sentence is no step
        for sentence, label in gold:
            total[label] += sentence != closing
            present[label] += sentence != closing and sentence in chain
    needed = [label for label in total if label != FILLER]
    gone = sum(total[label] - present[label] for label in needed)
    return {
        "sentences_per_chain": n_written / len(rows),
        "filler_per_chain": n_filler / len(rows),
        "reference_filler": total[FILLER] / len(rows),
        "needed_present": {label: _share(present[label], total[label]) for label in needed},
        "precision": _share(filler_gone, filler_gone + gone),
        "recall": _share(filler_gone, total[FILLER]),
    }


def _labels_left_out(row: dict[str, Any], gold: Sequence[Segment]) -> tuple[Counter, Counter]:
    text, kept, ends = "".join(row["chunks"]), set(row["kept"]), [0]
    for chunk in row["chunks"]:
        ends.append(ends[-1] + len(chunk))
    labels = [label for _, label in sentence_labels(text, gold)]
    total, gone = Counter(labels), Counter[str | None]()
    for piece, label in zip(split_sentences(text), labels, strict=True):
        m = next(m for m, end in enumerate(ends[1:]) if piece.start < end)
        gone[label] += m not in kept
    return total, gone


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _normal(sentence: str) -> str:
    return " ".join(sentence.split())
