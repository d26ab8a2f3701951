"""Wiring builds the gateway; it does not extend it."""

from fastapi import FastAPI
