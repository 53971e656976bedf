"""environment.yml from requirements.lock: the same versions as a conda environment. `make lock` runs it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """\
# written by `make lock` from requirements.lock: `conda env create --file environment.yml`
name: mmgen
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip
  - git
  - make
  - pip:
"""


def main() -> None:
    """Write environment.yml beside the lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.lstrip().startswith("#")]
    # the project itself last: all that it asks for is there by then
    body = "".join(f'      - "{pin}"\n' for pin in [*pins, "--editable ."])
    (ROOT / "environment.yml").write_text(HEAD + body, encoding="utf-8")


main()
