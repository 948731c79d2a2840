"""Alerts: what is wrong, and the channels through which people learn of it."""
