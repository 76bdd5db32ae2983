#!/bin/sh
# Counts down from $1 (10) to 0, a second a step. Try cancelling it.
n=${1:-10}
while [ "$n" -gt 0 ]; do
    echo "$n"
    sleep 1
    n=$((n - 1))
done
echo "Lift-off"
