# A small image of the server. Build it with `make image`, or plainly: docker build --tag windshift .
# How to run it: docs/running.md.

ARG PYTHON=3.13-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

# ---- Install into a directory of its own -----------------------------------------------------------------------------

FROM python:${PYTHON} AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /source

# The tools: nothing of them gets into the image.
COPY requirements ./requirements
RUN python -m venv /tools \
 && /tools/bin/pip install --quiet --require-hashes --requirement requirements/build.lock

# What the server needs, at the versions and with the digests of the lock. This layer stays as long as that does.
RUN python -m venv --without-pip /opt/windshift \
 && /tools/bin/pip --python /opt/windshift/bin/python install --quiet --require-hashes --requirement requirements/server.lock

# In an emergency: ngh2 with another libnghttp2, from wheels of `make engine` (docs/supply-chain.md).
RUN if ls requirements/ngh2-*.whl > /dev/null 2>&1; then \
      /tools/bin/pip --python /opt/windshift/bin/python install --quiet --no-deps --no-index --find-links requirements \
        --force-reinstall ngh2; \
    fi

# The package itself.
COPY pyproject.toml README.md LICENSE ./
COPY proto ./proto
COPY src ./src
RUN /tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /tools/bin/pip --python /opt/windshift/bin/python install --quiet --no-deps /wheels/*.whl

# ---- The image ---------------------------------------------------------------------------------------------------------

FROM python:${PYTHON}

ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown

LABEL org.opencontainers.image.title="Windshift" \
      org.opencontainers.image.description="Events and state for services: a typed gRPC API over NATS JetStream" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

# Everybody outside the container is somebody else, so the hosts are all addresses, which a server without
# authorization refuses unless it is told WINDSHIFT_INSECURE: a plain `docker run` is to work. The log warns of it until
# WINDSHIFT_AUTH_FILE is set, which holds whatever WINDSHIFT_INSECURE says. Data is written only while no NATS_URL is given.
ENV PATH=/opt/windshift/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GRPC_HOST=0.0.0.0 \
    HEALTH_HOST=0.0.0.0 \
    WINDSHIFT_INSECURE=true \
    WINDSHIFT_DATA_DIR=/data

RUN install --directory --owner=65532 --group=65532 --mode=0700 /data
COPY --from=build /opt/windshift /opt/windshift

USER 65532:65532
WORKDIR /
VOLUME /data
EXPOSE 8080 8088
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["windshift", "health"]

ENTRYPOINT ["windshift"]
CMD ["serve"]
