"""Frozen GraphDef files (`.pb`) in and out."""
