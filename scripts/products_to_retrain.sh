#!/usr/bin/env bash
# The products whose models a change may have made worse or better: those whose contracts changed, or all if
# the code that trains and compares did. One name a line; a product whose history has ended, or is yet to begin, is not.
#
#   scripts/products_to_retrain.sh BASE [FOLDER...]
#
# BASE is the commit that was deployed before; FOLDER holds contracts (default: contracts).
set -euo pipefail
base=${1:?name the commit that was deployed before}
shift
folders=("$@")
[ ${#folders[@]} -gt 0 ] || folders=(contracts)

TRAINING=(ml_platform/machine_learning ml_platform/engine/steps/model.py ml_platform/contract/estimators.py ml_platform/contract/boosting.py ml_platform/contract/assets.py)

if git diff --quiet "$base" HEAD -- "${TRAINING[@]}"; then
  changed=$(git diff --name-only --diff-filter=d "$base" HEAD -- "${folders[@]}")
else
  changed=$(git ls-files -- "${folders[@]}")
fi
month=$(date -u +%Y-%m-01)
for contract in $changed; do
  case $contract in
    *.yaml | *.yml) ;;
    *) continue ;;
  esac
  start=$(sed -nE 's/^start: *"?([0-9-]+)"?.*/\1/p' "$contract")
  end=$(sed -nE 's/^end: *"?([0-9-]+)"?.*/\1/p' "$contract")
  if [[ ! $start > $month && ( -z $end || ! $end < $month ) ]]; then
    sed -nE 's/^name: *"?([a-z0-9_]+)"?.*/\1/p' "$contract"
  fi
done | sort -u
