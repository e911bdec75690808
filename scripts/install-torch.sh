#!/bin/sh
# install-torch.sh PIP VERSION: the CPU build of torch where there is no GPU, else the default build.
# The default Linux build brings several gigabytes of CUDA, which a machine without a GPU cannot use.
set -eu
pip=$1 version=$2
if [ "$(uname -s)" != Linux ] || command -v nvidia-smi >/dev/null 2>&1; then
    exec "$pip" install --quiet "torch==$version"
fi
"$pip" install --quiet "torch==$version+cpu" 2>/dev/null ||
    "$pip" install --quiet "torch==$version+cpu" --extra-index-url https://download.pytorch.org/whl/cpu
