"""The `w2w` command: each verb is a thin call of a public function and its output."""

from __future__ import annotations

import click

from ..common.threads import wait_quietly
from ..common.version import __version__
from .adapters import convert
from .apps import space_app
from .atlas import atlas
from .common import Sections
from .contributions import contribute, init
from .datasets import add, pack, relabel, remove
from .demo import demo
from .directions import calibrate, directions, slider
from .encoders import fit_encoder
from .explore import explore
from .exports import export, export_slider
from .hub import archive, cite, log, pin, push, restore
from .identities import edit, invert, sample
from .info import info
from .inspect import inspect
from .integrity import dedupe, diff, repair, verify
from .maintenance import merge, release, review, withdraw
from .sheets import grid, render
from .spaces import build, compare, nearest, read, rebuild, report
from .training import train, train_many
from .upstream import import_w2w

wait_quietly()  # the commands import torch and scikit-learn, which is when it takes effect


@click.group("w2w", cls=Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="w2w")
def main() -> None:
    """Pack LoRAs into a dataset, build a weight space of them, and sample, edit and invert identities."""


for section, commands in {
    "Start here": (demo, explore, info),
    "Adapters": (train, train_many, inspect, convert),
    "Dataset": (pack, import_w2w, add, remove, relabel, verify, repair, diff, dedupe),
    "Weight space": (
        build,
        rebuild,
        compare,
        report,
        atlas,
        directions,
        calibrate,
        slider,
        nearest,
        read,
        fit_encoder,
    ),
    "Identities": (sample, edit, invert, render, grid, export, export_slider),
    "Contributions": (init, contribute, review, merge, release, withdraw),
    "Hub": (push, log, pin, restore, archive, cite, space_app),
}.items():
    for command in commands:
        main.add_command(command)
        Sections.order.setdefault(section, []).append(str(command.name))
