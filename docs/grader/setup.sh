#!/usr/bin/env bash
# Gradescope runs this once, as root, when the autograder's image is built. This file and
# run_autograder lie at the top of the zip, kvlab as a folder beside them.
set -euo pipefail
apt-get update
apt-get install --yes --no-install-recommends software-properties-common bubblewrap
if ! command -v python3.11; then
    add-apt-repository --yes ppa:deadsnakes/ppa
    apt-get install --yes --no-install-recommends python3.11 python3.11-venv
fi
python3.11 -m venv /opt/kvlab
cd /autograder/source/kvlab
/opt/kvlab/bin/pip install --no-cache-dir --constraint constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu .
/opt/kvlab/bin/kvlab doctor || true
