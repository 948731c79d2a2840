"""What the HTML reports share: pages, plots, templates."""
