#!/bin/sh
# Random secrets for compose.yaml, once, readable by you alone: docker/secrets/ (ignored by git and by builds).
set -eu
folder=$(dirname "$0")/secrets
mkdir -p "$folder"
for name in database_password objects_user objects_password; do
    file=$folder/$name
    [ -s "$file" ] || (umask 077 && od -An -N18 -tx1 /dev/urandom | tr -d ' \n' > "$file")
    # containers read them as a user of their own; the folder keeps others out
    chmod 644 "$file"
done
chmod 700 "$folder"
