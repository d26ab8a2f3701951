"""How far each canary step has been watched: one row a step, replaced by one statement."""

from __future__ import annotations

from sqlalchemy import Engine, insert, select, update

from shadow_mlops.domain.errors import ConflictError
from shadow_mlops.state.database import transaction
from shadow_mlops.state.tables import CANARY_STEPS


def load(engine: Engine, rollout: str, step: int) -> str | None:
    """State of a step, JSON; None before its first cohort."""
    wanted = select(CANARY_STEPS.c.state).where(CANARY_STEPS.c.rollout == rollout, CANARY_STEPS.c.step == step)
    with transaction(engine) as connection:
        return connection.execute(wanted).scalar_one_or_none()


def save(engine: Engine, rollout: str, step: int, *, before: int, next_cohort: int, state: str) -> None:
    """Put down a step after a cohort.

    Parameters
    ----------
    before
        The cohort that was to be next until now.

    Raises
    ------
    ConflictError
        If somebody else has taken a cohort in meanwhile.
    """
    of_step = (CANARY_STEPS.c.rollout == rollout, CANARY_STEPS.c.step == step)
    with transaction(engine) as connection:
        there = connection.execute(select(CANARY_STEPS.c.next_cohort).where(*of_step)).scalar_one_or_none()
        if there is None:
            values = {"rollout": rollout, "step": step, "next_cohort": next_cohort, "state": state}
            connection.execute(insert(CANARY_STEPS).values(values))
        elif there == before:
            connection.execute(update(CANARY_STEPS).where(*of_step).values(next_cohort=next_cohort, state=state))
        else:
            raise ConflictError(f"step {step} of {rollout} was watched by another monitor meanwhile")
