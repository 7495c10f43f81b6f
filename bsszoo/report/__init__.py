"""The report of a compression: tables, plots, one HTML page."""
