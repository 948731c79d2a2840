#!/usr/bin/env bash
# Trains this month's model of some products anew, on the engine of the settings. Names come on the input.
# An unchanged fingerprint trains nothing; a challenger that doesn't beat the champion isn't promoted.
set -euo pipefail
cd "$(dirname "$0")/.."
month=${MONTH:-$(date -u +%Y-%m-01)}
while read -r product; do
  [ -n "$product" ] || continue
  .venv/bin/ml-platform backfill "$product" --from "$month" --to "$month" --select model < /dev/null
  .venv/bin/ml-platform history "$product" < /dev/null
done
