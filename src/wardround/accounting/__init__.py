"""What privacy costs: events, accountants, calibration, the statement and the ledger. Knows nothing of torch."""
