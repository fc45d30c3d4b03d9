#!/usr/bin/env bash
# Runs every fuzz target of the repository for the given time each (default 10s),
# or for a number of inputs (3000x), which cannot fail for want of time.
set -euo pipefail
cd "$(dirname "$0")/.."
each=${1:-10s}
git ls-files "*_test.go" | xargs grep -lE "^func Fuzz[A-Z]" | sort | while read -r file; do
	for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | cut -d' ' -f2); do
		echo "fuzz $(dirname "$file") $target $each"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$each" -fuzzminimizetime 10x "./$(dirname "$file")"
	done
done
