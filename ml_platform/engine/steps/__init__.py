"""One file an asset: what a step makes a day or a month from, and how."""
