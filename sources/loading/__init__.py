"""Model loading inside a worker process: the only part of `sources` that imports a framework."""
