"""Rows on this host that are checked when they are read, and what is left of a file that SQLite refuses."""
