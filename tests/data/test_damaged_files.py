"""Damaged files of every data set end in records, counted bad rows or a UserError: no tracebacks,
and no row is dropped without being counted.
"""

import copy
import csv
import gzip
import io
import json
import random
from collections import Counter

import pytest

from asesjax.config import base_config
from asesjax.core.errors import UserError
from asesjax.data.registry import get_reader
from asesjax.data.sources import SPLITS, load_records

LETTERS = 'Take the last letters of each words in "A{}my Ben" and concatenate them.'
COIN = "A coin is heads up. Amy flips the coin. Ben{} does not flip the coin. Is the coin still up?"
SWAPS = ("Amy, Ben, and Cleo are at a ball: Amy has a red ball{}, Ben has a blue ball, and Cleo "
         "has a green ball.\n\nFirst, Amy and Ben swap balls. At the end of the game, Ben has the\n"
         "Which choice is true? (A) blue ball, (B) green ball, (C) red ball{}.")  # fmt: skip
DATE = ("Yesterday was April {}, 2021. What is the date tomorrow in MM/DD/YYYY?\n"
        "Which choice is true? (A) 04/{:02}/2021, (B) 01/01/2020, (C) 04/30/1999.")  # fmt: skip
GSM = {"question": "How many {}?", "answer": "48/2 = <<48/2=24>>24 clips.\nSo 24 + {}.\n#### 1,0{}"}
SOCRATIC = {"question": "How many {}?", "answer": "In May? ** 48/2 = 24\nAll? ** {}\n#### {}"}
SVAMP = {"ID": "c{}", "Body": "He had {}.", "Question": "How many?",
         "Equation": "( 6.0 - ( 3.0 + 2.5 ) )", "Answer": 0.5}  # fmt: skip
STRATEGY = {"qid": "s{}", "question": "Is {} so?", "answer": True, "facts": ["One.", "Two {}."],
            "decomposition": ["Sub 1?", "Is it?"]}  # fmt: skip
CQA = {"id": "a{}", "question": "Where {}?", "choices": ["bus", "a bridge"], "answer": "a bridge"}
PLAIN = {"id": "r{}", "question": "What is {}?", "rationale": "It is {}.", "answer": 5,
         "steps": [["Sub?", "It is {}."]], "rationales": ["So {}.", "Well {}."]}  # fmt: skip
TABLE = {"id": "r{}", "question": "What, is {}?", "rationale": 'It "is"\n{}.', "answer": "{}"}
CHAIN = "He had {}. 6 - 1 = 5. The answer is (6 - 1).\n\nQ: Another?"
# Files of a source: name -> form and what its rows are made from; then rows of its splits.
FILES = {
    "gsm8k": {"train.jsonl": ("lines", GSM), "test.jsonl": ("lines", GSM)},
    "gsm8k_train": {"train.jsonl": ("lines", GSM)},
    "gsm8k_socratic": {f"{x}_socratic.jsonl": ("lines", SOCRATIC) for x in ("train", "test")},
    "svamp": {"SVAMP.json": ("array", SVAMP)},
    "strategyqa": {"train.json": ("array", STRATEGY), "dev.json": ("array", STRATEGY)},
    "palm_svamp": {
        f"{name}_{x}{end}.json": how for x in ("train", "test") for name, end, how in (
            ("svamp", "", ("lines", {"input": "Q{}", "label": "( 6.0 - 1.0 )"})),
            ("palm", "_CoT_0", ("array", CHAIN)),
        )
    },
    "palm_cqa": {
        f"{name}_{x}{end}.json": how for x in ("train", "test") for name, end, how in (
            ("cqa", "", ("lines", CQA)), ("palm", "_CoT_0", ("array", CHAIN)),
        )
    },
    "jsonl": {"x.jsonl": ("lines", PLAIN)},
    "json": {"x.json.gz": ("array", PLAIN)},
    "csv": {"x.csv": ("table", TABLE)},
    **{
        name: {f"{name}.json": ("array", {"question": text, "answer": answer}),
               f"{name}__default.json": ("array", None)}
        for name, text, answer in (
            ("last_letter_concatenation", LETTERS, "yn"), ("coin_flip", COIN, "no"),
            ("tracking_shuffled_objects", SWAPS, "C"), ("date_understanding", DATE, "A"),
        )
    },
}  # fmt: skip
N = 20  # rows of each file
ODD = [
    None, True, False, 0, -1, 2.5, 10**400, float("nan"), float("inf"), -0.0, "", " ", "\0",
    "\ud800", "<extra_id_0>", "\x1b[2J", "####", "#### ", " ** ", "1" * 5000, "(" * 150, "-" * 190,
    "9" * 190 + ".0", "1/0", "0 / 0", "1e5", "00", [], [[]], [None], ["x", 1], {}, {"a": 1},
    [[], "x"], [["q", 1]], [{"text": "x"}], "Yesterday was April 31, 2021.", "Today is 99/99/9999",
    "Yesterday was Xyz 1, 2021.", "Yesterday was December 31, 9999.", "The answer is", "yes",
    "x\ny", "First, A and B swap.", "(A) x, (A) x.", "last day of the fifth quarter of 2020",
    "on the 31th of each month starting from the January of 2020. It is her 0th",
]  # fmt: skip


def filled(template, i):
    if isinstance(template, str):
        return template.replace("{:02}", f"{i + 12:02}").replace("{}", str(i + 10))
    if isinstance(template, dict):
        return {key: filled(value, i) for key, value in template.items()}
    return [filled(x, i) for x in template] if isinstance(template, list) else template


def values_of(files):
    """What the files hold, before anything is damaged."""
    out = {}
    for name, (_, template) in files.items():
        out[name] = [filled(template, i) for i in range(N)]
        if template is None:
            out[name] = {"train": list(range(N - 3)), "test": list(range(N - 3, N))}
    return out


def written(form, value):
    if form == "array":
        return json.dumps(value, indent=1).encode()
    if form == "lines":
        return "".join(json.dumps(row) + "\n" for row in value).encode()
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(value[0] if isinstance(value[0], dict) else ["a"])
    writer.writerows(row.values() if isinstance(row, dict) else [str(row)] for row in value)
    return out.getvalue().encode(errors="surrogatepass")


def places(value, way=()):
    """Ways to all values inside a value."""
    pairs = enumerate(value) if isinstance(value, list) else ()
    for key, inner in value.items() if isinstance(value, dict) else pairs:
        yield (*way, key)
        yield from places(inner, (*way, key))


def damage_value(value, rng):
    """Change, remove, double or move something in a value; rows keep their number."""
    rows = isinstance(value, list)
    ways = [way for way in places(value) if len(way) > rows]
    if not ways:
        return
    *way, key = rng.choice(ways)
    for step in way:
        value = value[step]
    act = rng.choice(["odd", "odd", "odd", "remove", "rename", "wrap", "cut", "other"])
    if act == "remove" and isinstance(value, dict):
        del value[key]
    elif act == "rename" and isinstance(value, dict):
        value[rng.choice(["", "x", str(key).upper()])] = value.pop(key)
    elif act == "wrap":
        value[key] = rng.choice([[value[key]], {"text": value[key]}, [value[key]] * 2])
    elif act == "cut" and isinstance(value[key], str) and value[key]:
        at = rng.randrange(len(value[key]))
        value[key] = value[key][:at] + rng.choice(["", str(rng.choice(ODD))]) + value[key][at + 1 :]
    elif act == "other":
        other = rng.choice(ways)
        value[key] = other[-1]
    else:
        value[key] = copy.deepcopy(rng.choice(ODD))


def damage_bytes(content, rng):
    """Change bytes anywhere: rows may be joined, split or lost."""
    at, to = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    act = rng.choice(["flip", "cut", "end", "insert", "double", "whole", "twice"])
    if act == "flip" and at < len(content):
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    if act == "insert":
        more = [b"\0", b"\xff", b'"', b"{", b"]", b",", b"\n\n", b"[" * 20_000, b"1" * 5000,
                b"NaN", b'{"a": 1, "a": 2}\n', b"\xef\xbb\xbf", b"\r"]  # fmt: skip
        return content[:at] + rng.choice(more) + content[at:]
    if act == "double":
        return content[:at] + content[at:to] + content[at:]
    if act == "whole":
        return rng.choice([b"", b"null", b"5", b"[]", b"{}", b"[[]]", b'"x"', b"\n", b"[" * 50_000,
                           b'{"data": ' + content + b"}", content[::-1], b"{" + content,
                           b'{"x": [1, 2]}', b'{"train": [0]}',
                           b"[null]", b"\xff\xfe"])  # fmt: skip
    if act == "twice":
        return content + content
    return content[:at] + (b"" if act == "end" else content[to:])


def damaged(folder, source, rng):
    """Write the files of a source, one of them damaged; return the rows where they are known."""
    files = FILES[source]
    values, bad = values_of(files), rng.choice(list(files))
    in_bytes = rng.random() < 0.4
    for _ in range(0 if in_bytes else rng.choice([1, 1, 2, 5])):
        damage_value(values[bad], rng)
    for name, (form, _) in files.items():
        content = written(form, values[name])
        if name == bad and in_bytes:
            content = damage_bytes(content, rng)
        if name.endswith(".gz"):
            content = gzip.compress(content)
            if in_bytes and rng.random() < 0.3:
                content = damage_bytes(content, rng)
        (folder / name).write_bytes(content)
    known = in_bytes or bad.startswith("palm_") or values[bad].__class__ is dict
    return None if known else N


def try_damaged(folder, source, seed):
    """Load a damaged data set; return what came of it."""
    rng = random.Random(f"{source}/{seed}")
    n = damaged(folder, source, rng)
    data = base_config().data
    name = next(iter(FILES[source]))
    path = folder / name if source in ("jsonl", "json", "csv") else folder
    data.update(
        source=source, path=str(path), n_train=0, n_validation=0, n_test=0, validation_share=0.3,
        test_share=0.3, max_skipped_share=rng.choice([0.0, 1.0, 1.0, 1.0]),
    )  # fmt: skip
    loaded, refused = {}, 0
    for split in SPLITS:
        try:
            loaded[split] = load_records(data, split, 0)
        except UserError as error:
            refused += 1
            assert str(error)
    reader = get_reader(source)
    if not refused and n is not None:
        files = {file for file in reader.files(data).values()}
        lost = len({place for _, skipped in loaded.values() for place, _ in skipped})
        records = sum(len(records) for records, _ in loaded.values())
        assert records + lost == n * len(files), (source, seed)
    return "refused" if refused == 3 else "in part" if refused else "loaded"


@pytest.mark.parametrize("source", FILES)
def test_whole_files_load(tmp_path, source):
    for name, (form, _) in FILES[source].items():
        content = written(form, values_of(FILES[source])[name])
        (tmp_path / name).write_bytes(gzip.compress(content) if name[-3:] == ".gz" else content)
    data = base_config().data
    path = tmp_path / next(iter(FILES[source])) if source in ("jsonl", "json", "csv") else tmp_path
    data.update(source=source, path=str(path), n_train=0, validation_share=0.0, test_share=0.0)
    records, skipped = load_records(data, "train", 0)
    assert len(records) >= N - 3 and not skipped


@pytest.mark.parametrize("source", FILES)
def test_damaged_files_end_in_words(tmp_path, source):
    came = Counter(try_damaged(tmp_path, source, seed) for seed in range(25))
    assert len(came) > 1


@pytest.mark.slow
@pytest.mark.parametrize("source", FILES)
def test_many_damaged_files_end_in_words(tmp_path, source):
    came = Counter(try_damaged(tmp_path, source, seed) for seed in range(25, 750))
    print(source, dict(came))
