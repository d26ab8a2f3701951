"""Shadow MLOps: shadow deployment and drift detection for ML models."""

__all__ = ["__version__"]

__version__ = "0.1.0"
