"""Everything that writes a model: worker processes, staging, and one file a runtime."""
