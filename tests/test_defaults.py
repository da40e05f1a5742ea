"""The defaults of the public calls: users rely on them unseen, so a change of one is a change of the interface."""

from __future__ import annotations

import inspect
from typing import Any

import w2w_hub.release

from .bad_arguments import public_calls

# of parameters whose default is a plain value; None means "not given" and is not listed
DEFAULTS: dict[str, dict[str, Any]] = {
    "Adapter": {"dialect": "memory", "ignored_keys": ()},
    "Compatibility": {"initialisation": "unknown"},
    "Coordinates.explained": {"difference": False},
    "DatasetOptions": {
        "version": "0.1.0",
        "license": "unknown",
        "initialization": "unknown",
        "compression": "none",
        "shard_size": 500000000,
        "parquet_view": True,
    },
    "Direction.from_evidence": {"name": ""},
    "LoraFactors": {"kernel": ()},
    "ParameterLayout.from_model": {"targets": ("to_q", "to_v"), "rank": 1, "scale": 1.0, "component": "unet"},
    "ParameterLayout.flatten": {"where": "this adapter"},
    "Point.save": {"overwrite": False},
    "Population.nearest": {"count": 1},
    "Population.sample": {"count": 1, "seed": 0, "truncation": 1.0, "covariance": "independent"},
    "SplitRule": {"column": "id", "holdout": 0.1, "seed": 0, "split": "test"},
    "Validation": {"every": 100, "prompts": (), "seed": 0},
    "WeightDataset.iter_blocks": {"rows": 256},
    "WeightDataset.mean_std": {"split": "train"},
    "WeightDataset.open": {"local_files_only": False},
    "WeightDataset.torch": {"columns": ()},
    "WeightDataset.torch_stream": {"columns": ()},
    "WeightDataset.verify": {"deep": True},
    "WeightSpace.from_pretrained": {"local_files_only": False},
    "WeightSpace.save": {"overwrite": False},
    "WeightSpace.add_preview": {"overwrite": False},
    "WeightSpace.verify": {"deep": True},
    "WeightSpace.coefficients_of": {"several": False},
    "WeightSpace.sample": {"count": 1, "seed": 0, "truncation": 1.0, "covariance": "independent"},
    "WeightSpace.nearest": {"count": 1},
    "WeightSpace.edit": {"preserve": ()},
    "add_rows": {"extra_labels": "refuse", "workers": 1},
    "build_space": {
        "split": "train",
        "version": "0.1.0",
        "directions": True,
        "standardize": True,
        "solver": "auto",
        "engine": "numpy",
    },
    "convert_adapter": {"overwrite": False},
    "describe": {"allow_torch": False},
    "find_duplicates": {"cosine": 0.99, "centered": True, "seed": 0},
    "fit_directions": {"reading": "logistic", "editing": "overlap", "whiten": False, "regularization": 10.0, "seed": 0},
    "load_dataset": {"name": "weights", "streaming": False, "local_files_only": False},
    "pack_adapters": {
        "extra_labels": "refuse",
        "header_labels": False,
        "workers": 1,
        "overwrite": False,
        "version": "0.1.0",
        "license": "unknown",
        "initialization": "unknown",
        "compression": "none",
        "shard_size": 500000000,
        "parquet_view": True,
    },
    "read_adapter": {"allow_torch": False},
    "rebuild": {"directions": False},
    "relabel_rows": {"drop_columns": (), "extra_labels": "refuse", "overwrite": False},
    "save_point": {"overwrite": False},
    "write_adapter": {"dialects": ("peft", "diffusers"), "overwrite": False},
    "write_dataset": {
        "extra_labels": "refuse",
        "overwrite": False,
        "version": "0.1.0",
        "license": "unknown",
        "initialization": "unknown",
        "compression": "none",
        "shard_size": 500000000,
        "parquet_view": True,
    },
    "write_report": {"overwrite": False},
    "check": {"deep": True, "vouched": False},
    "read_deltas": {"allow_torch": False},
    "recognize": {"allow_torch": False},
    "as_rgb": {"name": "a picture"},
    "as_mask": {"name": "a mask"},
    "to_picture": {"scale": 1},
    "contact_sheet": {"scale": 2, "title": ""},
    "animation": {"scale": 2},
    "save_picture": {"milliseconds": 250, "overwrite": False},
    "InversionSettings": {
        "num_steps": 400,
        "learning_rate": 0.1,
        "batch_size": 4,
        "prior": 0.0,
        "tolerance": 0.0,
        "restarts": 1,
        "seed": 0,
    },
    "W2WMixin.from_pretrained": {"local_files_only": False},
    "W2WMixin.attach": {"verify": True},
    "W2WMixin.save_pretrained": {"custom_pipeline": False, "overwrite": False},
    "W2WMixin.push_to_hub": {"private": False, "dry_run": False},
    "W2WMixin.sample_identity": {"seed": 0, "truncation": 1.0},
    "W2WMixin.edit": {"preserve": (), "start": 0.0},
    "W2WMixin.save_identity": {"overwrite": False},
    "W2WMixin.export": {"overwrite": False},
    "W2WMixin.render": {"batch_size": 32},
    "W2WMixin.invert": {"prompt": "sks person"},
    "strength_grid": {"preserve": (), "start": 0.0},
    "Krylov": {"tolerance": 1e-06, "max_passes": 40, "seed": 0},
    "Spread.sample": {"count": 1, "seed": 0, "truncation": 1.0},
    "TrainingRecipe": {
        "prompt": "sks person",
        "class_prompt": "person",
        "prior_weight": 1.0,
        "class_pictures": 200,
        "caption_dropout": 0.0,
        "rank": 1,
        "alpha": 27.0,
        "targets": ("to_q", "to_v"),
        "steps": 800,
        "batch_size": 1,
        "learning_rate": 0.0001,
        "schedule": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "average_last": 0.0,
        "seed": 0,
        "precision": "auto",
    },
    "train_identities": {"steps": 800, "batch_size": 1, "learning_rate": 0.003, "average_last": 0.25, "seed": 0},
    "train_identity": {"engine": "auto", "resume": False, "overwrite": False},
    "train_many": {"at_once": 8, "engine": "auto", "resume": False, "overwrite": False},
    "import_w2w": {"holdout": 0.1, "parquet_view": False, "overwrite": False},
    "release.archive": {"overwrite": False},
    "release.contribute": {"extra_labels": "refuse", "accept_rest": False, "dry_run": False, "allow_torch": False},
    "release.write_start": {"trainer": "w2w", "overwrite": False},
    "release.verify": {"deep": True, "local_files_only": False},
    "release.verify_lock": {"rebuild": False, "local_files_only": False},
    "release.pin": {"overwrite": False},
    "release.push": {"private": False, "dry_run": False},
    "release.release": {"dry_run": False},
    "release.review": {"comment": False},
    "release.withdraw": {"dry_run": False},
}


def test_the_defaults_of_public_calls_are_those_that_users_rely_on() -> None:
    calls = {name: function for name, function, _ in public_calls()}
    released = {name: getattr(w2w_hub.release, name) for name in w2w_hub.release.__all__}
    calls |= {f"release.{name}": value for name, value in released.items() if inspect.isfunction(value)}
    found = {}
    for name, function in calls.items():
        parameters = inspect.signature(function).parameters.values()
        plain = {p.name: p.default for p in parameters if type(p.default) in (bool, int, float, str, tuple)}
        if plain:
            found[name] = plain
    assert found == DEFAULTS
    same_type = {n: {k: type(v) for k, v in values.items()} for n, values in found.items()}
    assert same_type == {n: {k: type(v) for k, v in values.items()} for n, values in DEFAULTS.items()}  # True is not 1
