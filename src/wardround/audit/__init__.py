"""Empirical lower bounds on epsilon, from attacks on a study's own mechanism and on schemes known to be broken."""
