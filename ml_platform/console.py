"""What the commands share: the console, the end with an error, and finding a product by its name."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from ml_platform.product import Product, load_products
from ml_platform.settings import Settings

console = Console()
ProductName = Annotated[str, typer.Argument(metavar="PRODUCT", help="The name of a product.")]


def fail(message: str) -> NoReturn:
    """End the command with an error."""
    Console(stderr=True).print(f"[red]Error:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def product_named(name: str) -> tuple[Settings, Product]:
    """The settings and a product; ends the command when its contract is missing or wrong."""
    settings = Settings()
    products, errors = load_products(settings.product_folders)
    if name not in products:
        broken = [str(error) for path, error in errors.items() if path.stem == name]
        fail("\n".join(broken) or f"unknown product {name!r}; there are {', '.join(products)}")
    return settings, products[name]
