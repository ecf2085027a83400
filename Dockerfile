# CPU by default. For CUDA workers:
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 -t recycler:cuda .
# Ray keeps its objects in shared memory: run with `--shm-size 1g`.
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN useradd --create-home --uid 1000 recycler
WORKDIR /opt/recycler

COPY constraints.txt pyproject.toml README.md LICENSE NOTICE ./
COPY recycler recycler
RUN pip install --no-cache-dir -c constraints.txt --index-url ${TORCH_INDEX} \
        --extra-index-url https://pypi.org/simple torch==2.13.0 \
    && pip install --no-cache-dir -c constraints.txt ".[postgres]"

USER recycler
WORKDIR /home/recycler
ENV OMP_NUM_THREADS=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    HF_HOME=/home/recycler/.cache/huggingface

# `recycler serve --config …` listens here; see configs/compose.yaml
EXPOSE 8321
ENTRYPOINT ["recycler"]
CMD ["--help"]
