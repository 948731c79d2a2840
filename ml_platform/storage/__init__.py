"""Where data lies: Delta tables, small tables, the ledger of days, reports."""
