"""The progress of a run while it goes on, as its coordinator and each hospital see it; none of it is in a record."""
