"""Why customers leave: a logistic process whose interactions no linear model can express."""

from __future__ import annotations

import numpy as np

from shadow_mlops.example.customers import Columns, Floats

# Contribution of each term to the log-odds of leaving: (today, after a full concept drift). The drifted world
# is one in which a competitor undercuts: price matters to everybody, commitment and satisfaction hold people
# less.
_WEIGHTS: dict[str, tuple[float, float]] = {
    "commitment": (-1.15, -0.4),
    "newness": (0.9, 0.3),
    "dissatisfaction": (0.75, 0.25),
    "tickets": (0.3, 0.3),
    "price": (0.3, 1.6),
    "electronic_check": (0.5, 0.5),
    "protection": (-0.3, -0.1),
    "family": (-0.25, -0.25),
    "referrals": (-0.35, -0.1),
    "senior": (0.3, 0.3),
    "unanswered": (0.52, 0.52),
    "poor_value": (0.52, 1.04),
    "trial": (0.52, 0.52),
    "price_by_segment": (0.32, 0.1),
    "lone_senior": (0.32, 0.32),
}
# The offset sets the share of leavers (17 %), the sharpness how much is chance: together they put a linear model
# at about 0.898 accuracy and 0.929 AUC, boosted trees at 0.914 and 0.949, and the best possible at 0.918 and 0.954
# (benchmarks/training_quality.py measures it).
_OFFSET = -1.1
_SHARPNESS = 1.88


def churn_probability(customers: Columns, *, concept_drift: float = 0.0) -> Floats:
    """Probability that each customer leaves.

    Parameters
    ----------
    customers
        The 25 features, none missing.
    concept_drift
        0 today's reasons, 1 those of a changed market, between them a blend.

    Returns
    -------
    Floats
        Shape (rows,), each in (0, 1).
    """
    score = np.full(len(customers["tenure"]), _OFFSET)
    for name, values in _terms(customers).items():
        today, changed = _WEIGHTS[name]
        score += ((1 - concept_drift) * today + concept_drift * changed) * values
    return 1.0 / (1.0 + np.exp(-_SHARPNESS * score))


def _terms(c: Columns) -> dict[str, Floats]:
    contract, satisfaction, tickets = c["contract_type"], c["satisfaction_score"], c["num_support_tickets"]
    fibre = c["internet_service"] == 2
    online = c["internet_service"] > 0
    price = (c["monthly_charges"] - 65) / 30
    expected = np.exp(1.9 + 0.55 * c["internet_service"] + 0.35 * (c["streaming_tv"] + c["streaming_movies"]))
    usage = np.where(online, np.log((c["avg_monthly_gb_download"] + 1) / (expected + 1)), 0.0)
    segment = np.where(c["customer_segment"] == "basic", 1.0, np.where(c["customer_segment"] == "premium", -1.0, 0.0))
    return {
        "commitment": contract,
        "newness": np.exp(-c["tenure"] / 14),
        "dissatisfaction": 3 - satisfaction,
        "tickets": np.minimum(tickets, 6) - 1,
        "price": price,
        "electronic_check": (c["payment_method"] == 2).astype(np.float64),
        "protection": c["online_security"] + c["tech_support"],
        "family": np.minimum(c["partner"] + c["num_dependents"], 3),
        "referrals": np.minimum(c["num_referrals"], 4),
        "senior": c["senior_citizen"],
        # Tickets are how the content get help and how the discontent announce that they leave: a change of
        # sign.
        "unanswered": np.clip(tickets - 1, -1, 3) * np.clip(3 - satisfaction, -2, 2),
        # Paying for volume that is not used, or using more than the line was sold for: a valley, steeper for
        # those without a contract.
        "poor_value": np.where(contract == 0, 1.0, 0.4) * (np.minimum(usage**2, 2.0) - 0.3) * online,
        # The first months on fibre without support are decided quickly; with support, or later, nothing of it
        # is left.
        "trial": ((c["tenure"] <= 10) & fibre & (c["tech_support"] == 0)).astype(np.float64),
        # The same price drives the thrifty away and keeps those who pay for the best.
        "price_by_segment": price * segment,
        "lone_senior": (c["senior_citizen"] * (1 - c["partner"]) * (c["paperless_billing"] * 2 - 1)),
    }
