"""`mmgen head`: what is asked on the command line, to a head on a frozen trunk and its scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flows.terminal import Watch, stdout, table
from mmgen import promotions
from mmgen.errors import ConfigError, unknown_name
from mmgen.store import Store

KINDS = ("classification", "multi_label", "regression", "sequence_tagging")


@dataclass(frozen=True)
class Task:
    """What is asked for; see mmgen.fusion.config.HeadConfig."""

    kind: str
    column: str
    slot: str
    separator: str
    steps: int
    seed: int


def train(reference: str, task: Task, store: str, device: str) -> dict[str, Any]:
    """Train the head. Returns {"artifact", "trunk", "labels", "scores"}. Raises UserError."""
    if task.kind not in KINDS:
        raise ConfigError(f"--head: {unknown_name('head', task.kind, KINDS)}")
    opened = Store(store)
    # a wrong name is answered before torch takes its seconds
    promotions.resolve(reference, opened)
    from mmgen.fusion.config import HeadConfig
    from mmgen.runtime import Runtime
    from mmgen.train_head import train_head

    asked = asdict(task)
    training = HeadConfig().train.model_copy(update={"steps": asked.pop("steps")})
    with Watch() as watch:
        settings = HeadConfig.model_validate({**asked, "train": training})
        made = train_head(reference, settings, Runtime(opened, device=device, progress=watch))
    return {
        "artifact": made.ref,
        "trunk": made.inputs["trunk"].ref,
        "labels": made.facts["labels"],
        "scores": made.facts["scores"],
    }


def show_trained(answer: dict[str, Any]) -> None:
    """The scores with their intervals."""
    out = stdout()
    out.print(f"{answer['artifact']} on {answer['trunk']}")
    rows = [
        (row["metric"], row["judge"].partition(":")[2], f"{row['value']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}",
         str(row["n"]))
        for row in answer["scores"]
    ]  # fmt: skip
    out.print(table(("score", "class", "value", "95%", "n"), rows) if rows else "no test sample has a label")
