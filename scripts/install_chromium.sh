#!/usr/bin/env bash
# Installs Debian's Chromium for the browser tests, if no Chromium is there.
set -euo pipefail
command -v chromium >/dev/null && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
else
  echo "The browser tests need Chromium: install the package chromium." >&2
  exit 1
fi
