# Data steps alone (ingest, validate, shard): no torch, no MLflow, a fraction of the worker's size.
#
#   docker build -f docker/ingest.Dockerfile -t mmgen-ingest .
#   docker run --rm -v "$PWD:/data" mmgen-ingest ingest /data/pairs.yaml --store /data/store
# Build arguments and secrets are those of worker.Dockerfile.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
ARG PACKAGE_INDEX=""
WORKDIR /build
COPY docker/ingest.lock docker/install.sh ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=certificates,target=/etc/build-certificates.pem \
    PACKAGE_INDEX="${PACKAGE_INDEX}" sh install.sh ingest.lock /app
COPY data_schemas data_schemas
COPY mmgen mmgen
COPY flows flows
COPY docker/site.sh ./
RUN sh site.sh /app

FROM ${BASE}
ARG COMMIT=""
COPY --from=build /app /app
RUN groupadd --gid 10001 mmgen && useradd --uid 10001 --gid 10001 --create-home mmgen \
    && mkdir /cache && chown mmgen:mmgen /cache
ENV PATH=/app/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 DO_NOT_TRACK=1 MMGEN_CACHE=/cache \
    MMGEN_COMMIT=${COMMIT}
USER 10001:10001
WORKDIR /cache
# a job, not a server: healthy is a command line that starts
HEALTHCHECK --interval=60s --timeout=20s --retries=3 CMD ["mmgen", "--help"]
ENTRYPOINT ["mmgen"]
CMD ["--help"]
