"""Large files in parts: whatever is in them, the records of the parts are those of the whole file."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.data_engineering import delivery_file, landing
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.delivery_parts import divided
from ml_platform.data_engineering.parsing import locate, parse_file
from ml_platform.spark import tasks
from ml_platform_tests.small_platform import D, shop
from ml_platform_tests.tasks_here import TasksHere

DAY = D("2024-01-01")
HEADER = "visit,day,customer,spend,pages,channel"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "spare_next_task", lambda: None)


def delivered(root: Path, content: bytes, product: Any) -> DeliveryFile:
    folder = root / "shop" / str(DAY)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.csv").write_bytes(content)
    (file,) = landing.scan(product, root, [DAY])[DAY].files
    return file


def parts_of(file: DeliveryFile, product: Any, part_bytes: int) -> list[DeliveryFile]:
    (found,) = divided(TasksHere, product, [file], part_bytes)
    return found


def records(files: list[DeliveryFile], product: Any) -> list[dict[str, Any]]:
    return [row for file in files for batch in parse_file(file, product) for row in batch.to_pylist()]


def without_number(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "_record"} for row in rows]


GOOD = f"7,{DAY},ann,1.5,2,web"
LINES = st.sampled_from(
    [
        GOOD,
        f"x,{DAY},bob,1,1,web",
        "1,2",
        "",
        "é,ü",
        f"8,{DAY},{'c' * 90},1,1,app",
        ",,,,,",
        f"9,{DAY},a\0,1,1,web",
    ]
)
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lines=st.lists(st.tuples(LINES, ENDS), min_size=1, max_size=30),
    head=st.sampled_from([f"{HEADER}\n", f"{HEADER}\r\n", f"\ufeff{HEADER}\n", f"{HEADER}\r"]),
    last=st.sampled_from(["", GOOD, "\n\n", "x"]),
    part_bytes=st.integers(1, 300),
)
def test_the_records_of_the_parts_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[tuple[str, str]],
    head: str,
    last: str,
    part_bytes: int,
) -> None:
    product = shop()
    content = (head + "".join(line + end for line, end in lines) + last).encode()
    file = delivered(tmp_path_factory.mktemp("landing"), content, product)
    parts = parts_of(file, product, part_bytes)
    whole, found = records([file], product), records(parts, product)
    assert without_number(found) == without_number(whole)
    numbers = [row["_record"] for row in found]
    assert numbers == sorted(set(numbers))
    if len(parts) > 1 and all(row["_kind"] in ("row", "bad") for row in whole):
        # A record is found again by the number that it has in the parts.
        bounds = [part.rules.part.lines for part in parts if part.rules.part] + [1 << 60]
        for row, same in zip(found, whole, strict=True):
            (expected,) = locate(file, product, {same["_record"]})
            at = max(n for n, bound in enumerate(bounds[:-1]) if bound <= row["_record"])
            (located,) = locate(parts[at], product, {row["_record"]})
            assert located == (row["_record"], *expected[1:])


def test_a_large_plain_file_is_divided_and_others_are_one_part(tmp_path: Path) -> None:
    product = shop()
    body = f"{GOOD}\n" * 200
    plain = f"{HEADER}\n{body}".encode()
    cases = {
        "plain": (product, plain),
        "one quote, in the last line": (product, plain + f'7,{DAY},"ann",1,1,web\n'.encode()),
        "packed": (product, gzip.compress(plain * 1, 0)),
        "lines that end otherwise": (product, plain.replace(b"\n", b"\r")),
        "UTF-16": (shop(source__encoding="utf-16"), plain.decode().encode("utf-16")),
        "escapes": (shop(source__escape="\\"), plain),
        "trailing delimiters": (shop(source__trailing_delimiter=True), plain.replace(b"\n", b",\n")),
    }
    counts = {}
    for name, (contract, content) in cases.items():
        file = delivered(tmp_path / name.replace(" ", "_"), content, contract)
        parts = parts_of(file, contract, 1000)
        counts[name] = len(parts)
        assert without_number(records(parts, contract)) == without_number(records([file], contract))
    assert counts.pop("plain") == len(plain) // 1000 + 1
    assert set(counts.values()) == {1}


def test_a_file_that_is_longer_than_allowed_is_refused_whole(tmp_path: Path) -> None:
    product = shop()
    file = delivered(tmp_path, f"{HEADER}\n".encode() + f"{GOOD}\n".encode() * 100, product)
    (part,) = parts_of(replace(file, rules=replace(file.rules, file_bytes=500)), product, 100)
    assert records([part], product)[-1]["_kind"] == "unreadable"


def test_a_part_of_a_file_that_has_become_shorter_gives_what_is_left(tmp_path: Path) -> None:
    product = shop()
    file = delivered(tmp_path, f"{HEADER}\n".encode() + f"{GOOD}\n".encode() * 100, product)
    parts = parts_of(file, product, 500)
    assert len(parts) > 3
    Path(file.path).write_bytes(f"{HEADER}\n{GOOD}\n".encode())
    assert len(records(parts, product)) == 1
    assert delivery_file.parsed_schema(product).names
