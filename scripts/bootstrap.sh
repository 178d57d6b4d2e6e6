#!/usr/bin/env bash
# Make .venv and install the project into it: `scripts/bootstrap.sh STAMP`. The Makefile calls this when STAMP, whose
# name holds a hash of the lock and of the folder's path, is missing. A newer lock is installed over the old one; a .venv
# that is broken, or was made in another folder (its scripts name that folder), is made again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stamp=$1

say() { printf '%s\n' "$*" >&2; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# 3.11 first: the lock was made with it. PYTHON=... overrides.
candidates() {
  local name
  for name in ${PYTHON:-python3.11 python3 python3.12 python3.13 python3.14}; do
    type -aP "$name" || true
  done
}

install_venv_module() {
  local python=$1 package
  package=$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")')
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
  if ! command -v apt-get >/dev/null || { [ "${#as_root[@]}" -gt 0 ] && ! sudo -n true 2>/dev/null; }; then
    say "$python cannot make virtual environments: its ensurepip is missing."
    say "Install it (Debian, Ubuntu: sudo apt-get install $package) and try again."
    exit 1
  fi
  say "Installing $package, which $python needs to make virtual environments."
  ${as_root[@]+"${as_root[@]}"} apt-get update -qq
  ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "$package" >/dev/null
}

find_python() {
  local python first=""
  while read -r python; do
    is_new_enough "$python" || continue
    first=${first:-$python}
    if has_venv "$python"; then
      echo "$python"
      return
    fi
  done < <(candidates)
  if [ -z "$first" ]; then
    say "Sombrero needs Python 3.11 or newer; found none as: ${PYTHON:-python3.11, python3, python3.12, python3.13, python3.14}."
    say "Install it (Debian, Ubuntu: sudo apt-get install python3 python3-venv)"
    say "or name one: make PYTHON=/path/to/python3.11"
    exit 1
  fi
  install_venv_module "$first" >&2
  if ! has_venv "$first"; then
    say "$first still has no ensurepip; name another interpreter: make PYTHON=/path/to/python3.11"
    exit 1
  fi
  echo "$first"
}

is_usable() {
  is_new_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1 || return 1
  local old
  for old in .venv/lock-*; do
    if [ -f "$old" ] && [ "$(cat "$old")" != "$PWD" ]; then return 1; fi
  done
}

if ! is_usable; then
  python=$(find_python)
  say "Making .venv with $python ($("$python" --version))."
  rm -rf .venv
  "$python" -m venv .venv
fi

say "Installing Sombrero and its dependencies into .venv (a few minutes the first time)."
rm -f .venv/lock-*
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
  --constraint constraints.txt --editable '.[dev]'
printf '%s\n' "$PWD" >"$stamp.unfinished"
mv "$stamp.unfinished" "$stamp"
