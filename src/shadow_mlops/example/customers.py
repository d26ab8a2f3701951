"""Draws of plausible customers: marginals and dependencies in the manner of a telecom's customer base."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = dict[str, NDArray[Any]]
"""Feature -> float64 of shape (rows,), or object holding str for a string feature."""

# Twelve areas of falling size.
_AREAS = np.array([18, 15, 13, 11, 10, 8, 7, 6, 5, 3, 2, 2]) / 100


def _logistic(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))


def _flag(rng: np.random.Generator, chance: Floats | float, rows: int) -> Floats:
    return (rng.random(rows) < chance).astype(np.float64)


def _choice(rng: np.random.Generator, weights: Floats) -> Floats:
    """Row-wise category of shape (rows,) from non-negative weights of shape (rows, categories)."""
    edges = np.cumsum(weights, axis=1)
    draw = rng.random(len(weights))[:, None] * edges[:, -1:]
    return (draw > edges).sum(axis=1).astype(np.float64)


def draw_customers(rng: np.random.Generator, rows: int) -> Columns:
    """Draw the 25 features of that many customers.

    Parameters
    ----------
    rng
        Source of all randomness.
    rows
        How many.

    Returns
    -------
    Columns
        Every feature of :data:`~shadow_mlops.example.columns.FEATURES`, without missing values.
    """
    loyalty, savvy, wealth = rng.standard_normal((3, rows))
    columns: Columns = {}
    columns |= _household(rng, rows, wealth)
    columns |= _contract(rng, rows, loyalty, savvy, columns)
    columns |= _services(rng, rows, savvy, wealth, columns)
    columns |= _charges(rng, rows, columns)
    columns |= _experience(rng, rows, loyalty, savvy, columns)
    return columns


def _household(rng: np.random.Generator, rows: int, wealth: Floats) -> Columns:
    senior = _flag(rng, 0.16, rows)
    partner = _flag(rng, _logistic(0.25 * wealth - 0.1), rows)
    segment = np.digitize(wealth + 0.6 * rng.standard_normal(rows), [-0.6, 1.0])
    return {
        "gender": np.where(rng.random(rows) < 0.5, "female", "male").astype(object),
        "senior_citizen": senior,
        "partner": partner,
        "num_dependents": np.minimum(rng.poisson(np.where(senior > 0, 0.08, 0.15 + 0.75 * partner)), 6).astype(
            np.float64
        ),
        "location_cluster": rng.choice(len(_AREAS), size=rows, p=_AREAS).astype(np.float64),
        "customer_segment": np.array(["basic", "standard", "premium"], dtype=object)[segment],
    }


def _contract(rng: np.random.Generator, rows: int, loyalty: Floats, savvy: Floats, so_far: Columns) -> Columns:
    contract = np.digitize(loyalty + 0.25 * so_far["partner"] + 0.5 * rng.standard_normal(rows), [0.25, 0.95]).astype(
        np.float64
    )
    centre = np.array([0.24, 0.56, 0.76])[contract.astype(np.intp)]
    tenure = np.ceil(72 * rng.beta(2.2 * centre, 2.2 * (1 - centre)))
    automatic = np.exp(0.4 * loyalty)
    weights = np.column_stack(
        [
            automatic,
            automatic,
            1.5 * np.exp(0.5 * savvy - 0.3 * contract),
            np.exp(-0.5 * savvy + 0.4 * so_far["senior_citizen"]),
        ]
    )
    return {
        "contract_type": contract,
        "tenure": np.clip(tenure, 1, 72),
        "payment_method": _choice(rng, weights),
        "paperless_billing": _flag(rng, _logistic(0.4 + 0.8 * savvy), rows),
    }


def _services(rng: np.random.Generator, rows: int, savvy: Floats, wealth: Floats, so_far: Columns) -> Columns:
    senior = so_far["senior_citizen"]
    appetite = 0.8 * savvy + 0.4 * wealth + 0.2 * senior
    internet = np.digitize(appetite + 0.6 * rng.standard_normal(rows), [-0.8, 0.15]).astype(np.float64)
    online = internet > 0
    phone = np.where(online, _flag(rng, 0.88, rows), 1.0)
    years = so_far["tenure"] / 12
    columns: Columns = {
        "internet_service": internet,
        "phone_service": phone,
        "multiple_lines": phone * _flag(rng, _logistic(-1.2 + 0.25 * years + 0.4 * wealth), rows),
    }
    for name, offset in (
        ("online_security", -1.2),
        ("online_backup", -0.8),
        ("device_protection", -0.8),
        ("tech_support", -1.2),
    ):
        columns[name] = online * _flag(rng, _logistic(offset + 0.3 * years + 0.3 * wealth - 0.3 * senior), rows)
    viewer = rng.standard_normal(rows)
    for name in ("streaming_tv", "streaming_movies"):
        columns[name] = online * _flag(rng, _logistic(-0.6 + 1.2 * viewer + 0.12 * years + 0.4 * (internet == 2)), rows)
    return columns


def _charges(rng: np.random.Generator, rows: int, so_far: Columns) -> Columns:
    internet = so_far["internet_service"].astype(np.intp)
    add_ons = sum(so_far[n] for n in ("online_security", "online_backup", "device_protection", "tech_support"))
    streams = so_far["streaming_tv"] + so_far["streaming_movies"]
    price = (
        np.array([0.0, 25.0, 50.0])[internet]
        + 20 * so_far["phone_service"]
        + 5 * so_far["multiple_lines"]
        + 5 * add_ons
        + 10 * streams
    )
    area = 4.0 * np.sin(so_far["location_cluster"])
    monthly = np.round(np.clip(price + area * (internet > 0) + rng.normal(0, 5, rows), 15, 130), 2)
    total = np.round(so_far["tenure"] * monthly * np.exp(rng.normal(0, 0.06, rows)), 2)
    return {"monthly_charges": monthly, "total_charges": total}


def _experience(rng: np.random.Generator, rows: int, loyalty: Floats, savvy: Floats, so_far: Columns) -> Columns:
    internet = so_far["internet_service"]
    streams = so_far["streaming_tv"] + so_far["streaming_movies"]
    volume = np.exp(1.9 + 0.55 * internet + 0.35 * streams + 0.3 * savvy + 0.55 * rng.standard_normal(rows))
    trouble = np.exp(-0.25 + 0.3 * (internet == 2) - 0.35 * so_far["tech_support"] + 0.7 * rng.standard_normal(rows))
    tickets = np.minimum(rng.poisson(trouble), 12).astype(np.float64)
    mood = 0.45 * loyalty - 0.18 * tickets + rng.standard_normal(rows)
    satisfaction = 1.0 + np.digitize(mood, [-1.75, -0.95, 0.0, 0.95])
    referrals = rng.poisson(np.exp(-1.2 + 0.35 * (satisfaction - 3) + 0.012 * so_far["tenure"]))
    return {
        "num_support_tickets": tickets,
        "avg_monthly_gb_download": np.round(np.where(internet > 0, volume, 0.0), 1),
        "satisfaction_score": satisfaction,
        "num_referrals": np.minimum(referrals, 11).astype(np.float64),
    }
