#!/bin/sh
# Stands in for pallium with a clock that is off: skewed.sh SKEWED OFFSET PALLIUM ARGS.
# SKEWED is pallium built with the tag of that name.
skewed=$1 PALLIUM_CLOCK_OFFSET=$2
export PALLIUM_CLOCK_OFFSET
shift 3
exec "$skewed" "$@"
