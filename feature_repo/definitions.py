"""The example's features: what the store has of a customer, and which model takes which of it.

``feast apply`` runs every ``.py`` in this folder, so nothing but definitions belongs here.
"""

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

# Absolute: the DuckDB store reads a relative path from wherever its process was started.
DATA = Path(__file__).resolve().parent / "data"

customer = Entity(
    name="customer",
    join_keys=["customer_id"],
    value_type=ValueType.STRING,
    description="A customer of the telecom",
)

churn_stats_source = FileSource(
    name="churn_stats_source",
    path=str(DATA / "churn_stats.parquet"),
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
)
customer_demographics_source = FileSource(
    name="customer_demographics_source",
    path=str(DATA / "customer_demographics.parquet"),
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
)

churn_stats_view = FeatureView(
    name="churn_stats_view",
    entities=[customer],
    ttl=timedelta(days=90),
    source=churn_stats_source,
    schema=[
        Field(name="tenure", dtype=Int64, description="Months as a customer"),
        Field(name="contract_type", dtype=Int64, description="0 month-to-month, 1 one year, 2 two years"),
        Field(name="monthly_charges", dtype=Float64),
        Field(name="total_charges", dtype=Float64),
        Field(
            name="payment_method",
            dtype=Int64,
            description="0 credit card, 1 bank transfer, 2 electronic check, 3 mailed check",
        ),
        Field(name="paperless_billing", dtype=Int64),
        Field(name="phone_service", dtype=Int64),
        Field(name="multiple_lines", dtype=Int64),
        Field(name="internet_service", dtype=Int64, description="0 none, 1 DSL, 2 fibre"),
        Field(name="online_security", dtype=Int64),
        Field(name="online_backup", dtype=Int64),
        Field(name="device_protection", dtype=Int64),
        Field(name="tech_support", dtype=Int64),
        Field(name="streaming_tv", dtype=Int64),
        Field(name="streaming_movies", dtype=Int64),
        Field(name="num_support_tickets", dtype=Int64),
        Field(name="avg_monthly_gb_download", dtype=Float64),
        Field(name="num_referrals", dtype=Int64),
        Field(name="satisfaction_score", dtype=Int64, description="1 to 5"),
    ],
)
customer_demographics_view = FeatureView(
    name="customer_demographics_view",
    entities=[customer],
    ttl=timedelta(days=365),
    source=customer_demographics_source,
    schema=[
        Field(name="gender", dtype=String),
        Field(name="senior_citizen", dtype=Int64),
        Field(name="partner", dtype=Int64),
        Field(name="num_dependents", dtype=Int64),
        Field(name="location_cluster", dtype=Int64),
        Field(name="customer_segment", dtype=String, description="premium, standard, basic"),
    ],
)

churn_full = FeatureService(
    name="churn_full",
    features=[churn_stats_view, customer_demographics_view],
    description="Every feature: what the bundled models take",
)
churn_lite = FeatureService(
    name="churn_lite",
    features=[
        churn_stats_view[["tenure", "contract_type", "monthly_charges", "num_support_tickets", "satisfaction_score"]],
    ],
    description="Five features that tell most, for a small model",
)
