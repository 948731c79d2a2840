"""Car loans, generated: is a loan repaid? Known thirty days after it was granted; the world changes half-way.

Made in the likeness of the synthetic car-loan set that ``nannyml`` ships, which can't be locked without the
packages that it needs. The same day always has the same loans.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product

START, CHANGE, END = date(2024, 1, 1), date(2024, 4, 1), date(2024, 6, 30)
LABEL_DELAY_DAYS = 30
SALARIES = ["0 - 20K", "20K - 40K", "40K - 60K", "60K+"]
NUMERIC = ["car_value", "debt_to_income_ratio", "loan_length", "driver_tenure"]
CATEGORICAL = ["salary_range", "repaid_before"]

CONTRACT: dict[str, Any] = {
    "name": "loans",
    "description": "Is a car loan repaid?",
    "start": str(START),
    "source": {
        "key": ["id"],
        "event_day": "granted",
        "label": "repaid",
        "label_delay_days": LABEL_DELAY_DAYS,
        "columns": {
            "id": {"type": "string"},
            "granted": {"type": "date"},
            "car_value": {"type": "double"},
            "debt_to_income_ratio": {"type": "double"},
            "loan_length": {"type": "integer"},
            "driver_tenure": {"type": "double"},
            "salary_range": {"type": "string", "allowed": SALARIES},
            "repaid_before": {"type": "string", "allowed": ["yes", "no"]},
            "repaid": {"type": "integer", "nullable": True, "allowed": [0, 1]},
        },
    },
    "mrds": {"entity": ["id"], "aggregate": dict.fromkeys([*NUMERIC, *CATEGORICAL, "repaid"], "last")},
    "model": {
        "features": {"numeric": NUMERIC, "categorical": CATEGORICAL},
        "estimator": {"class": "sklearn.linear_model.LogisticRegression", "params": {"max_iter": 200}},
        "training_months": 2,
    },
    "evaluation": {"metric": "roc_auc", "threshold": 0.6, "minimum_rows": 300, "minimum_positives": 50},
}


def product() -> Product:
    return parse_product(CONTRACT, "loans.yaml")


def loans(day: date, rows: int = 150) -> pd.DataFrame:
    """A day's loans with their labels."""
    draw = np.random.default_rng([2024, day.toordinal()])
    changed = day >= CHANGE
    car_value = draw.lognormal(10.2 + 0.1 * changed, 0.4, rows).round(2)
    debt = draw.beta(2, 3, rows).round(4)
    length = draw.integers(3, 9, rows)
    tenure = draw.gamma(4.0, 2.0, rows).round(3)
    salary = draw.integers(0, len(SALARIES), rows)
    before = draw.random(rows) < 0.6
    income, burden = ((0.9, -3.0), (-0.9, -6.0))[int(changed)]
    logit = (
        income * (salary - 1.5)
        + burden * (debt - 0.4)
        - 0.9 * (np.log(car_value) - 10.2)
        - 0.15 * (length - 5.5)
        + 0.12 * (tenure - 8.0)
        + 0.8 * (before - 0.6)
    )
    return pd.DataFrame(
        {
            "id": [f"{day:%y%m%d}-{number:04d}" for number in range(rows)],
            "granted": day.isoformat(),
            "car_value": car_value,
            "debt_to_income_ratio": debt,
            "loan_length": length,
            "driver_tenure": tenure,
            "salary_range": np.array(SALARIES)[salary],
            "repaid_before": np.where(before, "yes", "no"),
            "repaid": (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
        }
    )
