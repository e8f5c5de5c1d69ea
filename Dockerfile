# syntax=docker/dockerfile:1
# One image, coordinator and worker alike: the command says which. The name is the one that the chart asks for.
#
#   docker build -t ghcr.io/cordee/cordee:0.1.0 .                                             for CPUs
#   docker build -t ghcr.io/cordee/cordee:0.1.0-cuda --build-arg EXTRAS=cuda-libraries .      for NVIDIA's GPUs, by CuPy
#   docker run --rm --init -p 127.0.0.1:8470:8470 -v cordee:/var/lib/cordee ghcr.io/cordee/cordee:0.1.0 \
#     coordinator --state /var/lib/cordee --host 0.0.0.0 --insecure
#
# --init: what a killed agent leaves behind is this container's first process' to bury, and the coordinator buries only
# its own children. In a pod, the agent is the first process, and does it. --insecure: without TLS, which is for a port
# that only this machine reaches.
#
# BASE is anything with Python 3.11 or newer and venv. Named by digest, and with CONSTRAINTS (a file of the build
# context, as `pip freeze` writes it), the same sources give the same image: docs/how-to/build-the-image.md.
ARG BASE=docker.io/library/python:3.12-slim

# What others wrote, in a layer of its own: it is built, pushed and pulled anew when the dependencies change, not when
# Cordee does. A virtual environment is all that the last stage takes over: no compiler, no pip, no cache.
FROM ${BASE} AS dependencies
ARG EXTRAS=""
ARG CONSTRAINTS=""
# A hash of each file instead of its time: the same bytes whenever it is compiled.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
WORKDIR /src
COPY pyproject.toml constraints*.txt ./
# NVIDIA's libraries come from pip as well, so that any base will do and none has to bring CUDA; the driver is the
# node's. A secret `pip` may name a package index of one's own: it is mounted, and stays in no layer.
#
# Left out is what nothing here opens. Of Kubernetes' client: its asynchronous twin (64 MB), and a class for everything
# that a cluster knows (54 MB); a version that would miss them fails this build. Of CUDA: cuSOLVER for several GPUs in
# one process (193 MB), NVRTC's second build (114 MB), cuFFT and cuBLAS by other libraries' interfaces, and
# static archives. NVIDIA's headers stay: CuPy compiles kernels with them while it runs. Of oneDNN: its file under two
# more names (109 MB).
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/cordee \
 && python3 -c "import sys, tomllib; \
      project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      wanted = [project['optional-dependencies'][extra] for extra in sys.argv[1].split(',') if extra]; \
      print(*sum(wanted, project['dependencies']), sep='\n')" \
      "kubernetes,postgres,storage,fast,${EXTRAS}" > requirements.txt \
 && /opt/pip/bin/python -m pip --python /opt/cordee/bin/python install --no-compile \
      ${CONSTRAINTS:+--constraint "${CONSTRAINTS}"} --requirement requirements.txt \
 && cd /opt/cordee/lib/python3*/site-packages \
 && rm -rf kubernetes/aio kubernetes/client/api \
 && find kubernetes/client/models -name '*.py' ! -name __init__.py -delete \
 && /opt/cordee/bin/python -c "import kubernetes.client.api_client, kubernetes.config" \
 && find . -regextype posix-extended -regex \
      './nvidia/.*/((libcusolverMg|libnvrtc.*\.alt|libcufftw|libnvblas)\.so[.0-9]*|lib.*\.a)' -delete \
 && find . -mindepth 2 -name tests -type d -prune -exec rm -rf {} + \
 && rm -f /opt/cordee/lib/libdnnl.so /opt/cordee/lib/libdnnl.so.3.* \
 && /opt/cordee/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/cordee/lib \
 && find /opt/cordee -exec touch --no-dereference --date=@0 {} +

# GCC's OpenMP, which kernels share their threads by, is no wheel, and slim bases lack it. It is taken from the base, or
# from Debian; where neither has it, kernels run on one thread, and oneDNN's not at all: `cordee doctor` says so.
RUN { [ -e "$(echo /usr/lib/*/libgomp.so.1)" ] \
      || { apt-get update -qq && apt-get install -qq --yes --no-install-recommends libgomp1; }; } \
 && cp --dereference /usr/lib/*/libgomp.so.1 /opt/cordee/lib/ \
 && touch --date=@0 /opt/cordee/lib/libgomp.so.1 /opt/cordee/lib \
 || echo "there is no libgomp.so.1"

FROM dependencies AS build
COPY . .
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/pip/bin/python -m pip --python /opt/cordee/bin/python install --no-compile --no-deps \
      --no-warn-script-location --root /layer . \
 && /opt/cordee/bin/python -m compileall -q --invalidation-mode unchecked-hash -s /layer /layer \
 && find /layer -exec touch --no-dereference --date=@0 {} +

FROM ${BASE}
# Numbers, for Kubernetes (runAsNonRoot) sees no names. /tmp is the home folder: it can be written to everywhere, on a
# root file system that cannot (docker run --read-only --tmpfs /tmp; an emptyDir in a pod).
RUN rm -rf /usr/local/lib/python3*/site-packages/pip* /usr/local/bin/pip* /usr/share/python-wheels \
 && install -d -o 65532 -g 65532 -m 0750 /var/lib/cordee \
 && touch --date="@0" /var/lib/cordee
COPY --from=dependencies /opt/cordee /opt/cordee
COPY --from=build /layer /
# What of the driver NVIDIA's container toolkit mounts. Which GPUs, NVIDIA_VISIBLE_DEVICES, is said by the device
# plug-in or by `docker run --gpus`: an image that said `all` would give a pod without GPUs those of others.
ENV PATH=/opt/cordee/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
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
# Last, so that another revision takes all of the above from the cache.
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="cordee" \
      org.opencontainers.image.description="Elastic training that ends with the same weights, bit for bit, whatever fails" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/cordee/cordee" \
      org.opencontainers.image.documentation="https://github.com/cordee/cordee/blob/main/docs/how-to/kubernetes.md" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
