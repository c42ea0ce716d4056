"""modelport: one trained model in, the artifact that a deployment target runs out."""

__version__ = "0.1.0"
