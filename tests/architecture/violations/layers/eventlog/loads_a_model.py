"""Rooms of one layer do not know each other."""

from shadow_mlops import models
