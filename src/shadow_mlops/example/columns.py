"""Which columns a customer has, and how each may drift."""

from __future__ import annotations

from dataclasses import dataclass

from shadow_mlops.domain.features import Kind

ENTITY = "customer_id"
TARGET = "churn"


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of a customer.

    Attributes
    ----------
    step
        What one unit of drift adds to a quantity (about its standard deviation, negative where the alarming
        direction is down); 0 for a category.
    low, high
        Bounds that a drifted quantity keeps.
    towards
        Category that drifted rows take; for quantities unused.
    """

    name: str
    kind: Kind
    step: float = 0.0
    low: float = 0.0
    high: float = float("inf")
    towards: float | str = 1.0


# The feature store's order: 19 behavioural features, then 6 demographic ones.
FEATURES: tuple[Column, ...] = (
    Column("tenure", "integer", step=-24.0, high=72),
    Column("contract_type", "integer", towards=0.0),
    Column("monthly_charges", "number", step=30.0, low=15.0),
    Column("total_charges", "number", step=2200.0),
    Column("payment_method", "integer", towards=2.0),
    Column("paperless_billing", "integer"),
    Column("phone_service", "integer"),
    Column("multiple_lines", "integer"),
    Column("internet_service", "integer", towards=2.0),
    Column("online_security", "integer"),
    Column("online_backup", "integer"),
    Column("device_protection", "integer"),
    Column("tech_support", "integer"),
    Column("streaming_tv", "integer"),
    Column("streaming_movies", "integer"),
    Column("num_support_tickets", "integer", step=1.5),
    Column("avg_monthly_gb_download", "number", step=25.0),
    Column("num_referrals", "integer", step=1.5),
    Column("satisfaction_score", "integer", step=-1.1, low=1, high=5),
    Column("gender", "string", towards="female"),
    Column("senior_citizen", "integer"),
    Column("partner", "integer"),
    Column("num_dependents", "integer", step=1.0),
    Column("location_cluster", "integer", towards=0.0),
    Column("customer_segment", "string", towards="basic"),
)
NAMES: tuple[str, ...] = tuple(column.name for column in FEATURES)
