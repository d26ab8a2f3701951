"""Only gateway and console speak HTTP."""

from fastapi import FastAPI
