#!/usr/bin/env bash
# Installs PostgreSQL's server for the tests of the online store, if none is there. No cluster is made or
# started: the tests start their own on a private port, in a folder of their own.
set -euo pipefail
command -v postgres >/dev/null && exit 0
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && exit 0

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

if command -v apt-get >/dev/null; then
  # The package starts a cluster of its own unless it finds this setting.
  as_root mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] ||
    echo "create_main_cluster = false" | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null
elif command -v brew >/dev/null; then
  brew install --quiet postgresql@17
fi

if ! command -v postgres >/dev/null && ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
  echo "The tests of the online store need PostgreSQL's server: install the package postgresql." >&2
  exit 1
fi
