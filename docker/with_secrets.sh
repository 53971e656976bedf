#!/bin/sh
# Every variable NAME_FILE whose file can be read becomes NAME with its contents; then the command runs.
# So secrets stay files, in compose.yaml and in `docker inspect`.
set -eu
for pair in $(env | grep -E '^[A-Z_]+_FILE=/run/secrets/' || true); do
    name=${pair%%_FILE=*}
    file=${pair#*=}
    export "$name=$(cat "$file")"
done
exec "$@"
