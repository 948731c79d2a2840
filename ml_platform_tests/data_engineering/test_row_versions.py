"""What a day was on earlier mornings, held against the same day with only the files that were there then."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering import (
    aggregation,
    landing,
    resolution,
    row_states,
    row_versions,
    served_states,
)
from ml_platform.data_engineering.reading import Reading
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO
from ml_platform.data_engineering.row_versions import Morning, Timeline
from ml_platform.data_engineering.served_states import IS_SCORED
from ml_platform_tests.small_platform import D, shop

DAY = D("2024-01-10")
LAST = 7
Row = dict[str, Any]


@dataclass(frozen=True)
class File:
    """A file of the day: the morning at the head of its name, as days after the event day, or none."""

    days: int | None
    labels_only: bool
    replaces: bool
    records: Sequence[tuple[int, str, int, str]]

    @property
    def known(self) -> date:
        return DAY + timedelta(days=self.days or 1)

    def name(self, number: int) -> str:
        head = "" if self.days is None else f"{self.known}_"
        return f"{head}{number}.csv"

    @property
    def text(self) -> str:
        if self.labels_only:
            return "visit,day,bought\n" + "".join(
                f"{key},{DAY},{label}\n" for key, _, _, label in self.records
            )
        lines = (f"{key},{DAY},{who},{spend},1,web,{label}\n" for key, who, spend, label in self.records)
        return "visit,day,customer,spend,pages,channel,bought\n" + "".join(lines)


RECORDS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from("ab"), st.integers(0, 2), st.sampled_from(["", "0", "1"])),
    min_size=0,
    max_size=5,
)
FILES = st.lists(
    st.builds(
        File,
        days=st.one_of(st.none(), st.integers(1, LAST - 1)),
        labels_only=st.booleans(),
        replaces=st.integers(0, 4).map(lambda n: n == 0),
        records=RECORDS,
    ),
    min_size=1,
    max_size=6,
)


def product() -> Product:
    return shop(mrds__aggregate={"spend": "sum", "pages": "max", "channel": "last", "bought": "max"})


def deliveries(root: Path, files: Mapping[str, File]) -> landing.Delivery | None:
    folder = root / "shop" / str(DAY)
    folder.mkdir(parents=True)
    for name, file in files.items():
        (folder / name).write_text(file.text)
        if file.replaces and not file.labels_only:
            (folder / f"{name}.manifest.yaml").write_text("replaces: true\n")
    return landing.scan(product(), root, [DAY]).get(DAY)


def entries_of(delivery: landing.Delivery) -> pa.Table:
    reading = Reading(product(), delivery.files)
    found = pa.Table.from_batches(reading.entries(), resolution.entry_schema(product()))
    assert reading.refusal is None
    return found


def known_rows(root: Path, files: Mapping[str, File], morning: date) -> pa.Table | None:
    """The ARDS of a platform that has been given only what had come by a morning; None without rows."""
    there = {name: file for name, file in files.items() if file.known <= morning}
    delivery = deliveries(root / str(morning), there) if there else None
    if delivery is None or delivery.refusal:
        return None
    rows = resolution.resolve(product(), DAY, entries_of(delivery)).rows
    known = [on is not None and on <= morning for on in rows[LABEL_KNOWN_ON].to_pylist()]
    return without(rows, known)


def without(rows: pa.Table, known: Sequence[bool]) -> pa.Table:
    """Rows without the labels that aren't known."""
    for name in ("bought", LABEL_KNOWN_ON):
        values = [
            value if is_known else None for value, is_known in zip(rows[name].to_pylist(), known, strict=True)
        ]
        field = rows.schema.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))
    return rows


def plain(rows: pa.Table) -> list[str]:
    return sorted(map(repr, rows.to_pylist()))


def mornings() -> Iterator[date]:
    for days in range(1, LAST + 1):
        yield DAY + timedelta(days=days)


@dataclass(frozen=True)
class Made:
    rows: pa.Table
    versions: pa.Table
    timeline: Timeline
    then: Mapping[date, pa.Table | None]


def made(files: Sequence[File]) -> Made | None:
    """A day as it is at the end, and as it was on every morning; None if it is refused."""
    named = {file.name(number): file for number, file in enumerate(files)}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        delivery = deliveries(root / "all", named)
        if delivery is None or delivery.refusal:
            return None
        entries, timeline = entries_of(delivery), Timeline.of(delivery.files)
        rows = resolution.resolve(product(), DAY, entries).rows
        versions = row_versions.ards_versions(product(), DAY, entries, timeline)
        then: dict[date, pa.Table | None] = {}
        for day in mornings():
            came = {day} & ({file.known for file in files} | label_mornings(files))
            then[day] = known_rows(root, named, day) if came or not then else then[day - timedelta(days=1)]
        return Made(rows, versions, timeline, then)


def label_mornings(files: Sequence[File]) -> set[date]:
    """When labels become known that came with undated rows: a day later, as the contract says."""
    return {file.known + timedelta(days=1) for file in files}


FIRST = File(None, labels_only=False, replaces=False, records=[(0, "a", 1, ""), (1, "b", 1, "1")])
FIX = File(3, labels_only=False, replaces=False, records=[(0, "b", 2, "")])
FLIPPED = File(5, labels_only=True, replaces=False, records=[(1, "a", 0, "0")])
REPLACED = File(4, labels_only=False, replaces=True, records=[(1, "a", 2, "1")])
#: Two rows of an entity, of which one has no label and turns out to be another's.
HALF_LABELLED = File(
    None, labels_only=False, replaces=False, records=[(0, "a", 1, "1"), (1, "a", 1, ""), (2, "b", 1, "0")]
)
MOVED = File(4, labels_only=False, replaces=False, records=[(1, "b", 1, "0")])
FEW = settings(
    max_examples=int(os.environ.get("ML_PLATFORM_TEST_EXAMPLES", "30")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@FEW
@given(FILES)
@example([FIRST, FIX])
@example([FIRST, FLIPPED])
@example([FIRST, FIX, REPLACED, FLIPPED])
@example([FIRST, File(1, labels_only=False, replaces=True, records=[(1, "a", 2, "1")])])
def test_a_day_as_known_on_a_morning_is_the_day_with_the_files_of_then(files: list[File]) -> None:
    day = made(files)
    if day is None:
        return
    first = min(day.timeline.rows_known_on.values())
    for morning, then in day.then.items():
        if then is None or morning < first:
            assert then is None or not len(then)
            continue
        assert plain(row_versions.as_known(product(), day.rows, day.versions, morning)) == plain(then)
    key = row_states.numbered([day.versions["visit"]], len(day.versions)).tolist()
    later = [start > first for start in day.versions[KNOWN_FROM].to_pylist()]
    ended = [end is not None for end in day.versions[KNOWN_TO].to_pylist()]
    for place, number in enumerate(key):
        assert key.count(number) > 1 or later[place] or ended[place], "a key that has never changed"


@FEW
@given(FILES, st.lists(st.booleans(), min_size=LAST, max_size=LAST))
@example([FIRST, FIX], [True] * LAST)
@example([FIRST, FIX, REPLACED, FLIPPED], [True] * LAST)
@example([FIRST, FIX], [False, False, True, True, True, True, True])
@example([HALF_LABELLED, MOVED], [True] * LAST)
def test_what_is_learned_as_of_a_date_is_what_was_served_then(files: list[File], usable: list[bool]) -> None:
    day = made(files)
    if day is None or not len(day.versions):
        return
    of_morning = dict(zip(mornings(), usable, strict=True))
    dated = [replace(morning, is_usable=of_morning[morning.day]) for morning in day.timeline.mornings]
    served = served_states.served(product(), DAY, day.rows, day.versions, dated)
    scored: dict[str, Row] = {}
    for as_of, expected in simulated(day, dated, scored):
        learned = row_states.valid_on(served, as_of).drop_columns([KNOWN_FROM, KNOWN_TO, IS_SCORED])
        known = [on is not None and on <= as_of for on in learned[LABEL_KNOWN_ON].to_pylist()]
        assert plain(without(learned, known)) == sorted(map(repr, expected))
    first = served.filter(served[IS_SCORED]).drop_columns([KNOWN_FROM, KNOWN_TO, IS_SCORED])
    assert {row["customer"]: features(row) for row in first.to_pylist()} == scored
    assert len(first) == len(scored)


def features(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("bought", LABEL_KNOWN_ON)}


def simulated(
    day: Made, dated: Sequence[Morning], scored: dict[str, Row]
) -> Iterator[tuple[date, list[Row]]]:
    """Morning by morning, what a platform that runs every day has served, and would learn."""
    served: dict[str, Row] = {}
    for as_of in mornings():
        came = [morning for morning in dated if morning.day <= as_of]
        if not came:
            yield as_of, []
            continue
        if came[-1].replaces and came[-1].day == as_of:
            served.clear()
        then = day.then[as_of]
        if not came[-1].is_usable or then is None:
            yield as_of, []
            continue
        rows = aggregation.aggregate(
            product(), DAY, then.select([*aggregation.columns(product()), EVENT_DAY])
        )
        present = {row["customer"]: row for row in rows.to_pylist()}
        for customer, row in present.items():
            served.setdefault(customer, features(row))
            scored.setdefault(customer, features(row))
        order = rows.column_names
        learned = [
            {**served[customer], **{name: row[name] for name in ("bought", LABEL_KNOWN_ON)}}
            for customer, row in present.items()
        ]
        yield as_of, [{name: row[name] for name in order} for row in learned]
