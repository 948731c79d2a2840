#!/usr/bin/env bash
# Azurite, the emulator of Azure Blob storage that the tests of the report store run against.
set -euo pipefail
cd "$(dirname "$0")/.."
VERSION=3.35.0
FOLDER=.venv/azurite
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi; }

if [ -x "$FOLDER/node_modules/.bin/azurite-blob" ] &&
  grep -q "\"version\": \"$VERSION\"" "$FOLDER/node_modules/azurite/package.json"; then
  exit 0
fi
if ! command -v npm >/dev/null; then
  if command -v apt-get >/dev/null; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null
  else
    echo "Azurite needs Node.js with npm: install them, then run this again." >&2
    exit 1
  fi
fi
mkdir -p "$FOLDER"
npm install --prefix "$FOLDER" --no-package-lock --no-audit --no-fund --loglevel=error "azurite@$VERSION" >/dev/null
