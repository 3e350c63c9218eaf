#!/usr/bin/env bash
# An environment with TensorFlow beside ours (which it sees), for the slow tests and the benchmark of the bridges.
# Prints the path of its python. TensorFlow stays out of .venv: it is large, and it brings its own versions of things.
set -euo pipefail
cd "$(dirname "$0")/.."
env=.cache/tensorflow-env
if [ ! -e "$env/.installed" ]; then
  .venv/bin/python -m venv "$env" >&2
  .venv/bin/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
    > "$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check 'tensorflow-cpu>=2.17' >&2
  touch "$env/.installed"
fi
echo "$PWD/$env/bin/python"
