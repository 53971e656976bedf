"""What MLflow serves is the model that was registered, in a process that knows nothing but MLflow."""

import json
import subprocess
import sys

import pytest

from mmgen import generate, registry
from mmgen.asking import Asked
from mmgen.runtime import Runtime
from mmgen.store import Store, sha256
from mmgen.tracking import tracking_uri
from tests import hand_made, tiny_model

SCRIPT = """
import hashlib, json, sys
import mlflow
import pandas as pd

uri, image = sys.argv[1], open(sys.argv[2], "rb").read()
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model("models:/digits@champion")
asked = pd.DataFrame({"text": ["one", None], "image": [None, image]})
made = model.predict(asked, params={"to": "audio,text,image", "num": 2, "seed": 3, "steps": 2})
led = model.predict(pd.DataFrame({"text": ["one"]}), params={
    "to": "audio", "steps": 3, "sampler": "heun", "pairs": "text:audio=4.0", "negative": "text=two", "seed": 3,
    "shift": 2.0,
})
said = model.predict(pd.DataFrame({"image": [image]}), params={"steps": 2})
refused = []
wrong = [{"prefix": "text=t"}, {"top_k": 0}, {"top_p": 2.0}, {"beams": 0}, {"candidates": 0}]
for table, params in [({"txt": ["one"]}, {}), *(({"image": [image]}, {"to": "text", **each}) for each in wrong)]:
    try:
        model.predict(pd.DataFrame(table), params=params)
    except Exception as error:  # mmgen's own: this process knows MLflow alone
        refused.append(str(error))
print(json.dumps({
    "rows": made[["row", "sample"]].to_dict("list"),
    "audio": [hashlib.sha256(each).hexdigest() for each in made["audio"]],
    "led": hashlib.sha256(led["audio"][0]).hexdigest(),
    "starts": [made[slot][0][:4].decode("latin-1") for slot in ("image", "audio")],
    "text": type(made["text"][0]).__name__,
    "default": sorted(said.columns),
    "refused": refused,
}))
"""


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("served") / "store")
    registry.register(tiny_model.CONFIG, tiny_model.line(store), Runtime(store, device="cpu"))
    return store


def test_a_fresh_process_loads_it_from_mlflow_alone_and_makes_the_same_bytes(registered, tmp_path):
    image = tmp_path / "given.png"
    image.write_bytes(hand_made.png(0, 16, 16))
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, tracking_uri(registered), str(image)],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["rows"] == {"row": [0, 0, 1, 1], "sample": [0, 1, 0, 1]}
    assert told["starts"] == ["\x89PNG", "RIFF"]
    assert told["text"] == "str"
    assert told["default"] == ["audio", "row", "sample", "text"]
    assert len(told["refused"]) == 6
    assert "wanted a row and a column of" in told["refused"][0]
    # this model has no use for them, so that they arrived shows in what it says of them
    assert "prefix: this model makes whole texts at once" in told["refused"][1]
    for name, said in zip(("top_k", "top_p", "beams", "candidates"), told["refused"][2:], strict=True):
        assert f"{name}: wanted " in said
    model = generate.load("digits@champion", registered)
    given = [{"text": "one"}, {"image": image.read_bytes()}]
    here = generate.rows(model, given, to=("audio", "text", "image"), num=2, asked=Asked(steps=2), seed=3)
    assert told["audio"] == [sha256(row["audio"]) for row in here]
    asked = {
        "pairs": {("text", "audio"): 4.0},
        "negative": {"text": "two"},
        "sampler": "heun",
        "steps": 3,
        "shift": 2.0,
    }
    assert told["led"] == sha256(model.generate(text="one", to="audio", seed=3, **asked)["audio"][0])


def test_the_package_alone_is_the_model(registered):
    package = registered.local_path("promotions/digits/1/package")
    alone = generate.load(package)
    named = generate.load("digits@1", registered)
    made = [model.generate(text="one", to=("image",), num=2, steps=2)["image"] for model in (alone, named)]
    assert made[0] == made[1]
    assert {path.suffix for path in package.iterdir()} == {".json", ".safetensors"}
