# The server and nothing else: no compiler, no pip, no torch. See docs/container.md.
#
#   docker build -t chatenv .
#   docker build -t chatenv --build-arg CHATENV_TOKENIZER=Qwen/Qwen2.5-0.5B-Instruct .

ARG BASE=python:3.11-slim

FROM ${BASE} AS builder
# For registries of one's own: pip reads each as an environment variable. They do not reach the final stage.
ARG PIP_CERT
ARG PIP_CONSTRAINT
ARG PIP_EXTRA_INDEX_URL
ARG PIP_INDEX_URL
ARG EXTRAS=server,metrics,redis
WORKDIR /source
# Dependencies first, with empty packages in the place of ours: their layer is built anew only when they change.
COPY pyproject.toml ./
COPY chatenv_client/_version.py chatenv_client/
RUN mkdir chatenv_server proto && touch LICENSE README.md chatenv_server/__init__.py \
 && python3 -m venv --without-pip /opt/chatenv \
 && python3 -m pip --python /opt/chatenv/bin/python install --no-cache-dir ".[${EXTRAS}]"
COPY . .
RUN python3 -m pip --python /opt/chatenv/bin/python install --no-cache-dir --no-deps --force-reinstall . \
 && find /opt/chatenv -name tests -type d -prune -exec rm -rf {} +
# A Hugging Face name, a folder inside the build context, or `bytes`, which is built in. No secret, whatever its name.
# hadolint ignore=DL3064
ARG CHATENV_TOKENIZER=bytes
RUN /opt/chatenv/bin/python deploy/docker/bake_tokenizer.py /baked

FROM ${BASE} AS base
RUN find / -xdev \( -path '*-packages/pip' -o -path '*-packages/pip-*' -o -path '*-packages/setuptools*' \
      -o -path '*-packages/wheel*' -o -path '*/bin/pip*' -o -name ensurepip \) -prune -exec rm -rf {} +

FROM base
COPY --from=builder /opt/chatenv /opt/chatenv
COPY --from=builder /baked /srv/chatenv
WORKDIR /srv/chatenv
# hadolint ignore=DL3064
ARG CHATENV_TOKENIZER=bytes
# hadolint ignore=DL3064
ENV PATH=/opt/chatenv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/var/cache/huggingface \
    HF_HUB_OFFLINE=1 \
    CHATENV_TOKENIZER=${CHATENV_TOKENIZER} \
    CHATENV_LISTEN=0.0.0.0:50051 \
    CHATENV_ALLOW_PLAINTEXT=true
# Numeric, so that Kubernetes can tell that it is not root.
USER 10001:10001
# 9464: metrics, where CHATENV_METRICS_LISTEN says so.
EXPOSE 50051 9464
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-m", "chatenv_server.running.healthcheck"]
ENTRYPOINT ["chatenv-server"]
