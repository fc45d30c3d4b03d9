#!/usr/bin/env bash
# Runs every fuzz target of the repository for the given time each (default 10s).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10s}
git ls-files "*_test.go" | xargs grep -lE "^func Fuzz[A-Z]" | sort | while read -r file; do
	for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | cut -d' ' -f2); do
		echo "fuzz $(dirname "$file") $target $seconds"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$seconds" -fuzzminimizetime 10x "$(dirname "$file")"
	done
done
