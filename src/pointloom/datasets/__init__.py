"""Clips with true tracks: readers of published data sets and of folders, and generators."""
