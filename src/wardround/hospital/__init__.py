"""A hospital: its patients, keys, policy and ledger; it answers one request at a time, and can refuse."""
