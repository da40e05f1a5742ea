"""Runs the stages of the demo that are not finished yet, and writes the metrics of all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging

from ..common.text import command, quote
from ..common.version import __version__
from ..dataset import WeightDataset
from ..store.atomic import write_json
from . import workflow
from .assets import FOLDER, Assets
from .stages import Journal, Record
from .workflow import Run, Say, Workflow


def run_demo(out: Path, assets: Path | None, say: Say, run: Run, *, resume: bool = False) -> dict[str, Any]:
    """Run the demo in the folder `out`; a stage that is finished stays there whatever happens later.

    Parameters
    ----------
    run : callable
        Prints and executes one `w2w` command, given as its words. A list among the words is all files of a folder.
    resume : bool
        Keep the stages that an earlier run finished, and do the others.

    Returns
    -------
    dict
        The metrics that ``metrics.json`` holds.

    Raises
    ------
    AlreadyExistsError
        If `out` is there and `resume` is not given, or it was not made by a demo.
    InvalidInputError
        If the earlier demo was made by another version or with other settings or data, or still runs.
    """
    torch.manual_seed(0)
    logging.disable_progress_bar()
    population = Assets(assets or FOLDER)
    journal = Journal.begin(out, made_with(population), resume=resume)
    with journal.alone():
        return Demo(journal, population, say, run).run()


def made_with(assets: Assets) -> dict[str, Any]:
    """Return everything that the results of a demo depend on."""
    manifest = WeightDataset.open(assets.rows).manifest
    settings = {name: value for name, value in vars(workflow).items() if name.isupper()}
    return {
        "w2w_hub": __version__,
        "population": manifest.digest,
        "base": manifest.compatibility.base_digest,
        "settings": settings,
    }


class Demo(Workflow):
    """One run of the demo."""

    def __init__(self, journal: Journal, assets: Assets, say: Say, run: Run):
        super().__init__(journal.folder, assets, journal.records, say, run)
        self.journal = journal
        self.done_now = False  # whether a stage was run by this process

    def run(self) -> dict[str, Any]:
        """Run the stages that are not finished; return the metrics."""
        number, name = 1, ""
        try:
            for number, name in enumerate(self.stages, 1):
                self._run_stage(f"{number} of {len(self.stages)}: {name}", name)
        except BaseException:
            self.say(self._how_to_go_on(f"{number} of {len(self.stages)}, {name}"))
            raise
        metrics = self.metrics()
        write_json(self.out / "metrics.json", metrics, replace=True)
        self.say(f"\ndone in {metrics['seconds']['total']:.0f} s; open {quote(self.out / 'report.html')} in a browser")
        self.say(f"to edit people yourself: w2w explore {quote(self.out / 'space')}")
        return metrics

    def _run_stage(self, title: str, name: str) -> None:
        method, patterns = self.stages[name]
        if self.journal.finished(name) and not (self.done_now and name == "report"):
            self.say(f"# {title} is there already")
            return
        self.say(f"\n# {title}")
        self.journal.prepare(name, patterns)
        self.record, began, self.done_now = Record(), time.monotonic(), True
        method()
        self.record.seconds = round(time.monotonic() - began, 1)
        self.journal.finish(name, self.record, patterns)
        self.say(f"# {name}: done in {self.record.seconds:.0f} s")

    def metrics(self) -> dict[str, Any]:
        """Return the figures of all stages, and their seconds, also of those that an earlier run did."""
        records = {name: self.journal.records[name] for name in self.stages}
        seconds = {name: record.seconds for name, record in records.items()}
        seconds["total"] = round(sum(seconds.values()), 1)
        return {key: v for record in records.values() for key, v in record.metrics.items()} | {"seconds": seconds}

    def _how_to_go_on(self, stage: str) -> str:
        assets = [] if self.assets.folder == FOLDER else ["--assets", self.assets.folder]
        again = command("w2w demo", options=["--out", self.out, "--resume", *assets])
        kept = f"finished stages kept in {quote(self.out)}: {len(self.journal.records)}"
        return f"\nstopped in stage {stage}; {kept}\nnext: {again}"
