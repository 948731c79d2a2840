"""Steps on Databricks: the runner, and what it needs of a workspace.

Imported when the first remote step is run, since the SDK and ``dagster-databricks`` take seconds to load.
"""
