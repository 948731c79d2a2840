"""Service 2: training, promotion, scoring and evaluation. Knows nothing of Dagster."""
