# Stepstream against a Postgres of yours:
#   docker build -t stepstream .
#   docker run -p 8000:8000 -e DATABASE_URL=postgresql://… -v ./secret.key:/run/secrets/stepstream:ro stepstream
# Once per version, and before the first start: the same with `stepstream migrate` behind it.

FROM python:3.11-slim AS build
WORKDIR /source
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY .docker ./.docker
RUN python -m venv /opt/stepstream \
 && /opt/stepstream/bin/pip install --require-hashes -r .docker/requirements.txt \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes -r .docker/build.txt
COPY pyproject.toml README.md ./
COPY app ./app
COPY migrations ./migrations
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
 && /opt/stepstream/bin/pip install --no-deps /wheel/*.whl

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/stepstream --shell /usr/sbin/nologin stepstream
COPY --from=build /opt/stepstream /opt/stepstream
ENV PATH=/opt/stepstream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STEPSTREAM_DATA_DIR=/var/lib/stepstream/data \
    STEPSTREAM_SECRET_KEY_FILE=/run/secrets/stepstream \
    STEPSTREAM_PORT=8000
USER stepstream
WORKDIR /var/lib/stepstream
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['STEPSTREAM_PORT']}/health/ready\", timeout=4)"]
CMD ["stepstream", "serve", "--host", "0.0.0.0"]
