"""Published systems beside ours: the row as printed, ours as published, ours repaired.

What is as published stands in `as_published`, promises nothing and says why. What is repaired is an ordinary study
with a run folder, a ledger and a certificate.
"""
