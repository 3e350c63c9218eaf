#!/usr/bin/env bash
# Speed and strength beside the peers: sets up .bench-venv, trains the bench's nets once, runs bench/speed.py.
# All arguments go to speed.py; `bench/run.sh --quick` tries the harness out. `bench/run.sh arsenal ...` runs
# bench/arsenal.py instead.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.bench-venv
stamp=$venv/.installed
needs=(pyproject.toml constraints.txt bench/peers-needs.txt bench/peers-requirements.txt)

stale=false
for file in "${needs[@]}"; do
    if [ ! -f "$stamp" ] || [ "$file" -nt "$stamp" ]; then stale=true; fi
done

pip_install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

if "$stale"; then
    "${PYTHON:-$(command -v python3.11 || command -v python3)}" -m venv "$venv"
    pip_install -c constraints.txt -e '.[mnist]' -r bench/peers-needs.txt
    # Without their dependencies: see bench/README.md.
    pip_install --no-deps -r bench/peers-requirements.txt
    "$venv/bin/python" bench/peers.py
    touch "$stamp"
fi

scripts/system-packages.sh   # Fashion-MNIST

# One thread, so that CPU seconds mean the same for all; set before torch starts its pools.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
race=bench/speed.py
if [ "${1:-}" = arsenal ]; then race=bench/arsenal.py; shift; fi
exec "$venv/bin/python" "$race" "$@"
