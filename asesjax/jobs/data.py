"""Records of every split, the vocabulary, and the records in ids."""

import contextlib
import hashlib
from collections import Counter
from pathlib import Path

from asesjax.core.buckets import is_address, local
from asesjax.core.errors import UserError
from asesjax.core.files import read_record, write_json
from asesjax.core.options import Config
from asesjax.core.signals import check_stop
from asesjax.core.types import Record
from asesjax.data.corpus import encode_record, write_corpus
from asesjax.data.examples import chain_text
from asesjax.data.folders import folder_files
from asesjax.data.hf_tokenizer import read_hf_vocabulary
from asesjax.data.options import DataOptions
from asesjax.data.readers.named import task_vocabulary
from asesjax.data.registry import SOURCES, Reader
from asesjax.data.sources import SPLITS, load_records, write_records
from asesjax.data.summary import audit, unknown_share
from asesjax.data.symbols import ALPHABET
from asesjax.data.vocab import (
    SymbolVocabulary,
    Vocabulary,
    load_saved,
    load_vocabulary,
    with_symbols,
)
from asesjax.data.vocab_training import train_vocabulary
from asesjax.evals.answers import is_correct, judge, marker_of, parse_answer
from asesjax.methods.method import make_method
from asesjax.run import Run, student_run


def prepare_data(run: Run) -> None:
    """Write the records of every split, the vocabulary and the corpus of ids."""
    template = run.config.data.answer_template
    records = _load(run)
    train = records["train"]
    texts = [record.question for record in train]
    texts += [chain_text(record, template) for record in train]
    further = _further(train, texts)
    student = student_run(run)
    if student is None:
        vocab = _vocabulary(run.config, [*texts, *further])
        if run.config.vocab.path:
            run.say(f"  the vocabulary is that of {run.config.vocab.path}; none is trained")
    else:
        vocab = load_saved(student / "vocab")
    losses, ids = [], []
    for split, own in records.items():
        encoded = [encode_record(vocab, record, template) for record in own]
        write_corpus(run / f"corpus/{split}", encoded)
        for name in ("question", "chain"):
            parts = [getattr(one, name) for one in encoded]
            of_field = [part.ids for part in parts]
            losses.append(audit(vocab, f"{split}.{name}", [p.text for p in parts], of_field))
            ids += of_field if split == "train" else []
    write_json(run / "data/audit.json", losses)
    for row in losses:
        if row["unknown"]:
            run.say(f"  {row['field']}: {row['unknown']} of {row['tokens']} tokens unknown, most "
                    f"often {', '.join(map(repr, row['lost']))}")  # fmt: skip
    _check_unknown(run, vocab, [*texts, *further], [*ids, *vocab.encode_batch(further)])
    vocab.save(run / "vocab")


def content_read(run: Run) -> dict[str, str]:
    """Return a field of the data stage that changes with the files at ``data.path``. Without them,
    or where none is newer than what was read, it is that of the stage's record.
    """
    name, record, read_at = "content of data.path", {}, 0
    with contextlib.suppress(UserError, FileNotFoundError):
        path = run / "stages/data.json"
        record, read_at = read_record(path)["fields"], path.stat().st_mtime_ns
    known = {key: value for key, value in record.items() if key == name}
    files = _files_read(run.config.data)
    if not files or record and not known:  # made by a version that did not look
        return known
    facts = [(file, file.stat()) for file in files]
    size = f"{sum(found.st_size for _, found in facts):,} bytes, "
    if known.get(name, "").startswith(size) and all(f.st_mtime_ns <= read_at for _, f in facts):
        return known
    total = hashlib.sha256()
    for file in files:
        check_stop()
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return {name: f"{size}SHA-256 {total.hexdigest()[:16]}"}


def _files_read(data: DataOptions) -> list[Path]:
    """Return the files of this machine that a data set is read from, in order."""
    reader, path = SOURCES.get(data.source), data.path
    if not isinstance(reader, Reader) or is_address(path) or not path:
        return []
    with contextlib.suppress(UserError, OSError):
        if "{split}" in path or Path(path).exists():
            places = set(reader.files(data).values())
            return sorted(file for place in places for file in (
                sum(folder_files(place).values(), []) if place.is_dir() else [place]
            ) if file.is_file())  # fmt: skip
    return []


def _load(run: Run) -> dict[str, list[Record]]:
    config, out = run.config, {}
    skipped: dict[str, str] = {}  # place -> reason; splits of one file report the same rows
    is_right = judge(config)
    learned = any(make_method(name, config).learns_rationales for name in config.methods)
    for split in SPLITS:
        records, left_out = load_records(config.data, split, config.seed, is_right, learned)
        write_records(run / f"data/{split}.jsonl", records)
        skipped |= dict(left_out)
        out[split] = records
        run.say(f"  {split}: {len(records)} records")
    _check_answers(run, [record for records in out.values() for record in records])
    for reason, n in Counter(skipped.values()).most_common():
        run.say(f"  skipped {n} rows: {reason}")
    counts = {split: len(records) for split, records in out.items()}
    write_json(run / "data/counts.json", {"records": counts, "skipped": skipped})
    return out


def _check_answers(run: Run, records: list[Record]) -> None:
    """Read the answer of every chain to be learned as that of a generated one: a metric that cannot
    read the references, or reads others, must say so now and not after training.
    """
    data, metric = run.config.data, run.config.evaluate.metric
    how, misread = (metric, marker_of(data.answer_template)), []
    for record in records:
        check_stop()
        chain = chain_text(record, data.answer_template)
        try:
            right = is_correct(chain, record.answer, *how, chain)
        except UserError as error:
            where = f"record {record.id} ({record.question[:60]!r})"
            raise UserError(f"{where}: {error}") from None
        if not right:
            misread.append((record, chain))
    if not misread:
        return
    record, chain = misread[0]
    text = (
        f"evaluate.metric={metric} reads another answer than their own in {len(misread)} of "
        f"{len(records)} chains, such as that of record {record.id}: {parse_answer(chain, *how)!r} "
        f"instead of {record.answer!r} in '...{chain[-80:]}'"
    )
    if len(misread) > data.max_misread_share * len(records):
        raise UserError(
            f"{text}; that is more than data.max_misread_share {data.max_misread_share}: change "
            "evaluate.metric or data.answer_template, or fix the records"
        )
    run.say(f"  {text}")


def _vocabulary(config: Config, texts: list[str]) -> Vocabulary:
    options = config.vocab
    if options.kind == "train":
        corpus = [*texts, ALPHABET] if options.symbols else texts
        settings = options.split_digits, options.extra_ids, options.byte_fallback
        vocab = train_vocabulary(corpus, options.size, *settings)
    elif options.kind == "tokenizer" and local(options.path).is_dir():
        vocab = read_hf_vocabulary(local(options.path))
        if vocab is None:
            raise UserError(f"vocab.path: {options.path} holds no tokenizer of transformers")
    elif options.kind == "task":
        vocab = task_vocabulary(config.data, options.extra_ids)
    else:
        path = str(local(options.path)) if options.path else ""
        vocab = load_vocabulary(options.kind, path, options.extra_ids)
    return with_symbols(vocab) if options.symbols else vocab


def _check_unknown(run: Run, vocab: Vocabulary, texts: list[str], ids: list) -> None:
    unknown, total, lost = unknown_share(vocab, texts, ids)
    if isinstance(vocab, SymbolVocabulary):
        plain_unknown, plain_total, _ = unknown_share(vocab.plain, texts)
        run.say(f"  symbols: {total} training tokens instead of {plain_total}, of which "
                f"{plain_unknown} would be unknown")  # fmt: skip
    run.say(f"  vocabulary: {vocab.size} ids; {unknown} of {total} training tokens unknown")
    if unknown > run.config.vocab.max_unknown_share * total:
        raise UserError(
            f"the vocabulary cannot write {unknown} of {total} training tokens "
            f"({unknown / total:.2%}), more than vocab.max_unknown_share allows; most often "
            f"{', '.join(map(repr, lost))}. Raise it, or set vocab.symbols=true or vocab.kind=train"
        )


def _further(records: list[Record], texts: list[str]) -> list[str]:
    """Subquestions and other rationales with a word that no text has."""
    known = {word for text in texts for word in text.split()}
    more = [question for record in records for question, _ in record.steps or ()]
    more += [text for record in records for text in record.others]
    return [text for text in more if not known.issuperset(text.split())]
