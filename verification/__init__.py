"""Is it still the same model? Runs the artifact, compares it with the source, counts what the file holds."""
