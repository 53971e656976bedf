"""Settings of `evaluate` and its gate."""

from __future__ import annotations

from pydantic import Field

from mmgen.settings import Settings


class FloorsConfig(Settings):
    """What the gate wants. Coherence counts where there are judges, retrieval where there are none.

    All of them are of single inputs: what is made from several is in the table and gates nothing.
    """

    mean_coherence: float = Field(0.8, ge=0, le=1)
    each_coherence: float = Field(0.6, ge=0, le=1)
    joint_coherence: float = Field(0.4, ge=0, le=1)
    #: share of text→audio clips in which an independent recogniser hears the label; None, or no recogniser: not gated
    recognised: float | None = Field(None, ge=0, le=1)
    #: recall@1 of the condition among 100, mean over directions
    retrieval: float = Field(0.05, ge=0, le=1)
    #: kernel distance may be at most this many times the upper 95% bound of that of two halves of the real data;
    #: None: not gated
    kernel_ratio: float | None = None


class EvaluateConfig(Settings):
    """What is sampled and what the gate wants."""

    later = frozenset({"candidates"})

    #: test keys frozen in the evaluation set
    max_samples: int = Field(500, ge=1)
    guidance: float = 2.0
    #: guidance of joint sampling, which has no condition
    joint_guidance: float = 1.0
    #: sampler steps
    steps: int = Field(20, ge=1)
    #: samples made for each one that is kept, the one that the fusion model finds to go best with what was given
    candidates: int = Field(1, ge=1)
    seed: int = 0
    #: sets of several inputs tried for each made slot at most, spread over their sizes; single inputs always are
    larger_subsets: int = Field(12, ge=0)
    #: resamples of every bootstrap
    resamples: int = Field(100, ge=2)
    #: training samples that made ones are held against, at most; 0: memorisation is not looked for
    training_samples: int = Field(5_000, ge=0)
    #: image slots whose label is written in the picture: read by an independent recogniser, where one is installed
    written: tuple[str, ...] = ()
    floors: FloorsConfig = FloorsConfig()
    #: class → a text that says it, by which the fusion model's zero-shot classes are scored; none: they are not
    prompts: dict[str, str] = Field(default_factory=dict)


class RegisterConfig(Settings):
    """What becomes of a model in the registry."""

    alias: str = Field("champion", pattern=r"^[a-z][a-z0-9_-]*$")
    #: move the alias when the gate passes
    promote: bool = True
