"""What a task takes of memory for the largest day that counts as one task's work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ml_platform.data_engineering import buckets
from ml_platform_tests.conftest import CHECKOUT
from ml_platform_tests.small_platform import SHOP, D, shop

DAY = D("2024-01-05")
#: One character a value: as a number it takes eight bytes, as a text more.
WIDE = {f"x{n}": {"type": kind, "nullable": True} for n, kind in enumerate(("double", "string", "long") * 20)}

_TASK = """
import json, sys
from pathlib import Path
from ml_platform.contract.loading import parse_product
from ml_platform.data_engineering import ards, ards_by_spark, delivery_parts, landing
from ml_platform.data_engineering.day_statistics import Counting
from ml_platform.mlops.quality.profiles import ProfileStatistics

def status(name):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(name)]
    return int(line.split()[1]) << 10

product, folder = parse_product(json.loads(sys.argv[1]), "shop.yaml"), Path(sys.argv[2])
(delivery,) = landing.scan(product, folder, landing.delivered_days(product, folder)).values()
counting = Counting(product.label, ards.columns(product), statistics=ProfileStatistics(product, "ards"))
before = status("VmRSS")
facts = ards_by_spark._facts(product, delivery, counting)
print(json.dumps([delivery_parts.bucket_count(delivery), facts.account.delivered, status("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's account of memory is Linux's")
@pytest.mark.parametrize("further", [{}, WIDE], ids=["6 columns", "66 columns"])
def test_the_largest_day_of_one_task_fits_a_function_of_serverless_compute(
    further: dict[str, Any], tmp_path: Path
) -> None:
    product = shop(source__columns={**SHOP["source"]["columns"], **further})
    folder = tmp_path / product.name / str(DAY)
    folder.mkdir(parents=True)
    lines, size = 0, 0
    with (folder / "2024-01-06T0600_visits.csv").open("w") as file:
        size += file.write(",".join(["visit,day,customer,spend,pages,channel", *further]) + "\n")
        tail = "".join(f",{n % 10}" for n in range(len(further)))
        while size < buckets.BUCKET_BYTES - 1000:
            size += file.write(f"{lines},{DAY},c{lines % 9999},1,2,web{tail}\n")
            lines += 1
    content = product.model_dump(mode="json", by_alias=True)
    done = subprocess.run(
        [sys.executable, "-c", _TASK, json.dumps(content), str(tmp_path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    count, delivered, taken = json.loads(done.stdout.splitlines()[-1])
    assert (count, delivered) == (1, lines)
    assert taken <= buckets.BUCKET_BYTES * buckets.BYTES_A_BYTE
    assert taken * buckets.MARGIN + buckets.LIBRARY_BYTES <= buckets.FUNCTION_BYTES
