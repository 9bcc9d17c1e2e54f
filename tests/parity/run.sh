#!/usr/bin/env bash
# What needs torch, transformers or mlx-lm, live, in an environment of its own (.venv-parity): logits
# against both, and the demo's trainer.
# PYTHON chooses the interpreter; further arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=.venv-parity
wanted="torch 2.13.0, transformers 5.23, mlx-lm 0.32.2"
python="$venv/bin/python"
pip=("$python" -m pip install --disable-pip-version-check -q)

stamp="$wanted $(cat requirements.lock requirements-dev.lock | cksum)"
if [ "$(cat "$venv/.installed" 2>/dev/null || true)" != "$stamp" ]; then
  test -x "$python" || "${PYTHON:-python3}" -m venv "$venv"
  "${pip[@]}" --require-hashes -r requirements.lock -r requirements-dev.lock
  .ci/install-torch "$python" torch==2.13.0
  # The lock holds for everything it names; the two implementations bring what it does not.
  constraints=$(mktemp)
  trap 'rm -f "$constraints"' EXIT
  "$python" -m pip freeze --exclude-editable --disable-pip-version-check > "$constraints"
  "${pip[@]}" -c "$constraints" "transformers>=5.23,<6" mlx-lm==0.32.2
  "${pip[@]}" --no-deps --no-build-isolation -e .
  echo "$stamp" > "$venv/.installed"
fi

exec "$python" -m pytest -m parity tests "$@"
