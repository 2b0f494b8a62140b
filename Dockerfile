# Two images. `pipeline` runs recipes, reports and gates:
#
#   docker build --target pipeline --tag secateur .
#
# `runtime` is one bundle with the one runtime that reads it; the context is the bundle's folder:
#
#   docker build --target runtime --tag cells --file Dockerfile runs/cells/bundle
#
# BASE: any image with Python 3.11 or newer, pip and venv. PIP_INDEX_URL and PIP_EXTRA_INDEX_URL: as pip reads them.
# TORCH_INDEX: an index that has torch's CPU build, where the plain one brings CUDA (on amd64). Nothing else depends on
# the platform: pip takes the wheels of the one that is built for.

ARG BASE=python:3.11-slim-bookworm


FROM ${BASE} AS pipeline-packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG TORCH_INDEX
ENV PIP_CONSTRAINT=/build/constraints.txt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# What is large and changes seldom comes first: a change of the sources keeps these layers.
COPY constraints.txt ./
RUN python -m venv --without-pip /opt/secateur \
 && grep '^torch==' constraints.txt > torch.txt \
 && pip --python /opt/secateur install ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} --requirement torch.txt \
 && rm -rf /opt/secateur/lib/python*/site-packages/torch/include /opt/secateur/lib/python*/site-packages/torch/test
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > dependencies.txt \
 && pip --python /opt/secateur install --requirement dependencies.txt


FROM pipeline-packages AS pipeline-wheel
COPY README.md LICENSE ./
COPY models models
COPY recipes recipes
COPY pipeline pipeline
RUN pip --python /opt/secateur install --no-deps --prefix /opt/wheel .


FROM ${BASE} AS pipeline
LABEL org.opencontainers.image.title="secateur" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=pipeline-packages /opt/secateur /opt/secateur
COPY --from=pipeline-wheel /opt/wheel /opt/secateur
# Any user may write to the caches and to the folder of work, so that `--user` can be the owner of what is mounted.
RUN install -d -m 1777 /cache /work
# USER and HOME: a user without an entry in /etc/passwd has a name and a home all the same. CI: openvino sends no usage
# data where it is set.
ENV PATH=/opt/secateur/bin:${PATH} \
    USER=secateur HOME=/tmp \
    XDG_CACHE_HOME=/cache SECATEUR_STORE=/cache/secateur/store \
    PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 CI=true
VOLUME /cache
WORKDIR /work
USER 10001:10001
ENTRYPOINT ["secateur"]
CMD ["--help"]


FROM ${BASE} AS runtime-packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# The bundle's folder in the context.
ARG BUNDLE=.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY ${BUNDLE} /bundle
WORKDIR /bundle
RUN sha256sum --quiet --check SHA256SUMS
# What nobody reads here is left out: numpy's tests, onnxruntime's library for C, and of openvino what is for other
# devices and other formats than its own.
RUN python -m venv --without-pip /opt/runtime \
 && pip --python /opt/runtime install --require-hashes --requirement requirements.txt \
 && find /opt/runtime \( -path '*/numpy/*/tests' -o -name 'libonnxruntime.so.*' -o -path '*/openvino/include' \
      -o -name 'libopenvino_intel_[gn]pu_plugin.so' -o -path '*/openvino/libs/cache.json' \
      -o -name 'libopenvino_*_frontend.so.*' ! -name 'libopenvino_ir_*' \) -prune -exec rm -r {} +


FROM ${BASE} AS runtime
COPY --from=runtime-packages /opt/runtime /opt/runtime
COPY --from=runtime-packages /bundle /bundle
ENV PATH=/opt/runtime/bin:${PATH} \
    USER=bundle HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 CI=true
WORKDIR /bundle
USER 10001:10001
HEALTHCHECK --interval=1h --timeout=1m --retries=1 CMD ["python", "verify.py"]
ENTRYPOINT ["python", "infer.py"]
CMD ["--help"]
