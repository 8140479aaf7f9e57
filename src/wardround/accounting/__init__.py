"""What privacy costs: events, accountants, calibration, the statement and the ledger. No torch in here."""
