"""Four symbolic tasks (Ho et al. 2023) with reasoning written by rule, and gold ES and AS.

The files hold questions and answers alone; the rules are ours. Every step is a sentence: ES where
it repeats the question, AS where it infers. A rule returns the labelled sentences and the answer
that they lead to, and raises ``BadRow`` for a question of another form.
"""

import re
from collections.abc import Callable
from pathlib import Path

from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, Record
from asesjax.data.generators.draw import labelled_record
from asesjax.data.readers import dates
from asesjax.data.registry import file_source, in_folder
from asesjax.data.rows import BadRow, Row, read_document, read_rows, text_field

Chain = list[tuple[str, str]]  # sentences and their labels

_CHOICES = re.compile(r"\(([A-Z])\) (.*?)(?=, \([A-Z]\) |\.$)")
_HOLDS = re.compile(r"(\w+) (is playing|is dancing with|has a|gets) ([^,]+?)(?=, and |, |\.)")
_SWAP = re.compile(r"(?:First|Then|Finally), (\w+) and (\w+) ((?:swap|trade|switch)[\w ]*)\.")
_NOW = {"has a": "has the", "gets": "has"}  # what holding is called once it has begun


def last_letters(question: str) -> tuple[Chain, str]:
    """Take the last letter of every word between quotes."""
    words = _found(r'"([^"]+)"', question)[0].split()
    chain = [(f'The words are "{" ".join(words)}".', ES)]
    chain += [(f'The last letter of "{word}" is "{word[-1]}".', AS) for word in words]
    answer = "".join(word[-1] for word in words)
    return [*chain, (f'Together they are "{answer}".', AS)], answer


def coin_flip(question: str) -> tuple[Chain, str]:
    """Follow a coin that some people turn over."""
    _found("^A coin is heads up", question)
    heads, chain = True, [("The coin is heads up.", ES)]
    for name, negated in re.findall(r"\. ([^.]+?) (does not flip|flips) the coin", question):
        heads ^= negated == "flips"
        still = "still " if negated != "flips" else ""
        chain.append((f"{name} {negated} the coin.", ES))
        chain.append((f"So it is {still}{'heads' if heads else 'tails'} up.", AS))
    return chain, "yes" if heads else "no"


def shuffled_objects(question: str) -> tuple[Chain, str]:
    """Follow three people who swap what they have, in pairs."""
    story, asked, choices = _found(
        r"(?s)^(.*)At the end of .*?, (\w+) [\w ]+\nWhich choice is true\? (.*)$", question
    )
    start, _, swaps = story.partition("\n\n")
    held = _HOLDS.findall(start.partition(":")[2])
    if len(held) < 2 or asked not in {name for name, _, _ in held}:
        raise BadRow("the question does not say who has what at the start")
    has = {name: thing for name, _, thing in held}
    verb = held[0][1]
    chain = [(", ".join(f"{name} {v} {thing}" for name, v, thing in held) + ".", ES)]
    now = _NOW.get(verb, verb)
    for one, other, what in _SWAP.findall(swaps):
        if not {one, other} <= has.keys():
            raise BadRow("someone swaps who had nothing at the start")
        has[one], has[other] = has[other], has[one]
        chain.append((f"{one} and {other} {what}.", ES))
        chain.append((f"So {one} {now} {has[one]} and {other} {now} {has[other]}.", AS))
    return _choose(chain, f"{asked} {now} {has[asked]}", has[asked], choices)


def date_understanding(question: str) -> tuple[Chain, str]:
    """Work out what day is today, and from it the date that is asked for."""
    premise, phrase, choices = _found(
        r"^(.*) What is the date (.*) in MM/DD/YYYY\?\nWhich choice is true\? (.*)$", question
    )
    try:
        day = dates.today(premise)
        wanted = day and dates.asked(day, phrase)
    except (ValueError, OverflowError, KeyError):
        raise BadRow("the question has a date that is in no calendar") from None
    if wanted is None:
        raise BadRow("no rule knows the wording of this date")
    chain = [(premise, ES)]
    if phrase != "today":
        chain.append((f"So today is {day:%m/%d/%Y}.", AS))
    answer = f"{wanted:%m/%d/%Y}"
    return _choose(chain, f"The date {phrase} is {answer}", answer, choices)


def _choose(chain: Chain, conclusion: str, wanted: str, choices: str) -> tuple[Chain, str]:
    letters = [letter for letter, text in _CHOICES.findall(choices) if text == wanted]
    if len(letters) != 1:
        raise BadRow("what the rule comes to is not among the choices")
    return [*chain, (f"{conclusion}, which is choice {letters[0]}.", AS)], letters[0]


def _found(pattern: str, question: str) -> tuple[str, ...]:
    found = re.search(pattern, question)
    if not found:
        raise BadRow("the question is not worded as in this data set")
    return found.groups()


RULES: dict[str, Callable[[str], tuple[Chain, str]]] = {
    "coin_flip": coin_flip,
    "date_understanding": date_understanding,
    "last_letter_concatenation": last_letters,
    "tracking_shuffled_objects": shuffled_objects,
}


def _rows(settings, file: Path, split: str) -> list[tuple[int, Row | BadRow]]:
    """Return the rows whose places, from 0, <name>__default.json gives to a split."""
    path = file.with_name(f"{file.stem}__default.json")
    document, rows = read_document(path), list(read_rows(file, "json"))
    splits = document if isinstance(document, dict) else {}
    places = [splits.get(name) for name in ("train", "test")]
    if not all(isinstance(own, list) and all(type(n) is int for n in own) for own in places):
        raise UserError(f"{path} must hold 'train' and 'test', lists of places in {file.name}")
    if sorted(n for own in places for n in own or ()) != list(range(len(rows))):
        raise UserError(
            f"{path} must give each of the {len(rows)} rows of {file.name} to one split, once"
        )
    return [rows[n] for n in sorted(splits[split])]


def parse_question(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse a question and write its reasoning by the rule of its task."""
    question, answer = text_field(row, "question"), text_field(row, "answer")
    chain, result = RULES[file.stem](question)
    if result != answer:
        raise BadRow("the rule comes to another answer than the file gives")
    record = labelled_record(f"{file.stem}-{number}", question, chain, answer)
    return record, f"The answer is {answer}."


for _task in RULES:
    _files = in_folder(dict.fromkeys(("train", "test"), f"{_task}.json"))
    file_source(_task, _files, "json", _rows)(parse_question)
