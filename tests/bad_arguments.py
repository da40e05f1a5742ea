"""The table of public calls: what each parameter takes, and a call in which all are valid."""

from __future__ import annotations

import importlib
import inspect
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

import w2w_hub
import w2w_hub.models.encoder
import w2w_hub.store.pictures
from tests.space.encoders import random_encoder
from tests.upstream.published import publish
from w2w_hub import Adapter, AutoW2WPipeline, ParameterLayout, W2WPipeline, WeightDataset, WeightSpace
from w2w_hub.common.pipelines import PIPELINES
from w2w_hub.dataset import SplitRule
from w2w_hub.dataset.manifest import Compatibility
from w2w_hub.lora.adapter import LoraFactors, Target
from w2w_hub.models.pipelines import W2WMixin

# modules whose `__all__` (or, without one, own public functions) are public calls
MODULES = (
    "w2w_hub", "w2w_hub.dataset", "w2w_hub.dialects", "w2w_hub.models.pictures",
    "w2w_hub.models.pipelines", "w2w_hub.models.pipelines.grids", "w2w_hub.models.calibration",
    "w2w_hub.models.set_calibration",
    "w2w_hub.models.sliders", "w2w_hub.models.encoder", "w2w_hub.store.pictures",
    "w2w_hub.space", "w2w_hub.space.atlas", "w2w_hub.models.atlas_pictures", "w2w_hub.space.points",
    "w2w_hub.training", "w2w_hub.release", "w2w_hub.upstream",
)  # fmt: skip
# classes that are made by the calls above, not by their constructors (W2WPipeline's is the stock one)
MADE = (
    "Coordinates", "Direction", "Encoder", "Explained", "Population", "Spread", "WeightDataset", "WeightSpace",
    "Attribute", "Factor", "PopulationModel", "Person", "TrainingPicture", "TrainingResult", "Imported", "Overlap",
    "Slider", "Atlas",
    "W2WMixin", "Dialect", "Solver", "Engine", "AutoW2WPipeline", *(row.name for row in PIPELINES),
)  # fmt: skip
# extension points: their methods are called by this package, with what is checked already
PROTOCOLS = (
    "Dialect", "Solver", "Gram", "Covariance", "Krylov", "Engine", "NumpyEngine", "TorchEngine", "DaskEngine",
)  # fmt: skip
# for other modules, with what is checked already
INTERNAL = (
    "SplitRule.apply", "SplitRule.broken_by", "Attribute.checked", "Attribute.allowed", "Encoder.require_space",
)  # fmt: skip
OPERATORS = ("__getitem__",)
# need a Hub; tests/hub/test_refusals.py tries them
NEED_A_HUB = (
    "release.push", "release.pin", "release.log", "release.contributions", "release.review", "release.merge",
    "release.release", "release.space_app", "release.withdraw",
)  # fmt: skip
LOCK = Path(__file__).parent / "data" / "archives" / "repository-1-checksum-w2w_hub-0.1.0" / "w2w.lock"

ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None, "True": lambda: True, "object": object, "path": lambda: Path("nowhere"),
    "int": lambda: 3, "zero": lambda: 0, "negative": lambda: -1, "huge": lambda: 10**400,
    "NumPy int": lambda: np.int64(3), "float": lambda: 2.5, "whole float": lambda: 2.0, "NaN": lambda: float("nan"),
    "word": lambda: "nobody", "empty": lambda: "", "NUL": lambda: "a\0b", "number as text": lambda: "3",
    "bytes": lambda: b"nobody", "0-d": lambda: np.array(1.0), "1-d": lambda: np.zeros(3),
    "2-d": lambda: np.zeros((2, 3)), "3-d": lambda: np.zeros((2, 2, 2)), "NaN array": lambda: np.full(3, np.nan),
    "objects": lambda: np.array([object()]), "tensor": lambda: torch.zeros(3),
    "frame": lambda: pd.DataFrame({"a": [1]}), "empty list": list, "ints": lambda: [1, 2], "words": lambda: ["nobody"],
    "mixed": lambda: ["a", 1], "ragged": lambda: [[1], [2, 3]], "dict": lambda: {"a": 1},
    "generator": lambda: iter([1, 2]),
    # objects of this package where another one, its path or its name is expected
    "adapter": lambda: Adapter({Target("unet", "a"): LORA}), "layout": lambda: ParameterLayout.from_adapter(
        ODD["adapter"]()
    ), "point": lambda: w2w_hub.Point(np.ones(3), "another space"), "rule": lambda: SplitRule("Age"),
}  # fmt: skip

WHOLE = {"int", "zero", "negative", "huge", "NumPy int"}
NUMBER = WHOLE | {"float", "whole float"}
TEXT = {"word", "empty", "NUL", "number as text"}
ARRAYS = {"generator", "0-d", "1-d", "2-d", "3-d", "NaN array", "tensor", "ints", "empty list", "ragged"}
# what a parameter of each kind may take; anything else must be refused
KINDS: dict[str, set[str]] = {
    "anything": set(ODD),
    "whole": WHOLE,
    "number": NUMBER,
    "flag": {"True"},
    "text": TEXT,
    "path": TEXT | {"path"},
    "names": {"empty list", "words", "frame", "generator"},
    "mapping": {"dict"},
    "array": ARRAYS,
    "frame": {"frame"},
    "words": {"words", "empty list"},
    "mixed": {"mixed"},
    "ints": {"ints"},
    "empty list": {"empty list"},
    "": set(),  # an object of one class
    "None": {"None"},
    "adapter": {"adapter"},
    "layout": {"layout"},
    "point": {"point"},
    "rule": {"rule"},
}


def takes(kind: str) -> set[str]:
    """Return the odd values that a kind, of several joined by ``|``, may take."""
    return set().union(*(KINDS[part] for part in kind.split("|")))


@dataclass(frozen=True)
class Row:
    """One public call.

    Attributes
    ----------
    valid : callable
        From the world to the function and keyword arguments with which it works.
    kinds : dict
        Parameter to kind, see :data:`KINDS`.
    left_out : dict
        Parameter to odd values that it takes but that would start something slow or far.
    """

    valid: Callable[[World], tuple[Callable[..., Any], dict[str, Any]]]
    kinds: dict[str, str]
    left_out: dict[str, set[str]] = field(default_factory=dict)
    slow: bool = False

    @property
    def odd(self) -> Collection[str]:
        """The odd values that it is tried with."""
        return FEW if self.slow else ODD


class World:
    """Small things to call with; whatever is written goes to a new place."""

    def __init__(self, folder: Path, tiny_space: Path, tiny_base: Path):
        self.folder, self.tiny_space, self.tiny_base = folder, tiny_space, tiny_base
        self.count = 0
        rng = np.random.default_rng(0)
        names = [f"mid_block.attentions.0.transformer_blocks.{i}.attn1.to_q" for i in range(2)]
        self.layout = ParameterLayout({Target("unet", name): (1, 3, 4) for name in names}, 2.0)
        self.rows = rng.normal(size=(16, self.layout.size)).astype(np.float32)
        self.ids = [f"p{i}" for i in range(16)]
        self.table = pd.DataFrame({"id": self.ids, "split": ["train"] * 12 + ["test"] * 4})
        self.table["Beard"] = rng.random(16) < 0.5
        self.table["Age"] = rng.random(16)
        self.compatibility = Compatibility(None, None, "s")
        self.dataset: WeightDataset = w2w_hub.write_dataset(
            self.rows, folder / "people", layout=self.layout, ids=self.ids, labels=self.table,
            compatibility=self.compatibility,
        )  # fmt: skip
        self.space: WeightSpace = w2w_hub.build_space(self.dataset, 3)
        self.coordinates, self.population, self.spread = (
            self.space.coordinates,
            self.space.population,
            self.space.spread,
        )
        self.encoder = random_encoder(self.space, size=(8, 8))
        self.model = self.space.population_model
        self.saved_space = self.space.save(folder / "space")
        self.adapter: Adapter = self.layout.unflatten(self.rows[0])
        w2w_hub.write_adapter(self.adapter, folder / "lora")
        self.lora = folder / "lora"
        self.point = self.space.row("p0")
        self.table.to_csv(folder / "labels.csv", index=False)
        w2w_hub.space.points.save_point(self.point, folder / "point.json")
        self.picture = Image.new("RGB", (8, 8))
        self.picture.save(folder / "picture.png")
        (folder / "portraits" / "ann").mkdir(parents=True)
        self.picture.save(folder / "portraits" / "ann" / "0.png")
        self.portraits = folder / "portraits"
        self._pipe: W2WPipeline | None = None
        self._unet: Any = None

    def new(self, ending: str = "") -> Path:
        """A path where nothing is."""
        self.count += 1
        return self.folder / "out" / f"{self.count}{ending}"

    @property
    def cache(self) -> Path:
        """A cache with what the archived lock pins."""
        if not (self.folder / "cache").exists():
            importlib.import_module("w2w_hub.release").restore(LOCK, LOCK.parent, cache_dir=self.folder / "cache")
        return self.folder / "cache"

    def copy(self) -> Path:
        """The dataset's folder, to be changed."""
        return Path(shutil.copytree(self.folder / "people", self.new()))

    @property
    def with_start(self) -> Path:
        """A dataset that publishes its initialization."""
        folder = self.folder / "with-start"
        if not folder.exists():
            rows = np.repeat(self.rows[:1], 2, 0)
            w2w_hub.write_dataset(rows, folder, layout=self.layout, start_adapter=self.adapter)
        return folder

    def again(self) -> WeightSpace:
        """The space, to be saved or changed."""
        return WeightSpace.from_pretrained(self.saved_space)

    @property
    def pipe(self) -> W2WPipeline:
        """A pipeline that draws quietly, with the identity of a row."""
        if self._pipe is None:
            self._pipe = W2WPipeline.from_pretrained(self.tiny_space)
            self._pipe.set_progress_bar_config(disable=True)
        self._pipe.identity = "person-0000"
        return self._pipe

    @property
    def published(self) -> Path:
        """Files as weights2weights published them."""
        folder = self.folder / "w2w"
        if not folder.exists():
            made = publish(folder, dogs=False)
            made.write("w2wmodel.pt", torch.from_numpy(made.projections[:1]))
        return folder

    @property
    def imported(self) -> WeightSpace:
        """The weight space of them."""
        folder = self.folder / "imported"
        if not folder.exists():
            importlib.import_module("w2w_hub.upstream").import_w2w(self.published, folder)
        return WeightSpace.from_pretrained(folder / "space")

    @property
    def encoding(self) -> WeightSpace:
        """The space with an encoder."""
        self.space.encoder = self.encoder
        return self.space

    @property
    def encoding_pipe(self) -> W2WPipeline:
        """The pipeline with an encoder of its space."""
        self.pipe.space.encoder = random_encoder(self.pipe.space, size=(64, 64), factor=8)
        return self.pipe

    @property
    def face(self) -> Any:
        """A picture of the size that the pipeline draws."""
        return Image.new("RGB", (64, 64))

    @property
    def quick_pipe(self) -> W2WPipeline:
        """The same, with little to draw for a slider."""
        sliders = importlib.import_module("w2w_hub.models.sliders")
        sliders.PEOPLE, sliders.SCORED, sliders.RANDOM = 4, 1, 1
        self.pipe.generation = {"num_inference_steps": 1}
        return self.pipe

    @property
    def recipe(self) -> Any:
        """A training run that is over at once."""
        return importlib.import_module("w2w_hub.training").TrainingRecipe(class_prompt=None, steps=1)

    @property
    def unet(self) -> Any:
        return self.pipe.unet


LORA = LoraFactors(np.ones((1, 3), np.float32), np.ones((4, 1), np.float32), 1.0)
HUB = {
    "revision": "None|text", "token": "None|text|flag", "cache_dir": "None|path", "local_files_only": "flag",
}  # fmt: skip
RECIPE = {
    "prompt": "text", "class_prompt": "None|text", "prior_weight": "number", "class_pictures": "whole",
    "caption_dropout": "number", "rank": "whole", "alpha": "number", "targets": "names", "steps": "whole",
    "batch_size": "whole", "learning_rate": "number", "schedule": "text", "weight_decay": "number",
    "max_grad_norm": "None|number", "average_last": "number", "seed": "whole", "precision": "text",
}  # fmt: skip
TRAINING = {
    "base": "path", "out": "None|path", "recipe": "", "reference": "None|path", "start": "None|path",
    "engine": "text", "cache": "None|path", "resume": "flag", "overwrite": "flag",
}  # fmt: skip
COEFFICIENTS = "array|text|path"  # fewer than k are allowed; a row's id; a saved point or an adapter
OPTIONS = {
    "column_info": "None|mapping",
    "split_rule": "None|rule",
    "version": "text",
    "name": "None|text",
    "license": "text",
    "initialization": "text",
    "start_adapter": "None|path|adapter",
    "base": "None|path",
    "compatibility": "None",
    "dtype": "None|text",
    "compression": "text",
    "shard_size": "whole|text",
    "parquet_view": "flag|text",
}
COMMON = {"labels": "None|frame", **OPTIONS}  # fmt: skip
ADVANCED = {"workers": "None|whole", "dask": "None|text"}
# processes and schedulers are started by other tests
# rows whose every call reads or writes folders are tried with these only
FEW = (
    "None", "True", "float", "huge", "NaN", "empty", "NUL", "bytes", "object", "0-d", "2-d", "mixed", "ragged", "dict",
)  # fmt: skip
FAR = {"workers": WHOLE, "dask": TEXT}
SLOW = {"steps": {"huge"}, "batch_size": {"huge"}}


def on(
    attribute: str, method: str, kinds: dict[str, str], left_out: Any = None, /, **valid: Callable[[World], Any]
) -> Row:
    """A row for a method of something in the world."""
    return Row(
        lambda w: (getattr(getattr(w, attribute), method), {k: v(w) for k, v in valid.items()}), kinds, left_out or {},
        slow=attribute == "pipe",
    )  # fmt: skip


def call(function: Callable[..., Any], kinds: dict[str, str], **valid: Callable[[World], Any]) -> Row:
    """A row for a function."""
    return Row(lambda w: (function, {k: v(w) for k, v in valid.items()}), kinds)


def slow(function: Callable[..., Any], kinds: dict[str, str], **valid: Callable[[World], Any]) -> Row:
    """A row for a function that reads or writes folders before it looks at all of its arguments."""
    return Row(lambda w: (function, {k: v(w) for k, v in valid.items()}), kinds, slow=True)


def _adapter_of_factors(**fields: Any) -> Adapter:
    """Factors are checked when an adapter is made of them."""
    return Adapter({Target("unet", "a"): LoraFactors(**fields)})


def without(left_out: dict[str, set[str]], row: Row) -> Row:
    """The same row, without what would start something slow or far."""
    return Row(row.valid, row.kinds, left_out, slow=True)


def point(method: str, **more: Any) -> Row:
    kinds = {"point": COEFFICIENTS, **{k: v[0] for k, v in more.items()}}
    return on("space", method, kinds, point=lambda w: w.point, **{k: v[1] for k, v in more.items()})


def rows() -> dict[str, Row]:
    """Every public call by its name."""
    d, s, f, p = w2w_hub.dataset, w2w_hub.space, w2w_hub.dialects, w2w_hub.models.pictures
    grids, points = (
        importlib.import_module("w2w_hub.models.pipelines.grids"),
        importlib.import_module("w2w_hub.space.points"),
    )
    training = importlib.import_module("w2w_hub.training")
    text, number, whole, flag, path = "text", "number", "whole", "flag", "path"
    names_ = "names|text"
    r = importlib.import_module("w2w_hub.release")
    upstream = importlib.import_module("w2w_hub.upstream")
    found: dict[str, Row] = {
        # ------------------------------------------------------------ versions
        "release.verify": slow(
            r.verify, {"what": path, "deep": flag, "identity": "None|path", "token": HUB["token"],
                       "cache_dir": HUB["cache_dir"], "local_files_only": flag},
            what=lambda w: w.folder / "people",
        ),
        "release.diff": slow(
            r.diff, {"old": path, "new": path, "token": HUB["token"], "cache_dir": HUB["cache_dir"]},
            old=lambda w: w.folder / "people", new=lambda w: w.folder / "people",
        ),
        "release.contribute": slow(
            r.contribute,
            {"repo": path, "adapters": names_ + "|path", "ids": "None|names|array|mapping|text", "labels": "None|frame",
             "extra_labels": "", "label": "None|mapping", "source": "None|text", "license": "None|text",
             "consent": "None|text", "accept_rest": flag, "dry_run": flag, "allow_torch": flag, "trust": "None|text",
             "alpha": "None|number", "component": "None|text", "token": HUB["token"]},
            repo=lambda w: w.folder / "people", adapters=lambda w: w.lora, dry_run=lambda w: True,
        ),
        "release.write_start": slow(
            r.write_start,
            {"dataset": path, "out": path, "trainer": text, "overwrite": flag, "token": HUB["token"]},
            dataset=lambda w: w.with_start, out=lambda w: w.new(),
        ),
        "release.read_lock": call(r.read_lock, {"path": path}, path=lambda w: LOCK),
        "release.verify_lock": slow(
            r.verify_lock, {"path": path, "rebuild": flag, "token": HUB["token"], "cache_dir": HUB["cache_dir"],
                            "local_files_only": flag},
            path=lambda w: LOCK, cache_dir=lambda w: w.cache, local_files_only=lambda w: True,
        ),
        "release.restore": slow(
            r.restore, {"lock": path, "source": path, "token": HUB["token"], "cache_dir": HUB["cache_dir"]},
            lock=lambda w: LOCK, source=lambda w: LOCK.parent, cache_dir=lambda w: w.new(),
        ),
        "release.archive": slow(
            r.archive,
            {"lock": path, "out": path, "token": HUB["token"], "cache_dir": HUB["cache_dir"], "overwrite": flag},
            lock=lambda w: LOCK, out=lambda w: w.new(), cache_dir=lambda w: w.cache,
        ),
        "release.cite": slow(
            r.cite, {"what": path, "token": HUB["token"], "cache_dir": HUB["cache_dir"]}, what=lambda w: LOCK
        ),
        "release.bibtex": call(r.bibtex, {"pins": "empty list"}, pins=lambda w: r.cite(LOCK)),
        "release.citation_file": call(r.citation_file, {"pins": ""}, pins=lambda w: r.cite(LOCK)),
        # ------------------------------------------------------------ adapters and layouts
        "Adapter": call(
            Adapter,
            {"factors": "mapping", "base_model": "None|text", "dialect": text,
             "ignored_keys": "words|array",
             "metadata": "mapping"},
            factors=lambda w: {Target("unet", "a"): LORA},
        ),
        "Target": call(
            Target, {"component": text, "module": text}, component=lambda w: "unet", module=lambda w: "a.to_q"
        ),
        "LoraFactors": call(
            _adapter_of_factors, {"A": "array", "B": "array", "scale": number, "kernel": "words|array"},
            A=lambda w: LORA.A, B=lambda w: LORA.B, scale=lambda w: 1.0,
        ),
        "LoraFactors.delta": Row(lambda w: (LORA.delta, {}), {}),
        "Compatibility": call(
            Compatibility, {"base_model": "None|text", "base_digest": "None|text", "initialisation": text}
        ),
        "Compatibility.from_json": call(
            Compatibility.from_json, {"data": "mapping", "where": "anything"}, data=lambda w: {
                "base_model": None, "base_digest": None, "initialisation": "s"}, where=lambda w: "x",
        ),
        "Adapter.require_finite": on("adapter", "require_finite", {"where": "anything"}, where=lambda w: "x"),
        "ParameterLayout": call(
            ParameterLayout, {"sizes": "mapping", "scale": number},
            sizes=lambda w: {Target("unet", "a"): (1, 2, 3)}, scale=lambda w: 1.0,
        ),
        "ParameterLayout.from_adapter": call(
            ParameterLayout.from_adapter, {"adapter": "adapter", "scale": "None|number"}, adapter=lambda w: w.adapter
        ),
        "ParameterLayout.from_model": call(
            ParameterLayout.from_model,
            {"model": "", "targets": names_, "rank": whole, "scale": number, "component": text},
            model=lambda w: w.unet,
        ),
        "ParameterLayout.to_json": on("layout", "to_json", {}),
        "ParameterLayout.from_json": call(ParameterLayout.from_json, {"data": ""}, data=lambda w: w.layout.to_json()),
        "ParameterLayout.differences": on("layout", "differences", {"other": "layout"}, other=lambda w: w.layout),
        "ParameterLayout.incompatibility": on(
            "layout", "incompatibility", {"adapter": "adapter"}, adapter=lambda w: w.adapter
        ),
        "ParameterLayout.scale_ratios": on(
            "layout", "scale_ratios", {"adapter": "adapter"}, adapter=lambda w: w.adapter
        ),
        "ParameterLayout.flatten": on(
            "layout", "flatten", {"adapter": "", "where": "anything"},
            adapter=lambda w: w.adapter,
        ),
        "ParameterLayout.unflatten": on(
            "layout", "unflatten", {"vector": "array", "base_model": "None|text"}, vector=lambda w: w.rows[0]
        ),
        "ParameterLayout.unflatten_batch": on(
            "layout", "unflatten_batch", {"vectors": "array"}, vectors=lambda w: w.rows
        ),
        # ------------------------------------------------------------ checkpoint files
        "read_adapter": call(
            f.read_adapter,
            {"path": path, "allow_torch": flag, "trust": "None|text", "alpha": "None|number",
             "component": "None|text", "svd_rank": "None|whole", "canonical": "None|text"},
            path=lambda w: w.lora,
        ),
        "read_deltas": call(f.read_deltas, {"path": path, "allow_torch": flag}, path=lambda w: w.lora),
        "recognize": call(f.recognize, {"path": path, "allow_torch": flag}, path=lambda w: w.lora),
        "write_adapter": call(
            f.write_adapter, {"adapter": "", "folder": path, "dialects": names_, "overwrite": flag},
            adapter=lambda w: w.adapter, folder=lambda w: w.new(),
        ),
        "convert_adapter": call(
            f.convert_adapter, {"source": path, "out": path, "dialect": text, "overwrite": flag},
            source=lambda w: w.lora, out=lambda w: w.new(), dialect=lambda w: "diffusers",
        ),
        "writers": call(f.writers, {}),
        "rebuild": slow(
            w2w_hub.rebuild,
            {"space": "", "dataset": "", "engine": "None|text", "directions": flag, "checkpoint": "None|path"},
            space=lambda w: w.space, dataset=lambda w: w.dataset,
        ),
        "write_report": slow(
            w2w_hub.write_report, {"space": "", "path": path, "dataset": "None", "overwrite": flag},
            space=lambda w: w.space, path=lambda w: w.new(),
        ),
        "describe": call(
            w2w_hub.describe,
            {"path": path, "allow_torch": flag, "trust": "None|text", "alpha": "None|number",
             "component": "None|text", "against": "None|path", "tracker": "None"},
            path=lambda w: w.lora,
        ),
        "identify": call(w2w_hub.identify, {"path": path}, path=lambda w: w.lora),
        # ------------------------------------------------------------ datasets
        "write_dataset": slow(
            d.write_dataset,
            {"weights": "array|frame", "path": path, "layout": "", "ids": "None|names|array",
             "extra_labels": "", "overwrite": flag, **COMMON},
            weights=lambda w: w.rows, path=lambda w: w.new(), layout=lambda w: w.layout,
        ),
        "pack_adapters": without(FAR, call(
            d.pack_adapters,
            {"adapters": names_ + "|path", "path": path,
             "ids": "None|names|array|mapping|text", "extra_labels": "", "header_labels": flag, "overwrite": flag,
             **COMMON, **ADVANCED},
            adapters=lambda w: [w.lora], path=lambda w: w.new(),
        )),
        "add_rows": without(FAR, call(
            d.add_rows,
            {"path": path, "sources": names_ + "|path", "labels": "None|frame", "initialization": "None|text",
             "column_info": "None|mapping", "version": "None|text", "ids": "None|names|array|mapping|text",
             "extra_labels": "", **ADVANCED},
            path=lambda w: w.copy(), sources=lambda w: w.lora, initialization=lambda w: "s",
        )),
        "remove_rows": slow(
            d.remove_rows, {"path": path, "ids": names_, "version": "None|text"},
            path=lambda w: w.copy(), ids=lambda w: "p0",
        ),
        "relabel_rows": slow(
            d.relabel_rows,
            {"path": path, "labels": "None|frame", "drop_columns": names_, "column_info": "None|mapping",
             "split_rule": "None", "initialization": "None|text", "base": "None|path", "license": "None|text",
             "start_adapter": "None|path|adapter", "extra_labels": "", "overwrite": flag, "version": "None|text"},
            path=lambda w: w.copy(), labels=lambda w: w.table[["id", "Age"]],
        ),
        "read_labels": call(d.read_labels, {"path": path}, path=lambda w: w.folder / "labels.csv"),
        "check": slow(d.check, {"path": path, "deep": flag, "vouched": flag}, path=lambda w: w.folder / "people"),
        "diff": call(d.diff, {"first": path, "second": path}, first=lambda w: w.dataset, second=lambda w: w.dataset),
        "find_duplicates": call(
            d.find_duplicates, {"dataset": "", "cosine": "None|number", "centered": flag, "seed": whole},
            dataset=lambda w: w.dataset,
        ),
        "load_dataset": slow(
            d.load_dataset, {"path": path, "name": text, "split": "None|text", "streaming": flag, **HUB},
            path=lambda w: w.folder / "people",
        ),
        "DatasetOptions": call(d.DatasetOptions, OPTIONS),
        "SplitRule": call(
            SplitRule, {"column": text, "holdout": number, "seed": whole, "split": text}, column=lambda w: "Age"
        ),
        "SplitRule.from_json": Row(
            lambda w: (getattr(SplitRule, "from_json", dict), {"data": SplitRule("Age").to_json()}), {"data": "mapping"}
        ),
        "SplitRule.to_json": Row(lambda w: (SplitRule("Age").to_json, {}), {}),
        "WeightDataset.open": call(
            WeightDataset.open, {"path": path, "lazy": "None|flag", **HUB}, path=lambda w: w.folder / "people"
        ),
        "WeightDataset.position": on("dataset", "position", {"row_id": text}, row_id=lambda w: "p0"),
        "WeightDataset.where": on("dataset", "where", {"split": "None|text", "attributes": "anything"}),
        "WeightDataset.find": on("dataset", "find", {"name": text}, name=lambda w: "labels/train.parquet"),
        "WeightDataset.attribute": on("dataset", "attribute", {"name": text}, name=lambda w: "Age"),
        "WeightDataset.read_into": on(
            "dataset", "read_into", {"indices": "array", "out": "array"},
            indices=lambda w: np.arange(2), out=lambda w: np.empty((2, w.layout.size), np.float32),
        ),
        "WeightDataset.view": on(
            "dataset", "view", {"start": whole, "stop": whole}, start=lambda w: 0, stop=lambda w: 2
        ),
        "WeightDataset.release": on(
            "dataset", "release", {"start": whole, "stop": whole}, start=lambda w: 0, stop=lambda w: 2
        ),
        "WeightDataset.row_indices": on("dataset", "row_indices", {"key": "anything"}, key=lambda w: ["p0"]),
        "WeightDataset.__getitem__": on("dataset", "__getitem__", {"key": "anything"}, key=lambda w: 0),
        "WeightDataset.to_numpy": on("dataset", "to_numpy", {"split": "None|text"}),
        "WeightDataset.iter_blocks": Row(
            lambda w: (lambda **a: list(w.dataset.iter_blocks(**a)), {}), {"rows": whole, "split": "None|text"}
        ),
        "WeightDataset.adapter": on("dataset", "adapter", {"row_id": "text|whole"}, row_id=lambda w: "p0"),
        "WeightDataset.mean_std": on("dataset", "mean_std", {"split": "None|text"}),
        "WeightDataset.to_dask": on("dataset", "to_dask", {"rows": "None|whole"}),
        "WeightDataset.torch": on("dataset", "torch", {"split": "None|text", "columns": names_}),
        "WeightDataset.torch_stream": on("dataset", "torch_stream", {"split": "None|text", "columns": names_}),
        "WeightDataset.verify": on("dataset", "verify", {"deep": flag}),
        # ------------------------------------------------------------ weight spaces
        "build_space": slow(
            s.build_space,
            {"dataset": "", "k": "None|whole", "split": text, "rows": "None|names", "name": "None|text",
             "version": text, "directions": flag, "population_model": flag, "groups": "None|mapping",
             "standardize": flag, "canonical": "None|text",
             "solver": "None|text|words", "engine": text, "checkpoint": "None|path"},
            dataset=lambda w: w.dataset, k=lambda w: 3,
        ),
        "clear_passes": Row(
            lambda w: (s.clear_passes, {"space": w.space, "folder": w.new()}), {"space": "", "folder": path}, slow=True
        ),
        "Gram": Row(lambda w: (s.Gram, {}), {}),
        "Covariance": Row(lambda w: (s.Covariance, {}), {}),
        "Krylov": Row(
            lambda w: (s.Krylov, {}),
            {"block": "None|whole", "tolerance": number, "max_passes": whole, "seed": whole},
        ),
        "NumpyEngine": Row(lambda w: (s.NumpyEngine, {}), {"block_rows": "None|whole"}),
        "TorchEngine": Row(
            lambda w: (s.TorchEngine, {}),
            {"devices": "None|names|text", "memory": "None|whole", "block_rows": "None|whole"},
        ),
        "DaskEngine": Row(
            lambda w: (s.DaskEngine, {}),
            {"scheduler": "None|text", "client": "None", "workers": "None|whole", "block_rows": "None|whole"},
        ),
        "fit_directions": slow(
            s.fit_directions,
            {"space": "", "dataset": "", "attributes": "None|names", "reading": text, "editing": text, "whiten": flag,
             "preserve": "None|names|mapping", "components": "None|whole|text",
             "regularization": number, "seed": whole},
            space=lambda w: w.space, dataset=lambda w: w.dataset,
        ),
        "compare_components": call(
            s.compare_components, {"first": "", "second": ""}, first=lambda w: w.space, second=lambda w: w.space
        ),
        "Overlap.to_json": Row(lambda w: (s.compare_components(w.space, w.space).to_json, {}), {}),
        # ------------------------------------------------------------ sliders and atlases
        "make_slider": call(
            s.make_slider,
            {"space": "", "attribute": text + "|mapping", "at": "None|array|text|path", "unit": text,
             "exact_at": "None|number", "layers": "None|text|names", "preserve": names_, "dataset": "None"},
            space=lambda w: w.space, attribute=lambda w: "Beard", at=lambda w: "p0", layers=lambda w: "mid",
        ),
        "Slider.error": Row(lambda w: (s.make_slider(w.space, "Beard").error, {"weight": 1.0}), {"weight": number}),
        "Slider.save": Row(
            lambda w: (s.make_slider(w.space, "Beard").save, {"path": w.new()}),
            {"path": path, "dialect": text, "overwrite": flag}, slow=True,
        ),
        "make_atlas": call(
            w2w_hub.make_atlas,
            {"space": "", "dataset": "None", "by": "None|text", "axes": "None|names", "neighbors": whole,
             "limit": "None|whole", "seed": whole},
            space=lambda w: w.space, axes=lambda w: ["Beard", "PC1"],
        ),
        "Atlas.save": Row(
            lambda w: (w2w_hub.make_atlas(w.space).save, {"path": w.new()}), {"path": path, "overwrite": flag},
            slow=True,
        ),
        "Atlas.save_page": Row(
            lambda w: (w2w_hub.make_atlas(w.space).save_page, {"path": w.new()}), {"path": path, "overwrite": flag},
            slow=True,
        ),
        "draw_atlas": slow(
            importlib.import_module("w2w_hub.models.atlas_pictures").draw_atlas,
            {"pipe": "", "atlas": "", "prompt": text, "seed": whole, "size": whole},
            pipe=lambda w: w.quick_pipe, atlas=lambda w: w2w_hub.make_atlas(w.quick_pipe.space, limit=2),
        ),
        # ------------------------------------------------------------ import
        "import_w2w": slow(
            upstream.import_w2w,
            {"folder": path, "out": path, "k": "None|whole", "split_by": "None|text", "holdout": number,
             "consent": "None|text", "row_order": text, "parquet_view": "flag|text", "overwrite": flag},
            folder=lambda w: w.published, out=lambda w: w.new(),
        ),
        "import_point": slow(
            upstream.import_point, {"path": path, "space": ""}, path=lambda w: w.published / "w2wmodel.pt",
            space=lambda w: w.imported,
        ),
        "Point": call(
            s.Point,
            {"coefficients": "array", "basis_digest": text, "history": "mapping", "explained_ratio": "None|number"},
            coefficients=lambda w: np.zeros(3), basis_digest=lambda w: w.space.digest,
        ),
        "Direction.read": Row(
            lambda w: (w.space.direction("PC1").read, {"coefficients": np.zeros(3)}), {"coefficients": "array"}
        ),
        "Direction.evidence": Row(lambda w: (w.space.direction("PC1").evidence, {}), {}),
        "Direction.from_evidence": Row(
            lambda w: (
                s.Direction.from_evidence,
                {"editing": np.ones(3, np.float32), "reading": np.ones(3, np.float32),
                 "entry": w.space.direction("PC1").evidence()},
            ),
            {"editing": "array", "reading": "array", "entry": "mapping", "name": "text"},
        ),
        "WeightSpace.from_pretrained": slow(
            WeightSpace.from_pretrained, {"path": path, "k": "None|whole", **HUB}, path=lambda w: w.saved_space
        ),
        "WeightSpace.save": Row(
            lambda w: (w.again().save, {"path": w.new()}),
            {"path": path, "base": "None|path", "generation": "None|mapping", "overwrite": flag}, slow=True,
        ),
        "WeightSpace.add_preview": Row(
            lambda w: (WeightSpace.open(w.again().save(w.new())).add_preview, {"picture": w.folder / "picture.png"}),
            {"picture": path, "overwrite": flag}, slow=True,
        ),
        "WeightSpace.add_encoder": Row(
            lambda w: (WeightSpace.open(w.again().save(w.new())).add_encoder, {"encoder": w.encoder}),
            {"encoder": "", "overwrite": flag}, slow=True,
        ),
        "WeightSpace.encode": Row(lambda w: (w.encoding.encode, {"pictures": w.picture}), {"pictures": ""}),
        "WeightSpace.verify": Row(lambda w: (w.again().verify, {}), {"deep": flag}),
        "WeightSpace.project": on(
            "space", "project", {"what": "array", "k": "None|whole"}, what=lambda w: w.adapter
        ),
        "WeightSpace.without_population": on("space", "without_population", {"population_model": flag}),
        "WeightSpace.require_population": on("space", "require_population", {"need": "anything"}, need=lambda w: "row"),
        "WeightSpace.coefficients_of": on(
            "space", "coefficients_of", {"what": COEFFICIENTS, "several": flag}, what=lambda w: w.point
        ),
        "WeightSpace.decode": on(
            "space", "decode", {"coefficients": COEFFICIENTS + "|frame", "k": "None|whole"},
            coefficients=lambda w: w.point,
        ),
        "WeightSpace.adapter": point("adapter"),
        "WeightSpace.point": on(
            "space", "point", {"coefficients": "array", "history": "anything"}, coefficients=lambda w: np.zeros(3)
        ),
        "WeightSpace.point_with": on(
            "space", "point_with",
            {"coefficients": "array", "history": "mapping", "explained_ratio": "None|number"},
            coefficients=lambda w: np.zeros(3), history=lambda w: {"row": "p0"},
        ),
        "WeightSpace.row": on("space", "row", {"row_id": text}, row_id=lambda w: "p0"),
        "WeightSpace.mean_point": on("space", "mean_point", {}),
        "WeightSpace.sample": on(
            "space", "sample",
            {"count": whole, "seed": whole, "truncation": number, "method": "None|text", "attributes": "None|mapping",
             "covariance": "None|text"},
        ),
        "WeightSpace.direction": on("space", "direction", {"name": text}, name=lambda w: "PC1"),
        "WeightSpace.with_direction": on(
            "space", "with_direction", {"name": text, "direction": ""},
            name=lambda w: "new", direction=lambda w: w.space.direction("PC1"),
        ),
        "WeightSpace.require_new_direction": on("space", "require_new_direction", {"name": text}, name=lambda w: "new"),
        "WeightSpace.edit": point(
            "edit", strengths=("None|mapping", lambda w: {"PC1": 1.0}), preserve=(names_, lambda w: ["Beard"]),
            set=("None|mapping", lambda w: {"Age": 0.5}), strength=("number|text", lambda w: 1.0),
            unit=(text, lambda w: "sd"), layers=("None|text|names", lambda w: "mid"),
        ),
        "WeightSpace.read": point("read", name=(text, lambda w: "Beard")),
        "WeightSpace.read_all": on("space", "read_all", {"what": COEFFICIENTS}, what=lambda w: w.point),
        "WeightSpace.interpolate": on(
            "space", "interpolate", {"points": "names|array", "weights": "array"},
            points=lambda w: [w.point, w.space.row("p1")], weights=lambda w: [1.0, 2.0],
        ),
        "WeightSpace.entanglement": on("space", "entanglement", {}),
        "WeightSpace.nearest": point("nearest", count=(whole, lambda w: 1)),
        "WeightSpace.distance": point("distance"),
        "WeightSpace.mahalanobis": point("mahalanobis"),
        "Coordinates.require_k": on("coordinates", "require_k", {"k": "None|whole"}, k=lambda w: 2),
        "Coordinates.project": on(
            "coordinates", "project", {"what": "array", "k": "None|whole"}, what=lambda w: w.adapter
        ),
        "Coordinates.project_with_ratio": on(
            "coordinates", "project_with_ratio", {"what": "array"}, what=lambda w: w.adapter
        ),
        "Coordinates.decode": on(
            "coordinates", "decode", {"coefficients": "array|frame", "k": "None|whole"},
            coefficients=lambda w: np.zeros(3),
        ),
        "Coordinates.represent": on("coordinates", "represent", {"what": "array"}, what=lambda w: w.adapter),
        "Coordinates.explained": on(
            "coordinates", "explained", {"what": "array", "difference": flag}, what=lambda w: w.adapter
        ),
        "Population.row": on("population", "row", {"row_id": text}, row_id=lambda w: "p0"),
        "Population.explained_ratio": on("population", "explained_ratio", {"row_id": text}, row_id=lambda w: "p0"),
        "Population.nearest": on(
            "population", "nearest", {"coefficients": "array", "count": whole}, coefficients=lambda w: np.ones(3)
        ),
        "Population.reconstruction_error": on("population", "reconstruction_error", {"k": "None|whole"}),
        "Population.sample": on(
            "population", "sample", {"count": whole, "seed": whole, "truncation": number, "covariance": text}
        ),
        "Population.distance": on(
            "population", "distance", {"coefficients": "array"}, coefficients=lambda w: np.ones(3)
        ),
        "Population.mahalanobis": on(
            "population", "mahalanobis", {"coefficients": "array"}, coefficients=lambda w: np.ones(3)
        ),
        "PopulationModel.read": on("model", "read", {"c": "array"}, c=lambda w: np.zeros(3)),
        "PopulationModel.mean_of": on(
            "model", "mean_of", {"attributes": "mapping"}, attributes=lambda w: {"Age": 0.5}
        ),
        "PopulationModel.implied": on(
            "model", "implied", {"c": "array", "wanted": "mapping"}, c=lambda w: np.zeros(3),
            wanted=lambda w: {"Age": 0.5},
        ),
        "PopulationModel.step": on(
            "model", "step", {"c": "array", "wanted": "mapping", "strength": "None|number"},
            c=lambda w: np.zeros(3), wanted=lambda w: {"Age": 0.5},
        ),
        "PopulationModel.sample": on(
            "model", "sample", {"count": whole, "seed": whole, "attributes": "None|mapping", "truncation": number}
        ),
        "fit_population_model": slow(
            s.fit_population_model, {"space": "", "dataset": "", "groups": "None|mapping"},
            space=lambda w: w.space, dataset=lambda w: w.dataset,
        ),
        "Spread.sample": on("spread", "sample", {"count": whole, "seed": whole, "truncation": number}),
        "Spread.distance": on("spread", "distance", {"coefficients": "array"}, coefficients=lambda w: np.ones(3)),
        "Point.save": on("point", "save", {"path": path, "overwrite": flag}, path=lambda w: w.new(".json")),
        "Point.load": call(s.Point.load, {"path": path}, path=lambda w: w.folder / "point.json"),
        "save_point": call(
            points.save_point, {"point": "point", "path": path, "overwrite": flag},
            point=lambda w: w.point, path=lambda w: w.new(".json"),
        ),
        "load_point": call(points.load_point, {"path": path}, path=lambda w: w.folder / "point.json"),
        "require_suffix": call(points.require_suffix, {"path": path}, path=lambda w: "point.json"),
        "is_point": call(points.is_point, {"path": path}, path=lambda w: w.folder / "point.json"),
        # ------------------------------------------------------------ encoders
        "Encoder.load": call(
            w2w_hub.Encoder.load, {"path": path}, path=lambda w: w.encoder.save(w.new(".safetensors"))
        ),
        "Encoder.save": on("encoder", "save", {"path": path, "overwrite": flag}, path=lambda w: w.new(".safetensors")),
        "Encoder.to_json": on("encoder", "to_json", {}),
        "Encoder.to_bytes": on("encoder", "to_bytes", {}),
        "Encoder.coefficients": on("encoder", "coefficients", {"pictures": ""}, pictures=lambda w: [w.picture]),
        "EncoderSettings": call(
            w2w_hub.models.encoder.EncoderSettings,
            {"pictures": whole, "steps": whole, "batch_size": whole, "learning_rate": number, "minutes": "None|number",
             "prompts": names_, "k": "None|whole", "width": whole, "hidden": whole, "resolution": whole,
             "draw_batch_size": whole, "seed": whole},
        ),
        "fit_encoder": slow(
            w2w_hub.fit_encoder, {"pipe": "", "work": "None|path"}, pipe=lambda w: w.pipe, pictures=lambda w: 2,
            steps=lambda w: 1, width=lambda w: 2, hidden=lambda w: 2, draw_batch_size=lambda w: 64,
            prompts=lambda w: ["x"],
        ),
        # ------------------------------------------------------------ pictures
        "open_picture": call(p.open_picture, {"path": path}, path=lambda w: w.folder / "picture.png"),
        "open_mask": call(p.open_mask, {"path": path}, path=lambda w: w.folder / "picture.png"),
        "as_rgb": call(p.as_rgb, {"picture": "", "name": "anything"}, picture=lambda w: w.picture),
        "as_mask": call(p.as_mask, {"picture": "", "name": "anything"}, picture=lambda w: w.picture),
        "to_picture": call(p.to_picture, {"values": "array", "scale": whole}, values=lambda w: np.zeros((4, 4, 3))),
        "contact_sheet": call(
            p.contact_sheet, {"pictures": "array", "rows": "names", "columns": "names", "scale": whole, "title": text},
            pictures=lambda w: np.zeros((1, 1, 4, 4, 3)), rows=lambda w: ["a"], columns=lambda w: ["b"],
        ),
        "animation": call(
            p.animation, {"pictures": "array", "rows": "names", "frames": "names", "scale": whole},
            pictures=lambda w: np.zeros((1, 1, 4, 4, 3)), rows=lambda w: ["a"], frames=lambda w: ["b"],
        ),
        "save_picture": call(
            p.save_picture, {"picture": "", "path": path, "milliseconds": whole, "overwrite": flag},
            picture=lambda w: [w.picture, w.picture], path=lambda w: w.new(".gif"),
        ),
        "picture_kind": call(p.picture_kind, {"path": path}, path=lambda w: "a.png"),
        # ------------------------------------------------------------ pipelines
        "best_device": call(w2w_hub.models.pipelines.best_device, {}),
        "W2WMixin.from_pretrained": slow(
            W2WPipeline.from_pretrained, {"path": path, "dtype": "None|text|mapping", "k": "None|whole", **HUB},
            path=lambda w: w.tiny_space,
        ),
        "W2WMixin.from_base": slow(
            W2WPipeline.from_base, {"base": path, "space": "", "dtype": "None|text|mapping"},
            base=lambda w: w.tiny_base, space=lambda w: w.pipe.space,
        ),
        "W2WMixin.from_pipe": slow(
            W2WPipeline.from_pipe, {"pipeline": "", "space": "None"}, pipeline=lambda w: w.pipe
        ),
        "W2WMixin.attach": Row(
            lambda w: (W2WPipeline.from_pipe(w.pipe).attach, {"space": w.pipe.space}),
            {"space": "", "verify": flag}, slow=True,
        ),
        "W2WMixin.save_pretrained": on(
            "pipe", "save_pretrained",
            {"path": path, "base_model": "None|text", "revision": "None|text", "custom_pipeline": flag,
             "previews": "None|mapping", "overwrite": flag},
            {"previews": {"dict"}},  # options of the stock call
            path=lambda w: w.new(), base_model=lambda w: "org/base", revision=lambda w: "0" * 40,
        ),
        "W2WMixin.push_to_hub": on(
            "pipe", "push_to_hub",
            {"repo_id": text, "version": "None|text", "private": flag, "token": "None|text|flag", "dry_run": flag},
            repo_id=lambda w: "org/space",
        ),
        "W2WMixin.resolve": on(
            "pipe", "resolve", {"what": "array|text|path", "dataset": "None"}, what=lambda w: "person-0000"
        ),
        "W2WMixin.sample_identity": on(
            "pipe", "sample_identity",
            {"seed": whole, "truncation": number, "attributes": "None|mapping", "method": "None|text"},
        ),
        "W2WMixin.edit": on(
            "pipe", "edit",
            {"strengths": "None|mapping", "set": "None|mapping", "strength": "number|text", "unit": text,
             "layers": "None|text|names", "preserve": names_, "start": number},
            strengths=lambda w: {"PC1": 1.0}, set=lambda w: {"Full_Beard": True},
        ),
        "W2WMixin.interpolate": on(
            "pipe", "interpolate", {"identities": "names|array", "weights": "array"},
            identities=lambda w: ["person-0000", "person-0001"], weights=lambda w: [1, 1],
        ),
        "W2WMixin.export": on(
            "pipe", "export",
            {"path": path, "identity": "None|array|text|path", "trigger": "None|text", "thumbnail": "None|flag|path",
             "overwrite": flag},
            path=lambda w: w.new(),
        ),
        "W2WMixin.export_slider": on(
            "pipe", "export_slider",
            {"path": path, "attribute": text + "|mapping", "dialect": text, "at": "None|array|text|path",
             "overwrite": flag},
            path=lambda w: w.new(), attribute=lambda w: "PC1",
        ),
        "W2WMixin.save_identity": on(
            "pipe", "save_identity", {"path": path, "overwrite": flag}, path=lambda w: w.new(".json")
        ),
        "W2WMixin.render": on(
            "pipe", "render",
            {"identities": "names|array", "cases": "array", "batch_size": whole},
            identities=lambda w: [None], cases=lambda w: [("x", 0)], num_inference_steps=lambda w: 1,
            guidance_scale=lambda w: 1.0,
        ),
        "W2WMixin.invert": on(
            "pipe", "invert",
            {"images": "", "mask": "None", "prompt": text, "start": "array|text|path", "callback": "None"},
            images=lambda w: np.zeros((64, 64, 3), np.uint8), num_steps=lambda w: 1, batch_size=lambda w: 1,
        ),
        "W2WMixin.encode": Row(lambda w: (w.encoding_pipe.encode, {"images": w.face}), {"images": ""}, slow=True),
        "InversionSettings": call(
            w2w_hub.models.pipelines.InversionSettings,
            {"num_steps": whole, "learning_rate": number, "k": "None|whole", "batch_size": whole, "prior": number,
             "tolerance": number, "restarts": whole, "seed": whole, "capture": "None|flag"},
        ),
        "calibrate": slow(
            w2w_hub.calibrate,
            {"pipe": "", "judge": "", "attributes": "None|names", "people": whole, "cases": "mixed",
             "strengths": "array", "batch_size": whole},
            pipe=lambda w: w.pipe, judge=lambda w: lambda pictures: {"Sunglasses": np.zeros(len(pictures), bool)},
            people=lambda w: 1, strengths=lambda w: [1.0], num_inference_steps=lambda w: 1,
        ),
        "calibrate_sets": slow(
            w2w_hub.calibrate_sets,
            {"pipe": "", "judge": "", "attributes": "None|names", "people": whole, "cases": "mixed",
             "strengths": "array", "batch_size": whole},
            pipe=lambda w: w.pipe, judge=lambda w: lambda pictures: {"Sunglasses": np.zeros(len(pictures), bool)},
            people=lambda w: 1, strengths=lambda w: [1.0], num_inference_steps=lambda w: 1,
        ),
        "fit_slider": without({"positive": TEXT, "negative": TEXT, "prompt": TEXT}, call(
            w2w_hub.fit_slider,
            {"pipe": "", "positive": "None|text", "negative": "None|text", "before": "None", "after": "None",
             "prompt": text},
            pipe=lambda w: w.quick_pipe, positive=lambda w: "a", negative=lambda w: "b", num_steps=lambda w: 1,
            batch_size=lambda w: 1,
        )),
        "SliderSettings": call(
            w2w_hub.models.sliders.SliderSettings,
            {"num_steps": whole, "learning_rate": number, "k": "None|whole", "batch_size": whole, "prior": number,
             "eta": number, "seed": whole},
        ),
        "AutoW2WPipeline.from_pretrained": slow(
            AutoW2WPipeline.from_pretrained, {"path": path, "dtype": "None|text|mapping"}, path=lambda w: w.tiny_space
        ),
        "AutoW2WPipeline.from_base": slow(
            AutoW2WPipeline.from_base, {"base": path, "space": "", "dtype": "None|text|mapping"},
            base=lambda w: w.tiny_base, space=lambda w: w.pipe.space,
        ),
        "pipeline_for": call(
            w2w_hub.models.pipelines.pipeline_for, {"stock": text}, stock=lambda w: "StableDiffusionPipeline"
        ),
        "strength_grid": slow(
            grids.strength_grid,
            {"pipe": "", "identities": "names|array", "attribute": text + "|mapping", "strengths": "array",
             "case": "array|mixed", "unit": text, "layers": "None|text|names", "preserve": names_, "start": number},
            pipe=lambda w: w.pipe, identities=lambda w: ["person-0000"], attribute=lambda w: "PC1",
            strengths=lambda w: [1.0], case=lambda w: ("x", 0), num_inference_steps=lambda w: 1,
        ),
        # ------------------------------------------------------------ training
        "kaiming_start": call(training.kaiming_start, {"layout": "layout", "seed": whole}, layout=lambda w: w.layout,
                              seed=lambda w: 0),
        "train_identities": without(SLOW, call(
            training.train_identities,
            {"unet": "anything", "layout": "", "scheduler": "anything", "latents": "array", "text": "array",
             "start": "array", "steps": whole, "batch_size": whole, "learning_rate": number, "average_last": number,
             "seed": whole, "autocast_dtype": "anything", "engine": text, "on_step": "anything"},
            unet=lambda w: w.unet, layout=lambda w: w.pipe.space.layout, scheduler=lambda w: w.pipe.scheduler,
            latents=lambda w: torch.zeros(1, 1, 4, 8, 8), text=lambda w: torch.zeros(2, 32),
            start=lambda w: torch.zeros(w.pipe.space.layout.size), steps=lambda w: 1,
        )),
        "TrainingRecipe": call(training.TrainingRecipe, RECIPE),
        "TrainingRecipe.with_": call(training.TrainingRecipe().with_, {}),
        "TrainingRecipe.to_json": call(training.TrainingRecipe().to_json, {}),
        "TrainingRecipe.from_json": call(
            training.TrainingRecipe.from_json, {"data": "mapping"}, data=lambda w: {"steps": 3}
        ),
        "read_pictures": call(
            training.read_pictures, {"folder": path, "size": "ints"}, folder=lambda w: w.folder / "picture.png",
            size=lambda w: (8, 8),
        ),
        "read_people": call(training.read_people, {"source": path}, source=lambda w: w.portraits),
        "Validation": call(
            training.Validation,
            {"every": whole, "prompts": "names", "seed": whole, "num_inference_steps": "None|whole",
             "guidance_scale": "None|number"},
        ),
        "train_identity": slow(
            training.train_identity,
            {"pictures": path, **TRAINING, "caption": "None|text", "device": "None|text", "validate": "None",
             "on_step": "None"},
            pictures=lambda w: w.folder / "picture.png", base=lambda w: w.tiny_base, recipe=lambda w: w.recipe,
        ),
        "train_many": slow(
            training.train_many,
            {"people": path, **TRAINING, "at_once": whole, "devices": "None|names"},
            people=lambda w: w.portraits, base=lambda w: w.tiny_base, out=lambda w: w.new(),
            recipe=lambda w: w.recipe,
        ),
    }  # fmt: skip
    return found


def public_calls() -> Iterator[tuple[str, Any, list[str]]]:
    """Name, function and parameters of every public call, from the modules' own names and signatures."""
    seen = set()
    for name in MODULES:
        module = importlib.import_module(name)
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == name and not n.startswith("_")]
        for public in getattr(module, "__all__", own):
            value = getattr(module, public)
            if name == "w2w_hub.release":  # one function per command; classes are what they return
                public = f"release.{public}"
                if inspect.isclass(value) or public in NEED_A_HUB:
                    continue
            if public in seen or not callable(value) or (inspect.isclass(value) and issubclass(value, Exception)):
                continue
            seen.add(public)
            if not inspect.isclass(value):
                yield public, value, _parameters(value)
                continue
            if public not in MADE:
                yield public, value, _parameters(value)
            if public in PROTOCOLS:
                continue
            parts = W2WMixin.__mro__ if issubclass(value, W2WMixin) and value is not W2WMixin else ()
            ours = [
                c
                for c in value.__mro__
                if c.__module__.startswith("w2w_hub.") and c.__name__ not in MADE and c not in parts
            ]
            methods = {name: raw for c in reversed([value, *ours]) for name, raw in vars(c).items()}
            for method, raw in methods.items():
                function = getattr(raw, "__func__", raw)
                if f"{public}.{method}" in INTERNAL or getattr(function, "__name__", method) != method:
                    continue  # the latter are old names
                if inspect.isfunction(function) and (not method.startswith("_") or method in OPERATORS):
                    yield f"{public}.{method}", function, _parameters(function)[1:]


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)
