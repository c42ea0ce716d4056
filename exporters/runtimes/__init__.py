"""One file a runtime, each readable alone: `REQUIRES` and `export(job, progress)`."""
