"""Which scene a caption of `scenes` tells, in English or Chinese: the renderer's own clauses, read backwards."""

from __future__ import annotations

from functools import cache

from mmgen.sources.scenes import Fact, Scene, clause, combinations


@cache
def _clauses() -> dict[str, Fact]:
    """Clause → what it says, all of both languages."""
    facts = sorted({fact for scene in combinations() for fact in scene})
    return {said: fact for fact in facts for other in (False, True) for said in clause(fact, other)}


def scene_of(caption: str) -> Scene | None:
    """The scene, facts as `scenes.combinations` orders them; None if any part of it is no clause of ours."""
    told = [" ".join(part.split()) for part in caption.replace("，", ",").split(",")]
    if any(part not in _clauses() for part in told):
        return None
    return tuple(sorted({_clauses()[part] for part in told}))
