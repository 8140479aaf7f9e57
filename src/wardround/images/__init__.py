"""Disk to patients: readers, the decoded-picture cache, preprocessing. Imports errors and types only."""
