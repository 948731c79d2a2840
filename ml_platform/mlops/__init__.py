"""Service 3: validation of the data sets. Knows nothing of Dagster."""
