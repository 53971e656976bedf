"""Generators by the name that a configuration gives them."""

from __future__ import annotations

from mmgen.generators.adversarial import AdversarialGenerator
from mmgen.generators.autoregressive import Autoregressive
from mmgen.generators.concat_baseline import ConcatBaseline
from mmgen.generators.joint_flow import JointFlow

GENERATORS: dict[str, type[JointFlow] | type[ConcatBaseline] | type[AdversarialGenerator] | type[Autoregressive]] = {
    "joint_flow": JointFlow,
    "concat_baseline": ConcatBaseline,
    "adversarial": AdversarialGenerator,
    "autoregressive": Autoregressive,
}
