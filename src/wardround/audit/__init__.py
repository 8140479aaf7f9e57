"""Empirical lower bounds on epsilon: attacks on a study's own mechanism and model, and on any scheme in Python.

The names below are the public surface for a scheme from outside (docs/audit.md): `audit_scheme(release, neighbours,
claim)`, with `Claim.of(event)` or `Claim(((epsilon, delta),))`. `NEIGHBOURS` and `REPLACED` are pairs for schemes that
take per-patient gradients.
"""

from wardround.audit.schemes import NEIGHBOURS, REPLACED, Claim, Found, audit_scheme

__all__ = ["NEIGHBOURS", "REPLACED", "Claim", "Found", "audit_scheme"]
