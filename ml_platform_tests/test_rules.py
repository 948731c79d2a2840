"""Rules of the code that no other tool checks."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "ml_platform"
STEPS = ("data_engineering", "machine_learning", "mlops", "engine")
CLOCKS = re.compile(r"\.today\(|\.now\(|utcnow|current_date|current_timestamp|time\.time\(|localtime|gmtime")


def test_no_step_reads_the_clock() -> None:
    files = [path for folder in STEPS for path in (PACKAGE / folder).glob("**/*.py")]
    assert len(files) > 15
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if CLOCKS.search(line)
    ]
    assert not found
    assert CLOCKS.search("date.today()")
    assert CLOCKS.search("F.current_date()")


#: A metric within a text for people; keys of JSON and of MLflow have its bare name.
BARE_METRIC = re.compile(r"\{[\w. ]*(evaluation|evaluated|rules)\.metric\b")


def test_a_metric_is_called_by_its_name_with_k_wherever_people_read_of_it() -> None:
    files = [path for kind in ("py", "html") for path in PACKAGE.glob(f"**/*.{kind}")]
    assert len(files) > 100
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BARE_METRIC.search(line)
    ]
    assert not found
    assert BARE_METRIC.search("<h2>{{ product.evaluation.metric }} over time</h2>")
