# syntax=docker/dockerfile:1
# One image, coordinator and worker alike: the command says which.
#
#   docker build -t cordee .                              CPU
#   docker build -t cordee:cuda --build-arg EXTRAS=cuda . with CuPy (the NVIDIA runtime is the host's)
#   docker run --rm --init -p 127.0.0.1:8080:8080 -v cordee:/var/lib/cordee cordee
#
# --init: what a killed agent leaves behind is this container's first process' to bury, and the coordinator buries only
# its own children.
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ARG EXTRAS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY trainer trainer
COPY worker worker
COPY coordinator coordinator
COPY k8s k8s
COPY proto proto
# A virtual environment of its own is all that the second stage takes over: no compiler, no pip cache, no source tree.
RUN python -m venv /opt/cordee \
 && /opt/cordee/bin/pip install ".${EXTRAS:+[${EXTRAS}]}" \
 && /opt/cordee/bin/python -m compileall -q /opt/cordee/lib \
 && /opt/cordee/bin/pip uninstall --yes pip

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="cordee" \
      org.opencontainers.image.description="Elastic training that ends with the same weights, bit for bit, whatever fails" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 cordee \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/cordee --shell /usr/sbin/nologin cordee \
 && install -d -o cordee -g cordee -m 0750 /var/lib/cordee
COPY --from=build /opt/cordee /opt/cordee
ENV PATH=/opt/cordee/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/cordee
VOLUME /var/lib/cordee
# REST for people and metrics; gRPC for workers.
EXPOSE 8080 50051
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["cordee"]
CMD ["coordinator", "--host", "0.0.0.0", "--port", "8080", "--grpc-port", "50051", "--state", "/var/lib/cordee"]
