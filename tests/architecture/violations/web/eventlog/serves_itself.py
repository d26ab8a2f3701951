"""Only gateway and console speak HTTP."""

from starlette.responses import JSONResponse
