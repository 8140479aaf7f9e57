"""A hospital's side: its policy, its ledger, and the answer to one request."""
