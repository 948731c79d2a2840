"""A contract from somebody's own files: it is valid, and its values are what was written."""

from __future__ import annotations

import csv
import gzip
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.contract.yaml_text import parse_yaml
from ml_platform.data_engineering import landing, parsing
from ml_platform.data_engineering.files import FileRules
from ml_platform.data_engineering.onboarding import columns, identity
from ml_platform.data_engineering.onboarding import draft as contract_text
from ml_platform.data_engineering.onboarding.choices import Answers, NeedsAnswers, choose
from ml_platform.data_engineering.onboarding.columns import look_at
from ml_platform.data_engineering.onboarding.dialect import FirstLookError, dialect_of
from ml_platform.data_engineering.onboarding.draft import Draft, draft
from ml_platform.data_engineering.onboarding.identity import measure
from ml_platform.data_engineering.splitting import split_history

RULES = FileRules()
TODAY = date(2024, 12, 31)


def drafted(*paths: Path, today: date = TODAY, **answers: Any) -> Draft:
    """The contract of files, with a person's answers."""
    said = Answers(**answers)
    dialect = dialect_of(paths, RULES, encoding=said.encoding, delimiter=said.delimiter, escape=said.escape)
    look = look_at(paths, dialect, RULES, formats=said.date_formats)
    choices = choose(look, said)
    facts = measure(look, choices, said, RULES)
    return draft("orders", look, choices, facts, said, path=Path("orders.yaml"), today=today)


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def rows(count: int = 40, **columns: Callable[[int], object]) -> str:
    """A history of so many records over ten days: a key, a day, a customer, a label, and more columns."""
    usual: dict[str, Callable[[int], object]] = {
        "order": lambda n: 1000 + n,
        "day": lambda n: date(2024, 1, 1) + timedelta(days=n % 10),
        "customer": lambda n: f"c{n % 4}",
        "amount": lambda n: n * 1.5,
        "again": lambda n: n % 3 // 2,
    }
    wanted = usual | columns
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(wanted)
    writer.writerows([value(n) for value in wanted.values()] for n in range(count))
    return text.getvalue()


def read_back(product: Product, paths: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    """All rows as the contract has them read, landed day by day."""
    summary = split_history(product, paths, folder, labels_apart=False)
    days = landing.delivered_days(product, folder)
    assert len(days) == summary.days
    found = []
    for delivery in landing.scan(product, folder, days).values():
        assert delivery.refusal is None
        for file in delivery.files:
            for batch in parsing.parse_file(file, product):
                assert {*batch.column("_kind").to_pylist()} == {"row"}, batch.column("_reason").to_pylist()
                found += batch.select(list(product.source.columns)).to_pylist()
    return found


# -- whatever the dialect ----------------------------------------------------------------------------

#: Letters, and signs that mean something in some dialect or encoding.
_TEXT = st.text(alphabet="abcé ß;,|\t'\\/-:.#\n\"", max_size=8).map(lambda text: f"s{text}e")
_FIRST = datetime(1950, 1, 1)  # noqa: DTZ001 - a time without an offset is UTC
_CELLS: dict[str, st.SearchStrategy[Any]] = {
    "string": _TEXT,
    "long": st.integers(-(2**62), 2**62),
    "integer": st.integers(-1000, 1000),
    "double": st.floats(allow_nan=False, allow_infinity=False, width=64).map(lambda one: one + 0.0),
    "boolean": st.booleans(),
    "date": st.dates(date(1950, 1, 1), date(2100, 1, 1)),
    "timestamp": st.datetimes(_FIRST, _FIRST.replace(year=2099)),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[tuple[str, str]], list[list[Any]]]:
    """Columns by name and type, and rows; none of the cells is null in a column that identifies rows."""
    types = draw(st.lists(st.sampled_from(sorted(_CELLS)), max_size=5))
    names = draw(
        st.lists(
            st.text(alphabet="abcXYZ_ éß.", min_size=1, max_size=6).filter(str.strip),
            min_size=len(types),
            max_size=len(types),
            unique_by=str.casefold,
        ).filter(lambda some: not {"id", "when", "bought", "size"} & {one.strip().casefold() for one in some})
    )
    fixed = [("id", "integer"), ("when", "day"), ("bought", "label"), ("size", "integer")]
    header = [*fixed, *zip(names, types, strict=True)]
    count = draw(st.integers(2, 12))
    first = draw(st.dates(date(2000, 1, 14), date(2090, 1, 1)))
    table = []
    for n in range(count):
        cells: list[Any] = [n, first + timedelta(days=n % 3), n % 2, draw(st.integers(-5, 5))]
        cells += [draw(st.none() | _CELLS[type_]) for type_ in types]
        table.append(cells)
    order = draw(st.permutations(range(len(header))))
    return [header[n] for n in order], [[row[n] for n in order] for row in table]


#: How dates are written: unambiguously, since what isn't is asked.
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d %b %Y")


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=tables(),
    delimiter=st.sampled_from([",", ";", "\t", "|", "\x01"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    decimal=st.sampled_from([".", ","]),
    null=st.sampled_from(["", "NA", "NULL"]),
    date_format=st.sampled_from(_DATES),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    zipped=st.booleans(),
)
def test_the_values_are_those_that_were_written_in_whatever_dialect(
    tmp_path_factory: pytest.TempPathFactory,
    table: tuple[list[tuple[str, str]], list[list[Any]]],
    delimiter: str,
    encoding: str,
    decimal: str,
    null: str,
    date_format: str,
    line_end: str,
    quoting: Any,
    zipped: bool,
) -> None:
    header, cells = table
    decimal = "." if delimiter == "," else decimal
    folder = tmp_path_factory.mktemp("init")

    def text_of(value: Any, type_: str) -> str:
        if value is None:
            return null if type_ != "string" else ""
        if isinstance(value, bool):
            return str(value)
        if isinstance(value, datetime):
            return value.isoformat(" ")
        if isinstance(value, date):
            return value.strftime(date_format if type_ == "day" else "%Y-%m-%d")
        return repr(value).replace(".", decimal) if isinstance(value, float) else str(value)

    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerow([name for name, _ in header])
    for row in cells:
        writer.writerow([text_of(value, type_) for value, (_, type_) in zip(row, header, strict=True)])
    content = text.getvalue().encode(encoding)
    path = folder / f"history.csv{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(content) if zipped else content)
    # Whole numbers may look as dates do as well; the day is the person's choice then.
    made = drafted(path, event_day="when", label="bought", key=("id",), escape='"', encoding=None)
    product = parse_product(parse_yaml(made.text), "orders.yaml")

    names = dict(zip([name for name, _ in header], product.source.columns, strict=True))
    expected = []
    for row in cells:
        record = {}
        for value, (name, _) in zip(row, header, strict=True):
            record[names[name]] = as_read(value, product.source.columns[names[name]].type)
        expected.append(record)
    found = read_back(product, [path], folder / "landing")
    by_id = names["id"]
    assert sorted(found, key=lambda one: one[by_id]) == sorted(expected, key=lambda one: one[by_id])


def as_read(value: Any, type_: str) -> Any:
    """A value in a column that has the type that the contract gives it: all of a column may allow more."""
    if value is None or type_ == "boolean":
        return value
    match type_:
        case "string":
            return None if value is None else str(value)
        case "double":
            return float(value)
        case "long" | "integer" if isinstance(value, float):
            return int(Decimal(repr(value)))  # as it is written, which the nearest double may not be
        case "timestamp":
            return value.replace(tzinfo=UTC)
        case _:
            return value.date() if isinstance(value, datetime) and type_ == "date" else value


# -- what is seen --------------------------------------------------------------------------------------


def test_a_contract_says_beside_each_line_what_was_seen(tmp_path: Path) -> None:
    text = rows(
        200,
        day=lambda n: date(2024, 1, 1) + timedelta(days=n // 2),
        channel=lambda n: "web" if n % 2 else "app",
        discount=lambda n: "" if n % 4 else "NA" if n % 8 else 0.5,
    )
    made = drafted(write(tmp_path / "history.csv", text))
    lines: dict[str, str] = {}
    for line in made.text.splitlines():
        lines.setdefault(line.split(":")[0].strip(), line)
    assert "# unique on 100 of 100 days" in lines["key"]
    assert "[order]" in lines["key"] or "[customer]" in lines["key"]
    assert "the only column with a day in every record; 2024-01-01 to 2024-04-09" in lines["event_day"]
    assert "2 rows on the median day" in lines["event_day"]
    assert "the only column of 0 and 1; 1 in 33.0% of rows" in lines["label"]
    assert "nullable: true" in lines["discount"]
    assert "175 of 200 are empty" in lines["discount"]
    assert 'null_values: ["", NA]' in made.text
    assert "allowed: [app, web]" in made.text
    assert "2 values, all of them by record 2" in made.text
    assert made.product.source.label_delay_days == 1
    assert [assumed.partition(":")[0] for assumed in made.assumed] == [
        "description",
        "timezone",
        "label_delay_days",
    ]


def test_the_key_is_proved_on_all_days_and_has_few_columns(tmp_path: Path) -> None:
    # Neither column alone is unique: order repeats on one late day only.
    def order(n: int) -> int:
        return 1000 + (n - 10 if n == 399 else n)

    text = rows(400, order=order, line=lambda n: n // 200, customer=lambda n: f"c{n % 40}")
    made = drafted(write(tmp_path / "history.csv", text), label="again")
    expected = [row.split(",") for row in text.splitlines()[1:]]
    for key in (made.product.source.key,):
        at = [text.splitlines()[0].split(",").index(name) for name in (*key, "day")]
        assert len({tuple(row[n] for n in at) for row in expected}) == len(expected)
        assert key != ("order",)


def test_rows_that_no_columns_tell_apart_are_counted(tmp_path: Path) -> None:
    text = rows(20)
    text += text.splitlines()[-1].replace(",28.5,", ",,") + "\n"
    made = drafted(write(tmp_path / "history.csv", text))
    assert "unique on 9 of 10 days; 1 of 21 rows repeat another one's" in made.text
    assert any("no key that a contract can have tells all rows apart" in note for note in made.notes)


@pytest.mark.parametrize("parts", [1, 3, 200])
def test_rows_that_are_equal_count_once(tmp_path: Path, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = rows(300, note=lambda n: "" if n % 2 else f"note {n}")
    lines = text.splitlines()
    path = write(tmp_path / "history.csv", "\n".join([*lines, *lines[20:25], lines[20]]) + "\n")
    monkeypatch.setattr(identity, "BYTES_A_PART", max(1, len(text) // parts))
    made = drafted(path)
    assert made.product.source.key == ("order",)
    assert "unique on 10 of 10 days" in made.text
    (note,) = made.notes
    assert note == (
        "rows that are equal to another one of their day in every column: 6 of 306; they count once"
    )


def test_the_key_leaves_a_column_to_tell_rows_from_labels(tmp_path: Path) -> None:
    """With all columns in the key a file of rows would be taken for one of labels."""
    lines = ["day,width,height,again", *(f"2024-01-0{1 + n % 9},{n}.5,{n % 4}.5,{n % 2}" for n in range(90))]
    path = write(tmp_path / "history.csv", "\n".join([*lines, "2024-01-01,0.5,1.5,0"]) + "\n")
    made = drafted(path)
    assert made.product.source.key == ("width",)
    assert any("no key that a contract can have tells all rows apart" in note for note in made.notes)
    assert len(read_back(made.product, [path], tmp_path / "landing")) == 91


@pytest.mark.parametrize("parts", [1, 3, 200])
def test_what_is_proved_does_not_depend_on_how_rows_are_kept(
    tmp_path: Path, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = rows(
        300,
        customer=lambda n: "c",
        order=lambda n: n // 2,
        line=lambda n: n % 2,
        day=lambda n: date(2024, 1, 1 + n // 2 % 28),
    )
    path = write(tmp_path / "history.csv", text)
    monkeypatch.setattr(identity, "BYTES_A_PART", max(1, len(text) // parts))
    monkeypatch.setattr(columns, "CHUNK_RECORDS", 7)
    made = drafted(path, label="again")
    assert made.product.source.key == ("order", "line")
    assert "unique on 28 of 28 days" in made.text


def test_what_is_scored_comes_back_from_day_to_day(tmp_path: Path) -> None:
    text = rows(600, customer=lambda n: f"c{n // 10 * 7 % 30}", city=lambda n: f"town{n % 3}")
    made = drafted(write(tmp_path / "history.csv", text))
    assert made.product.mrds.entity == ("customer",)
    assert "30 of them, each on 10.0 of 10 days on average" in made.text


def test_a_column_that_tells_the_label_alone_is_no_feature(tmp_path: Path) -> None:
    text = rows(60, delay=lambda n: 20 if n % 3 // 2 else n % 3)
    made = drafted(write(tmp_path / "history.csv", text))
    assert "delay" not in made.product.model.features.all
    assert "amount" in made.product.model.features.all
    assert "its value alone tells again" in made.text


def test_newest_days_without_a_label_say_how_late_labels_come(tmp_path: Path) -> None:
    text = rows(100, again=lambda n: "" if n % 10 >= 6 else n % 2)
    made = drafted(write(tmp_path / "history.csv", text))
    assert made.product.source.label_delay_days == 4
    assert "the newest 4 days have no label yet" in made.text
    assert drafted(tmp_path / "history.csv", label_delay_days=9).product.source.label_delay_days == 9


def test_a_history_has_an_end_only_if_its_last_day_is_long_ago(tmp_path: Path) -> None:
    text = rows(400, day=lambda n: date(2024, 1, 1) + timedelta(days=n % 100))
    path = write(tmp_path / "history.csv", text)
    last = date(2024, 4, 9)
    assert drafted(path, today=last + timedelta(days=63)).product.end == last
    assert drafted(path, today=last + timedelta(days=62)).product.end is None
    # Labels of a finished history of ten days would come after its end, and no model could exist.
    path = write(tmp_path / "brief.csv", rows())
    assert drafted(path).product.end == date(2024, 1, 10)
    assert drafted(path, label_delay_days=60).product.end is None


def test_weekdays_on_which_nothing_comes_are_not_due(tmp_path: Path) -> None:
    some = [date(2024, 1, 1) + timedelta(days=n) for n in range(60)]
    workdays = [day for day in some if day.weekday() < 5]
    text = rows(200, day=lambda n: workdays[n % len(workdays)])
    made = drafted(write(tmp_path / "history.csv", text))
    assert made.product.delivery.weekdays == ("mon", "tue", "wed", "thu", "fri")
    assert "no rows on any of 8 sat, 8 sun" in made.text
    assert made.missing_days == ()
    text = rows(200, day=lambda n: workdays[n % len(workdays)] if n % len(workdays) != 3 else workdays[0])
    assert drafted(write(tmp_path / "gap.csv", text)).missing_days == (date(2024, 1, 4),)


def test_a_number_can_be_the_label(tmp_path: Path) -> None:
    amounts = [(n * 7 % 50) + 0.25 for n in range(300)]
    text = rows(300, amount=lambda n: amounts[n], again=lambda n: "a" if n % 2 else "b", size=lambda n: n % 9)
    path = write(tmp_path / "history.csv", text)
    assert asked(path) == {"--label": ("order", "customer", "amount", "again", "size")}
    made = drafted(path, label="amount")
    assert made.product.task.name == "regression"
    assert (made.product.evaluation.metric, made.product.promotion.rule) == ("rmse", "superior")
    spread = statistics.pstdev(amounts)
    assert made.product.evaluation.threshold == pytest.approx(0.9 * spread, rel=1e-2)
    assert f"to predict the mean, {statistics.mean(amounts):.4g}, has an rmse of {spread:.4g}" in made.text
    # Of whole numbers a contract says that they are no classes.
    made = drafted(path, label="size")
    assert made.product.model.task == "regression"
    assert made.product.source.columns["size"].type == "integer"
    assert "taken for numbers; --task multiclass if its 9 values are classes" in made.text
    # Columns of 0 and 1 come before other numbers, and a person may still name one of these.
    both = write(tmp_path / "both.csv", rows(300))
    assert drafted(both).product.source.label == "again"
    assert drafted(both, label="amount").product.task.name == "regression"


def test_one_of_several_classes_can_be_the_label(tmp_path: Path) -> None:
    grades = ["none" if n % 5 < 3 else "mild" if n % 5 == 3 else "severe" for n in range(300)]
    text = rows(300, grade=lambda n: grades[n], stars=lambda n: n % 4, again=lambda n: n % 3)
    path = write(tmp_path / "history.csv", text)
    made = drafted(path, label="grade")
    assert made.product.task.name == "multiclass"
    assert made.product.model.task is None  # the type of the label says it
    assert made.product.source.columns["grade"].allowed == ("mild", "none", "severe")
    assert "3 classes, the most frequent of them none in 60.0% of rows" in made.text
    assert (made.product.evaluation.metric, made.product.evaluation.threshold) == ("accuracy", 0.64)
    made = drafted(path, label="stars", task="multiclass")
    assert made.product.model.task == "multiclass"
    assert made.product.source.columns["stars"].allowed == (0, 1, 2, 3)
    assert {row["stars"] for row in read_back(made.product, [path], tmp_path / "landing")} == {0, 1, 2, 3}
    with pytest.raises(FirstLookError, match="it is no label of binary; --task may be regression or multi"):
        drafted(path, label="stars", task="binary")


def test_a_text_that_is_empty_because_of_another_column_is_named(tmp_path: Path) -> None:
    text = rows(
        200, amount=lambda n: "NA" if n % 7 == 0 else n + 0.5, town=lambda n: "NA" if n < 3 else "Ulm"
    )
    made = drafted(write(tmp_path / "history.csv", text), label="again")
    assert made.product.source.null_values == ("", "NA")
    assert made.notes == ("'NA' counts as empty in all columns, so also in 3 records of town",)


def test_an_order_of_day_and_month_that_another_column_has_is_named(tmp_path: Path) -> None:
    text = rows(200, day=lambda n: f"{1 + n % 10:02d}/02/2024", shipped=lambda n: f"{20 + n % 8}/03/2024")
    made = drafted(write(tmp_path / "history.csv", text), event_day="day")
    assert made.product.source.columns["day"].formats == ("%d/%m/%Y",)
    (note,) = made.notes
    assert note.startswith("day is read with day and month in the order of shipped; --date-format day=FORMAT")


@pytest.mark.parametrize("since", ["01/01/2024", "{n:02d}/{n:02d}/2024"])
def test_an_order_is_asked_for_where_no_column_proves_one(tmp_path: Path, since: str) -> None:
    text = rows(60, day=lambda n: f"{1 + n % 9:02d}/02/2024", since=lambda n: since.format(n=1 + n % 9))
    path = write(tmp_path / "history.csv", text)
    assert asked(path, event_day="day") == {"--date-format": ("%d/%m/%Y", "%m/%d/%Y")}
    # Nor does one that is written otherwise.
    text = rows(60, day=lambda n: f"{1 + n % 9:02d}/02/2024", since=lambda n: f"{20 + n % 9}.02.2024")
    path = write(tmp_path / "other.csv", text)
    assert asked(path, event_day="day") == {"--date-format": ("%d/%m/%Y", "%m/%d/%Y")}


def test_an_order_that_no_date_shows_is_assumed_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "history.csv", rows(200, day=lambda n: "03/03/2024"))
    made = drafted(path)
    assert made.product.source.columns["day"].formats == ("%d/%m/%Y",)
    assert any("dates of day are written as %d/%m/%Y" in assumed for assumed in made.assumed)
    path = write(tmp_path / "told.csv", rows(200, day=lambda n: "03/03/2024"))
    made = drafted(path, date_formats={"day": "%m/%d/%Y"})
    assert made.product.source.columns["day"].formats == ("%m/%d/%Y",)
    assert not any("dates of day" in assumed for assumed in made.assumed)


def test_a_class_that_is_empty_in_other_columns_is_named(tmp_path: Path) -> None:
    some = {"amount": lambda n: "NA" if n % 7 == 0 else n + 0.5}
    text = rows(200, **some, region=lambda n: ("NA", "EU", "AS")[n % 3])
    made = drafted(write(tmp_path / "history.csv", text), label="region")
    assert made.product.source.columns["region"].allowed == ("AS", "EU")
    assert any("67 records of region, the label: these rows have none" in note for note in made.notes)
    text = rows(200, **some, region=lambda n: ("NA", "EU")[n % 2])
    with pytest.raises(FirstLookError, match="'NA' counts as empty here"):
        drafted(write(tmp_path / "two.csv", text), label="region")


def test_labels_are_read_with_the_marks_of_numbers(tmp_path: Path) -> None:
    lines = [
        "id;day;amount;again",
        *(f"{n};2024-01-0{1 + n % 9};{n}.234,5;{n % 3}.000" for n in range(1, 200)),
    ]
    path = write(tmp_path / "history.csv", "\n".join(lines) + "\n")
    made = drafted(path, label="again", task="multiclass", decimal=",", thousands=".")
    assert made.product.source.columns["again"].allowed == (0, 1000, 2000)
    assert {row["again"] for row in read_back(made.product, [path], tmp_path / "landing")} == {0, 1000, 2000}
    assert drafted(path, label="again", decimal=",", thousands=".").product.task.name == "regression"


def test_a_rare_class_keeps_the_threshold_above_the_guess(tmp_path: Path) -> None:
    text = rows(
        600, kind=lambda n: "rare" if n in (7, 300) else "common", again=lambda n: int(n not in (7, 9))
    )
    path = write(tmp_path / "history.csv", text)
    assert drafted(path, label="kind").product.evaluation.threshold > 598 / 600
    share = 598 / 600
    assert drafted(path, label="again").product.evaluation.threshold > 2 * share / (1 + share)


def test_words_for_yes_and_no_are_two_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "history.csv", rows(300, churned=lambda n: "yes" if n % 3 else "no"))
    made = drafted(path, label="churned")
    assert made.product.task.name == "multiclass"
    assert made.product.source.columns["churned"].allowed == ("no", "yes")
    found = read_back(made.product, [path], tmp_path / "landing")
    assert [row["churned"] for row in found].count("yes") == 200


def test_a_label_beyond_what_a_double_tells_apart_is_a_number(tmp_path: Path) -> None:
    path = write(tmp_path / "history.csv", rows(90, again=lambda n: 2**53 + 1 + n % 3))
    assert drafted(path, label="again").product.task.name == "regression"
    with pytest.raises(FirstLookError, match="it is no label of multiclass"):
        drafted(path, label="again", task="multiclass")


def test_the_shortest_of_equally_good_keys_is_taken_where_none_is_unique(tmp_path: Path) -> None:
    lines = rows(100).splitlines()
    path = write(
        tmp_path / "history.csv", "\n".join([*lines, *(f"{line[:-1]}" for line in lines[1:])]) + "\n"
    )
    assert drafted(path).product.source.key == ("order",)


def test_what_is_learned_from_is_counted_by_entity_and_day(tmp_path: Path) -> None:
    text = rows(
        3600,
        day=lambda n: date(2024, 1, 1) + timedelta(days=n // 40),
        customer=lambda n: f"c{n % 2}",
        again=lambda n: n // 2 % 2,
    )
    made = drafted(write(tmp_path / "history.csv", text), entity=("customer",))
    # 62 of two customers by the first of February, 120 by that of March: nine tenths of 120 are enough.
    assert made.poor_months == (date(2024, 2, 1),)


def test_months_with_too_little_to_learn_from_are_known_before(tmp_path: Path) -> None:
    text = rows(120, day=lambda n: date(2024, 1, 1) + timedelta(days=n))
    made = drafted(write(tmp_path / "history.csv", text))
    # 31, 60 and 91 labels by the first of February, March and April; 120 by that of May, 108 not held out.
    assert made.product.model.minimum_rows == 100
    assert made.poor_months == (date(2024, 2, 1), date(2024, 3, 1), date(2024, 4, 1))


def test_measurements_tell_rows_apart_only_where_nothing_else_does(tmp_path: Path) -> None:
    text = rows(50, order=lambda n: 1, customer=lambda n: "c", amount=lambda n: n + 0.5)
    made = drafted(write(tmp_path / "history.csv", text), label="again")
    assert made.product.source.key == ("amount",)
    text = rows(50, amount=lambda n: n + 0.5)
    assert "amount" not in drafted(write(tmp_path / "other.csv", text), label="again").product.source.key


# -- what a person must say ------------------------------------------------------------------------------


def asked(path: Path, **answers: Any) -> dict[str, tuple[str, ...]]:
    """The options that are missing, with what they may be."""
    with pytest.raises(NeedsAnswers) as raised:
        drafted(path, **answers)
    return {
        question.flag: tuple(value for value, _ in question.options) for question in raised.value.questions
    }


def test_days_that_can_be_read_in_two_ways_are_asked(tmp_path: Path) -> None:
    text = rows(day=lambda n: f"0{n % 9 + 1}/02/2024")
    path = write(tmp_path / "history.csv", text)
    assert asked(path) == {"--date-format": ("%d/%m/%Y", "%m/%d/%Y")}
    by_day = drafted(path, date_formats={"day": "%d/%m/%Y"})
    by_month = drafted(path, date_formats={"day": "%m/%d/%Y"})
    assert (by_day.first, by_day.last) == (date(2024, 2, 1), date(2024, 2, 9))
    assert (by_month.first, by_month.last) == (date(2024, 1, 2), date(2024, 9, 2))


def test_one_day_beyond_the_twelfth_tells_how_all_are_written(tmp_path: Path) -> None:
    text = rows(day=lambda n: "13/02/2024" if n == 39 else f"0{n % 9 + 1}/02/2024")
    made = drafted(write(tmp_path / "history.csv", text))
    assert made.product.source.columns["day"].format == "%d/%m/%Y"
    # And those of the same file that don't tell.
    text = rows(
        day=lambda n: "13/02/2024" if n == 39 else f"0{n % 9 + 1}/02/2024",
        paid=lambda n: f"0{n % 9 + 1}/03/2024",
    )
    made = drafted(write(tmp_path / "two.csv", text), event_day="day")
    assert made.product.source.columns["paid"].format == "%d/%m/%Y"


def test_of_several_days_and_labels_a_person_says_which_is_meant(tmp_path: Path) -> None:
    text = rows(ordered=lambda n: date(2024, 1, 1), paid=lambda n: n % 2).replace("day,", "shipped,", 1)
    path = write(tmp_path / "history.csv", text)
    assert asked(path) == {"--event-day": ("shipped", "ordered"), "--label": ("again", "paid")}
    made = drafted(path, event_day="shipped", label="paid")
    assert (made.product.source.event_day, made.product.source.label) == ("shipped", "paid")


def test_points_that_may_be_decimal_or_group_digits_are_asked(tmp_path: Path) -> None:
    text = rows(amount=lambda n: f"{n + 1}.250").replace(",", ";")
    path = write(tmp_path / "history.csv", text)
    assert asked(path) == {"--decimal": (".", ",")}
    assert drafted(path, decimal=".").product.source.columns["amount"].type == "double"
    german = drafted(path, decimal=",").product.source
    assert (german.decimal, german.thousands, german.columns["amount"].type) == (",", ".", "integer")
    # One number more tells.
    path = write(tmp_path / "clear.csv", text + "2000;2024-01-01;c1;1.250,5;0\n")
    clear = drafted(path).product.source
    assert (clear.decimal, clear.thousands, clear.columns["amount"].type) == (",", ".", "double")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"event_day": "customer"}, "'customer' can't be the event day: its texts are not written as days"),
        ({"label": "customer", "task": "binary"}, "'customer' can't be the label: its values are c0, c1, c2"),
        ({"label": "day"}, "'day' can't be the label: it is the event day"),
        ({"label": "nothing"}, "there is no column 'nothing'"),
        ({"key": ("again",)}, "'again' is the label, and can't tell rows apart"),
        ({"date_formats": {"day": "%d.%m.%Y"}}, "--date-format: some texts of 'day'"),
        ({"delimiter": ";"}, "is one column under each of ';'"),
        ({"delimiter": "ab"}, "String should have at most 1 character"),
        ({"encoding": "klingon"}, "'klingon' is no encoding of text"),
        ({"encoding": "utf-16"}, "can't be read to its end"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(tmp_path: Path, answers: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "history.csv", rows())
    with pytest.raises(FirstLookError) as raised:
        drafted(path, **answers)
    assert said in str(raised.value)


# -- hostile files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\n\n\n", "the file is empty"),
        (b"order,day,again\n", "there is no row below the header"),
        (b"value\n1\n2\n", "is one column under each of"),
        (b"1,2024-01-01,0\n2,2024-01-02,1\n", "looks like a row"),
        (b"\x1f\x8b\x08\x00broken", "can't be read"),
        (b"who,day,sex\nann,2024-01-01,f\nbob,2024-01-02,m\n", "no column can be the label"),
        (b"who,day,sex\nann,2024-01-01,f\nbob,2024-01-02,m\n", "sex has 'f' (1), 'm' (1)"),
        (
            b"order,day,again\n"
            + b"".join(b"1,2024-01-%02d,0\n" % n for n in range(1, 21))
            + b"Total,Total,1\n",
            "but for 'Total' in line 22",
        ),
        (b"order,amount,again\n1,7,0\n2,8,1\n", "no column can be the event day"),
        (b"order,day,again\n1,2024-01-01,0\n2,,1\n", "day would be days, but for records without one"),
        (b"day,again\n2024-01-01,0\n2024-01-02,1\n", "no column can be a feature"),
        (b"order,day,x,again\n1,0001-01-01,1,0\n2,2024-01-02,2,1\n", "line 2: day is 0001-01-01"),
        (b"order,day,again\n1,2,3,4\n1,2,3,4\n", "only 0% of the first 2 records have as many fields"),
    ],
)
def test_a_file_that_gives_no_contract_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "history.csv"
    path.write_bytes(content)
    with pytest.raises(FirstLookError) as raised:
        drafted(path)
    assert said in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_that_tell_are_found(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "history.csv", rows(customer=lambda n: f"Zoë{n % 4}"), encoding)
    made = drafted(path)
    found = read_back(made.product, [path], tmp_path / "landing")
    assert {row["customer"] for row in found} == {f"Zoë{n}" for n in range(4)}


def test_another_encoding_is_assumed_and_shown(tmp_path: Path) -> None:
    text = rows(customer=lambda n: f"Zoë{n % 4}")
    made = drafted(write(tmp_path / "history.csv", text, "latin-1"))
    assert made.product.source.encoding == "cp1252"
    assert "ASSUMED, as it isn't UTF-8; it reads 'Zoë0'" in made.text
    assert any("--encoding" in assumed for assumed in made.assumed)
    cyrillic = write(tmp_path / "koi.csv", rows(customer=lambda n: f"Аня{n % 4}"), "koi8-r")
    made = drafted(cyrillic, encoding="koi8-r")
    assert {row["customer"] for row in read_back(made.product, [cyrillic], tmp_path / "landing")} == {
        f"Аня{n}" for n in range(4)
    }


def test_names_that_a_contract_cannot_have_become_aliases(tmp_path: Path) -> None:
    names = [
        "_id",
        "day",
        "Price",
        "price",
        "event_day",
        "label_known_on",
        "a\tb",
        "true",
        "again",
        "x" * 300,
    ]
    body = "".join(f"{n},2024-01-{n + 1:02},{n},{n * 2},{n},{n},{n},{n},{n % 2},{n}\n" for n in range(9))
    path = write(tmp_path / "history.csv", ",".join(names) + "\n" + body)
    made = drafted(path, event_day="day", label="again", key=("_id",))
    assert made.product.source.key == ("id",)
    assert len(made.product.source.columns) == len(names)
    found = read_back(made.product, [path], tmp_path / "landing")
    assert sorted((row["Price"], row["price_2"], row["event_day_of_file"]) for row in found) == [
        (n, n * 2, n) for n in range(9)
    ]


def test_names_that_stand_twice_and_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    header = ",order,day,again,amount,amount,size"
    body = "".join(f"{n},{n},2024-01-{n + 1:02},{n % 2},{n},{n},{n}\n" for n in range(9))
    path = write(tmp_path / "history.csv", f"{header}\n{body}")
    made = drafted(path, label="again")
    assert made.product.source.extra_columns == ("", "amount")
    assert any("stands twice in the header" in note for note in made.notes)
    assert len(read_back(made.product, [path], tmp_path / "landing")) == 9


def test_records_that_cannot_be_read_are_counted_with_the_first(tmp_path: Path) -> None:
    text = rows() + "1,2024-01-01\n2,2024-01-02,c1,3,0,more\nbroken\n"
    made = drafted(write(tmp_path / "history.csv", text))
    assert any("1 records can't be used" in note and "2 fields, expected 5" in note for note in made.notes)
    (unplaced,) = [note for note in made.notes if "ends `land`" in note]
    assert "of 1 of these records" in unplaced
    assert "line 44" in unplaced


def test_values_with_line_breaks_and_delimiters_are_one_value(tmp_path: Path) -> None:
    text = rows(remark=lambda n: f'line "{n}",\nand; more')
    path = write(tmp_path / "history.csv", text)
    found = read_back(drafted(path).product, [path], tmp_path / "landing")
    assert {row["remark"] for row in found} == {f'line "{n}",\nand; more' for n in range(40)}


def test_backslashes_before_quotes_are_understood_where_only_one_way_fits(tmp_path: Path) -> None:
    body = rows(remark=lambda n: "@").replace("@", '"12\\" wide"')
    path = write(tmp_path / "history.csv", body)
    made = drafted(path)
    assert made.product.source.escape == "\\"
    assert {row["remark"] for row in read_back(made.product, [path], tmp_path / "landing")} == {'12" wide'}


def test_lines_that_end_with_a_delimiter_are_understood(tmp_path: Path) -> None:
    text = "".join(f"{line},\n" for line in rows().splitlines())
    path = write(tmp_path / "history.csv", text)
    made = drafted(path)
    assert made.product.source.trailing_delimiter
    assert len(read_back(made.product, [path], tmp_path / "landing")) == 40


@pytest.mark.parametrize(
    ("cell", "type_", "more"),
    [
        (lambda n: f"{n:05}", "string", {}),
        (lambda n: "", "string", {"nullable": True}),
        (lambda n: "yes" if n % 2 else "NO", "boolean", {"true": ("yes",), "false": ("no",)}),
        (lambda n: "TRUE" if n % 2 else "FALSE", "boolean", {}),
        (lambda n: 2**31 + n, "long", {}),
        (lambda n: 10**25 + n, "string", {}),
        (lambda n: f"{n}.0", "integer", {}),
        (lambda n: f"{n}.5e3", "integer", {}),
        (lambda n: f"1 {n:03}", "integer", {}),
        (lambda n: f"2024-01-01 10:{n:02}:00", "timestamp", {}),
        (lambda n: f"{n % 28 + 1}.1.2024 10:{n:02}", "timestamp", {"format": "%d.%m.%Y %H:%M"}),
        (lambda n: f"Jan {n % 28 + 1} 2000", "date", {"format": "%b %d %Y"}),
        (lambda n: "12 kg" if n == 30 else n, "string", {}),
    ],
)
def test_a_column_has_the_narrowest_type_that_all_of_its_texts_are(
    tmp_path: Path, cell: Callable[[int], object], type_: str, more: Mapping[str, Any]
) -> None:
    path = write(tmp_path / "history.csv", rows(extra=cell))
    column = drafted(path, event_day="day", label="again").product.source.columns["extra"]
    assert column.type == type_
    for key, value in more.items():
        assert getattr(column, key) == value


def test_the_text_that_keeps_a_column_from_being_numbers_is_named(tmp_path: Path) -> None:
    made = drafted(write(tmp_path / "history.csv", rows(extra=lambda n: "12 kg" if n == 30 else n)))
    assert "no number, as nearly all others are: '12 kg' in line 32" in made.text


@pytest.mark.parametrize(
    ("cell", "format_", "first"),
    [
        (lambda n: f"2024-01-{n % 9 + 1:02}T10:00:00Z", "%Y-%m-%dT%H:%M:%S%z", date(2024, 1, 1)),
        (lambda n: f"2024-01-{n % 9 + 1:02} 10:00:0{n % 9}.5", "%Y-%m-%d %H:%M:%S.%f", date(2024, 1, 1)),
        (lambda n: f"{n % 9 + 1}/20/2024 11:30 PM", "%m/%d/%Y %I:%M %p", date(2024, 1, 20)),
        (lambda n: f"20240{n % 9 + 1}13", "%Y%m%d", date(2024, 1, 13)),
        (lambda n: 2001 + n % 9, "%Y", date(2001, 1, 1)),
        (lambda n: f"2024-0{n % 9 + 1}", "%Y-%m", date(2024, 1, 1)),
    ],
)
def test_moments_months_and_years_can_be_the_event_day(
    tmp_path: Path, cell: Callable[[int], object], format_: str, first: date
) -> None:
    path = write(tmp_path / "history.csv", rows(day=cell))
    made = drafted(path)
    assert made.product.source.columns["day"].format in (format_, (format_,))
    assert made.first == first
    assert len(read_back(made.product, [path], tmp_path / "landing")) == 40


def test_files_of_one_header_are_one_history_and_others_are_refused(tmp_path: Path) -> None:
    lines = rows().splitlines(keepends=True)
    first = write(tmp_path / "2023.csv", "".join(lines[:21]))
    second = write(tmp_path / "2024.csv", "".join([lines[0], *lines[21:]]))
    made = drafted(first, second)
    assert len(read_back(made.product, [first, second], tmp_path / "landing")) == 40
    other = write(tmp_path / "other.csv", "".join(lines).replace("amount", "price"))
    with pytest.raises(FirstLookError, match="is not that of"):
        drafted(first, other)


def test_a_contract_of_many_columns_stays_within_its_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {f"column_{n:04}": (lambda n: "web" if n % 2 else "") for n in range(200)}
    path = write(tmp_path / "history.csv", rows(9, **wide))
    whole = drafted(path)
    assert "4 of 9 are empty" not in whole.text
    assert "5 of 9 are empty" in whole.text
    monkeypatch.setattr(contract_text, "MAXIMUM_BYTES", len(whole.text.encode()) - 1)
    brief = drafted(path)
    assert "5 of 9 are empty" not in brief.text
    assert brief.product.source.columns["column_0007"] == whole.product.source.columns["column_0007"]
    monkeypatch.setattr(contract_text, "MAXIMUM_BYTES", 2000)
    with pytest.raises(FirstLookError, match="more than 2,000 bytes"):
        drafted(path)


def test_more_columns_than_a_contract_can_have_are_refused(tmp_path: Path) -> None:
    wide = {f"c{n}": (lambda n: "") for n in range(2001)}
    with pytest.raises(FirstLookError, match="at most 2,000"):
        drafted(write(tmp_path / "history.csv", rows(2, **wide)))
