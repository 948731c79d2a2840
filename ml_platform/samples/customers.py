"""Generated customers, whose every day follows from (seed, day, size) alone, and whose truth is known.

A customer has a hidden propensity, drawn from their number. On a day some customers interact, and their
features that day reflect the propensity; whether they respond is then drawn with
:func:`true_probability` of the *aggregated* features of the MRDS (minimum of Feature1, maximum of
Feature2, sum of Feature3, last Feature4). The noise is that of the draw: no model of the MRDS can be
expected to do better than that probability with the best threshold, :func:`bayes_f1`.

| days of 2022 | what changes | positives | best F1 | F1 of a model trained before |
|---|---|---|---|---|
| until 31 May | | 0.24 | 0.75 | 0.75 |
| from 1 June | covariate shift, for good | 0.31 | 0.77 | 0.77 |
| 15 September to 31 October | prior shift | 0.21 | 0.72 | 0.71 |
| from 10 November | concept shift, for good | 0.30 | 0.75 | 0.32 |

A model trained on 14 days, of which 10 lie after the concept shift, reaches 0.70; on 14 after it, 0.75.

The deliveries have the flaws of real ones in known shares (:class:`Flaws`), counted by :class:`DayAccount`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_platform.contract.days import DayRange
from ml_platform.contract.product import Product
from ml_platform.data_engineering.splitting import label_header, labels_file, rows_file
from ml_platform.samples.generated import check, generator, replace_day

if TYPE_CHECKING:
    import pyarrow as pa

COVARIATE_SHIFT = date(2022, 6, 1)
"""From this day on, for good: Feature2 is higher and "Unknown" is more frequent. How the label depends
on the features stays the same."""

PRIOR_SHIFT = DayRange(date(2022, 9, 15), date(2022, 10, 31))
"""On these days only a part of the responders (``RESPONDERS_KEPT``) interact at all: fewer positives,
and an eighth fewer rows, while the features of responders, and of the others, are distributed as before."""

CONCEPT_SHIFT = date(2022, 11, 10)
"""From this day on, for good: the label depends on the features in another way, while these are
distributed as before. A model of earlier days becomes about as good as a guess, until it is trained again."""

CUSTOMERS_PER_ROW = 2.5
SECOND_ROW = 0.05
RESPONDERS_KEPT = 0.6
WEEKDAY_VOLUME = (1.10, 1.05, 1.00, 1.05, 1.15, 0.90, 0.75)
LATE_LABEL_DAYS = 2
CORRECTION_HOUR = "T0900"

LEVELS = ("Low", "Medium", "High", "Unknown")
UNKNOWN = LEVELS.index("Unknown")
BAD_KINDS = (
    "unparseable value",
    "missing required value",
    "value not allowed",
    "wrong number of fields",
    "date outside the delivery's day",
)

_STATES = ("CA", "FL", "GA", "IL", "MI", "NC", "NY", "OH", "PA", "TX")
_BLOCK = 250_000  # customers that are in memory at once: some 100,000 rows
_IDS_A_DAY = 10**9
_CUSTOMERS, _DAYS, _FLAWS = range(3)  # what a stream of random numbers is for

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Concept:
    """How the log odds of a response depend on the standardized features."""

    intercept: float
    feature1: float
    feature2: float
    feature3: float
    levels: tuple[float, float, float, float]


CONCEPT = Concept(-2.5, 2.0, 1.2, 1.0, (-1.2, 0.0, 1.6, 0.0))
CONCEPT_AFTER_SHIFT = Concept(-3.0, -1.5, 1.6, 1.3, (1.2, 0.0, -0.6, 0.0))


@dataclass(frozen=True)
class Flaws:
    """The shares of a day's rows that are delivered imperfectly; 0 switches a flaw off.

    Exact duplicates are in the same file; corrections re-send a row whose Feature2 was wrong, in a second
    file; late labels come ``LATE_LABEL_DAYS`` after the others. Bad rows, which have no labels, come in
    addition, in equal shares of ``BAD_KINDS``.
    """

    duplicates: float = 0.005
    corrections: float = 0.005
    late_labels: float = 0.01
    bad_rows: float = 0.002


NO_FLAWS = Flaws(0, 0, 0, 0)


@dataclass
class DayAccount:
    """What was written for an event day.

    ``rows`` are good and distinct, the rows of the ARDS; ``customers`` the rows of the MRDS, of which
    ``positives`` have a response. ``labels`` includes ``late_labels``.
    """

    day: date
    customers: int = 0
    positives: int = 0
    rows: int = 0
    duplicates: int = 0
    corrections: int = 0
    labels: int = 0
    late_labels: int = 0
    bad: Counter[str] = field(default_factory=Counter)

    @property
    def superseded(self) -> int:
        return self.duplicates + self.corrections

    @property
    def delivered(self) -> int:
        """All records of all files."""
        return self.rows + self.superseded + self.labels + self.bad.total()


def land(
    product: Product,
    landing: Path,
    days: DayRange,
    *,
    rows_per_day: int = 2000,
    seed: int = 0,
    flaws: Flaws = Flaws(),
    progress: Callable[[int], None] | None = None,
) -> list[DayAccount]:
    """Write the deliveries of ``days``, the same ones whenever and with whatever other days.

    Deliveries of the sample that exist are replaced.

    Args:
        rows_per_day: the mean; the rows of a day vary with the weekday and by chance.
        flaws: what is wrong with the deliveries; the rows as corrected are the same with any.
        progress: is called with the rows written so far.

    Raises:
        ValueError: the days lie outside the product's, or there are no rows to write.
    """
    check(product, days, rows_per_day, seed)
    accounts = []
    written = 0
    landing.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{product.name}-", dir=landing) as temporary:
        for day in days:
            prepared = Path(temporary) / day.isoformat()
            prepared.mkdir()
            delivery = _Delivery(product, day, prepared)
            for block in _blocks(day, rows_per_day, seed):
                delivery.add(block, flaws, generator(seed, _FLAWS, day, block.number))
                if progress:
                    progress(written + delivery.account.rows)
            delivery.close()
            written += delivery.account.rows
            accounts.append(delivery.account)
            target = landing / product.name / day.isoformat()
            replace_day(prepared, target, delivery.names)
    return accounts


def true_probability(
    day: date, feature1: ArrayLike, feature2: ArrayLike, feature3: ArrayLike, feature4: ArrayLike
) -> Floats:
    """P(response) of rows of the MRDS of ``day``; a null Feature4 is Unknown, as in the contract."""
    names = np.asarray(feature4, dtype=object)
    level = np.full(names.shape, UNKNOWN)
    for code, name in enumerate(LEVELS):
        level[names == name] = code
    features = _Features(
        np.asarray(feature1, dtype=np.float64),
        np.asarray(feature2, dtype=np.float64),
        np.asarray(feature3, dtype=np.float64),
        level,
    )
    return _sigmoid(_log_odds(day, features) + _prior_shift(day))


def bayes_f1(days: DayRange, *, rows_per_day: int = 2000, seed: int = 0) -> float:
    """The greatest F1 that any rule can be expected to reach on the MRDS of ``days``.

    It knows :func:`true_probability`, and decides 1 above the one threshold that is best for these days.
    """
    found = [block.probability for day in days for block in _blocks(day, rows_per_day, seed)]
    descending = np.sort(np.concatenate(found))[::-1]
    decided = np.arange(1, len(descending) + 1)
    return float(np.max(2 * np.cumsum(descending) / (decided + descending.sum())))


# -- the truth -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Features:
    """Feature1 to Feature4 of rows, or of customers; Feature4 as its place in ``LEVELS``."""

    feature1: Floats
    feature2: Floats
    feature3: Floats
    level: Integers

    def __getitem__(self, rows: Any) -> _Features:
        return _Features(self.feature1[rows], self.feature2[rows], self.feature3[rows], self.level[rows])


@dataclass(frozen=True)
class _Block:
    """Some of the customers who interact on a day: their rows, and what is true of each customer.

    ``label`` and ``probability`` have one value a customer, all else one a row.
    """

    number: int
    customer: Integers
    state: Integers
    features: _Features
    row_label: Integers
    label: Integers
    probability: Floats


def _blocks(day: date, rows_per_day: int, seed: int) -> Iterator[_Block]:
    population = max(round(CUSTOMERS_PER_ROW * rows_per_day), 1)
    rate = rows_per_day * WEEKDAY_VOLUME[day.weekday()] / (1 + SECOND_ROW) / population
    for number, first in enumerate(range(0, population, _BLOCK)):
        yield _block(day, number, min(_BLOCK, population - first), rate, seed)


def _block(day: date, number: int, size: int, rate: float, seed: int) -> _Block:
    customers = generator(seed, _CUSTOMERS, None, number)
    propensity = customers.standard_normal(size)
    activity = customers.uniform(0.5, 1.5, size)
    state = customers.integers(len(_STATES), size=size)

    rng = generator(seed, _DAYS, day, number)
    active = np.flatnonzero(rng.random(size) < rate * activity)
    count = len(active)
    twice = np.flatnonzero(rng.random(count) < SECOND_ROW)
    # One row of each customer, then the second rows that some have.
    of_customer = np.concatenate([np.arange(count), twice])
    features = _features(day, propensity[active[of_customer]], rng)
    log_odds = _log_odds(day, _aggregate(features[:count], twice, features[count:]))
    label = (rng.random(count) < _sigmoid(log_odds)).astype(np.int64)

    stays = rng.random(count) < np.where(label == 1, _responders_kept(day), 1.0)
    row_stays = stays[of_customer]
    of_block = active[of_customer][row_stays]
    return _Block(
        number=number,
        customer=number * _BLOCK + 1 + of_block,
        state=state[of_block],
        features=features[row_stays],
        row_label=label[of_customer][row_stays],
        label=label[stays],
        probability=_sigmoid(log_odds + _prior_shift(day))[stays],
    )


def _features(day: date, propensity: Floats, rng: np.random.Generator) -> _Features:
    """The features of rows of customers with these propensities, as precise as they are written."""
    rows = len(propensity)
    shifted = day >= COVARIATE_SHIFT
    feature1 = 0.7 * propensity + 0.7 * rng.standard_normal(rows)
    feature2 = 50 + 10 * (0.2 * propensity + rng.standard_normal(rows)) + (6 if shifted else 0)
    feature3 = rng.gamma(4.0, 5.0, rows)
    level = np.searchsorted([-0.5, 0.8], 0.5 * propensity + rng.standard_normal(rows))
    level[rng.random(rows) < (0.15 if shifted else 0.05)] = UNKNOWN
    return _Features(np.round(feature1, 4), np.round(feature2, 2), np.round(feature3, 2), level)


def _aggregate(first: _Features, twice: Integers, second: _Features) -> _Features:
    """The features of the MRDS, where the customers at ``twice`` have a second row."""
    minimum, maximum, total, last = (
        first.feature1.copy(),
        first.feature2.copy(),
        first.feature3.copy(),
        first.level.copy(),
    )
    minimum[twice] = np.minimum(minimum[twice], second.feature1)
    maximum[twice] = np.maximum(maximum[twice], second.feature2)
    total[twice] += second.feature3
    last[twice] = second.level
    return _Features(minimum, maximum, total, last)


def _log_odds(day: date, features: _Features) -> Floats:
    """Of a response, among all who would interact without a prior shift."""
    concept = CONCEPT if day < CONCEPT_SHIFT else CONCEPT_AFTER_SHIFT
    found: Floats = (
        concept.intercept
        + concept.feature1 * features.feature1
        + concept.feature2 * (features.feature2 - 50) / 10
        + concept.feature3 * (features.feature3 - 20) / 10
        + np.asarray(concept.levels)[features.level]
    )
    return found


def _prior_shift(day: date) -> float:
    """What the prior shift adds to the log odds: the odds are multiplied by what is left of one class."""
    return math.log(_responders_kept(day))


def _sigmoid(log_odds: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-log_odds))
    return found


def _responders_kept(day: date) -> float:
    return RESPONDERS_KEPT if day in PRIOR_SHIFT else 1.0


# -- the deliveries --------------------------------------------------------------------------------


class _Delivery:
    """The files of one event day as they grow, and the account of them."""

    def __init__(self, product: Product, day: date, folder: Path) -> None:
        columns = [name for name in product.source.columns if name != product.label]
        names = {
            "rows": rows_file(day, "interactions"),
            "corrections": rows_file(day, "corrections", CORRECTION_HOUR),
            "labels": labels_file(product, day),
            "late_labels": labels_file(product, day, LATE_LABEL_DAYS),
        }
        self.account = DayAccount(day)
        self.names = set(names.values())
        self._files = {
            kind: _CsvFile(
                folder / name,
                label_header(product) if "labels" in kind else columns,
                product.source.delimiter,
            )
            for kind, name in names.items()
        }
        # A header alone says that nobody interacted; without the file the day would be missing.
        self._files["rows"].open()
        self._next_id = day.toordinal() * _IDS_A_DAY

    def add(self, block: _Block, flaws: Flaws, rng: np.random.Generator) -> None:
        rows = len(block.customer)
        table = _table(block, self.account.day, self._next_id)
        duplicated = np.flatnonzero(rng.random(rows) < flaws.duplicates)
        corrected = np.flatnonzero(rng.random(rows) < flaws.corrections)
        late = rng.random(rows) < flaws.late_labels
        order = rng.permutation(np.concatenate([np.arange(rows), duplicated]))
        bad_at = np.sort(rng.integers(len(order) + 1, size=rng.binomial(rows, flaws.bad_rows)))
        kinds = rng.integers(len(BAD_KINDS), size=len(bad_at))
        bad = [
            _bad_line(
                BAD_KINDS[kind], self.account.day, self._next_id + rows + n, self._files["rows"].columns
            )
            for n, kind in enumerate(kinds)
        ]
        self._next_id += rows + len(bad)

        wrong = block.features.feature2.copy()
        wrong[corrected] = np.round(wrong[corrected] * 10, 2)  # the decimal point was left out
        first = table.set_column(table.column_names.index("Feature2"), "Feature2", [wrong])
        self._files["rows"].write(first.take(order), bad_at.tolist(), bad)
        self._files["corrections"].write(table.take(corrected))
        self._files["labels"].write(table.filter(~late))
        self._files["late_labels"].write(table.filter(late))

        account = self.account
        account.customers += len(block.label)
        account.positives += int(block.label.sum())
        account.rows += rows
        account.duplicates += len(duplicated)
        account.corrections += len(corrected)
        account.labels += rows
        account.late_labels += int(late.sum())
        account.bad.update(BAD_KINDS[kind] for kind in kinds)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class _CsvFile:
    """A CSV file that is there once something has been written to it, or it has been opened."""

    def __init__(self, path: Path, columns: list[str], delimiter: str) -> None:
        self.columns = columns
        self._path = path
        self._delimiter = delimiter
        self._sink: IO[bytes] | None = None

    def open(self) -> IO[bytes]:
        if self._sink is None:
            self._sink = self._path.open("wb")
            self._write_line(self._sink, self.columns)
        return self._sink

    def write(self, table: pa.Table, at: Sequence[int] = (), lines: Sequence[list[str]] = ()) -> None:
        """Write the rows of ``table``, and before its rows number ``at`` (ascending) the ``lines``."""
        if not table.num_rows and not lines:
            return
        sink = self.open()
        chosen = table.select(self.columns)
        begin = 0
        for end, line in zip(at, lines, strict=True):
            self._write_rows(sink, chosen.slice(begin, end - begin))
            self._write_line(sink, line)
            begin = end
        self._write_rows(sink, chosen.slice(begin))

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()

    def _write_rows(self, sink: IO[bytes], table: pa.Table) -> None:
        from pyarrow import csv

        if table.num_rows:
            # No value needs quotes; without being told so, Arrow puts them around every text.
            options = csv.WriteOptions(
                include_header=False, delimiter=self._delimiter, quoting_style="none", batch_size=50_000
            )
            csv.write_csv(table, sink, options)

    def _write_line(self, sink: IO[bytes], values: list[str]) -> None:
        sink.write((self._delimiter.join(values) + "\n").encode())


def _table(block: _Block, day: date, first_id: int) -> pa.Table:
    """The good rows of a block, as they are in the end."""
    import pyarrow as pa

    rows = len(block.customer)
    # Every other Unknown is an empty field, which the contract fills.
    level = block.features.level + ((block.features.level == UNKNOWN) & (np.arange(rows) % 2 == 0))
    return pa.table(
        {
            "ID": np.arange(first_id, first_id + rows),
            "Date": pa.repeat(pa.scalar(day), rows),
            "CustomerNumber": block.customer,
            "CustomerState": pa.array(_STATES).take(pa.array(block.state)),
            "Feature1": block.features.feature1,
            "Feature2": block.features.feature2,
            "Feature3": block.features.feature3,
            "Feature4": pa.array([*LEVELS, None]).take(pa.array(level)),
            "Target": block.row_label,
        }
    )


def _bad_line(kind: str, day: date, row_id: int, columns: list[str]) -> list[str]:
    """The fields of a row that can't get into the ARDS, for this reason only."""
    fields = {
        "ID": str(row_id),
        "Date": day.isoformat(),
        "CustomerNumber": "1",
        "CustomerState": _STATES[0],
        "Feature1": "0.5",
        "Feature2": "50.0",
        "Feature3": "20.0",
        "Feature4": LEVELS[0],
    }
    match kind:
        case "unparseable value":
            fields["Feature1"] = "n/a"
        case "missing required value":
            fields["Feature3"] = ""
        case "value not allowed":
            fields["Feature4"] = "Extreme"
        case "date outside the delivery's day":
            fields["Date"] = (day - timedelta(days=1)).isoformat()
    values = [fields[name] for name in columns]
    return values[:-1] if kind == "wrong number of fields" else values
