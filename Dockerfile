# CPU:   docker build -t mdm-lightning .
# CUDA:  docker build -t mdm-lightning:cuda --build-arg TORCH=cu128 .
# docs/systems.md says how to run it.
FROM python:3.12-slim

# For torch.compile (training.compile=true).
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

# Which build of torch; that for CUDA brings CUDA's libraries along, so the base image need not.
ARG TORCH=cpu
RUN pip install --no-cache-dir --index-url "https://download.pytorch.org/whl/${TORCH}" "torch>=2.6,<2.14"

WORKDIR /mdm-lightning
COPY . .
RUN pip install --no-cache-dir -e ".[lm-eval,lora]"

# Any user may write here: docker run --user "$(id -u):$(id -g)".
ENV HOME=/home/mdm MDM_CACHE=/cache
RUN mkdir -m 1777 /home/mdm /cache outputs

CMD ["python", "train.py", "--help"]
