"""The commands that write deliveries: ``land`` those of a history, ``sample`` those that come along."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ml_platform.cli.console import ProductName, console, fail, product_named, progress_of
from ml_platform.cli.day_options import FirstDay, LastDay, days_between
from ml_platform.contract.days import counted, named


def land(
    name: ProductName,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV files, plain or gzip, Parquet or JSON lines.")
    ],
    labels_apart: Annotated[
        bool, typer.Option(help="Write the labels to files of their own, dated when they would arrive.")
    ] = True,
) -> None:
    """Split the files of a product's history into daily deliveries of CSV.

    Example: `ml-platform land orders history.csv.gz`
    """
    from ml_platform.data_engineering import uploads
    from ml_platform.data_engineering.files import FileRules
    from ml_platform.data_engineering.object_store import landing_of
    from ml_platform.data_engineering.splitting import SplitError, split_history

    settings, product = product_named(name)
    with progress_of("rows read") as progress:
        try:
            with uploads.folder_for(product, settings) as folder:
                summary = split_history(
                    product,
                    files,
                    folder,
                    labels_apart=labels_apart,
                    progress=progress,
                    rules=FileRules.anywhere(settings),  # these files may lie anywhere
                )
        except (SplitError, uploads.UploadError) as error:
            fail(str(error))
    console.print(
        f"{counted(summary.rows, 'row')} and {counted(summary.labels, 'label')} of "
        f"{counted(summary.days, 'day')} ({named('day', summary.first, summary.last)}) are in "
        f"{landing_of(settings, product) / product.name}"
    )


def sample(
    name: ProductName,
    first: FirstDay,
    last: LastDay,
    rows_per_day: Annotated[int | None, typer.Option(help="Rows of a generated day, on average.")] = None,
) -> None:
    """Write sample deliveries for a range of days.

    Example: `ml-platform sample customers --from 2022-01-01 --to 2022-02-28 --rows-per-day 2000`
    """
    from ml_platform.data_engineering import uploads
    from ml_platform.data_engineering.object_store import landing_of
    from ml_platform.samples import GENERATED, SAMPLES, contract_of_sample

    settings, product = product_named(name)
    if name not in SAMPLES:
        fail(f"there is no sample of {name!r}; samples exist of {', '.join(SAMPLES)}")
    if (found := contract_of_sample(name)).source.columns.keys() != product.source.columns.keys():
        fail(
            f"the sample's files have the columns {', '.join(found.source.columns)}, and your contract "
            f"{name} others: copy the sample's contract under the name, or leave the sample"
        )
    if rows_per_day is not None and name not in GENERATED:
        fail(f"--rows-per-day is for generated samples ({', '.join(GENERATED)}); {name} is real data")
    days = days_between(first, last)
    options = {} if rows_per_day is None else {"rows_per_day": rows_per_day}
    with progress_of("rows written") as progress:
        try:
            with uploads.folder_for(product, settings, replace=True) as folder:
                SAMPLES[name](product, folder, days, progress=progress, **options)
        except ValueError as error:
            fail(str(error))
    console.print(f"The deliveries of {days} are in {landing_of(settings, product) / product.name}")
