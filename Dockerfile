# The base only needs Python 3.11 to 3.14 with venv: docker build --build-arg BASE=...
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python3 -m venv /opt/shadow
# Dependencies first: a change of the source does not install them again.
COPY requirements.txt ./
RUN grep -v '^-e ' requirements.txt > locked.txt && /opt/shadow/bin/pip install --requirement locked.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/shadow/bin/pip install --no-deps .
# The example is trained here, so that a container answers without a volume, without the internet and without waiting.
# The registry keeps absolute paths: this is the folder that the running container uses too.
ENV DATA_DIR=/var/lib/shadow
RUN /opt/shadow/bin/python -c "from rich.console import Console; from shadow_mlops.cli.example import ensure_example; \
from shadow_mlops.processes.settings import load_settings; ensure_example(load_settings(), Console())"

FROM ${BASE}
# Debian has a group "shadow" already
RUN groupadd --gid 10001 mlops && useradd --uid 10001 --gid mlops --home-dir /srv/shadow --create-home mlops
COPY --from=build /opt/shadow /opt/shadow
COPY --from=build --chown=10001:10001 /var/lib/shadow /var/lib/shadow
ENV PATH=/opt/shadow/bin:$PATH DATA_DIR=/var/lib/shadow API_PORT=8000 PYTHONUNBUFFERED=1
WORKDIR /srv/shadow
COPY monitoring/detect_drift.py monitoring/
USER 10001:10001
VOLUME /var/lib/shadow
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['API_PORT'] + '/health/ready', timeout=2)"]
CMD ["shadow", "up"]
