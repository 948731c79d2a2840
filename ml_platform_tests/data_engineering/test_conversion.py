"""What a text stands for, whichever program wrote it, and which key would accept what stands for nothing."""

from __future__ import annotations

import csv
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from ml_platform.contract.loading import ContractError
from ml_platform.contract.product import Product
from ml_platform.data_engineering import conversion
from ml_platform.data_engineering.splitting import SplitError, split_history
from ml_platform_tests.data_engineering.test_parsing import NOTES, note, parse, reasons
from ml_platform_tests.small_platform import D, shop

COLUMNS = {name: one.model_dump(exclude_none=True) for name, one in shop().source.columns.items()}


def contract(column: dict[str, Any], **source: Any) -> Product:
    """A product with a column ``x``."""
    changes = {f"source__{name}": value for name, value in source.items()}
    return shop(source__columns={**COLUMNS, "x": {"nullable": True, **column}}, **changes)


def read(text: str, column: dict[str, Any], **source: Any) -> Any:
    """The value of a text in a column; the reason if it is none."""
    product = contract(column, **{"delimiter": ";", **source})
    declared = product.source.columns["x"]
    value, none = conversion.cast(pa.array([text, text]), declared, product.source)
    assert none in ([], [0, 1])
    return conversion.hint(text, declared, product.source) if none else value[1].as_py()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        (" 7 ", 7),
        ("1.0", 1),
        ("-3.00", -3),
        ("0.000", 0),
        ("1E3", 1000),
        ("1.0E7", 10_000_000),
        ("12.50e1", 125),
        ("+5", 5),
        ("9007199254740993.0", 9_007_199_254_740_993),
        ("9223372036854775807.0", 2**63 - 1),
        ("1.5", "`type: double` would accept it"),
        ("0.1e-5", "`type: double` would accept it"),
        ("9223372036854775808.0", "`type: double` would accept it"),
        ("1e999999", ""),
        ("1,234", '`thousands: ","` would accept it'),
        ("1 234", '`thousands: " "` would accept it'),
        ("1.000", '`decimal: ",", thousands: "."` would accept it'),
        ("1,0", '`decimal: ","` would accept it'),
        ("NA", '`null_values: ["", "NA"]` would accept it'),
        ("0x1F", ""),
        ("1_0", ""),
        ("١", ""),
        ("--", '`null_values: ["", "--"]` would accept it'),
    ],
)
def test_an_integer_is_accepted_if_nothing_is_lost(text: str, value: Any) -> None:
    assert read(text, {"type": "long"}) == value


@pytest.mark.parametrize("type_", ["integer", "long"])
def test_integers_written_as_decimals_are_what_decimal_makes_of_them(type_: str) -> None:
    draw = random.Random(3)
    texts = []
    for _ in range(500):
        text = str(draw.choice([0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, draw.randrange(10**6)]))
        text = (
            draw.choice(["", "-"]) + text + draw.choice(["", ".0", ".00", ".5", "e0", "E2", ".50e1", "e-1"])
        )
        texts.append(text)
    product = contract({"type": type_})
    found, none = conversion.cast(pa.array(texts), product.source.columns["x"], product.source)
    bits = 31 if type_ == "integer" else 63
    for n, text in enumerate(texts):
        exact = Decimal(text)
        fits = exact == exact.to_integral_value() and -(2**bits) <= exact < 2**bits
        assert found[n].as_py() == (int(exact) if fits else None)
        assert (n in none) == (not fits)


@pytest.mark.parametrize(
    ("text", "source", "value"),
    [
        ("1,234.5", {"thousands": ","}, 1234.5),
        ("-1,234,567", {"thousands": ","}, -1234567.0),
        ("12.5", {"thousands": ","}, 12.5),
        ("1,23", {"thousands": ","}, '`decimal: ",", thousands: "."` would accept it'),
        ("1.234,5", {"thousands": ".", "decimal": ","}, 1234.5),
        ("1.234", {"thousands": ".", "decimal": ","}, 1234.0),
        (
            "1.2345",
            {"thousands": ".", "decimal": ","},
            '`decimal: ".", thousands: ","` would accept it',
        ),
        ("1 234", {"thousands": " "}, 1234.0),
        ("1\u202f234,5", {"thousands": " ", "decimal": ","}, 1234.5),
        ("1'234'567.5", {"thousands": "'"}, 1234567.5),
        ("1,5", {}, '`decimal: ","` would accept it'),
        ("NaN", {}, '`null_values: ["", "NaN"]` would accept it'),
        ("inf", {}, ""),
    ],
)
def test_digits_are_grouped_where_the_contract_says_so(text: str, source: dict[str, Any], value: Any) -> None:
    assert read(text, {"type": "double"}, **source) == value
    if isinstance(value, float) and value.is_integer():
        assert read(text, {"type": "long"}, **source) == value


@pytest.mark.parametrize(
    ("text", "column", "value"),
    [
        ("TRUE", {}, True),
        ("0", {}, False),
        ("1.0", {}, True),
        ("Y", {"true": ["yes", "Y"], "false": ["no", "N"]}, True),
        ("No", {"true": ["yes", "Y"], "false": ["no", "N"]}, False),
        ("1", {"true": ["yes", "Y"], "false": ["no", "N"]}, ""),
        ("1", {True: [1], False: [0]}, True),
        ("yes", {}, '`true: ["yes"], false: ["no"]` would accept it'),
        ("N", {}, '`true: ["Y"], false: ["N"]` would accept it'),
    ],
)
def test_booleans_are_the_words_of_the_contract(text: str, column: dict[Any, Any], value: Any) -> None:
    assert read(text, {"type": "boolean", **column}) == value


NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "type_", "format_", "value"),
    [
        ("2024-01-01T00:00:00.000Z", "date", None, date(2024, 1, 1)),  # as Spark writes a timestamp
        ("2024-01-01 00:00:00", "date", None, date(2024, 1, 1)),  # as pandas does
        ("2024-01-01 00:00:01", "date", None, "`type: timestamp` would accept it"),
        ("31.12.2023", "date", None, '`format: "%d.%m.%Y"` would accept it'),
        ("04/03/2024", "date", None, '`format: "%d/%m/%Y"` or `format: "%m/%d/%Y"` would accept it'),
        ("31.12.2023", "date", ["%d.%m.%Y", "iso"], date(2023, 12, 31)),
        ("2023-12-31", "date", ["%d.%m.%Y", "iso"], date(2023, 12, 31)),
        ("2023/12/31", "date", ["%d.%m.%Y"], '`format: ["%d.%m.%Y", "%Y/%m/%d"]` would accept it'),
        ("25/12/2023", "date", ["%d/%m/%Y", "%m/%d/%Y"], date(2023, 12, 25)),
        ("04/03/2024", "date", ["%d/%m/%Y", "%m/%d/%Y"], ""),
        ("03/03/2024", "date", ["%d/%m/%Y", "%m/%d/%Y"], date(2024, 3, 3)),
        ("1704067200", "timestamp", "epoch_seconds", NEW_YEAR),
        ("1704067200.0", "timestamp", "epoch_seconds", NEW_YEAR),
        ("1704067200.25", "timestamp", "epoch_seconds", NEW_YEAR + timedelta(milliseconds=250)),
        ("1704067200.0000001", "timestamp", "epoch_seconds", ""),
        ("1704067200001", "timestamp", "epoch_milliseconds", NEW_YEAR + timedelta(milliseconds=1)),
        ("1704067200000001", "timestamp", "epoch_microseconds", NEW_YEAR + timedelta(microseconds=1)),
        ("-1", "timestamp", "epoch_seconds", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("99999999999999", "timestamp", "epoch_seconds", ""),
        ("1704067200", "date", "epoch_seconds", date(2024, 1, 1)),
        ("1704067201", "date", "epoch_seconds", ""),
        ("1704067200", "timestamp", None, "`format: epoch_seconds` would accept it"),
        ("1704067200000", "timestamp", None, "`format: epoch_milliseconds` would accept it"),
        ("2024-01-01T01:00+01:00", "timestamp", ["epoch_seconds", "iso"], NEW_YEAR),
    ],
)
def test_dates_and_moments_are_read_in_the_formats_of_the_contract(
    text: str, type_: str, format_: Any, value: Any
) -> None:
    found = read(text, {"type": type_, "format": format_})
    assert found == value


@pytest.mark.parametrize(
    ("column", "source", "message"),
    [
        ({"type": "date", "format": "soon"}, {}, "'soon' is none of strptime's"),
        ({"type": "date", "format": []}, {}, "format"),
        ({"type": "string", "true": ["y"], "false": ["n"]}, {}, "of type boolean, not string"),
        ({"type": "boolean", "true": ["y"]}, {}, "true and false go together"),
        ({"type": "boolean", "true": ["y"], "false": ["Y"]}, {}, "a word stands twice"),
        ({"type": "long"}, {"thousands": "."}, "thousands and decimal can't both be"),
        ({"type": "long"}, {"encoding": "utf-7"}, "'utf-7' is no encoding of text"),
        ({"type": "long"}, {"encoding": "base64"}, "'base64' is no encoding of text"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    column: dict[str, Any], source: dict[str, Any], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        contract(column, **source)


def test_the_reason_of_a_quarantined_record_names_the_key(tmp_path: Path) -> None:
    line = note(1, "ann")
    found = reasons(parse(tmp_path, NOTES + line.replace(",3,", ',"1,234",')))
    assert found == {
        2: "unparseable value in pages: '1,234' is not an integer (`thousands: \",\"` would accept it)"
    }
    found = reasons(parse(tmp_path, NOTES + '1,2024-01-01,web,1,3,"5\\" wide"\n'))
    assert found == {2: 'text after a closing quote (`escape: "\\\\"` would read backslashes as escapes)'}
    assert not reasons(
        parse(tmp_path, NOTES + '1,2024-01-01,web,1,3,"5\\" wide"\n', shop(source__escape="\\"))
    )


def test_a_frame_with_missing_numbers_is_read_as_pandas_writes_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"visit": [1, 2, 3], "day": pd.Timestamp("2024-01-01"), "bought": [1, None, 0]})
    assert "1.0" in frame.to_csv(index=False)
    rows = parse(tmp_path, frame.to_csv(index=False))
    assert [(row["_kind"], row["bought"]) for row in rows] == [("label", 1), ("pending", None), ("label", 0)]


# -- encodings ---------------------------------------------------------------------------------------

TEXTS = ["zoë", "José\n€", "naïve, “quoted”", "plain"]


def written(encoding: str, texts: list[str], end: str = "\r\n") -> bytes:
    lines = [NOTES.strip()] + [note(n, f'"{text}"').strip() for n, text in enumerate(texts)]
    return (end.join(lines) + end).encode(encoding)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "utf-8"),  # its mark tells
        ("utf-8-sig", "latin-1"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-16-le", "utf-16"),
        ("utf-32", "utf-8"),
        ("cp1252", "windows-1252"),
        ("utf-8", "UTF-8"),
    ],
)
def test_a_file_is_read_in_its_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, said: str, name: str
) -> None:
    product = shop(source__encoding=said)
    content = written(encoding, [text * n for n in range(1, 40) for text in TEXTS])
    expected = [text * n for n in range(1, 40) for text in TEXTS]
    for size in (8 << 20, 5000, 700):
        monkeypatch.setattr("ml_platform.data_engineering.limits.BLOCK_BYTES", size)
        assert [row["customer"] for row in parse(tmp_path, content, product, name)] == expected
    # The end of a file has no mark of its own.
    plain = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(encoding, encoding)
    broken = content + "bad\r\n".encode(plain)
    rows = parse(tmp_path, broken, product, name)
    assert [row["customer"] for row in rows if row["_kind"] == "row"] == expected


def test_latin_1_is_read_and_what_windows_does_not_know_is_blamed(tmp_path: Path) -> None:
    content = written("latin-1", ["zoë", "ok"])
    rows = parse(tmp_path, content, shop(source__encoding="latin-1"))
    assert [row["customer"] for row in rows] == ["zoë", "ok"]
    rows = parse(tmp_path, content.replace("ë".encode("latin-1"), b"\x81"), shop(source__encoding="cp1252"))
    assert reasons(rows) == {
        2: "invalid encoding: it is not cp1252 (`encoding` may be utf-8 or windows-1252 or latin-1)"
    }
    assert rows[1]["customer"] == "ok"


def test_half_a_pair_of_utf_16_is_blamed_and_half_a_character_refuses_the_file(tmp_path: Path) -> None:
    content = (NOTES + note(1, "a\ud800b") + note(2, "ok")).encode("utf-16", "surrogatepass")
    rows = parse(tmp_path, content)
    assert list(reasons(rows)) == [2]
    assert "a\\ud800b" in rows[0]["_raw"]
    assert rows[1]["customer"] == "ok"
    assert parse(tmp_path, content[:-1])[-1]["_kind"] == "unreadable"


@pytest.mark.parametrize(
    ("encoding", "said"), [("cp1252", "windows-1252"), ("utf-16", "utf-8"), ("utf-16-le", "utf-16")]
)
def test_land_reads_and_hands_on_every_encoding(tmp_path: Path, encoding: str, said: str) -> None:
    (tmp_path / "h.csv").write_bytes(written(encoding, TEXTS))
    product = shop(source__encoding=said)
    split_history(product, [tmp_path / "h.csv"], tmp_path / "landing")
    (path,) = (tmp_path / "landing/shop/2024-01-01").iterdir()
    with path.open(newline="", encoding="utf-8-sig") as file:
        assert [row["customer"] for row in csv.DictReader(file)] == TEXTS
    rows = parse(tmp_path, path.read_bytes(), product)
    assert [row["customer"] for row in rows] == TEXTS


def test_land_reads_days_as_deliveries_do(tmp_path: Path) -> None:
    history = tmp_path / "h.csv"
    history.write_text(NOTES + note(1, "a").replace("2024-01-01", "2024-01-01 00:00:00"))
    assert split_history(shop(), [history], tmp_path / "landing").first == D("2024-01-01")
    history.write_text(NOTES + note(1, "a").replace("2024-01-01", "01.01.2024"))
    with pytest.raises(SplitError, match=r"'01.01.2024' is no date.*`format: \"%d.%m.%Y\"` would accept it"):
        split_history(shop(), [history], tmp_path / "other")
