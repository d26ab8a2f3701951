"""Training on tables: from a CSV, a Parquet file or the example to a measured pair of models.

>>> from shadow_mlops.training import fit, prepare, read_table, split  # doctest: +SKIP
>>> data = prepare(read_table(Path("telco.csv")), target="Churn", entity="customerID")  # doctest: +SKIP
>>> fit(split(data, seed=0), kind="boosting", seed=0).metrics["auc"]  # doctest: +SKIP
0.841
"""

from shadow_mlops.training.dataset import Dataset, prepare
from shadow_mlops.training.deployment_file import deployment_text, typical_values
from shadow_mlops.training.fitting import Split, TrainedModel, fit, split
from shadow_mlops.training.reading import read_table

__all__ = [
    "Dataset",
    "Split",
    "TrainedModel",
    "deployment_text",
    "fit",
    "prepare",
    "read_table",
    "split",
    "typical_values",
]
