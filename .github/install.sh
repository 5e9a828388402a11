#!/usr/bin/env bash
# install.sh PYTHONSLICER: what the module needs, as its Setup section would install it.
# numpy and SimpleITK are Slicer's own and stay as they are; PyPI's torch brings gigabytes of CUDA libraries.
set -euo pipefail
python=$1
requirements=$(dirname "$0")/../PromptSeg/Resources/requirements.txt
folder=$(mktemp -d)
"$python" -c 'import numpy; print("numpy==" + numpy.__version__)' > "$folder/constraints.txt"
grep --invert-match --extended-regexp '^(numpy|SimpleITK)' "$requirements" > "$folder/requirements.txt"
"$python" -m pip install --requirement "$folder/requirements.txt" --constraint "$folder/constraints.txt" \
  --extra-index-url https://download.pytorch.org/whl/cpu
