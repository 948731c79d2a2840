"""Every record of a file is typed or blamed, by its line and text, whichever way the file is read."""

from __future__ import annotations

import csv
import gzip
import random
import sys
import weakref
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ml_platform.contract.product import Product
from ml_platform.data_engineering import fast_reader, limits
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.parsing import UnreadableFile, locate, parse_file, read_header
from ml_platform_tests.small_platform import D, shop

DAY = D("2024-01-01")
HEADER = "visit,day,customer,spend,pages,channel\n"


def delivered(path: Path, product: Product) -> DeliveryFile:
    header = read_header(str(path), product.source)
    return DeliveryFile(
        day=DAY,
        path=str(path),
        name=path.name,
        number=0,
        labels_only=frozenset(header) == product.label_file_columns,
        header=header,
        known_on=D("2024-01-03"),
    )


def parse(
    folder: Path, text: str | bytes, product: Product | None = None, name: str = "a.csv"
) -> list[dict[str, Any]]:
    product = product or shop()
    path = folder / name
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return [row for batch in parse_file(delivered(path, product), product) for row in batch.to_pylist()]


def reasons(rows: list[dict[str, Any]]) -> dict[int, str]:
    return {row["_line"]: row["_reason"] for row in rows if row["_kind"] == "bad"}


def test_a_clean_file_is_typed(tmp_path: Path) -> None:
    rows = parse(tmp_path, HEADER + "7,2024-01-01,ann,1.5,3,web\n8,2024-01-01,bob,,4,\n")
    assert [row["_kind"] for row in rows] == ["row", "row"]
    assert [row["_record"] for row in rows] == [0, 1]
    first, second = rows
    assert (first["visit"], first["day"], first["customer"]) == (7, DAY, "ann")
    assert (first["spend"], first["pages"], first["channel"]) == (1.5, 3, "web")
    assert (second["spend"], second["channel"]) == (None, "other")  # fill_null
    assert first["bought"] is None
    assert first["label_known_on"] is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x,2024-01-01,ann,1,3,web", "unparseable value in visit: 'x' is not a long"),
        ("0x1F,2024-01-01,ann,1,3,web", "unparseable value in visit: '0x1F' is not a long"),
        (
            "1.5,2024-01-01,ann,1,3,web",
            "unparseable value in visit: '1.5' is not a long (`type: double`",
        ),
        ("99999999999999999999,2024-01-01,ann,1,3,web", "unparseable value in visit: '99999999999999999999'"),
        ("1,2024-01-01,ann,1,3000000000,web", "unparseable value in pages: '3000000000' is not an integer"),
        ("1,2024-01-01,ann,1;5,3,web", "unparseable value in spend: '1;5' is not a double"),
        ("1,2024-01-01,ann,nan,3,web", "unparseable value in spend: 'nan' is not a double"),
        ("1,2024-01-01,ann,inf,3,web", "unparseable value in spend: 'inf' is not a double"),
        ("1,2024-02-30,ann,1,3,web", "unparseable value in day: '2024-02-30' is not a date"),
        ("1,2024-01-01x,ann,1,3,web", "unparseable value in day: '2024-01-01x' is not a date"),
        ("1,2024-01-02,ann,1,3,web", "date outside the delivery's day: 2024-01-02"),
        (",2024-01-01,ann,1,3,web", "key missing: visit"),
        ("1,,ann,1,3,web", "key missing: day"),
        ("1,2024-01-01,,1,3,web", "missing required value in customer"),
        ("1,2024-01-01,ann,1,3,tv", "value not allowed in channel: 'tv'"),
        ("1,2024-01-01,ann,1,3", "wrong number of fields: 5, expected 6"),
        ("1,2024-01-01,ann,1,3,web,9", "wrong number of fields: 7, expected 6"),
        (
            "x,2024-01-01,,1,3,web",
            "unparseable value in visit: 'x' is not a long; missing required value in customer (`nullable",
        ),
    ],
)
def test_what_cannot_be_used_is_blamed_with_line_and_text(tmp_path: Path, line: str, reason: str) -> None:
    good = "2,2024-01-01,bob,1,3,web\n"
    rows = parse(tmp_path, HEADER + good + line + "\n" + good)
    assert [row["_kind"] for row in rows] == ["row", "bad", "row"]
    bad = rows[1]
    assert bad["_reason"].startswith(reason)
    assert (bad["_line"], bad["_raw"], bad["_file"]) == (3, line, "a.csv")


def test_lines_are_right_after_embedded_newlines_and_blank_lines(tmp_path: Path) -> None:
    text = HEADER + '1,2024-01-01,"ann\nof ""York"", UK",1,3,web\n\n2,2024-01-01,bob,x,3,web\n'
    rows = parse(tmp_path, text)
    assert rows[0]["customer"] == 'ann\nof "York", UK'
    assert rows[0]["_kind"] == "row"
    assert list(reasons(rows)) == [5]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("broken", [False, True])
def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path, name: str, broken: bool) -> None:
    text = HEADER + "1,2024-01-01,jürgen,1,3,web\n" + ("x,,,,,\n" if broken else "")
    rows = parse(tmp_path, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), name=name)
    assert rows[0]["visit"] == 1
    assert rows[0]["customer"] == "jürgen"
    assert [row["_line"] for row in rows if row["_kind"] == "bad"] == ([3] if broken else [])
    if broken:
        assert rows[1]["_raw"] == "x,,,,,"


def test_invalid_encoding_is_blamed_on_its_record_alone(tmp_path: Path) -> None:
    rows = parse(
        tmp_path,
        (HEADER + "1,2024-01-01,J\udcfcrgen,1,3,web\n2,2024-01-01,bob,1,3,web\n").encode(
            "utf-8", "surrogateescape"
        ),
    )
    assert reasons(rows) == {
        2: "invalid encoding: it is not utf-8 (`encoding` may be windows-1252 or latin-1)"
    }
    assert rows[0]["_raw"] == "1,2024-01-01,J\\xfcrgen,1,3,web"
    assert rows[1]["customer"] == "bob"


def test_invalid_bytes_in_a_record_of_another_width_raise_nothing_beside_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    good = "1,2024-01-01,ann,1,3,web\n"
    found = reasons(
        parse(tmp_path, (HEADER + good + "2,J\udcfcrgen\n" + good).encode("utf-8", "surrogateescape"))
    )
    assert list(found) == [3]
    assert found[3].startswith("invalid encoding")
    assert unraisable == []


def test_a_quote_that_is_never_closed_costs_one_line(tmp_path: Path) -> None:
    good = [f"{n},2024-01-01,c{n},1,3,web\n" for n in range(5)]
    rows = parse(tmp_path, HEADER + good[0] + '9,2024-01-01,"ann,1,3,web\n' + "".join(good[1:]))
    assert reasons(rows) == {3: "quote opened and never closed"}
    assert [row["visit"] for row in rows if row["_kind"] == "row"] == [0, 1, 2, 3, 4]


def test_decimal_commas_dates_and_times_are_read_as_the_contract_says(tmp_path: Path) -> None:
    columns = {
        "visit": {"type": "long"},
        "day": {"type": "date", "format": "%d.%m.%Y"},
        "customer": {"type": "string"},
        "spend": {"type": "double"},
        "pages": {"type": "integer"},
        "channel": {"type": "string"},
        "at": {"type": "timestamp", "nullable": True},
        "new": {"type": "boolean", "nullable": True},
        "bought": {"type": "integer", "nullable": True},
    }
    product = shop(
        source__columns=columns, source__delimiter=";", source__decimal=",", source__null_values=["", "NULL"]
    )
    header = "visit;day;customer;spend;pages;channel;at;new\n"
    rows = parse(
        tmp_path,
        header
        + "1;01.01.2024;ann;1,5;3;web;2024-01-01T10:00:00+02:00;TRUE\n"
        + "2;1.1.2024;bob;2;3;web;NULL;0\n"
        + "3;01.01.2024;eve;1.234,5;3;web;noon;maybe\n",
        product,
    )
    assert [row["_kind"] for row in rows] == ["row", "row", "bad"]
    assert (rows[0]["spend"], rows[0]["day"], rows[0]["new"]) == (1.5, DAY, True)
    assert rows[0]["at"] == datetime(2024, 1, 1, 8, tzinfo=UTC)
    assert (rows[1]["at"], rows[1]["new"], rows[1]["day"]) == (None, False, DAY)
    for part in ("'1.234,5' is not a double", "'noon' is not a timestamp", "'maybe' is not a boolean"):
        assert part in rows[2]["_reason"]


def test_a_control_character_may_be_the_delimiter(tmp_path: Path) -> None:
    product = shop(source__delimiter="\x01")
    rows = parse(tmp_path, (HEADER + "1,2024-01-01,ann,1,3,web\n").replace(",", "\x01"), product)
    assert rows[0]["visit"] == 1


def test_a_label_file_brings_labels_known_since_its_delivery(tmp_path: Path) -> None:
    rows = parse(tmp_path, "visit,day,bought\n1,2024-01-01,1\n2,2024-01-01,\n3,2024-01-01,2\n")
    assert [row["_kind"] for row in rows] == ["label", "pending", "bad"]
    assert (rows[0]["bought"], rows[0]["label_known_on"]) == (1, D("2024-01-03"))
    assert reasons(rows) == {4: "value not allowed in bought: '2'"}


@pytest.mark.parametrize("header", ["visit,day,bought\n", HEADER.strip() + ",bought\n"])
def test_a_label_is_0_or_1_also_where_the_contract_does_not_say_so(tmp_path: Path, header: str) -> None:
    columns = {name: one.model_dump(exclude_none=True) for name, one in shop().source.columns.items()}
    columns["bought"] = {"type": "long", "nullable": True}
    product = shop(source__columns=columns)
    filling = "" if header.count(",") == 2 else "ann,1,1,web,"
    lines = [f"{n},2024-01-01,{filling}{label}\n" for n, label in enumerate(["0", "1", "2", "-1"])]
    rows = parse(tmp_path, header + "".join(lines), product)
    assert [row["_kind"] == "bad" for row in rows] == [False, False, True, True]
    assert reasons(rows) == {4: "value not allowed in bought: '2'", 5: "value not allowed in bought: '-1'"}


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_nul_in_a_text_is_blamed(tmp_path: Path, quote: str) -> None:
    rows = parse(
        tmp_path,
        NOTES + note(1, "bob") + note(2, f"{quote}a\0b{quote}") + note(3, "eve"),
    )
    assert reasons(rows) == {3: "unparseable value in customer: 'a\\x00b' is not a string"}
    assert [row["visit"] for row in rows if row["_kind"] == "row"] == [1, 3]


def test_a_header_alone_gives_nothing(tmp_path: Path) -> None:
    assert parse(tmp_path, HEADER) == []
    assert parse(tmp_path, HEADER.strip()) == []


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "a.csv", "empty"),
        (b"\n\n", "a.csv", "empty"),
        (b"\x1f\x8bplain", "a.csv.gz", "can.t be read to its end"),
        (b"\xff,b\n", "a.csv", "`encoding` may be windows-1252"),
        (b"\xff\xfe,b\n", "a.csv", "can't be read to its end"),
    ],
)
def test_a_file_without_a_readable_header_is_refused(
    tmp_path: Path, content: bytes, name: str, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=reason):
        read_header(str(path), shop().source)


def test_a_truncated_archive_ends_as_unreadable(tmp_path: Path) -> None:
    product = shop()
    path = tmp_path / "a.csv.gz"
    text = HEADER + "".join(f"{n},2024-01-01,c{n * 7919},1,3,web\n" for n in range(5000))
    path.write_bytes(gzip.compress(text.encode())[:-200])
    rows = [row for batch in parse_file(delivered(path, product), product) for row in batch.to_pylist()]
    assert rows[-1]["_kind"] == "unreadable"
    assert "a.csv.gz: can't be read to its end" in rows[-1]["_reason"]


def test_a_problem_in_a_late_block_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(limits, "BATCH_RECORDS", 70)
    lines = [f"{n},2024-01-01,c{n},{n}.5,3,web" for n in range(500)]
    lines[430] = "430,2024-01-01,c430,x,3,web"
    rows = parse(tmp_path, HEADER + "\n".join(lines) + "\n")
    assert [row["_record"] for row in rows] == list(range(500))
    assert [row["visit"] for row in rows if row["_kind"] == "row"] == [n for n in range(500) if n != 430]
    assert list(reasons(rows)) == [432]


def test_both_ways_of_reading_give_the_same_values(tmp_path: Path) -> None:
    draw = random.Random(5)
    lines = []
    for n in range(300):
        name = draw.choice(["ann", '"b,o\nb"', '"q""q"', " eve ", "zoë", '""x'])
        spend = draw.choice(["1", " 2.50 ", "1e3", "", "-0.0"])
        lines.append(f"{n},2024-01-01,{name},{spend},{n % 7},{draw.choice(['web', 'app', ''])}")
    clean = parse(tmp_path, HEADER + "\n".join(lines) + "\n")
    mixed = parse(tmp_path, HEADER + "\n".join([*lines, "bad"]) + "\n", name="b.csv")
    assert len(clean) == 300
    assert mixed[-1]["_kind"] == "bad"
    ignored = {"_file"}
    assert [{k: v for k, v in row.items() if k not in ignored} for row in clean] == [
        {k: v for k, v in row.items() if k not in ignored} for row in mixed[:-1]
    ]


def test_a_file_of_records_of_another_width_is_blamed_line_by_line(tmp_path: Path) -> None:
    found = reasons(parse(tmp_path, HEADER + "1\n\n1,2\n"))
    assert found == {
        2: "wrong number of fields: 1, expected 6",
        4: "wrong number of fields: 2, expected 6",
    }


def test_chosen_records_are_located(tmp_path: Path) -> None:
    product = shop()
    path = tmp_path / "labels.csv"
    path.write_text('visit,day,bought\n1,2024-01-01,1\n\n"2",2024-01-01,0\n3,2024-01-01,1\n')
    found = list(locate(delivered(path, product), product, {1, 2}))
    assert found == [(1, 4, '"2",2024-01-01,0'), (2, 5, "3,2024-01-01,1")]


@pytest.mark.parametrize("seed", range(6))
def test_no_record_is_lost_whatever_is_broken(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    product = shop()
    records, broken = [], 0
    for n in range(400):
        fields = [str(n), "2024-01-01", f"c{n}", "1.5", "3", "web"]
        if draw.random() < 0.1:
            broken += 1
            match draw.randrange(4):
                case 0:
                    fields[3] = "many"
                case 1:
                    fields.append("more")
                case 2:
                    fields[1] = "2023-12-31"
                case _:
                    fields[2] = ""
        records.append(fields)
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        stream.write(HEADER)
        csv.writer(stream, lineterminator="\r\n").writerows(records)
    batches = list(parse_file(delivered(path, product), product))
    rows = pa.Table.from_batches(batches).to_pylist()
    assert len(rows) == 400
    assert sum(row["_kind"] == "bad" for row in rows) == broken
    lines = path.read_text().splitlines()
    assert all(lines[row["_line"] - 1] == row["_raw"] for row in rows if row["_kind"] == "bad")


def test_dates_before_1970_and_far_ahead_are_dates(tmp_path: Path) -> None:
    product = shop(
        source__columns={
            **{name: column.model_dump(exclude_none=True) for name, column in shop().source.columns.items()},
            "born": {"type": "date"},
        }
    )
    rows = parse(tmp_path, HEADER.strip() + ",born\n1,2024-01-01,ann,1,3,web,1904-02-29\n", product)
    assert rows[0]["born"] == date(1904, 2, 29)


# -- what the two ways of reading could see differently: free text in the last column shows it ----------

NOTES = "visit,day,channel,spend,pages,customer\n"


def note(n: int, text: str) -> str:
    return f"{n},2024-01-01,web,1,3,{text}\n"


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("after", "visits"), [("\n" + note(2, "bob") + note(3, "eve"), [0, 2, 3]), ("\n", [0]), ("", [0])]
)
def test_a_quote_left_open_in_the_last_column_swallows_nothing(
    tmp_path: Path, name: str, after: str, visits: list[int]
) -> None:
    rows = parse(tmp_path, NOTES + note(0, "ann") + '1,2024-01-01,web,1,3,"ann' + after, name=name)
    assert reasons(rows) == {3: "quote opened and never closed"}
    assert [row["visit"] for row in rows if row["_kind"] == "row"] == visits


def test_a_quoted_field_that_ends_the_file_with_a_newline_is_a_value(tmp_path: Path) -> None:
    rows = parse(tmp_path, NOTES + note(0, '"ann\n"') + note(1, '"bob\r\n"').rstrip())
    assert [(row["_kind"], row["customer"]) for row in rows] == [("row", "ann\n"), ("row", "bob\r\n")]


@pytest.mark.parametrize("later", ["", "bad\n"])
def test_a_quote_over_too_many_lines_is_never_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: str
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", 100_000)
    allowed, too_long = '"' + "x\n" * 999 + '"', '"' + "x\n" * 1000 + '"'
    many = "".join(note(n, "bob") for n in range(5, 5005))
    rows = parse(tmp_path, NOTES + note(0, allowed) + note(1, too_long) + many + later)
    assert rows[0]["customer"] == "x\n" * 999
    assert [row["visit"] for row in rows if row["_kind"] == "row"] == [0, *range(5, 5005)]
    # Lines 2 to 1001 are the first record, 1002 opens the quote, 1003 to 2001 stand alone, 2002 has a quote.
    found = reasons(rows)
    assert found[1002] == found[2002] == "quote opened and never closed"
    assert {found[line] for line in range(1003, 2002)} == {"wrong number of fields: 1, expected 6"}
    assert len(found) == 1001 + bool(later)
    assert [row["_record"] for row in rows] == list(range(len(rows)))


@pytest.mark.parametrize("later", ["", "bad\n"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_long_line_is_no_open_quote(tmp_path: Path, later: str, quote: str) -> None:
    long = "x" * (2 << 20)
    rows = parse(tmp_path, NOTES + note(0, quote + long + quote) + later)
    assert (rows[0]["_kind"], rows[0]["customer"]) == ("row", long)
    assert len(rows) == 1 + bool(later)


@pytest.mark.parametrize("size", range(60, 130))
def test_quoted_line_breaks_survive_wherever_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", size)
    texts = [f"{n}\r\nb\nc\rd" for n in range(20)]
    rows = parse(tmp_path, NOTES + "".join(note(n, f'"{text}"') for n, text in enumerate(texts)))
    assert [row["customer"] for row in rows] == texts


@pytest.mark.parametrize("unread", ["\0", '"\0"', '"\0,\n"'])
@pytest.mark.parametrize("size", [200, 300, 600])
def test_fields_are_told_apart_behind_a_nul_wherever_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, unread: str
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", size)
    texts = [
        f"{n}\nof two lines, of which this is a long one, as in a letter of complaint" for n in range(20)
    ]
    lines = [f"{unread}," + note(n, f'"{text}"') for n, text in enumerate(texts)]
    rows = parse(tmp_path, f"unread,{NOTES}{''.join(lines)}", shop(source__extra_columns="ignore"))
    assert [(row["_kind"], row["customer"]) for row in rows] == [("row", text) for text in texts]


@pytest.mark.parametrize("place", [0, 15])
def test_what_only_the_exact_tokenizer_can_read_is_not_raised_in_arrows_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    raised: list[BaseException] = []
    read = fast_reader._StreamForArrow.read

    def watched(stream: fast_reader._StreamForArrow, size: int) -> bytes:
        try:
            return read(stream, size)
        except BaseException as error:
            raised.append(error)
            raise

    monkeypatch.setattr(fast_reader._StreamForArrow, "read", watched)
    monkeypatch.setattr(limits, "BLOCK_BYTES", 120)
    lines = [note(n, "a\0b" if n == place else "ann") for n in range(20)]
    rows = parse(tmp_path, NOTES + "".join(lines))
    assert [row["visit"] for row in rows if row["_kind"] == "bad"] == [place]
    assert len(rows) == 20
    assert raised == []


@pytest.mark.parametrize("text", ["ann", "a\0b"])
def test_arrows_reader_outlives_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    readers: list[weakref.ref[Any]] = []
    make = fast_reader.arrow_csv.open_csv

    def watched(*args: Any, **options: Any) -> Any:
        reader = make(*args, **options)
        readers.append(weakref.ref(reader))
        return reader

    monkeypatch.setattr(fast_reader.arrow_csv, "open_csv", watched)
    monkeypatch.setattr(limits, "BLOCK_BYTES", 120)
    content = NOTES + "".join(note(n, text if n == 15 else "ann") for n in range(20))
    for _ in range(4):
        assert len(parse(tmp_path, content)) == 20
    assert [reader() is not None for reader in readers] == [False, False, True, True]


def test_a_delimiter_may_be_any_character(tmp_path: Path) -> None:
    rows = parse(tmp_path, (NOTES + note(1, "ann")).replace(",", "§"), shop(source__delimiter="§"))
    assert (rows[0]["visit"], rows[0]["customer"]) == (1, "ann")


def test_moments_beyond_the_calendar_are_blamed(tmp_path: Path) -> None:
    columns = {name: one.model_dump(exclude_none=True) for name, one in shop().source.columns.items()}
    moment = {"type": "timestamp", "nullable": True}
    product = shop(source__columns={**columns, "at": moment, "born": {**moment, "type": "date"}})
    line = note(1, "ann").strip()
    header = NOTES.strip() + ",at,born\n"
    times = ["0001-01-01T00:00+02:00", "9999-12-31T23:00-05:00"]
    rows = parse(
        tmp_path, header + "".join(f"{line},{at},\n" for at in times) + f"{line},,0000-01-01\n", product
    )
    assert reasons(rows) == {
        2: f"unparseable value in at: '{times[0]}' is not a timestamp",
        3: f"unparseable value in at: '{times[1]}' is not a timestamp",
        4: "unparseable value in born: '0000-01-01' is not a date",
    }
    assert reasons(parse(tmp_path, HEADER + "1,0000-01-01,ann,1,3,web\n")) == {
        2: "unparseable value in day: '0000-01-01' is not a date"
    }


def test_exact_batches_are_small_when_records_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", 10_000)
    path = tmp_path / "a.csv"
    path.write_text(NOTES + "bad\n" + "".join(note(n, "x" * 1000) for n in range(100)))
    product = shop()
    batches = [batch.num_rows for batch in parse_file(delivered(path, product), product)]
    assert sum(batches) == 101
    assert max(batches) <= 11


@pytest.mark.parametrize("quotes", [True, False])
@pytest.mark.parametrize("seed", range(60))
def test_both_tokenizers_see_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, quotes: bool
) -> None:
    draw = random.Random(seed)
    texts = ["", "z", "é", "a b"]
    noise = [",", "\n", "\r\n", "\r", " ", "é", "\x00", ",,,"]
    if quotes:
        texts += ['"a,b"', '"l\nm"', '"l\r\nm"', '""', '"x""y"', ' "s"', 'mid"dle']
        noise += ['"', '""']
    share = draw.choice([0, 0.02, 0.2])
    text = NOTES
    for n in range(draw.randrange(60)):
        line = note(n, draw.choice(texts)).rstrip("\n")
        if draw.random() < share:
            place = draw.randrange(len(line) + 1)
            line = line[:place] + draw.choice(noise) + line[place:]
        text += line + draw.choice(["\n", "\n", "\r\n", "\n\n"])
    text = text if draw.random() < 0.7 else text.rstrip("\r\n")
    monkeypatch.setattr(limits, "BLOCK_BYTES", draw.choice([150, 1000, 8 << 20]))
    monkeypatch.setattr(limits, "BATCH_RECORDS", draw.choice([3, 7, 50_000]))
    monkeypatch.setattr(limits, "RECORD_LINES", draw.choice([3, 1000]))

    either = parse(tmp_path, text)

    def never_fast(*_: object) -> Any:
        raise pa.ArrowInvalid("not in this test")

    monkeypatch.setattr(fast_reader, "read_fast", never_fast)
    assert either == parse(tmp_path, text)
    if share == 0:
        # the csv module, on its own, over the whole text
        expected = [fields for fields in csv.reader(text.splitlines(keepends=True)) if fields][1:]
        assert [row["customer"] for row in either if row["_kind"] == "row"] == [
            fields[-1] for fields in expected if fields[-1]
        ]
        assert len(either) == len(expected)
