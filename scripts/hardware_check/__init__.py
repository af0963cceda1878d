"""Checks of the product on hardware that CI does not have: a program for each kind of host, a report to send."""
