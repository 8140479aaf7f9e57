"""The cost of privacy: events, accountants, calibration and the statement. No torch in here."""
