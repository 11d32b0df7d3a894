"""The report of a schedule sweep: records of its cells, verdicts, tables, figures, and one page with all of it."""
