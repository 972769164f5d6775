"""Records of every split, and the vocabulary."""

import functools
from collections import Counter
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.files import write_json
from asesjax.core.types import Record
from asesjax.data.audit import audit, unknown_share
from asesjax.data.corpus import write_corpus
from asesjax.data.examples import chain_text
from asesjax.data.sources import SPLITS, load_records, read_records, write_records
from asesjax.data.symbols import ALPHABET
from asesjax.data.vocab import load_vocabulary, train_vocabulary, with_symbols
from asesjax.evals.answers import is_correct
from asesjax.run import Run


def prepare_data(run: Run) -> None:
    """Write the records of every split and the vocabulary."""
    config = run.config
    counts: dict[str, Any] = {}
    skipped: dict[str, str] = {}  # place -> reason; splits of one file report the same rows
    texts: list[str] = []
    fields: dict[str, list[str]] = {}
    is_right = functools.partial(is_correct, metric=config.evaluate.metric)
    for split in SPLITS:
        records, left_out = load_records(config.data, split, config.seed, is_right)
        write_records(run / f"data/{split}.jsonl", records)
        skipped |= dict(left_out)
        counts[split] = len(records)
        for name in ("question", "rationale", "answer"):
            fields[f"{split}.{name}"] = [getattr(record, name) for record in records]
        run.say(f"  {split}: {len(records)} records")
        if split != "train":  # a metric that cannot read the references is told of now, not later
            for record in records:
                is_right("", record.answer or chain_text(record, config.data.answer_template))
        if split == "train":
            texts = [record.question for record in records]
            texts += [chain_text(record, config.data.answer_template) for record in records]
            texts += _further(records, texts)
    for reason, n in Counter(skipped.values()).most_common():
        run.say(f"  skipped {n} rows: {reason}")
    write_json(run / "data/counts.json", {"records": counts, "skipped": skipped})
    v = config.vocab
    if v.kind == "train":
        corpus = [*texts, ALPHABET] if v.symbols else texts
        vocab = train_vocabulary(corpus, v.size, v.split_digits, v.extra_ids, v.byte_fallback)
    else:
        vocab = load_vocabulary(v.kind, v.path, v.extra_ids)
    if v.symbols:
        vocab = with_symbols(vocab)
    losses = audit(vocab, fields)
    write_json(run / "data/audit.json", losses)
    for row in losses:
        if row["unknown"]:
            run.say(f"  {row['field']}: {row['unknown']} of {row['tokens']} tokens unknown, most "
                    f"often {', '.join(map(repr, row['lost']))}")
    unknown, total, lost = unknown_share(vocab, texts)
    if vocab.symbols:
        plain_unknown, plain_total, _ = unknown_share(vocab.plain, texts)
        run.say(f"  symbols: {total} training tokens instead of {plain_total}, of which "
                f"{plain_unknown} would be unknown")
    run.say(f"  vocabulary: {vocab.size} ids; {unknown} of {total} training tokens unknown")
    if unknown > v.max_unknown_share * total:
        raise UserError(
            f"the vocabulary cannot write {unknown} of {total} training tokens "
            f"({unknown / total:.2%}), more than vocab.max_unknown_share allows; most often "
            f"{', '.join(map(repr, lost))}. Raise it, or set vocab.symbols=true or vocab.kind=train"
        )
    vocab.save(run / "vocab")
    for split in SPLITS:
        records = read_records(run / f"data/{split}.jsonl")
        write_corpus(run / f"corpus/{split}", records, vocab, config.data.answer_template)


def _further(records: list[Record], texts: list[str]) -> list[str]:
    """Subquestions and other rationales with a word that no text has."""
    known = {word for text in texts for word in text.split()}
    more = [question for record in records for question, _ in record.steps or ()]
    more += [text for record in records for text in record.others]
    return [text for text in more if not known.issuperset(text.split())]
