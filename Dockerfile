# The server of an exported model, on the CPU: docker build -t embedding-adaptation .
# docker run --rm -p 127.0.0.1:5001:5001 -e EMBEDDING_API_KEY -v FOLDER:/model:ro embedding-adaptation --name my-model
FROM python:3.11-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
WORKDIR /app
# Built for the CPU; the default build on x86 comes with several gigabytes of CUDA packages.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH_INDEX" ".[serve]"

RUN useradd --create-home --uid 10001 server
USER server
WORKDIR /home/server
EXPOSE 5001
HEALTHCHECK --interval=10s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5001/health', timeout=5)"]
ENTRYPOINT ["python", "-m", "embedding_adaptation.serving", "--model", "/model", "--host", "0.0.0.0", "--port", "5001"]
