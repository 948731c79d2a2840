"""Lines that end with a delimiter: no field follows it where the contract says so, however a file is read."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.contract.product import Product
from ml_platform.data_engineering import exact_reader, landing, limits, line_ends
from ml_platform.data_engineering.parsing import parse_file
from ml_platform.data_engineering.splitting import SplitError, split_history
from ml_platform_tests.data_engineering.test_quoting import DAY, landed, parse, product, read_either_way
from ml_platform_tests.small_platform import shop

NAMES = ("visit", "day", "customer", "bought")
HEADER = ",".join(NAMES)


def trailing(delimiter: str = ",", escape: str | None = None) -> Product:
    return with_source(product(escape), trailing_delimiter=True, delimiter=delimiter)


def with_source(contract: Product, **changes: Any) -> Product:
    source = {**contract.source.model_dump(exclude_unset=True, by_alias=True), **changes}
    return shop(
        source=source,
        mrds={"entity": ["customer"], "aggregate": {"visit": "count", "bought": "last"}},
        model__features={"numeric": ["visit"]},
        validation={},
    )


def write(folder: Path, *lines: str, end: str = "\n") -> Path:
    path = folder / "a.csv"
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def seen(rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What was read, by kind, and the reason of what can't be used."""
    return [
        ("bad", row["_line"], row["_reason"])
        if row["_kind"] == "bad"
        else (row["_kind"], row["visit"], row["customer"], row["bought"])
        for row in rows
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("header", [HEADER, HEADER + ","])
def test_no_field_follows_a_delimiter_at_the_end_of_a_line(tmp_path: Path, header: str, end: str) -> None:
    path = write(
        tmp_path, header, "1,2024-01-01,ann,1,", '2,2024-01-01,"b,\nob,",0,', "3,2024-01-01,,,", end=end
    )
    expected = [("row", 1, "ann", 1), ("row", 2, "b,\nob,", 0), ("row", 3, None, None)]
    assert seen(read_either_way(path, trailing())) == expected
    assert seen(landed(path, trailing(), tmp_path / "landing", apart=False)) == expected
    path.write_bytes(path.read_bytes().rstrip(end.encode()))
    assert seen(read_either_way(path, trailing())) == expected


@pytest.mark.parametrize("header", [HEADER, HEADER + ","])
def test_such_files_are_read_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str) -> None:
    def never_exactly(*_: object) -> Any:
        raise AssertionError("the whole file is read again")

    monkeypatch.setattr(exact_reader, "read_exactly", never_exactly)
    for quote in ("", '"'):
        lines = [f"{n},2024-01-01,{quote}c{n}{quote},{'soon' if n == 7 else ''}," for n in range(3000)]
        rows = parse(write(tmp_path, header, *lines), trailing())
        assert len(rows) == 3000
        assert [row["_line"] for row in rows if row["_kind"] == "bad"] == [9]


@pytest.mark.parametrize("block", [40, 60, 90, 8 << 20])
def test_a_delimiter_before_a_quoted_line_break_is_text_wherever_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(limits, "BLOCK_BYTES", block)
    text = "a\n" + "x,\n" * 40 + ",\n,"
    path = write(tmp_path, HEADER + ",", f'1,2024-01-01,"{text}",1,', "2,2024-01-01,bob,0,")
    assert seen(read_either_way(path, trailing())) == [("row", 1, text, 1), ("row", 2, "bob", 0)]


@pytest.mark.parametrize("header", [HEADER, HEADER + ","])
def test_a_line_without_it_is_read_if_its_number_of_fields_fits(tmp_path: Path, header: str) -> None:
    path = write(tmp_path, header, "1,2024-01-01,ann,1,", "2,2024-01-01,bob,0", '3,2024-01-01,eve,""')
    expected = [("row", 1, "ann", 1), ("row", 2, "bob", 0), ("row", 3, "eve", None)]
    assert seen(read_either_way(path, trailing())) == expected
    assert seen(landed(path, trailing(), tmp_path / "landing", apart=False)) == expected


@pytest.mark.parametrize(
    ("lines", "is_null"),
    [
        ([HEADER, "1,2024-01-01,ann,", "2,2024-01-01,bob,1"], True),
        ([HEADER, "1,2024-01-01,ann,", "2,2024-01-01,bob,1,"], False),
        ([HEADER + ",", "1,2024-01-01,ann,", "2,2024-01-01,bob,1"], False),
        ([HEADER, "1,2024-01-01,ann,", *["2,2024-01-01,bob,1"] * 98, "2,2024-01-01,bob,1,"], True),
        ([HEADER, "1,2024-01-01,ann,", *["2,2024-01-01,bob,1"] * 97, "2,2024-01-01,bob,1,"], False),
    ],
)
def test_an_empty_last_field_is_a_null_only_where_lines_do_not_end_so(
    tmp_path: Path, lines: list[str], is_null: bool
) -> None:
    path = write(tmp_path, *lines)
    for rows in (
        read_either_way(path, trailing()),
        landed(path, trailing(), tmp_path / "landing", apart=False),
    ):
        assert len(rows) == len(lines) - 1
        first, *others = seen(rows)
        assert others == [("row", 2, "bob", 1)] * (len(lines) - 2)
        if is_null:
            assert first == ("row", 1, "ann", None)
        else:
            assert first[0] == "bad"
            assert "wrong number of fields: 3, expected 4" in first[2]
    assert line_ends.SAMPLED_RECORDS == 100  # the number in the contract's page, and above


@pytest.mark.parametrize("labels_apart", [True, False])
@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("9,2024-01-01,ann,1,,", 5),
        ("9,2024-01-01,", 2),
        ("9,2024-01-01,ann,", 3),
        (",", 1),
        (",,", 2),
        (",,,,,,", 6),
    ],
)
def test_a_wrong_number_of_fields_stays_one(
    tmp_path: Path, line: str, given: int, labels_apart: bool
) -> None:
    good = "1,2024-01-01,ann,1,"
    path = write(tmp_path, HEADER, good, line, good)
    bad, *_ = [row for row in read_either_way(path, trailing()) if row["_kind"] == "bad"]
    assert bad["_reason"].startswith(f"wrong number of fields: {given}, expected 4")
    assert (bad["_line"], bad["_raw"]) == (3, line)
    if not line.startswith(","):
        rows = landed(path, trailing(), tmp_path / "landing", apart=labels_apart)
        assert [row["_kind"] for row in rows] == ["row", "bad", "row"]


def test_what_is_not_accepted_names_the_key(tmp_path: Path) -> None:
    contract = product()
    path = write(tmp_path, HEADER, "1,2024-01-01,ann,1,", "2,2024-01-01,bob,0", '3,2024-01-01,eve,1,""')
    assert seen(read_either_way(path, contract)) == [
        ("bad", 2, "wrong number of fields: 5, expected 4 (`trailing_delimiter: true` would accept it)"),
        ("row", 2, "bob", 0),
        ("bad", 4, "wrong number of fields: 5, expected 4"),
    ]
    folder = tmp_path / "landing" / "shop" / str(DAY)
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text(f"{HEADER},\n1,2024-01-01,ann,1,\n")
    refusal = landing.scan(contract, tmp_path / "landing", [DAY])[DAY].refusal
    assert refusal is not None
    assert refusal.startswith("a.csv: unexpected columns: ''. Expected are visit, ")
    assert refusal.endswith(
        ". In the contract, lines that end with a delimiter need source.trailing_delimiter: true"
    )
    accepted = landing.scan(trailing(), tmp_path / "landing", [DAY])[DAY]
    assert (accepted.refusal, accepted.files[0].header) == (None, NAMES)


@pytest.mark.parametrize("header", [HEADER, HEADER + ","])
def test_land_refuses_such_a_history_and_names_the_key(tmp_path: Path, header: str) -> None:
    path = write(tmp_path, header, "1,2024-01-01,ann,1,", "2,2024-01-01,bob,0,")
    with pytest.raises(SplitError, match=r"source\.trailing_delimiter: true"):
        split_history(product(), [path], tmp_path / "landing")
    assert list((tmp_path / "landing").iterdir()) == []


def test_an_empty_name_in_a_header_that_has_more_wrong_is_advised_too(tmp_path: Path) -> None:
    path = write(tmp_path, "visit,day,bought,colour,", "1,2024-01-01,1,red,")
    with pytest.raises(SplitError) as error:
        split_history(product(), [path], tmp_path / "landing")
    assert "lines that end with a delimiter need source.trailing_delimiter: true" in str(error.value)
    assert "source.extra_columns: [colour]" in str(error.value)


@pytest.mark.parametrize("labels_apart", [True, False])
def test_a_whole_history_lands_with_its_labels(tmp_path: Path, labels_apart: bool) -> None:
    path = write(tmp_path, HEADER + ",", "1,2024-01-01,ann,1,", "2,2024-01-01,bob,,", "3,2024-01-01,eve,0,")
    contract = trailing()
    summary = split_history(contract, [path], tmp_path / "landing", labels_apart=labels_apart)
    assert (summary.rows, summary.labels) == (3, 2)
    delivery = landing.scan(contract, tmp_path / "landing", [DAY])[DAY]
    rows = [
        row for file in delivery.files for batch in parse_file(file, contract) for row in batch.to_pylist()
    ]
    assert not [row for row in rows if row["_kind"] == "bad"]
    assert {row["visit"]: row["bought"] for row in rows if row["bought"] is not None} == {1: 1, 3: 0}
    assert len([row for row in rows if row["_kind"] == "row"]) == 3


# -- against the csv module --------------------------------------------------------------------------

TEXTS = st.lists(st.sampled_from(['"', ";", "\n", "\r\n", "\r", "a", " ", "é", ";\n"]), max_size=4).map(
    "".join
)
RECORDS = st.lists(
    st.tuples(
        TEXTS, st.sampled_from(["", "0", "1"]), st.sampled_from(["all", "rows", "none", "more", "few"])
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    records=RECORDS,
    header_ends=st.booleans(),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    block=st.sampled_from([120, 8 << 20]),
)
def test_any_such_file_is_read_as_the_csv_module_reads_it(
    records: list[tuple[str, str, str]], header_ends: bool, quoting: Any, end: str, block: int
) -> None:
    """Lines have their delimiter, none, a field too many or a field too few."""
    text = ";".join(NAMES) + (";" if header_ends else "") + end
    for number, (customer, bought, kind) in enumerate(records):
        fields = [str(number), "2024-01-01", customer, bought]
        fields = {"more": [*fields, "x"], "few": fields[:3]}.get(kind, fields)
        line = io.StringIO()
        csv.writer(line, delimiter=";", quoting=quoting).writerow(fields)
        text += line.getvalue().removesuffix("\r\n") + ("" if kind == "none" else ";") + end

    found = [fields for fields in csv.reader(io.StringIO(text, newline=""), delimiter=";") if fields]
    file_ends = header_ends or any(len(fields) == 5 and fields[4] == "" for fields in found[1:])
    expected: list[Any] = []
    for fields, (_, _, kind) in zip(found[1:], records, strict=True):
        ends = fields[-1] == "" and not (kind == "none" and quoting == csv.QUOTE_ALL)
        if ends and (file_ends or len(fields) == 5):
            fields = fields[:-1]
        expected.append(
            (int(fields[0]), fields[2] or None, int(fields[3]) if fields[3] else None)
            if len(fields) == 4
            else "bad"
        )
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "BLOCK_BYTES", block)
        path = Path(folder) / "a.csv"
        path.write_bytes(text.encode())
        contract = trailing(";", escape='"')
        rows = read_either_way(path, contract)
        actual = [
            "bad" if row["_kind"] == "bad" else (row["visit"], row["customer"], row["bought"]) for row in rows
        ]
        assert actual == expected
        again = landed(path, contract, Path(folder) / "landing", apart=False)
        assert [
            "bad" if row["_kind"] == "bad" else (row["visit"], row["customer"], row["bought"])
            for row in again
        ] == expected


@settings(max_examples=40, deadline=None, derandomize=True)
@given(records=RECORDS)
def test_a_trailing_delimiter_changes_no_value(records: list[tuple[str, str, str]]) -> None:
    """With escapes, a file with delimiters at all ends is read as the same file without them."""
    lines = [
        f'{number};2024-01-01;"{customer.replace(chr(34), chr(92) + chr(34))}";"{bought}"'
        for number, (customer, bought, _) in enumerate(records)
    ]
    contract = trailing(";", escape="\\")
    with TemporaryDirectory() as folder:
        header = ";".join(NAMES)
        without = seen(read_either_way(write(Path(folder), header, *lines), contract))
        ended = [f"{line};" for line in (header, *lines)]
        assert seen(read_either_way(write(Path(folder), *ended), contract)) == without
        assert len(without) == len(records)
