#!/usr/bin/env bash
# Debian packages that some tests use. Without root or apt they are left out and the tests that need
# them are skipped, saying so; with CI=true a missing part is a failure.
set -euo pipefail

packages=(chromium dataset-fashion-mnist postgresql)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "system packages not installed (${missing[*]}): needs root and apt; their tests will be skipped" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
install() { apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}" >/dev/null; }
install 2>/dev/null || { apt-get update --quiet=2 && install; } || {
    echo "system packages could not be installed: ${missing[*]}; their tests will be skipped" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
}
