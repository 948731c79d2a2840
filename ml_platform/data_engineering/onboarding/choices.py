"""What a contract says where the files allow only one answer, and the questions where they allow several."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_platform.contract.column_types import ColumnType
from ml_platform.contract.days import counted
from ml_platform.contract.fields import LONGEST_NAME, MAXIMUM_COLUMNS
from ml_platform.contract.source import EVENT_DAY, RESERVED_COLUMNS, Column
from ml_platform.contract.tasks import TaskName
from ml_platform.data_engineering.files import shown
from ml_platform.data_engineering.onboarding import labels
from ml_platform.data_engineering.onboarding.columns import MARKS, ColumnLook, FirstLook, Marks, Moment
from ml_platform.data_engineering.onboarding.dialect import FirstLookError
from ml_platform.data_engineering.onboarding.labels import LabelKind

#: Names by which a whole number may be a day, a month or a year, and by which one date is the day of a row.
_NAMES_OF_DAYS = re.compile(r"(?i)date|day|month|year|time|jahr|datum")
_USUAL_DAYS = frozenset({"event_day", "event_date", "date", "day"})
#: Text columns with up to so many values get a list of what is allowed.
ALLOWED_VALUES = 20
_SHOWN = 40


@dataclass(frozen=True)
class Answers:
    """What a person has said instead of what is seen; None, or empty, where nothing."""

    encoding: str | None = None
    delimiter: str | None = None
    escape: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    date_formats: Mapping[str, str] = field(default_factory=dict)
    event_day: str | None = None
    label: str | None = None
    task: TaskName | None = None
    label_delay_days: int | None = None
    key: tuple[str, ...] = ()
    entity: tuple[str, ...] = ()
    timezone: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class Question:
    """What the files can't tell.

    Attributes:
        flag: of the command, that answers it; ``about`` is the column that the answer is of, if any.
        options: possible answers, each with what speaks for it.
    """

    flag: str
    text: str
    options: tuple[tuple[str, str], ...]
    about: str | None = None


class NeedsAnswers(Exception):  # noqa: N818 - what it is, not what went wrong
    """The files can't tell something that a contract must say."""

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__("; ".join(question.text for question in questions))
        self.questions = tuple(questions)


@dataclass(eq=False)
class Chosen:
    """A column as the contract has it.

    Attributes:
        header: its name in the files; ``name`` is that in the contract.
        keys: beside the type and ``nullable``.
        nulls: records without a value.
        why: what was seen.
        emptied: a text, and how often, that stands for no value since it does so in another column.
        order_from: the column by whose dates those of this one are read, where they can be read in two ways.
        is_order_assumed: whether all dates are the same in several ways to read them: those to come won't be.
    """

    header: str
    name: str
    type: ColumnType
    look: ColumnLook
    keys: dict[str, Any] = field(default_factory=dict)
    nulls: int = 0
    why: str = ""
    emptied: tuple[str, int] | None = None
    order_from: str | None = None
    is_order_assumed: bool = False

    @property
    def column(self) -> Column:
        return Column.model_validate({"type": self.type, "nullable": True, **self.keys})

    @property
    def all_null(self) -> bool:
        return self.nulls >= self.look.records


@dataclass
class Choices:
    """What the contract says of the files.

    Attributes:
        left_out: names in the header that aren't read, each with the reason.
        why_day: why the event day is what it is; ``why_label`` that of the label.
    """

    marks: Marks
    null_values: list[str]
    columns: list[Chosen]
    left_out: dict[str, str]
    event_day: Chosen
    label: Chosen
    kind: LabelKind
    why_day: str
    why_label: str
    why_marks: str = ""

    def named(self, header: str) -> Chosen:
        """The column that has this name in the files."""
        return next(column for column in self.columns if column.header == header)


def choose(look: FirstLook, answers: Answers) -> Choices:
    """What the files say, with a person's answers.

    Raises:
        NeedsAnswers: several readings are possible of what a contract must say.
        FirstLookError: none is, or an answer doesn't fit.
    """
    readable, left_out = _readable(look)
    questions: list[Question] = []
    marks, why_marks, question = _marks(readable, answers)
    questions += [question] if question else []
    columns = [_chosen(one, marks) for one in readable]
    formats = _formats(columns, answers)
    for column in columns:
        _choose_moment(column, formats)
    null_values = _null_values(columns)
    for column in columns:
        _finish(column, null_values)
    for given in (answers.event_day, answers.label, *answers.key, *answers.entity, *answers.date_formats):
        if given is not None and given not in [column.header for column in columns]:
            why = f", {left_out[given]}" if given in left_out else ""
            raise FirstLookError(
                f"there is no column {given!r} that can be read{why}; there are "
                f"{', '.join(shown(column.header) for column in columns)}"
            )

    day = _event_day(columns, answers, formats)
    if isinstance(day, Question):
        questions.append(day)
    label = _label(columns, None if isinstance(day, Question) else day[0], answers, marks, null_values)
    if isinstance(label, Question):
        questions.append(label)
    if questions or isinstance(day, Question) or isinstance(label, Question):
        raise NeedsAnswers(questions)
    event_day, reading, why_day = day
    event_day.type, event_day.keys = "date", _format_of(reading)
    _name(columns, event_day)
    return Choices(
        marks, null_values, columns, left_out, event_day, label[0], label[1], why_day, label[2], why_marks
    )


# -- columns -----------------------------------------------------------------------------------------


def _readable(look: FirstLook) -> tuple[list[ColumnLook], dict[str, str]]:
    """The columns that a contract can name, and why it can't the others."""
    counts = Counter(column.name for column in look.columns)
    left_out = {
        name: "which stands twice in the header, so that neither can be read"
        if count > 1 and name
        else "which has no name"
        for name, count in counts.items()
        if count > 1 or not name.strip()
    }
    readable = [column for column in look.columns if column.name not in left_out]
    if len(readable) > MAXIMUM_COLUMNS:
        raise FirstLookError(
            f"the files have {len(readable):,} columns, and a contract has at most {MAXIMUM_COLUMNS:,}"
        )
    return readable, left_out


def _marks(readable: Sequence[ColumnLook], answers: Answers) -> tuple[Marks, str, Question | None]:
    """How numbers are written: the marks under which the most columns are numbers."""
    possible = [
        marks
        for marks in MARKS
        if answers.decimal in (None, marks.decimal) and answers.thousands in (None, marks.thousands)
    ]
    if not possible:
        possible = [Marks(answers.decimal or ".", answers.thousands)]
    fits = {marks: [look for look in readable if marks in look.numbers] for marks in possible}
    most = max(map(len, fits.values()))
    best = [marks for marks in possible if len(fits[marks]) == most]
    first = best[0]
    for mark in ".,":
        as_decimal = [marks for marks in best if marks.decimal == mark]
        as_group = [marks for marks in best if marks.thousands == mark]
        grouped = [look for look in readable if mark in look.grouped and first in look.numbers]
        if as_decimal and as_group and grouped:
            text = next((text for text in grouped[0].distinct if mark in text), f"1{mark}234")
            whole = text.replace(mark, "")
            question = Question(
                "--decimal",
                f"is {text!r} in {grouped[0].name!r} a number near {text.partition(mark)[0]}, or {whole}?",
                (
                    (as_decimal[0].decimal, f"{text} has decimals"),
                    (as_group[0].decimal, f"{text} is {whole}"),
                ),
            )
            return first, "", question
    plain = Marks(".", None)
    if first == plain or plain in best:
        return first, "", None
    return first, f"{most} columns are numbers like this, {len(fits.get(plain, []))} otherwise", None


def _chosen(look: ColumnLook, marks: Marks) -> Chosen:
    """A column by the readings that are left; dates are looked at later, as columns help each other."""
    if look.words is not None and marks not in look.numbers:
        pair = look.words
        keys: dict[str, Any] = {} if pair == ("true", "false") else {"true": [pair[0]], "false": [pair[1]]}
        return Chosen(look.name, look.name, "boolean", look, keys)
    if marks in look.numbers:
        return Chosen(look.name, look.name, look.numbers[marks], look)
    return Chosen(look.name, look.name, "string", look)


def _order(format_: object) -> str:
    """The order of day, month and year in a format, and how they are written; without the time of day."""
    return re.split("[ T]?%[HI]", str(format_))[0]


@dataclass
class _Formats:
    """Formats of dates that were told, and the orders of day, month and year in columns that allow one.

    Attributes:
        orders: with a column of each.
    """

    told: Mapping[str, str]
    orders: Mapping[str, str]

    def of(self, column: Chosen, readings: Sequence[Moment]) -> list[Moment]:
        """The readings that are left, of which several differ in some value."""
        look = column.look
        if column.header in self.told:
            return [one for one in readings if one.format == self.told[column.header]][:1]
        if _is_ambiguous(readings, look):
            usual = [one for one in readings if _order(one.format) in self.orders]
            if usual and not _is_ambiguous(usual, look):
                readings, column.order_from = usual, self.orders[_order(usual[0].format)]
        elif len({_order(one.format) for one in readings}) > 1:
            column.is_order_assumed = True
        return list(readings) if _is_ambiguous(readings, look) else list(readings[:1])


def _is_ambiguous(readings: Sequence[Moment], look: ColumnLook) -> bool:
    return any(pair <= set(readings) for pair in look.disagree)


def _formats(columns: Sequence[Chosen], answers: Answers) -> _Formats:
    orders: dict[str, str] = {}
    for column in columns:
        for type_ in ("date", "timestamp"):
            readings = [one for one in column.look.moments if one.type == type_ and one.format]
            # Where day and month are equal in all texts, both orders are left and neither is proved.
            written = {_order(one.format) for one in readings}
            if column.type == "string" and len(written) == 1:
                orders.setdefault(written.pop(), column.header)
    return _Formats(answers.date_formats, orders)


def _choose_moment(column: Chosen, formats: _Formats) -> None:
    look = column.look
    told = column.header in formats.told
    if not told and column.type != "string":
        return
    for type_ in ("date", "timestamp"):
        readings = formats.of(column, [one for one in look.moments if one.type == type_])
        if len(readings) == 1:
            column.type, column.keys = readings[0].type, _format_of(readings[0])
            if column.order_from:
                column.why = f"day and month in the order of {shown(column.order_from)}"
            return
        if readings:
            options = " or ".join(str(one.format) for one in readings)
            column.why = f"dates, {options}: --date-format {column.header}=FORMAT makes them dates"
            return
    if told and not any(one.format == formats.told[column.header] for one in look.days):
        raise FirstLookError(
            f"--date-format: some texts of {column.header!r} are not written as "
            f"{formats.told[column.header]!r}"
        )


def _format_of(reading: Moment) -> dict[str, Any]:
    if reading.format is None:
        return {}
    return {"format": [*reading.format] if isinstance(reading.format, tuple) else reading.format}


def _null_values(columns: Sequence[Chosen]) -> list[str]:
    """The texts that stand for no value: in a column that has a type besides, or that has no others."""
    typed = [
        column
        for column in columns
        if column.type != "string" or column.look.null_texts.total() == column.look.values
    ]
    words = Counter[str]()
    for column in typed:
        words.update(column.look.null_texts)
    for column in columns:
        emptied = {text: count for text, count in column.look.null_texts.items() if text in words}
        if emptied and column not in typed:
            text = max(emptied, key=lambda text: emptied[text])
            column.emptied = (text, emptied[text])
    return ["", *sorted(words, key=lambda word: (-words[word], word))]


def _finish(column: Chosen, null_values: Sequence[str]) -> None:
    """The nulls of a column, and in words what it is."""
    look = column.look
    column.nulls = look.nulls_with(null_values)
    parts = [column.why] if column.why else []
    if column.emptied is not None:
        text, count = column.emptied
        parts.append(f"{_quoted(text)} in {counted(count, 'record')} counts as empty, as in other columns")
    if column.nulls:
        parts.append("always empty" if column.all_null else f"{column.nulls:,} of {look.records:,} are empty")
    kept = {text for text in look.null_texts if text not in null_values}
    if kept and column.type == "string":
        parts.append(f"{_quoted(sorted(kept)[0])} is a text like any other")
    if column.type == "string" and look.misfit is not None:
        parts.append(
            f"no {look.misfit.was}, as nearly all others are: {_quoted(look.misfit.text)} in line "
            f"{look.misfit.line}"
        )
    if column.type == "string" and look.is_few and not column.all_null:
        values = [text for text in look.distinct if text not in null_values]
        is_short = all(len(text) <= labels.LONGEST_CLASS and text.isprintable() for text in values)
        if 1 < len(values) <= ALLOWED_VALUES and is_short:
            if look.last_new * 2 <= look.records:
                column.keys["allowed"] = sorted(values)
                parts.append(f"{counted(len(values), 'value')}, all of them by record {look.last_new:,}")
            else:
                parts.append(f"{counted(len(values), 'value')}, a new one in record {look.last_new:,} still")
        elif values:
            parts.append(counted(len(values), "value"))
    column.why = "; ".join(parts)


def _name(columns: Sequence[Chosen], event_day: Chosen) -> None:
    """Give each column a name that a contract accepts; where that differs, files have it as an alias."""
    taken: set[str] = set()
    for column in columns:
        name = "".join(one if one.isprintable() else "_" for one in column.header)[:LONGEST_NAME]
        if name.startswith("_"):
            name = name.lstrip("_") or "column"
        if name in RESERVED_COLUMNS and not (name == EVENT_DAY and column is event_day):
            name = f"{name}_of_file"
        if not name.strip():
            name = "column"
        base, number = name, 2
        while name.casefold() in taken:
            name = f"{base[: LONGEST_NAME - 8]}_{number}"
            number += 1
        taken.add(name.casefold())
        column.name = name
        if name != column.header:
            column.keys["aliases"] = [column.header]


# -- the event day and the label ---------------------------------------------------------------------


def _event_day(
    columns: Sequence[Chosen], answers: Answers, formats: _Formats
) -> tuple[Chosen, Moment, str] | Question:
    """The column with the day of a row, and how it is read."""
    candidates: dict[str, tuple[Chosen, list[Moment]]] = {}
    for column in columns:
        look = column.look
        readings = [one for one in look.moments if one.type == "date"] or look.days
        is_number = column.type in ("integer", "long", "double")
        if is_number and answers.event_day != column.header and not _NAMES_OF_DAYS.search(column.header):
            continue
        if readings and not column.nulls:
            candidates[column.header] = (column, formats.of(column, readings))
    if answers.event_day is not None:
        if answers.event_day not in candidates:
            column = next(one for one in columns if one.header == answers.event_day)
            why = (
                f"{column.nulls:,} records have none" if column.nulls else "its texts are not written as days"
            )
            raise FirstLookError(f"{answers.event_day!r} can't be the event day: {why}")
        candidates = {answers.event_day: candidates[answers.event_day]}
    if not candidates:
        nullable = [one.header for one in columns if one.nulls and (one.look.moments or one.type == "date")]
        some = f" ({', '.join(nullable)} would be days, but for records without one)" if nullable else ""
        some += "".join(
            f" ({column.header} would be, but for {_quoted(misfit.text)} in line {misfit.line:,}: correct "
            "it, or delete the line)"
            for column in columns
            if (misfit := column.look.misfit) is not None and misfit.was in ("date", "timestamp")
        )
        raise FirstLookError(
            f"no column can be the event day: in none has every record a date{some}. "
            "A year or a month alone can be one: --event-day names a column of whole numbers like 2013 or "
            "201301; dates in a format of their own need --date-format COLUMN=FORMAT"
        )
    why = "the only column with a day in every record"
    if answers.event_day is not None:
        why = "as you said"
    if len(candidates) > 1:
        dates = {name: one for name, one in candidates.items() if one[0].type in ("date", "timestamp")}
        usual = [name for name in dates if name.strip().lower() in _USUAL_DAYS]
        if len(dates) == 1 or len(usual) == 1:
            name = usual[0] if len(usual) == 1 else next(iter(dates))
            others = ", ".join(shown(one) for one in candidates if one != name)
            why = f"by its name; --event-day may be {others} instead"
            candidates = {name: candidates[name]}
        else:
            return Question(
                "--event-day",
                "which column is the day that a row belongs to? Of a row's dates the one that is known first",
                tuple((name, _examples(column)) for name, (column, _) in (dates or candidates).items()),
            )
    ((name, (column, readings)),) = candidates.items()
    if len(readings) > 1:
        return Question(
            "--date-format",
            f"how are the dates of {name!r} written? All of them can be read in {len(readings)} ways",
            tuple((str(one.format), _examples(column)) for one in readings),
            about=name,
        )
    return column, readings[0], why


def _label(
    columns: Sequence[Chosen],
    event_day: Chosen | None,
    answers: Answers,
    marks: Marks,
    null_values: Sequence[str],
) -> tuple[Chosen, LabelKind, str] | Question:
    """The column that is to be predicted."""
    kinds = {
        column.header: labels.kinds_of(column.look, column.type, marks, null_values)
        for column in columns
        if column is not event_day
    }
    possible = {
        column.header: (column, found[answers.task] if answers.task else next(iter(found.values())))
        for column in columns
        if (found := kinds.get(column.header)) and answers.task in (None, *found)
    }

    def why_not(column: Chosen) -> str:
        if column is event_day:
            return "it is the event day"
        why = labels.why_not(column.look, column.type, kinds[column.header], answers.task)
        if column.emptied is not None:
            why += f"; {_quoted(column.emptied[0])} counts as empty here, since it does so in other columns"
        return why

    def chosen(name: str, why: str) -> tuple[Chosen, LabelKind, str]:
        column, kind = possible[name]
        if column.type == "boolean":  # words for yes and no are two classes
            column.type, column.keys = "string", {}
        values = len(column.look.distinct)
        others = [task for task in kinds[name] if task != kind.task]
        if others and answers.task is None and values <= ALLOWED_VALUES:
            why += f", taken for {kind.in_words}; --task {others[0]} if its {values} values are classes"
        return column, kind, why

    if answers.label is not None:
        column = next(one for one in columns if one.header == answers.label)
        if answers.label not in possible:
            raise FirstLookError(f"{answers.label!r} can't be the label: {why_not(column)}")
        return chosen(answers.label, "as you said")
    # Columns of 0 and 1 come first: among many numbers one of these is what a person counts, or flags.
    binary = {name: one for name, one in possible.items() if one[1] is labels.BINARY}
    usual = [one for one in columns if one.header.strip().lower() in labels.USUAL_NAMES]
    two = [one for one in columns if one.look.is_few and len(one.look.distinct) == 2]
    likely = binary or possible
    if len(usual) == 1:
        (column,) = usual
        if column.header not in possible:
            raise FirstLookError(
                f"{column.header!r} looks like the label by its name, and can't be one: {why_not(column)}; "
                "name another column with --label"
            )
        return chosen(column.header, "by its name")
    # A number may be anything, and what is yes or no may be said in words: then a person must choose.
    if len(binary) == 1 and not any(one.type == "boolean" for one in columns):
        ((column, kind),) = binary.values()
        return column, kind, f"the only column of {kind.in_words}"
    if possible:
        return Question(
            "--label",
            "which column is to be predicted?",
            tuple((name, _examples(column)) for name, (column, _) in likely.items()),
        )
    some = "".join(f"; {shown(one.header)} has {_examples(one)}" for one in two[:3])
    raise FirstLookError(
        f"no column can be the label{f' of {answers.task}' if answers.task else ''}: a contract predicts 0 "
        f"and 1, a number, or one of several classes, and none has them{some}. Add a column with 1 where it "
        "is the case that you want to predict and 0 where it isn't, or with the number or the class, empty "
        "if it isn't known yet, and begin again"
    )


def _examples(column: Chosen) -> str:
    look = column.look
    if look.is_few:
        most = look.distinct.most_common(3)
        more = f" and {len(look.distinct) - 3} more" if len(look.distinct) > 3 else ""
        return ", ".join(f"{_quoted(text)} ({count:,})" for text, count in most) + more
    return f"{column.type}, more than {len(look.distinct) or 200} values"


def _quoted(text: str) -> str:
    text = shown(text)
    return f"'{text if len(text) <= _SHOWN else text[: _SHOWN - 1] + '…'}'"
