# The worker, and the servers of compose.yaml: all of mmgen with the locked versions, as a user without rights.
#
#   docker build -f docker/worker.Dockerfile -t mmgen-worker .
#   … --build-arg TORCH_INDEX=URL          torch for the CPU alone, or for another CUDA (see install.sh)
#   … --build-arg PACKAGE_INDEX=URL        a package index in place of pip's own
#   … --secret id=pip,src=FILE --secret id=certificates,src=FILE     pip's configuration and certificates; in no layer
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
ARG PACKAGE_INDEX=""
ARG TORCH_INDEX=""
WORKDIR /build
COPY docker/worker.lock docker/install.sh ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=certificates,target=/etc/build-certificates.pem \
    PACKAGE_INDEX="${PACKAGE_INDEX}" TORCH_INDEX="${TORCH_INDEX}" sh install.sh worker.lock /app
COPY data_schemas data_schemas
COPY mmgen mmgen
COPY flows flows
COPY docker/site.sh ./
RUN sh site.sh /app

FROM ${BASE}
ARG COMMIT=""
COPY --from=build /app /app
COPY docker/with_secrets.sh docker/buckets.py /app/docker/
RUN groupadd --gid 10001 mmgen && useradd --uid 10001 --gid 10001 --create-home mmgen \
    && mkdir /cache && chown mmgen:mmgen /cache
ENV PATH=/app/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 DO_NOT_TRACK=1 MMGEN_CACHE=/cache \
    MMGEN_COMMIT=${COMMIT}
USER 10001:10001
WORKDIR /cache
# a Prefect worker that was started with --with-healthcheck answers here; the servers of compose.yaml have their own
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health', timeout=8)"]
ENTRYPOINT ["sh", "/app/docker/with_secrets.sh"]
CMD ["prefect", "worker", "start", "--pool", "cpu", "--type", "process", "--with-healthcheck"]
