"""Measuring activations: data sources, observers, the choice of ranges, the range table."""
