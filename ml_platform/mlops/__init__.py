"""Service 3: data quality, drift, alerts and their reports. Knows nothing of Dagster."""
