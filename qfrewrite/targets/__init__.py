"""What each runtime and chip supports."""
