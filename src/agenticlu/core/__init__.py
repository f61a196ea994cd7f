"""Foundations of every stage: records, errors, settings, progress, output files, statistics."""
