"""Runs in energon's own environment: reads a folder through its public API and tells digests, as JSON.

{split: {key: {part: sha256}}} of one pass over each split, and under "train, shuffled" how often each key came in three
epochs' worth of a training loader.
"""

import hashlib
import json
import sys
from collections import Counter
from itertools import islice

from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_train_dataset,
    get_val_dataset,
    stateless,
)


@edataclass
class Whole(Sample):
    """All parts of a sample as bytes."""

    parts: dict


@stateless
def cook(sample: dict) -> Whole:
    return Whole(
        **basic_sample_keys(sample), parts={name: data for name, data in sample.items() if not name.startswith("__")}
    )


class Bytes(DefaultTaskEncoder):
    decoder = None
    cookers = (Cooker(cook),)


folder, splits = sys.argv[1], sys.argv[2:]
worker = WorkerConfig(rank=0, world_size=1, num_workers=0)
told = {}
for split in splits:
    # "val" is what is read unasked
    named = {} if split == "val" else {"split_part": split}
    data = get_val_dataset(folder, worker_config=worker, batch_size=None, task_encoder=Bytes(), **named)
    samples = list(get_loader(data))
    told[split] = {
        each.__key__: {name: hashlib.sha256(data).hexdigest() for name, data in each.parts.items()} for each in samples
    }
    assert len(told[split]) == len(samples)
data = get_train_dataset(
    folder, worker_config=worker, batch_size=None, shuffle_buffer_size=None, max_samples_per_sequence=None,
    task_encoder=Bytes(),
)  # fmt: skip
told["train, shuffled"] = Counter(each.__key__ for each in islice(get_loader(data), 3 * len(told["train"])))
json.dump(told, sys.stdout)
