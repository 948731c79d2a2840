"""The text of a contract, with what was seen beside each line."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from ml_platform.contract.calendars import Delivery
from ml_platform.contract.days import counted, month_of, months_between
from ml_platform.contract.loading import ContractError, parse_product
from ml_platform.contract.product import Product
from ml_platform.contract.tasks import BY_TYPE
from ml_platform.contract.yaml_text import MAXIMUM_BYTES, parse_yaml
from ml_platform.data_engineering.files import shown
from ml_platform.data_engineering.onboarding.choices import Answers, Choices, Chosen
from ml_platform.data_engineering.onboarding.columns import FirstLook
from ml_platform.data_engineering.onboarding.dialect import FirstLookError
from ml_platform.data_engineering.onboarding.identity import Facts

#: A history whose last day is older is taken for a finished one: deliveries come daily, or monthly.
FINISHED_AFTER_DAYS = 62
#: A weekday without rows is closed if there were so many of it, and the other days nearly all have rows.
LEAST_WEEKS, LEAST_COVERED = 4, 0.8
#: Texts of so many different values are encoded one-hot.
CATEGORIES = 50
#: Of a window's usual rows so many are enough evidence, where the default asks for more than there are.
_ENOUGH = 0.5
_LEAST_EVALUATED, _LEAST_POSITIVES = 30, 5
#: A tenth of the entities are held out, to compare models on.
_LEARNED_FROM = 0.9
_COMMENT_AT, _LONGEST_COMMENT = 60, 200
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True)
class Draft:
    """A contract that is valid.

    Attributes:
        text: of the file.
        assumed: what the files can't tell, in words.
        notes: what a person should know before going on.
        missing_days: days without rows, on which rows would be due.
        poor_months: months in which there is too little to learn from as yet: they get no model.
    """

    text: str
    product: Product
    first: date
    last: date
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    missing_days: tuple[date, ...]
    poor_months: tuple[date, ...]


def draft(
    name: str, look: FirstLook, choices: Choices, facts: Facts, answers: Answers, *, path: Path, today: date
) -> Draft:
    """The contract of what was seen.

    Args:
        path: where the contract will lie, for its comments.
        today: decides whether a history is finished.

    Raises:
        FirstLookError: a contract can't say it, for instance as no column can be a feature.
    """
    first, last = min(facts.days), max(facts.days)
    is_finished = (today - last).days > FINISHED_AFTER_DAYS
    for end in (last, None) if is_finished else (None,):
        for is_brief in (False, True):
            writer = _Writer(name, look, choices, facts, answers, path, end, is_brief)
            text = writer.text()
            if len(text.encode()) > MAXIMUM_BYTES:
                continue
            try:
                product = parse_product(parse_yaml(text), str(path))
            except ContractError as error:
                if end is None:
                    raise FirstLookError(str(error)) from error
                break  # a finished history may be too short for a model; one that goes on isn't
            missing = _missing(product, facts)
            return Draft(
                text,
                product,
                first,
                last,
                tuple(writer.assumed),
                tuple(writer.notes),
                tuple(missing),
                tuple(_poor_months(product, facts)),
            )
    raise FirstLookError(
        f"the contract would have more than {MAXIMUM_BYTES:,} bytes; land files with fewer columns"
    )


def _missing(product: Product, facts: Facts) -> list[date]:
    return [day for day in product.due_days(_between(facts)) if day not in facts.days]


def _poor_months(product: Product, facts: Facts) -> list[date]:
    """The months of the history before whose first day fewer labels are known than a model learns from.

    An entity has one label a day, and part of the entities are held out.
    """
    positive = facts.label.mean if product.task.has_positives else 1.0
    poor = []
    for month in months_between(product.first_month, month_of(max(facts.days))):
        newest = product.last_labelled_day(month)
        known = _LEARNED_FROM * sum(
            min(rows, facts.entities[day]) for day, rows in facts.labelled.items() if day <= newest
        )
        if known < product.model.minimum_rows or (
            product.task.has_positives and known * positive < product.model.minimum_positives
        ):
            poor.append(month)
    return poor


def _between(facts: Facts) -> Iterator[date]:
    first, last = min(facts.days), max(facts.days)
    return (first + timedelta(days=n) for n in range((last - first).days + 1))


@dataclass
class _Writer:
    """Writes one contract, line by line."""

    name: str
    look: FirstLook
    choices: Choices
    facts: Facts
    answers: Answers
    path: Path
    end: date | None
    is_brief: bool
    assumed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _lines: list[tuple[str, str]] = field(default_factory=list)

    def text(self) -> str:
        self._head()
        self._source()
        self._learning()
        return "".join(_line(text, comment) for text, comment in self._lines)

    def _add(self, text: str, comment: str = "") -> None:
        self._lines.append((text, comment))

    def _assume(self, text: str, comment: str, flag: str) -> None:
        self._add(text, f"ASSUMED: {comment}; {flag}")
        self.assumed.append(f"{text.strip()} ({comment}): {flag}")

    # -- what it is --------------------------------------------------------------------------------

    def _head(self) -> None:
        look, facts, choices = self.look, self.facts, self.choices
        files = ", ".join(shown(path.name) for path in look.paths)
        self._add(
            f"# Written by `ml-platform init` from {_comment(files)}: {facts.rows:,} rows of "
            f"{len(facts.days):,} days. Behind each # stands\n"
            "# what was seen in all of them. ASSUMED is what files can't tell: look at these lines first.\n"
            "# docs/contract.md explains every key."
        )
        if facts.equal:
            self.notes.append(
                f"rows that are equal to another one of their day in every column: {facts.equal:,} of "
                f"{facts.rows:,}; they count once"
            )
        for column in choices.columns:
            if column.order_from and column.type in ("date", "timestamp"):
                header = shown(column.header)
                self.notes.append(
                    f"{header} is read with day and month in the order of {shown(column.order_from)}; "
                    f"--date-format {header}=FORMAT if that is wrong"
                )
            if column.is_order_assumed and column.type in ("date", "timestamp"):
                written = self._format(column)
                self.assumed.append(
                    f"dates of {shown(column.header)} are written as {written} (day and month are the same "
                    f"in all of them): --date-format {shown(column.header)}=FORMAT"
                )
            if column.emptied:
                text, count = column.emptied
                records = counted(count, "record")
                said = (
                    f"{text!r} counts as empty in all columns, so also in {records} of {shown(column.header)}"
                )
                if column is choices.label:
                    said += ", the label: these rows have none"
                self.notes.append(said)
        for problem, (count, where) in look.bad.items():
            said = f"{count:,} records can't be used and go to the quarantine: {problem} (first: {where})"
            self._add(f"# {_comment(said)}")
            self.notes.append(said)
        if facts.unplaced[0]:
            count, where = facts.unplaced
            self.notes.append(
                f"of {count:,} of these records the event day isn't known either, which ends `land`: correct "
                f"or delete them first (first: {where})"
            )
        self._add(f"name: {_scalar(self.name)}")
        if self.answers.description:
            self._add(f"description: {_scalar(self.answers.description)}")
        else:
            entity = ", ".join(column.name for column in facts.entity)
            self._assume(
                f"description: {_scalar(f'What is {choices.label.name} of {entity} on a day?'[:200])}",
                "say what is predicted, and of what",
                "--description",
            )
        first, last = min(facts.days), max(facts.days)
        self._add(f"start: {first}", f"the first of {len(facts.days):,} days with rows")
        if self.end:
            self._add(f"end: {last}", "no rows since; take the line out when deliveries go on")
        if self.answers.timezone:
            self._add(f"timezone: {_scalar(self.answers.timezone)}")
        else:
            self._assume("timezone: UTC", "in which a day is over", "--timezone Europe/Paris")
        self._delivery()

    def _delivery(self) -> None:
        days = [*_between(self.facts)]
        count = [0] * 7
        filled = [0] * 7
        for day in days:
            count[day.weekday()] += 1
            filled[day.weekday()] += day in self.facts.days
        closed = [n for n in range(7) if not filled[n] and count[n] >= LEAST_WEEKS]
        due = sum(count[n] for n in range(7) if n not in closed)
        if closed and due and sum(filled) >= LEAST_COVERED * due:
            names = ", ".join(_WEEKDAYS[n] for n in range(7) if n not in closed)
            said = ", ".join(f"{count[n]} {_WEEKDAYS[n]}" for n in closed)
            self._add(f"delivery: {{weekdays: [{names}]}}", f"no rows on any of {said}")
        delivery = Delivery.model_validate(
            {"weekdays": [_WEEKDAYS[n] for n in range(7) if n not in closed]}
            if closed and due and sum(filled) >= LEAST_COVERED * due
            else {}
        )
        missing = [day for day in days if delivery.due(day) and day not in self.facts.days]
        if missing:
            named = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
            self._add(
                f"# {len(missing):,} days have no rows ({named}); `delivery` can say on which none are due"
            )

    # -- the deliveries ----------------------------------------------------------------------------

    def _source(self) -> None:
        dialect, choices, facts = self.look.dialect, self.choices, self.facts
        self._add("")
        self._add("source:")
        if dialect.encoding != "utf-8":
            self._add(f"  encoding: {dialect.encoding}", dialect.why.get("encoding", "as you said"))
            if "ASSUMED" in dialect.why.get("encoding", ""):
                self.assumed.append(f"encoding: {dialect.encoding} (the files aren't UTF-8): --encoding")
        self._add(f"  delimiter: {_quoted(dialect.delimiter)}", dialect.why["delimiter"])
        if dialect.trailing_delimiter:
            self._add("  trailing_delimiter: true", dialect.why["trailing_delimiter"])
        if dialect.escape is not None:
            self._add(f"  escape: {_quoted(dialect.escape)}", dialect.why.get("escape", "as you said"))
        if choices.marks.decimal != ".":
            self._add(f"  decimal: {_quoted(choices.marks.decimal)}", choices.why_marks)
        if choices.marks.thousands is not None:
            self._add(f"  thousands: {_quoted(choices.marks.thousands)}", choices.why_marks)
        if len(choices.null_values) > 1:
            self._add(
                f"  null_values: {_list(choices.null_values)}",
                "texts in columns of numbers or dates that are neither",
            )
        if choices.left_out:
            names = list(choices.left_out)
            said = "; ".join(f"{shown(name)!r}, {why}" for name, why in choices.left_out.items())
            self._add(f"  extra_columns: {_list(names)}", f"not read: {said}")
            self.notes.append(f"not read: {said}")
        self._add(f"  key: {_list([one.name for one in facts.key.columns])}", self._why_key())
        self._add(f"  event_day: {_scalar(choices.event_day.name)}", self._why_day())
        self._add(f"  label: {_scalar(choices.label.name)}", self._why_label())
        self._label_delay()
        self._add("  columns:")
        lines = [self._column(column) for column in choices.columns]
        width = min(max(len(name) for name, _, _ in lines), 32)
        for name, keys, comment in lines:
            self._add(f"    {name + ':':<{width + 1}} {keys}", "" if self.is_brief else comment)

    def _why_key(self) -> str:
        facts, key = self.facts, self.facts.key
        days = len(facts.days)
        said = f"unique on {key.days:,} of {days:,} days"
        if key.repeats:
            said += (
                f"; {key.repeats:,} of {facts.rows:,} rows repeat another one's, of which the later counts"
            )
            self.notes.append(
                f"no key that a contract can have tells all rows apart: {', '.join(key.headers)} is {said}"
            )
        elif facts.other_keys:
            others = " or ".join(
                ", ".join(shown(name) for name in other.headers) for other in facts.other_keys
            )
            said += f"; so is {others}"
        return said

    def _why_day(self) -> str:
        days = self.facts.days
        busy = statistics.median(days.values())
        span = f"{min(days)} to {max(days)}, {counted(round(busy), 'row')} on the median day"
        return f"{self.choices.why_day}{self._order()}; {span}"

    def _order(self) -> str:
        order_from = self.choices.event_day.order_from
        return f", day and month in the order of {shown(order_from)}" if order_from else ""

    @staticmethod
    def _format(column: Chosen) -> str:
        return " or ".join(column.column.formats)

    def _why_label(self) -> str:
        empty = self.choices.label.nulls
        said = f"{self.choices.why_label}; {self.choices.kind.says(self.facts.label)}"
        return said + (f", empty in {empty:,}" if empty else "")

    def _label_delay(self) -> None:
        facts = self.facts
        waiting = 0
        for day in sorted(facts.days, reverse=True):
            if facts.labelled[day]:
                break
            waiting = (max(facts.days) - day).days + 1
        given = self.answers.label_delay_days
        if given is not None:
            self._add(f"  label_delay_days: {given}", "as you said")
        else:
            said = (
                f"the newest {waiting} days have no label yet" if waiting else "days until a label is known"
            )
            self._assume(f"  label_delay_days: {max(1, waiting)}", said, "--label-delay-days")

    def _column(self, column: Chosen) -> tuple[str, str, str]:
        choices, facts = self.choices, self.facts
        keys: dict[str, Any] = {"type": self._type(column)}
        if column is choices.label:
            keys |= {"nullable": True, **choices.kind.column}
        elif column.nulls:
            keys["nullable"] = True
        # A new customer or order is no error.
        is_open = column is choices.label or column in (*facts.key.columns, *facts.entity)
        kept = {
            key: value
            for key, value in column.keys.items()
            if not (key == "allowed" and (is_open or self.is_brief))
        }
        keys |= kept
        why = [column.why] if column.why else []
        if column.header in facts.giveaways and column is not choices.label:
            why.append(f"its value alone tells {choices.label.name}: no feature, unless it is known before")
        if column.name != column.header:
            why.append("the name in the files is one that a contract can't have")
        return _scalar(column.name), _flow(keys), "; ".join(why)

    def _type(self, column: Chosen) -> str:
        """Numbers of an identity grow: they get the room."""
        identifies = column in (*self.facts.key.columns, *self.facts.entity)
        return "long" if column.type == "integer" and identifies else column.type

    # -- the model ---------------------------------------------------------------------------------

    def _learning(self) -> None:
        choices, facts = self.choices, self.facts
        numeric, categorical, rules = self._features()
        self._add("")
        self._add("mrds:")
        entity = _list([column.name for column in facts.entity])
        if facts.why_entity.startswith("ASSUMED"):
            self._add(f"  entity: {entity}", facts.why_entity)
            self.assumed.append(f"entity: {entity} (what is scored): --entity")
        else:
            self._add(f"  entity: {entity}", facts.why_entity)
        moments = [one.name for one in choices.columns if one.type == "timestamp" and not one.nulls]
        if moments and not facts.one_row:
            self._add(f"  order_by: {_list(moments[:1])}", "what is last of a day's rows")
        self._add(
            "  aggregate:",
            "an entity has one row a day"
            if facts.one_row
            else "ASSUMED: how an entity's rows of a day become one",
        )
        for name, rule in rules.items():
            self._add(f"    {_scalar(name)}: {rule}")
        label_rule = "last" if facts.one_row else choices.kind.aggregation
        self._add(f"    {_scalar(choices.label.name)}: {label_rule}")

        self._add("")
        self._add("model:")
        if BY_TYPE.get(choices.label.type, "binary") != choices.kind.task:
            self._add(f"  task: {choices.kind.task}")
        self._add("  features:")
        if numeric:
            self._add(f"    numeric: {_list(numeric)}")
        if categorical:
            self._add(f"    categorical: {_list(categorical)}")
        self._add(f"  estimator: {_flow(choices.kind.estimator)}")
        if facts.label.rows < Product.model_fields["model"].annotation.model_fields["minimum_rows"].default:  # type: ignore[union-attr]
            self.notes.append(
                f"only {facts.label.rows:,} rows have a label, fewer than a model learns from "
                "(model.minimum_rows)"
            )
        self._evaluation()

    def _features(self) -> tuple[list[str], list[str], dict[str, str]]:
        """The numeric and the categorical features, and the aggregation of each."""
        choices, facts = self.choices, self.facts
        numeric: list[str] = []
        categorical: list[str] = []
        rules: dict[str, str] = {}
        for column in choices.columns:
            if column in (choices.event_day, choices.label, *facts.entity) or column.all_null:
                continue
            is_constant = column.look.is_few and len(column.look.distinct) < 2 and not column.nulls
            if is_constant or column.header in facts.giveaways:
                continue
            tells = column.type not in ("string", "double") or (
                column.type == "string" and not column.look.is_few
            )
            if column in facts.key.columns and tells:
                if not facts.one_row and column.type in ("integer", "long", "string"):
                    rules[column.name] = "count"
                    numeric.append(column.name)
                continue
            if column.type in ("integer", "long", "double"):
                rules[column.name] = "last" if facts.one_row else "mean"
                numeric.append(column.name)
            elif column.type == "boolean" or (
                column.type == "string" and column.look.is_few and len(column.look.distinct) <= CATEGORIES
            ):
                rules[column.name] = "last"
                categorical.append(column.name)
        if not numeric and not categorical:
            of_entity = [one for one in facts.entity if one.type not in ("date", "timestamp")]
            for column in of_entity:
                (numeric if column.type in ("integer", "long", "double") else categorical).append(column.name)
        if not numeric and not categorical:
            raise FirstLookError(
                "no column can be a feature: beside the event day, the label and the key there are only "
                "dates, columns that are empty or always the same, or texts with many values"
            )
        return numeric, categorical, rules

    def _evaluation(self) -> None:
        facts = self.facts
        metric, threshold, why = self.choices.kind.evaluation(facts.label)
        self._add("")
        self._add("evaluation:")
        self._add(f"  metric: {metric}")
        self._add(f"  threshold: {threshold}", why)
        span = (max(facts.days) - min(facts.days)).days + 1
        of_window = facts.label.rows * min(31, span) / span
        if of_window * _ENOUGH < 1000:
            least = max(_LEAST_EVALUATED, int(of_window * _ENOUGH))
            self._add(f"  minimum_rows: {least}", f"31 days have about {of_window:,.0f} rows with a label")
        positives = facts.label.mean * of_window
        if self.choices.kind.has_positives and positives * _ENOUGH < 50:
            least = max(_LEAST_POSITIVES, int(positives * _ENOUGH))
            self._add(f"  minimum_positives: {least}", f"31 days have about {positives:,.0f} with label 1")


# -- text --------------------------------------------------------------------------------------------


def _line(text: str, comment: str) -> str:
    if not comment:
        return f"{text}\n"
    return f"{text:<{_COMMENT_AT}}  # {_comment(comment)}\n"


def _comment(text: str) -> str:
    text = shown(text)
    return text if len(text) <= _LONGEST_COMMENT else text[: _LONGEST_COMMENT - 1] + "…"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    if _PLAIN.fullmatch(value) and value.casefold() not in _WORDS:
        return value
    return _quoted(value)


def _quoted(text: str) -> str:
    """A text in YAML's double quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(one if one.isprintable() else _escape(one) for one in escaped)}"'


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _list(values: Sequence[Any]) -> str:
    return f"[{', '.join(map(_scalar, values))}]"


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(part)}" for key, part in value.items()) + "}"
    return _list(value) if isinstance(value, list | tuple) else _scalar(value)
