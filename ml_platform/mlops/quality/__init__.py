"""Data quality: expectations, their verdicts, and the validation report."""
