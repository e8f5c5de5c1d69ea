# syntax=docker/dockerfile:1
# One image, coordinator and worker alike: the command says which.
#
#   docker build -t cordee:0.1.0 .                                           CPU
#   docker build -t cordee:0.1.0-cuda --build-arg EXTRAS=cuda-libraries .    with CuPy and NVIDIA's libraries
#   docker run --rm --init -p 127.0.0.1:8470:8470 -v cordee:/var/lib/cordee cordee:0.1.0 \
#     coordinator --state /var/lib/cordee --host 0.0.0.0 --insecure
#
# --init: what a killed agent leaves behind is this container's first process' to bury, and the coordinator buries only
# its own children. In a pod, the agent is the first process, and does it. --insecure: without TLS, which is for a port
# that only this machine reaches.
#
# BASE is anything with Python 3.11 or newer and venv. Named by digest, and with SOURCE_DATE_EPOCH and CONSTRAINTS (a file
# of the build context, as `pip freeze` writes it), the same sources give the same image: docs/how-to/build-the-image.md.
ARG BASE=docker.io/library/python:3.12-slim

FROM ${BASE} AS build
ARG EXTRAS=""
ARG CONSTRAINTS=""
ARG SOURCE_DATE_EPOCH=""
# A hash of each file instead of its time: the same bytes whenever it is compiled.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
WORKDIR /src
COPY . .
# A virtual environment is all that the second stage takes over: no compiler, no pip, no cache, no source tree. NVIDIA's
# libraries come from pip as well, so that any base will do and none has to bring CUDA; the driver is the node's. A
# secret `pip` may name a package index of one's own: it is mounted, and stays in no layer. kubernetes.aio is 64 MB of
# asynchronous twins of what is used.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/cordee \
 && /opt/cordee/bin/python -m pip install --no-compile ${CONSTRAINTS:+--constraint "${CONSTRAINTS}"} \
      ".[kubernetes,postgres,storage${EXTRAS:+,${EXTRAS}}]" \
 && /opt/cordee/bin/python -m pip uninstall --quiet --yes pip \
 && rm -rf /opt/cordee/lib/python3*/site-packages/setuptools* /opt/cordee/lib/python3*/site-packages/pkg_resources \
      /opt/cordee/lib/python3*/site-packages/kubernetes/aio \
 && find /opt/cordee -name tests -path '*/site-packages/*/tests' -type d -prune -exec rm -rf {} + \
 && /opt/cordee/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/cordee/lib \
 && find /opt/cordee -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="cordee" \
      org.opencontainers.image.description="Elastic training that ends with the same weights, bit for bit, whatever fails" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/cordee/cordee" \
      org.opencontainers.image.documentation="https://github.com/cordee/cordee/blob/main/docs/how-to/kubernetes.md" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/cordee /opt/cordee
# Numbers, for Kubernetes (runAsNonRoot) sees no names. /tmp is the home folder: it can be written to everywhere, on a
# root file system that cannot (docker run --read-only --tmpfs /tmp; an emptyDir in a pod).
RUN rm -rf /usr/local/lib/python3*/site-packages/pip* /usr/local/bin/pip* /usr/share/python-wheels \
 && install -d -o 65532 -g 65532 -m 0750 /var/lib/cordee \
 && touch --date="@0" /var/lib/cordee
ENV PATH=/opt/cordee/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /var/lib/cordee
VOLUME /var/lib/cordee
# REST for people, gRPC for workers, metrics and probes.
EXPOSE 8470 8471 9090
STOPSIGNAL SIGTERM
# Kubernetes has probes of its own, and asks nobody here. A port that answers with TLS lives as well.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
  CMD ["python", "-Pc", "import ssl, sys, urllib.request as r\ndef ok(scheme):\n try: return r.urlopen(scheme + '://127.0.0.1:8470/healthz', timeout=2, context=ssl._create_unverified_context()).status == 200\n except OSError: return False\nsys.exit(not (ok('http') or ok('https')))"]
ENTRYPOINT ["cordee"]
CMD ["coordinator", "--state", "/var/lib/cordee"]
