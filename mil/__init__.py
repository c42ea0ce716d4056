"""The MIL reference evaluator: runs the `.mlpackage` that was written, operation by operation, without a Mac.

It proves the graph and the weights that were written, not Apple's kernels.
"""
