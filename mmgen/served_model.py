"""The model that MLflow serves.

MLflow copies this file beside the package and runs it to load the model ("models from code"), so that nothing is
pickled; mmgen itself must be installed where it is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlflow.models
import mlflow.pyfunc
import pandas as pd

from mmgen import asking, generate
from mmgen.errors import ConfigError

DEFAULT_NUM = 1
# MLflow's parameters have types, not absence: a negative number asks for what the package itself says
AS_PACKAGED = -1


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined, unused-ignore]
    """Any slots to any slots, a row of conditions at a time.

    model_input: one column per slot: text as a string, image and audio as the bytes of a file; an empty cell is a slot
    that is not given. params: to (slots joined by commas; none: all that are not given), num (samples per row),
    guidance, steps (negative: the package's own), seed, and, as Model.generate has them, sampler, shift, pairs
    (GIVEN:MADE=NUMBER, one a line), negative (NAME=VALUE, one a line), strength (negative: nothing is varied),
    temperature, top_k, top_p, beams, candidates (negative: the package's own) and prefix (NAME=VALUE, one a line). The
    answer is a table with `row` (number of the condition, from 0), `sample` (0 … num-1) and a column per slot of `to`:
    text as a string, image as the bytes of a PNG, audio as those of a WAV.
    """

    def load_context(self, context: Any) -> None:
        self.model = generate.load_package(context.artifacts["package"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        asked = dict(params or {})
        # a model without a signature is handed what the caller had
        table = pd.DataFrame(model_input)
        # MLflow drops columns that the signature does not have
        if table.empty:
            raise ConfigError(f"model_input: wanted a row and a column of {', '.join(self.model.slots)}; came none")
        to = tuple(slot.strip() for slot in str(asked.get("to") or "").split(",") if slot.strip())
        how = asking.Asked(
            **{name: _number(asked, name, float) for name in ("guidance", "strength", "temperature", "top_p")},
            **{name: _number(asked, name, int) for name in ("steps", "top_k", "beams", "candidates")},
            sampler=str(asked.get("sampler") or "") or None,
            shift=float(asked.get("shift", 1.0)),
            pairs=asking.read_guidance(_words(asked.get("pairs")), "pairs")[1],
            negative=asking.read_named(_words(asked.get("negative")), "negative"),
            prefix=asking.read_named(_words(asked.get("prefix")), "prefix"),
        )
        return pd.DataFrame(
            generate.rows(
                self.model,
                [
                    {str(slot): cell for slot, cell in row.items() if not _empty(cell)}
                    for row in table.to_dict("records")
                ],
                to=to,
                num=int(asked.get("num", DEFAULT_NUM)),
                asked=how,
                seed=int(asked.get("seed", 0)),
            )
        )


def _number(asked: Mapping[str, Any], name: str, kind: type[int] | type[float]) -> Any:
    """A parameter's number, None for the package's own."""
    found = kind(asked.get(name, AS_PACKAGED))
    return None if found < 0 else found


def _words(lines: Any) -> list[str]:
    return [line for line in str(lines or "").splitlines() if line.strip()]


def _empty(cell: Any) -> bool:
    return cell is None or cell == "" or cell == b"" or (isinstance(cell, float) and cell != cell)


mlflow.models.set_model(ServedModel())
