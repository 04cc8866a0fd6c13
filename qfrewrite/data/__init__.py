"""Samples: sources, preprocessing, labels, caches, and stand-ins where there are no data."""
