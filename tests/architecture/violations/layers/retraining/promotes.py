"""Rooms of one layer do not know each other: what was trained is promoted by the gate, or by a person."""

from shadow_mlops import rollout
