"""Which worked examples each question is shown, for the method in_context."""

from collections.abc import Sequence

from asesjax.core.files import write_jsonl
from asesjax.core.stages import Stage
from asesjax.data.sources import read_records
from asesjax.data.vocab import load_saved
from asesjax.methods.baselines.others import worked_examples
from asesjax.methods.method import Method
from asesjax.run import Run


def stages(run: Run, methods: Sequence[Method]) -> list[Stage]:
    """List the stage that chooses worked examples, where a method shows some."""
    if not any("in_context" in method.needs for method in methods):
        return []
    return [
        Stage("in_context", lambda: choose_examples(run), ("in_context.shots",), ("data",),
              outputs=("in_context",))
    ]  # fmt: skip


def choose_examples(run: Run) -> None:
    """Write what each training and validation question is shown, always training records."""
    vocab = load_saved(run / "vocab")
    pool = read_records(run / "data/train.jsonl")
    pool_ids = vocab.encode_batch([record.question for record in pool])
    for split in ("train", "validation"):
        records = read_records(run / f"data/{split}.jsonl")
        ids = vocab.encode_batch([record.question for record in records])
        chosen = worked_examples(ids, pool_ids, run.config.in_context.shots)
        write_jsonl(
            run / f"in_context/{split}.jsonl",
            (
                {"id": record.id,
                 "shown": [[pool[i].question, pool[i].rationale, pool[i].answer] for i in places]}
                for record, places in zip(records, chosen, strict=True)
            ),
        )  # fmt: skip
