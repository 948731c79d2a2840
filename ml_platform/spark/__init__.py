"""Spark: the session, and what Python tasks have in common."""
