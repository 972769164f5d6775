"""What day is today? Rules for the few dozen wordings of the premises ("Yesterday was April 30,
2021.") with which the date-understanding questions of BIG-bench begin.
"""

import calendar
import datetime
import re
from collections.abc import Callable

_MONTHS = {name.lower(): i for i, name in enumerate(calendar.month_abbr) if name}
_ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4}
_WEEKDAYS = {name: i for i, name in enumerate(calendar.day_name)}
_DATE = r"((?:[A-Z][a-z]+\.? \d{1,2}(?:st|nd|rd|th)?, \d{4}|\d{1,2}/\d{1,2}/\d{4}))"


def today(premise: str) -> datetime.date | None:
    """Return what day a premise says it is; None where no rule knows its wording.

    >>> today("The deadline is Jun 1, 2021, which is 2 days away from now.").isoformat()
    '2021-05-30'
    """
    for pattern, rule in _RULES:
        if found := re.search(pattern, premise):
            return rule(*found.groups())
    return None


def asked(day: datetime.date, phrase: str) -> datetime.date | None:
    """Return the date that a question asks for ("10 days ago"); None where no rule knows it."""
    if phrase in _MONTHS_LATER:
        return add_months(day, _MONTHS_LATER[phrase])
    return _add(day, _DAYS_LATER[phrase]) if phrase in _DAYS_LATER else None


def add_months(day: datetime.date, months: int) -> datetime.date:
    """Return the same day some months later, or the last of that month."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    last = _last_day(year, month + 1)
    return last.replace(day=min(day.day, last.day))


_MONTHS_LATER = {"a month ago": -1, "one year ago from today": -12}
_DAYS_LATER = {
    "today": 0, "tomorrow": 1, "yesterday": -1, "10 days ago": -10, "24 hours later": 1,
    "one week ago from today": -7, "one week from today": 7,
}  # fmt: skip


def _add(day: datetime.date, days: int) -> datetime.date:
    return day + datetime.timedelta(days=days)


def _date(text: str) -> datetime.date:
    if "/" in text:
        month, day, year = map(int, text.split("/"))
        return datetime.date(year, month, day)
    name, day, year = text.split()
    return datetime.date(int(year), _month(name), int(re.findall(r"^\d+", day)[0]))


def _month(name: str) -> int:
    return _MONTHS[name[:3].lower()]


def _last_day(year: int, month: int) -> datetime.date:
    return datetime.date(year, month, calendar.monthrange(year, month)[1])


def _nth_weekday(year: int, month: int, weekday: int, n: int) -> datetime.date:
    first = datetime.date(year, month, 1)
    return _add(first, (weekday - first.weekday()) % 7 + 7 * (n - 1))


def _shift(days: int) -> Callable[[str], datetime.date]:
    return lambda text: _add(_date(text), days)


# The first pattern found in a premise decides.
_RULES: tuple[tuple[str, Callable[..., datetime.date]], ...] = (
    (f"day before yesterday was {_DATE}", _shift(2)),
    (f"[Yy]esterday(?: was|,) {_DATE}", _shift(1)),
    (f"{_DATE} is like yesterday .* ten years ago", lambda d: add_months(_date(d), 120)),
    (rf"[Tt]omorrow(?: is|,)? (?:\([A-Z][a-z]+, )?{_DATE}", _shift(-1)),
    (f"deadline is {_DATE}, which is (\\d+) days away", lambda d, n: _add(_date(d), -int(n))),
    (f"It was {_DATE} a week ago", _shift(7)),
    (r"In the UK.* today is (\d+)/(\d+)/(\d+)",
     lambda day, month, year: datetime.date(int(year), int(month), int(day))),
    (f"thinks today is {_DATE}, but .* {_DATE}. Jane is", lambda jane, _: _date(jane)),
    (f"thinks today is {_DATE}, but .* {_DATE}. John is", lambda _, john: _date(john)),
    (f"thought today is {_DATE}, but .* which is 1 day later", _shift(1)),
    (f"scheduled to be on {_DATE}, but was delayed by one day to today", _shift(1)),
    (r"last day of Feb\w* in (\d+). Today is her (\d+)-year",
     lambda year, n: _last_day(int(year) + int(n), 2)),
    (f"married on {_DATE}. Today is their golden", lambda d: add_months(_date(d), 12 * 50)),
    (f"married on {_DATE}. It is their (\\d+)-year",
     lambda d, n: add_months(_date(d), 12 * int(n))),
    (r"job in (\d+). Today is her (\d+)-year .* on ([A-Z][a-z]+) (\d+), her second day",
     lambda year, n, month, day:
     _add(datetime.date(int(year) + int(n), _month(month), int(day)), -1)),
    (f"on {_DATE}. (\\d+) days have passed", lambda d, n: _add(_date(d), int(n))),
    (r"(\d{4}) is coming in (\d+) hours", lambda year, hours:
     (datetime.datetime(int(year), 1, 1) - datetime.timedelta(hours=int(hours))).date()),
    (r"on the (\d+)th of each month starting from the ([A-Z][a-z]+) of (\d+). It is her (\d+)th",
     lambda day, month, year, n:
     add_months(datetime.date(int(year), _month(month), int(day)), int(n) - 1)),
    (r"Today is (\d+)/(\d+)\D.*?\b(\d{4})\b",
     lambda month, day, year: datetime.date(int(year), int(month), int(day))),
    (r"Christmas Eve of (\d+)", lambda year: datetime.date(int(year), 12, 24)),
    (r"palindrome day of (\d{4})",
     lambda year: datetime.date(int(year), int(year[:1:-1]), int(year[1::-1]))),
    (r"last day of (\d{4})", lambda year: datetime.date(int(year), 12, 31)),
    (r"first day of (\d{4})\.$", lambda year: datetime.date(int(year), 1, 1)),
    (r"the (\w+) day of the (\w+) month of (\d{4})",
     lambda day, month, year: datetime.date(int(year), _ORDINALS[month], _ORDINALS[day])),
    (r"on the fourth Thursday of November. Today is the US Thanksgiving of (\d{4})",
     lambda year: _nth_weekday(int(year), 11, 3, 4)),
    (r"last day of the (\w+) quarter of (\d{4})",
     lambda n, year: _last_day(int(year), 3 * _ORDINALS[n])),
    (r"last day of ([A-Z][a-z]+) (\d{4})", lambda month, year: _last_day(int(year), _month(month))),
    (f"On {_DATE} \\w+ bought (\\d+) eggs. She ate one per day",
     lambda d, n: _add(_date(d), int(n))),
    (r"today is the (\w+) ([A-Z]\w+day) of (\d{4})",
     lambda n, day, year: _nth_weekday(int(year), 1, _WEEKDAYS[day], _ORDINALS[n])),
    (f"(?:Today is|It is|Today,|current local time is .* of) {_DATE}", _shift(0)),
)  # fmt: skip
