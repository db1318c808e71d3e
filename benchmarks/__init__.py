"""Ratios between ways of doing the same work, taken in one run. `make bench` runs all; none of this is a test."""
