#!/bin/sh
# Locked versions into a new virtual environment, while an image is built: install.sh LOCK FOLDER
#   PACKAGE_INDEX   a package index in place of pip's own
#   TORCH_INDEX     a further index with builds of the locked torch: for the CPU alone, or for another CUDA
# Without TORCH_INDEX torch is the lock's own build, which on Linux brings the CUDA libraries that the lock names.
set -eu
lock=$1
folder=$2

python3 -m venv "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check --no-cache-dir install --quiet "$@"; }
if [ -s /etc/build-certificates.pem ]; then export PIP_CERT=/etc/build-certificates.pem; fi
if [ -n "${PACKAGE_INDEX:-}" ]; then export PIP_INDEX_URL="$PACKAGE_INDEX"; fi

cp "$lock" pins
if [ -n "${TORCH_INDEX:-}" ]; then
    export PIP_EXTRA_INDEX_URL="$TORCH_INDEX"
    # of equal versions pip takes the one with a build label (2.14.1+cpu), and its own libraries come with it
    grep -E '^torch(vision|audio)?==' "$lock" > torch-pins
    pip --requirement torch-pins
    grep -vE '^(nvidia-|cuda-|triton|torch(vision|audio)?==)' "$lock" > pins
fi
pip --no-deps --requirement pins
"$folder/bin/python" -m pip --disable-pip-version-check check
