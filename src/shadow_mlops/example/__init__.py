"""The bundled example: telecom customers and why they leave, drawn from a seed.

NumPy only: the traffic client draws customers too, and needs none of what training needs.
"""

from shadow_mlops.example.columns import ENTITY, FEATURES, NAMES, TARGET, Column
from shadow_mlops.example.generator import DRIFT_FEATURES, START, Customers, generate

__all__ = [
    "DRIFT_FEATURES",
    "ENTITY",
    "FEATURES",
    "NAMES",
    "START",
    "TARGET",
    "Column",
    "Customers",
    "generate",
]
