"""What Dagster sees: partitions, assets, checks, sensors, schedules, jobs and resources."""
