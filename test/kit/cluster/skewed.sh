#!/bin/sh
# Runs SKEWED ARGS instead of PALLIUM ARGS with the clock offset by OFFSET:
# skewed.sh SKEWED OFFSET PALLIUM ARGS. SKEWED is pallium built with the tag skewed.
skewed=$1 PALLIUM_CLOCK_OFFSET=$2
export PALLIUM_CLOCK_OFFSET
shift 3
exec "$skewed" "$@"
