# dmmn-qp in a container, for the CPU:
#     docker build -t dmmn-qp .
#     docker run --rm --network none --user "$(id -u):$(id -g)" -v "$PWD:/work" dmmn-qp import project.qpproj
# and for NVIDIA GPUs (docker run --gpus all ...); PyPI's torch brings the CUDA libraries, the machine only the driver:
#     docker build -t dmmn-qp:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
# BASE may be any image of Debian or Ubuntu, such as nvidia/cuda:13.0.1-base-ubuntu24.04. See docs/install.md.

ARG BASE=python:3.12-slim
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN python3 -c "import ensurepip" 2>/dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*)

# Torch first, so that a change of the code does not fetch it again.
WORKDIR /src
COPY constraints.txt ./
RUN python3 -m venv /opt/dmmn-qp \
    && /opt/dmmn-qp/bin/pip install --no-cache-dir -c constraints.txt --no-deps --index-url "$TORCH_INDEX" torch

COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY qupath_scripts ./qupath_scripts
COPY dmmn_qp ./dmmn_qp
RUN /opt/dmmn-qp/bin/pip install --no-cache-dir -c constraints.txt .

# Nobody is root in it, and any user may run it (--user): what is written beside the work goes to /tmp. LOGNAME is for
# libraries that ask who a user without a name is.
RUN useradd --create-home dmmn && mkdir /work && chown dmmn /work
ENV PATH=/opt/dmmn-qp/bin:$PATH DMMN_QP_CACHE=/tmp/dmmn-qp MPLCONFIGDIR=/tmp/matplotlib LOGNAME=dmmn \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER dmmn
WORKDIR /work
ENTRYPOINT ["dmmn-qp"]
CMD ["--help"]
