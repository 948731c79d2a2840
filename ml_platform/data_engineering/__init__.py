"""Service 1: deliveries become the ARDS, the MRDS and the online features. Knows nothing of Dagster."""
