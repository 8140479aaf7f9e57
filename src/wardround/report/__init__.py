"""The report: numbers first, template second."""
