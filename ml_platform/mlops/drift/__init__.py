"""Drift: how far a month's data lies from what came before it, and the report of it."""
