"""A history split into daily deliveries: what lies where, that values stay texts, and what is refused."""

from __future__ import annotations

import csv
import gzip
import os
import random
import tracemalloc
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.data_engineering import splitting
from ml_platform.data_engineering.splitting import SplitError, SplitSummary, split_history

HEADER = "id,day,who,amount,bought"


def product(**source: Any) -> Product:
    day = source.pop("day", {"type": "date"})
    return parse_product(
        {
            "name": "shop",
            "description": "Does a visitor buy?",
            "start": "2024-01-01",
            "end": "2024-12-31",
            "source": {
                "key": ["id"],
                "event_day": "day",
                "label": "bought",
                "columns": {
                    "id": {"type": "long"},
                    "day": day,
                    "who": {"type": "string"},
                    "amount": {"type": "double"},
                    "bought": {"type": "integer", "allowed": [0, 1], "nullable": True},
                },
                **source,
            },
            "mrds": {"entity": ["who"], "aggregate": {"amount": "sum", "bought": "max"}},
            "model": {
                "features": {"numeric": ["amount"]},
                "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
            },
            "evaluation": {"threshold": 0.5},
        },
        "shop.yaml",
    )


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def delivered(landing: Path) -> dict[str, str]:
    """Everything in the landing folder, hidden files too."""
    return {
        str(path.relative_to(landing)): path.read_bytes().decode(errors="surrogateescape")
        for path in sorted(landing.rglob("*"))
        if path.is_file()
    }


def test_rows_and_labels_lie_in_their_days_as_they_would_have_arrived(tmp_path: Path) -> None:
    history = write(
        tmp_path / "history.csv",
        HEADER,
        "1,2024-01-01,ann,007.50,1",
        "2,2024-01-02,bob,1e3,",
        "3,2024-01-01,bob,NaN,0",
    )
    progress: list[int] = []

    summary = split_history(product(), [history], tmp_path / "landing", progress=progress.append)

    assert summary == SplitSummary(days=2, rows=3, labels=2, first=date(2024, 1, 1), last=date(2024, 1, 2))
    assert delivered(tmp_path / "landing") == {
        "shop/2024-01-01/2024-01-02T0600_history.csv": (
            "id,day,who,amount\n1,2024-01-01,ann,007.50\n3,2024-01-01,bob,NaN\n"
        ),
        "shop/2024-01-01/2024-01-03T0600_labels.csv": "id,day,bought\n1,2024-01-01,1\n3,2024-01-01,0\n",
        "shop/2024-01-02/2024-01-03T0600_history.csv": "id,day,who,amount\n2,2024-01-02,bob,1e3\n",
    }
    assert progress[-1] == 3


def test_labels_may_stay_with_their_rows(tmp_path: Path) -> None:
    history = write(tmp_path / "history.csv", HEADER, "1,2024-01-01,ann,7,1")

    summary = split_history(product(), [history], tmp_path / "landing", labels_apart=False)

    assert summary.labels == 1
    assert delivered(tmp_path / "landing") == {
        "shop/2024-01-01/2024-01-02T0600_history.csv": f"{HEADER}\n1,2024-01-01,ann,7,1\n"
    }


def test_the_label_column_may_be_absent(tmp_path: Path) -> None:
    history = write(tmp_path / "history.csv", "day,id,amount,who", "2024-01-01,1,7,ann")

    assert split_history(product(), [history], tmp_path / "landing").labels == 0
    assert delivered(tmp_path / "landing") == {
        "shop/2024-01-01/2024-01-02T0600_history.csv": "day,id,amount,who\n2024-01-01,1,7,ann\n"
    }


def test_labels_may_come_as_a_history_of_their_own(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.csv", "id,day,who,amount", "1,2024-01-01,ann,7")
    labels = write(tmp_path / "bought.csv", "bought,id,day", "1,1,2024-01-01", "0,9")

    with pytest.raises(SplitError, match="line 3: day: the line ends before it"):
        split_history(product(), [rows, labels], tmp_path / "landing")
    write(labels, "bought,id,day", "1,1,2024-01-01", "0,2,2024-01-01,?")
    summary = split_history(product(), [rows, labels], tmp_path / "landing")

    assert (summary.rows, summary.labels) == (1, 1)
    assert delivered(tmp_path / "landing")["shop/2024-01-01/2024-01-03T0600_labels.csv"] == (
        "id,day,bought\n1,2024-01-01,1\n0,2,2024-01-01,?\n"
    )


def test_labels_are_dated_by_the_contracts_delay(tmp_path: Path) -> None:
    history = write(tmp_path / "history.csv", HEADER, "1,2024-02-28,ann,7,1")

    split_history(product(label_delay_days=14), [history], tmp_path / "landing")

    assert list(delivered(tmp_path / "landing")) == [
        "shop/2024-02-28/2024-02-29T0600_history.csv",
        "shop/2024-02-28/2024-03-14T0600_labels.csv",
    ]


def test_delimiter_date_format_and_null_values_are_the_contracts(tmp_path: Path) -> None:
    contract = product(
        delimiter=";",
        decimal=",",
        null_values=["", "-"],
        day={"type": "date", "format": "%d.%m.%Y"},
    )
    history = write(
        tmp_path / "history.csv",
        HEADER.replace(",", ";"),
        "1;31.01.2024;ann;7,5;-",
        "2;31.01.2024;ann;7,5;0",
    )

    assert split_history(contract, [history], tmp_path / "landing").labels == 1
    assert delivered(tmp_path / "landing") == {
        "shop/2024-01-31/2024-02-01T0600_history.csv": (
            "id;day;who;amount\n1;31.01.2024;ann;7,5\n2;31.01.2024;ann;7,5\n"
        ),
        "shop/2024-01-31/2024-02-02T0600_labels.csv": "id;day;bought\n2;31.01.2024;0\n",
    }


@pytest.mark.parametrize("name", ["history.csv.gz", "history.gz", "history.csv"])
def test_gzip_is_recognized_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(f"{HEADER}\n1,2024-01-01,ann,7,1\n".encode()))

    split_history(product(), [tmp_path / name], tmp_path / "landing", labels_apart=False)

    assert delivered(tmp_path / "landing") == {
        "shop/2024-01-01/2024-01-02T0600_history.csv": f"{HEADER}\n1,2024-01-01,ann,7,1\n"
    }


def test_every_value_can_be_read_back_as_it_was(tmp_path: Path) -> None:
    values = ['a "b"', "a,b", "a\nb", "a\r\nb", "a\rb", " a ", "ä\u2028é", "", "'", "\t"]
    with (tmp_path / "history.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(HEADER.split(","))
        writer.writerows([n, "2024-01-01", value, "1", "1"] for n, value in enumerate(values))

    split_history(product(), [tmp_path / "history.csv"], tmp_path / "landing")

    target = tmp_path / "landing/shop/2024-01-01/2024-01-02T0600_history.csv"
    with target.open(newline="", encoding="utf-8") as file:
        assert [row["who"] for row in csv.DictReader(file)] == values


def test_crlf_empty_lines_and_bytes_that_are_no_utf_8_pass_through(tmp_path: Path) -> None:
    lines = [HEADER.encode(), b"1,2024-01-01,ann,7,1", b"", b"2,2024-01-01,J\xfcrgen,7,"]
    (tmp_path / "history.csv").write_bytes(b"\r\n".join(lines) + b"\r\n")

    split_history(product(), [tmp_path / "history.csv"], tmp_path / "landing")

    target = tmp_path / "landing/shop/2024-01-01/2024-01-02T0600_history.csv"
    assert target.read_bytes() == b"id,day,who,amount\n1,2024-01-01,ann,7\n2,2024-01-01,J\xfcrgen,7\n"


def test_a_row_with_a_wrong_number_of_fields_stays_one(tmp_path: Path) -> None:
    history = write(
        tmp_path / "history.csv",
        HEADER,
        "1,2024-01-01,ann,7,1,x",
        "2,2024-01-01,ann,7",
        "3,2024-01-01,ann",
    )

    summary = split_history(product(), [history], tmp_path / "landing")

    assert (summary.rows, summary.labels) == (3, 0)
    [text] = delivered(tmp_path / "landing").values()
    header, *rows = csv.reader(text.splitlines())
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert all(len(row) != len(header) for row in rows)


def test_an_unordered_history_of_many_days_takes_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splitting, "BUFFERED_CHARACTERS", 100_000)
    expected: dict[str, list[str]] = {}
    for n in range(12_000):
        day = (date(2024, 1, 1) + timedelta(days=n % 366)).isoformat()
        expected.setdefault(day, []).append(f"{n},{day},{'visitor ' * 40},{n},{n % 2}")
    rows = [row for of_day in expected.values() for row in of_day]
    random.Random(1).shuffle(rows)
    history = write(tmp_path / "history.csv", HEADER, *rows)

    def peak_of(landing: str) -> int:
        tracemalloc.start()
        try:
            split_history(product(), [history], tmp_path / landing, labels_apart=False)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Python's table of names, which may grow by megabytes once, is not what is measured.
    peak = min(peak_of("first"), peak_of("landing"))

    found = {name.split("/")[1]: text for name, text in delivered(tmp_path / "landing").items()}
    assert {day: sorted(text.splitlines()) for day, text in found.items()} == {
        day: sorted([HEADER, *of_day]) for day, of_day in expected.items()
    }
    assert peak < history.stat().st_size / 3


def test_several_files_become_several_files_a_day_with_their_labels_together(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", HEADER, "1,2024-01-01,ann,7,1")
    two = write(tmp_path / "two.csv", "bought,who,day,id,amount", "0,bob,2024-01-01,2,8")

    split_history(product(), [one, two], tmp_path / "landing")

    assert delivered(tmp_path / "landing") == {
        "shop/2024-01-01/2024-01-02T0600_one.csv": "id,day,who,amount\n1,2024-01-01,ann,7\n",
        "shop/2024-01-01/2024-01-02T0600_two.csv": "who,day,id,amount\nbob,2024-01-01,2,8\n",
        "shop/2024-01-01/2024-01-03T0600_labels.csv": "id,day,bought\n1,2024-01-01,1\n2,2024-01-01,0\n",
    }


def test_splitting_again_changes_nothing(tmp_path: Path) -> None:
    history = write(tmp_path / "history.csv", HEADER, "1,2024-01-01,ann,7,1", "2,2024-01-02,ann,7,1")
    landing = tmp_path / "landing"
    split_history(product(), [history], landing)
    (landing / "shop/2024-01-02/2024-01-03T0600_history.csv").unlink()
    before = {path: path.stat().st_mtime_ns for path in landing.rglob("*.csv")}

    split_history(product(), [history], landing)

    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (landing / "shop/2024-01-02/2024-01-03T0600_history.csv").exists()


def test_a_delivery_with_other_content_is_not_overwritten(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    history = write(tmp_path / "history.csv", HEADER, "1,2024-01-02,ann,7,")
    split_history(product(), [history], landing)
    before = delivered(landing)

    write(history, HEADER, "1,2024-01-01,ann,7,", "1,2024-01-02,ann,8,")
    with pytest.raises(SplitError, match=r"2024-01-03T0600_history.csv exists already.*delete") as error:
        split_history(product(), [history], landing)

    assert str(landing / "shop/2024-01-02") in str(error.value)
    assert delivered(landing) == before
    assert not (landing / "shop/2024-01-01").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER.replace(",amount", "")], "history.csv: missing columns: amount"),
        ([HEADER + ",extra"], "history.csv: unexpected columns: extra"),
        ([HEADER.replace(",", ";")], "history.csv: no column of the contract is in the first line"),
        ([], "history.csv: the file is empty"),
        ([HEADER], "no rows in .*history.csv"),
        ([HEADER, "1,2024-01-01,ann,7,1", "2,20240102,ann,7,1"], "history.csv, line 3: day: '20240102'"),
        ([HEADER, '1,2024-01-01,"a', 'b",7,1', "2,,ann,7,1"], "history.csv, line 4: day: '' is no date"),
        ([HEADER, "1,2023-12-31,ann,7,1"], "line 2: day: '2023-12-31' is outside the contract's days"),
        ([HEADER, "1,2025-01-01,ann,7,1"], "line 2: day: '2025-01-01' is outside the contract's days"),
        ([HEADER, "1"], "line 2: day: the line ends before it"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_refused_and_leaves_nothing(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    history = write(tmp_path / "history.csv", *lines)

    with pytest.raises(SplitError, match=message):
        split_history(product(), [history], tmp_path / "landing")

    assert list((tmp_path / "landing").iterdir()) == []


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.csv").write_bytes(gzip.compress(f"{HEADER}\n1,2024-01-01,ann,7,1\n".encode())[:-9])

    for name in ("cut.csv", "absent.csv"):
        with pytest.raises(SplitError, match=f"{name}: can't be read"):
            split_history(product(), [tmp_path / name], tmp_path / "landing")
    assert list((tmp_path / "landing").iterdir()) == []


def test_files_that_would_become_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    one = write(tmp_path / "h.csv", HEADER, "1,2024-01-01,ann,7,1")
    other = write(tmp_path / "old" / "h.csv", HEADER, "2,2024-01-01,ann,7,1")
    labels = write(tmp_path / "labels.csv", HEADER, "2,2024-01-01,ann,7,1")

    with pytest.raises(SplitError, match=r"would both become h\.csv"):
        split_history(product(), [one, other], tmp_path / "landing")
    with pytest.raises(SplitError, match="the name of the label files; rename it"):
        split_history(product(label_delay_days=0), [labels], tmp_path / "landing")


def test_a_name_that_is_not_utf_8_or_not_printable_is_shown_escaped(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.csv"))
    write(odd, HEADER, "1,2024-01-01,ann,7,1")
    with pytest.raises(SplitError) as error:
        split_history(product(), [odd], tmp_path / "landing")
    assert str(error.value) == f"{tmp_path}/caf\\xe9.csv: its name is not UTF-8; rename it"
    with pytest.raises(SplitError) as error:
        split_history(product(), [write(tmp_path / "a\nb.csv", "who")], tmp_path / "landing")
    assert "/a\\nb.csv: " in str(error.value)
    assert str(error.value).isprintable()
