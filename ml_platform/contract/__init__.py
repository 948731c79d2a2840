"""The contract of a product: what can be known of it without looking at its data."""
