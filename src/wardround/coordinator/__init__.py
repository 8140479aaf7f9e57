"""The coordinator: strategy, rounds and certificate. It has no picture, no ledger and no hospital's key."""
