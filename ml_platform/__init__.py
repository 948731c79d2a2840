"""Batch machine learning in production as one Dagster asset graph."""
