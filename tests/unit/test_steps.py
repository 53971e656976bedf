"""What is skipped, what runs, and the reason that is given."""

import pytest

from mmgen import artifact, config, steps
from mmgen.artifact import Artifact, Draft
from mmgen.errors import ConfigError, UserError
from mmgen.identity import identity
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import table_config, write_source


def configuration(**more):
    source = {"kind": "table", "path": "a.csv", "text": "caption", "image": "picture"}
    return config.build({"name": "d", "source": source, **more})


@pytest.fixture
def runtime(tmp_path):
    return Runtime(Store(tmp_path))


def dataset(store: Store, shards: dict[str, int], identity: str) -> Artifact:
    draft = Draft(store, "dataset", "d", identity * 64)
    for digest, samples in shards.items():
        draft.put(f"train-{digest}.tar", digest.encode(), "shard", split="train", digest=digest, samples=samples)
    return draft.commit(step="shard", config={}, inputs={}, facts={})


def fitted(runtime: Runtime, settings: config.Config, data: Artifact) -> Artifact:
    mine = identity("fit", settings, {"dataset": data})
    draft = Draft(runtime.store, "codecs", "d", mine.fingerprint)
    draft.put("image.safetensors", b"weights", "codec:image")
    facts = {"train_shards": steps.train_shards(data)}
    return draft.commit(step="fit", config=mine.config, inputs={"dataset": data.link}, facts=facts, pin=mine.pin)


def decide(runtime, settings, data):
    return steps.decide(steps.STEPS["fit"], settings, {"dataset": data}, runtime)


def test_the_first_time_runs(runtime):
    decision = decide(runtime, configuration(), dataset(runtime.store, {"a": 100}, "1"))
    assert (decision.run, decision.why) == (True, "first time")


def test_the_same_again_is_skipped_with_its_fingerprint(runtime):
    data = dataset(runtime.store, {"a": 100}, "1")
    made = fitted(runtime, configuration(), data)
    decision = decide(runtime, configuration(), data)
    assert decision.artifact == made
    assert made.fingerprint[:12] in decision.why


def test_a_lost_file_runs_the_step_again(runtime, tmp_path):
    data = dataset(runtime.store, {"a": 100}, "1")
    made = fitted(runtime, configuration(), data)
    (tmp_path / made.files[0].path).unlink()
    assert decide(runtime, configuration(), data).run


def test_flipped_bytes_are_found_when_asked_to_verify(runtime, tmp_path):
    data = dataset(runtime.store, {"a": 100}, "1")
    made = fitted(runtime, configuration(), data)
    (tmp_path / made.files[0].path).write_bytes(b"weightz")
    assert not decide(runtime, configuration(), data).run
    again = decide(Runtime(runtime.store, verify=True), configuration(), data)
    assert again.run
    assert again.why.startswith("damaged: codecs/d/versions/1/image.safetensors")


def test_a_fitted_thing_stays_for_a_few_new_rows_and_goes_for_many(runtime):
    made = fitted(runtime, configuration(), dataset(runtime.store, {"a": 100}, "1"))
    few = decide(runtime, configuration(), dataset(runtime.store, {"a": 100, "b": 10}, "2"))
    assert few.artifact == made
    assert few.why.startswith("pinned: codecs:d@1")
    assert "10% new training rows" in few.why
    many = decide(runtime, configuration(), dataset(runtime.store, {"a": 100, "b": 50}, "3"))
    assert many.run
    assert "50% new training rows" in many.why


def test_new_rows_ask_the_steps_own_check_where_a_floor_is_set(runtime):
    settings = configuration(codecs={"pin": {"refit_below": 0.9}})
    fitted(runtime, settings, dataset(runtime.store, {"a": 100}, "1"))
    assert decide(runtime, settings, dataset(runtime.store, {"a": 100, "b": 10}, "2")).check
    assert not decide(runtime, settings, dataset(runtime.store, {"a": 100}, "3")).check


def test_another_setting_or_refit_makes_it_anew(runtime):
    data = dataset(runtime.store, {"a": 100}, "1")
    fitted(runtime, configuration(), data)
    other = decide(runtime, configuration(codecs={"image": {"depth": 3}}), data)
    assert (other.run, other.why) == (True, "its configuration or a fitted input changed")
    assert decide(Runtime(runtime.store, refit=True), configuration(), data).why == "--refit"


def test_a_changed_setting_is_named(runtime):
    data = dataset(runtime.store, {"a": 100}, "1")
    step = steps.STEPS["shard"]
    verdicts = Draft(runtime.store, "verdicts", "d", "9" * 64, version=1).commit(
        step="validate", config={}, inputs={}, facts={}
    )
    inputs = {"staging": data, "verdicts": verdicts}
    old = configuration()
    mine = identity("shard", old, inputs)
    Draft(runtime.store, "dataset", "d", mine.fingerprint).commit(
        step="shard", config=mine.config, inputs={role: each.link for role, each in inputs.items()}, facts={}
    )
    why = steps.decide(step, configuration(shard={"max_samples": 5}), inputs, runtime).why
    assert why == "settings changed: shard.max_samples"


def test_a_step_alone_needs_what_comes_before_it(runtime):
    with pytest.raises(UserError, match="fit needs a dataset named d: run `shard` first"):
        steps.gather(steps.STEPS["fit"], configuration(), runtime, {})
    data = dataset(runtime.store, {"a": 100}, "1")
    assert steps.gather(steps.STEPS["fit"], configuration(), runtime, {}) == {"dataset": data}


def test_steps_are_chosen_by_their_ends():
    assert steps.select() == steps.NAMES
    assert steps.select("fit", "extract") == ("fit", "extract")
    with pytest.raises(ConfigError, match="did you mean 'shard'"):
        steps.select("shards")
    with pytest.raises(ConfigError, match="comes after"):
        steps.select("register", "ingest")


def test_every_step_takes_what_earlier_steps_make():
    seen: set[str] = set()
    for name, step in steps.STEPS.items():
        assert set(step.inputs.values()) <= seen
        assert step.makes in artifact.KINDS
        seen.add(name)


def test_a_plan_says_which_file_is_gone_and_that_the_source_changed(tmp_path):
    path = write_source(tmp_path / "source", 20)
    runtime = Runtime(Store(tmp_path / "store"))
    made = {
        outcome.step: outcome.artifact for outcome in steps.run(table_config(path), runtime, ("ingest", "validate"))
    }
    report = made["validate"].file("report").path
    runtime.store.delete(report)
    ingest, validate = steps.plan(table_config(path), runtime, ("ingest", "validate"))
    assert not ingest.run
    assert validate.why == f"files of verdicts:tiny@1 are damaged or gone, 1 of 4: {report}: missing"
    (ingest,) = steps.plan(table_config(path, ingest={"batch_rows": 7}), runtime, ("ingest",))
    assert ingest.why == "settings changed: ingest.batch_rows"
    write_source(tmp_path / "source", 21)
    (ingest,) = steps.plan(table_config(path), runtime, ("ingest",))
    assert ingest.why.startswith("the source, or what was forgotten of it, is not as staging:tiny@1 has it")
