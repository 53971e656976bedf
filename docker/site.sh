#!/bin/sh
# The project itself into the virtual environment FOLDER, while an image is built: site.sh FOLDER
# Its three packages need no building: they are copied, and the command is a short script.
set -eu
site=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp -r data_schemas mmgen flows "$site"
printf '#!%s\nfrom flows.cli import main\n\nif __name__ == "__main__":  # worker processes import this file\n    main()\n' "$1/bin/python" > "$1/bin/mmgen"
chmod 755 "$1/bin/mmgen"
"$1/bin/python" -m compileall -q "$site/data_schemas" "$site/mmgen" "$site/flows"
