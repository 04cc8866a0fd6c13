"""Matching and rewriting graphs, with a log of what was changed and what was not, and why."""
