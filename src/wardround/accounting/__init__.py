"""What privacy costs: events, accountants, calibration and the statement. No torch in here."""
