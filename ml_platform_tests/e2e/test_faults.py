"""What the platform catches: faults injected into deliveries of `customers`, and the checks that see them.

Read the table ``FAULTS``. Every fault hits one day, with clean days between; all days are validated in one
run. A fault must be seen by each expectation that it names, and by no other than those it names and those
of ``beside``, which follow from it. The clean days must be silent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml_platform.contract.days import DayRange
from ml_platform.contract.loading import load_product
from ml_platform.contract.product import Product
from ml_platform.engine.step import quality_of
from ml_platform.mlops.quality.results import Result
from ml_platform.samples import customers
from ml_platform.settings import PACKAGE
from ml_platform.storage.ledger import DayRecord, Outcome
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import Platform, days

pytestmark = pytest.mark.slow

FIRST = date(2022, 1, 1)
CLEAN_DAYS = 60
ROWS = 600

MANY_UNUSABLE = "few records are unusable (error level)"
SOME_UNUSABLE = "few records are unusable (warning level)"
UNUSABLE = (MANY_UNUSABLE, SOME_UNUSABLE)
REPEATED = "few records repeat others of the day"
VOLUME = "rows are as many as on this weekday before"
ENOUGH = "there are enough rows"
LABELS = "the labels of 2 days before have come"


def mean(column: str) -> str:
    return f"the mean of {column} is as before"


def spread(column: str) -> str:
    return f"{column} varies as before"


def values(column: str) -> str:
    return f"{column} has as many different values as before"


def shares(column: str) -> str:
    return f"the shares of the values of {column} are as before"


#: What may be said beside of the few rows that are left of a day.
RARE_ROWS = (
    VOLUME,
    REPEATED,
    *(mean(one) for one in ("Feature1", "Feature2", "Feature3", "Target")),
    *(spread(one) for one in ("Feature1", "Feature2", "Feature3")),
    *(values(one) for one in ("Feature4", "CustomerState")),
    shares("Feature4"),
)


# -- a delivery that can be spoilt -------------------------------------------------------------------


class Delivery:
    """The files of a day; the largest file that isn't labels holds the rows."""

    def __init__(self, folder: Path, day: date) -> None:
        self.folder, self.day = folder, day
        files = [path for path in folder.iterdir() if "labels" not in path.name]
        self.path = max(files, key=lambda path: path.stat().st_size)

    def rows(self) -> pd.DataFrame:
        return pd.read_csv(self.path, sep="\x01", dtype=str, keep_default_na=False)

    def write(self, rows: pd.DataFrame, name: str | None = None, sep: str = "\x01") -> None:
        rows.to_csv(self.folder / name if name else self.path, sep=sep, index=False)

    def change(self, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        self.write(change(self.rows()))

    def drop_labels(self) -> None:
        for path in self.folder.glob("*labels*"):
            path.unlink()

    def keep_only(self, content: bytes) -> None:
        for path in self.folder.iterdir():
            if path != self.path:
                path.unlink()
        self.path.write_bytes(content)


def some(rows: pd.DataFrame, share: float) -> pd.Series:
    """The same rows every time, a share of them."""
    chosen = np.random.default_rng(7).random(len(rows)) < share
    return pd.Series(chosen, index=rows.index)


def set_to(column: str, value: str, share: float = 1.0) -> Callable[[Delivery], None]:
    def spoil(delivery: Delivery) -> None:
        delivery.change(lambda rows: rows.assign(**{column: rows[column].mask(some(rows, share), value)}))

    return spoil


def scaled(column: str, factor: float = 1.0, offset: float = 0.0) -> Callable[[Delivery], None]:
    def spoil(delivery: Delivery) -> None:
        def change(rows: pd.DataFrame) -> pd.DataFrame:
            numbers = pd.to_numeric(rows[column], errors="coerce")
            changed = (numbers * factor + offset).round(4).astype(str)
            return rows.assign(**{column: rows[column].where(numbers.isna(), changed)})

        delivery.change(change)

    return spoil


def half_a_file(delivery: Delivery) -> None:
    delivery.change(lambda rows: rows.iloc[: len(rows) // 2])


def half_a_line(delivery: Delivery) -> None:
    content = delivery.path.read_bytes()
    delivery.path.write_bytes(content[: len(content) // 2 - 9])


def twice(delivery: Delivery) -> None:
    delivery.write(delivery.rows(), f"{delivery.path.stem}_again.csv")


def doubled(delivery: Delivery) -> None:
    def others(rows: pd.DataFrame) -> pd.DataFrame:
        number = pd.to_numeric(rows["ID"], errors="coerce")
        return rows.assign(
            ID=(number + 500_000_000).astype("Int64").astype(str).where(number.notna(), rows["ID"])
        )

    delivery.write(pd.concat([delivery.rows(), others(delivery.rows())]))


def swapped(one: str, other: str) -> Callable[[Delivery], None]:
    return lambda delivery: delivery.change(lambda rows: rows.assign(**{one: rows[other], other: rows[one]}))


def slipped(delivery: Delivery) -> None:
    tomorrow = (delivery.day + timedelta(days=1)).isoformat()
    set_to("Date", tomorrow, 0.15)(delivery)


def of_yesterday(delivery: Delivery) -> None:
    set_to("Date", (delivery.day - timedelta(days=1)).isoformat())(delivery)
    delivery.drop_labels()


def renamed(delivery: Delivery) -> None:
    delivery.change(lambda rows: rows.rename(columns={"Feature1": "feature_one"}))


def semicolons(delivery: Delivery) -> None:
    delivery.write(delivery.rows(), sep=";")


def decimal_commas(delivery: Delivery) -> None:
    delivery.change(lambda rows: rows.assign(Feature3=rows["Feature3"].str.replace(".", ",", regex=False)))


def utf16(delivery: Delivery) -> None:
    delivery.keep_only(
        delivery.path.read_bytes().decode().encode("utf-16-le")
    )  # without a mark that tells it


def emptied(delivery: Delivery) -> None:
    delivery.keep_only(b"")


def only_a_header(delivery: Delivery) -> None:
    delivery.keep_only(delivery.path.read_bytes().splitlines(keepends=True)[0])


def one_customer(delivery: Delivery) -> None:
    for path in delivery.folder.glob("*.csv"):
        rows = pd.read_csv(path, sep="\x01", dtype=str, keep_default_na=False)
        rows.assign(CustomerNumber="77").to_csv(path, sep="\x01", index=False)


def labels_all_one(delivery: Delivery) -> None:
    for path in delivery.folder.glob("*labels*"):
        rows = pd.read_csv(path, sep="\x01", dtype=str)
        rows.assign(Target="1").to_csv(path, sep="\x01", index=False)


# -- the scenario ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What is done to a day's delivery, and what must see it.

    ``later`` is how many days after the fault it is seen. ``on`` is the data set whose verdict it is.
    """

    name: str
    spoil: Callable[[Delivery], None]
    seen_by: Sequence[str] = ()
    beside: Sequence[str] = ()
    outcome: Outcome = "written"
    later: int = 0
    on: str = "ards"


FAULTS = [
    Fault("nulls in a required column", set_to("Feature1", "", 0.3), UNUSABLE, outcome="blocked"),
    Fault("a few nulls in a required column", set_to("Feature1", "", 0.1), [SOME_UNUSABLE]),
    Fault("nulls that are filled", set_to("Feature4", "", 0.6), [shares("Feature4")]),
    Fault("a new category", set_to("Feature4", "Extreme", 0.1), [SOME_UNUSABLE]),
    Fault("a shifted mean", scaled("Feature2", offset=5), [mean("Feature2")]),
    Fault("a change of units", scaled("Feature3", 100), [mean("Feature3"), spread("Feature3")]),
    Fault("a sign turned round", scaled("Feature3", -1), [mean("Feature3")]),
    Fault("a column of one number", set_to("Feature1", "0"), [spread("Feature1")]),
    Fault("a column of one category", set_to("Feature4", "Low"), [shares("Feature4")]),
    Fault("one state only", set_to("CustomerState", "CA"), [values("CustomerState")]),
    Fault("a few wild values", set_to("Feature2", "1000000", 0.01), [mean("Feature2"), spread("Feature2")]),
    Fault(
        "swapped columns",
        swapped("Feature1", "Feature2"),
        [mean("Feature1"), mean("Feature2")],
        beside=[spread("Feature1"), spread("Feature2")],
    ),
    Fault("a file delivered twice", twice, [REPEATED]),
    Fault("half a file", half_a_file, [VOLUME, *UNUSABLE], outcome="blocked"),
    Fault("a file cut off in a line", half_a_line, [VOLUME, *UNUSABLE], outcome="blocked"),
    Fault("twice the volume", doubled, [VOLUME]),
    Fault("rows that slip into the next day", slipped, [SOME_UNUSABLE]),
    Fault("yesterday's rows again", of_yesterday, [*UNUSABLE, ENOUGH], RARE_ROWS, outcome="blocked"),
    Fault("a column renamed", renamed, outcome="refused"),
    Fault("another delimiter", semicolons, outcome="refused"),
    Fault("decimal commas", decimal_commas, [*UNUSABLE, ENOUGH], RARE_ROWS, outcome="blocked"),
    Fault("another encoding", utf16, outcome="refused"),
    Fault("an empty file", emptied, outcome="refused"),
    Fault("only a header", only_a_header, outcome="empty"),
    Fault("no labels", Delivery.drop_labels, [LABELS], later=2),
    Fault("labels that are all positive", labels_all_one, [mean("Target")]),
    Fault("the same customer in every row", one_customer, [VOLUME], on="mrds"),
]
GAP = 3


def day_of(fault: Fault) -> date:
    return FIRST + timedelta(days=CLEAN_DAYS + GAP * FAULTS.index(fault))


@pytest.fixture(scope="module")
def verdicts(spark: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[date, DayRecord]]:
    """The ledger after one run over 60 clean days, and all faults with clean days between them."""
    product: Product = load_product(PACKAGE / "products" / "customers.yaml")
    platform = Platform(settings_in(tmp_path_factory.mktemp("faults")), spark, product)  # type: ignore[arg-type]
    last = day_of(FAULTS[-1]) + timedelta(days=GAP - 1)
    assert last < customers.COVARIATE_SHIFT
    customers.land(product, platform.settings.landing_path, DayRange(FIRST, last), rows_per_day=ROWS)
    for fault in FAULTS:
        day = day_of(fault)
        fault.spoil(Delivery(platform.folder(day), day))
    for step in ("ards", "mrds"):
        platform.run(step, days(str(FIRST), str(last)))
    return {step: platform.ledger.latest(step) for step in ("ards", "mrds")}


def failed(record: DayRecord) -> list[Result]:
    quality = quality_of(record)
    return [*quality.errors, *quality.warnings] if quality else []


def test_sixty_clean_days_raise_no_alarm(verdicts: dict[str, dict[date, DayRecord]]) -> None:
    for asset, records in verdicts.items():
        clean = [FIRST + timedelta(days=n) for n in range(CLEAN_DAYS)]
        assert {records[day].outcome for day in clean} == {"written"}
        assert [(asset, day, one) for day in clean for one in failed(records[day])] == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_caught(fault: Fault, verdicts: dict[str, dict[date, DayRecord]]) -> None:
    day = day_of(fault)
    record = verdicts["ards"][day]
    assert record.outcome == fault.outcome, record.reason
    if fault.outcome in ("refused", "empty"):
        assert record.reason
        return
    seen = {one.expectation for one in failed(verdicts[fault.on][day + timedelta(days=fault.later)])}
    assert set(fault.seen_by) <= seen
    assert seen <= {*fault.seen_by, *fault.beside}
    if fault.on == "mrds" or fault.later:
        assert [one.expectation for one in failed(record)] == []


def test_the_days_between_are_silent(verdicts: dict[str, dict[date, DayRecord]]) -> None:
    spoilt = {day_of(fault) + timedelta(days=fault.later) for fault in FAULTS} | {day_of(f) for f in FAULTS}
    # What wasn't there has no labels two days later either.
    spoilt |= {day_of(one) + timedelta(days=2) for one in FAULTS if one.outcome != "written"}
    for records in verdicts.values():
        between = [day for day in records if day not in spoilt and day >= day_of(FAULTS[0])]
        assert len(between) > 40
        assert [(day, one.expectation, one.observed) for day in between for one in failed(records[day])] == []
