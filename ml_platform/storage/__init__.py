"""Where data lies: Delta tables, the ledger of days, the online store."""
