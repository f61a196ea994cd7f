"""What every stage builds on: records, errors, configuration, progress, files, statistics."""
