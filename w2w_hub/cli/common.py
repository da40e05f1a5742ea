"""Parts that commands share: one-line errors with exit status 2 (130 after Ctrl-C), sections, and common options."""

from __future__ import annotations

import errno
import functools
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click
from click.shell_completion import CompletionItem

from ..common.extras import import_problem
from ..common.progress import logged_progress, notice
from ..common.text import quote
from ..errors import W2WError
from .output import captured_messages, say, say_traceback, say_usage_error
from .signals import ended_as_by_ctrl_c, interrupted_status

if TYPE_CHECKING:
    from ..space import WeightSpace

F = TypeVar("F", bound=Callable[..., Any])
LONGEST_SUMMARY = 1000  # characters of the first sentence of a command's help: never cut
LONGEST_LINE = 300  # characters of a command that is repeated
LONGEST_EXAMPLE = 74  # characters of a line of an example, so that 80 columns hold it

_PLAIN_WORD = re.compile(r"\w[\w.:=+\-]*")  # of which no shell makes anything else
space_argument = click.argument("space", type=click.Path(path_type=Path))

# w2w_hub.lora.adapter.COMPONENTS, without importing NumPy for --help
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")


class Sections(click.Group):
    """A group that lists its commands in sections and turns typed errors into exit status 2."""

    order: ClassVar[dict[str, list[str]]] = {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, names in self.order.items():
            with formatter.section(section):
                formatter.write_dl([(n, self.commands[n].get_short_help_str(LONGEST_SUMMARY)) for n in names])

    def main(self, *args: Any, standalone_mode: bool = True, **options: Any) -> Any:
        run: Any = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **options)
        words = list(args[0] if args and args[0] is not None else options.get("args") or sys.argv[1:])
        if sys.excepthook is sys.__excepthook__:
            sys.excepthook = say_traceback
        try:
            with ended_as_by_ctrl_c():
                status = run(*args, standalone_mode=False, **options)
        except click.ClickException as error:
            say_usage_error(error)
            status = error.exit_code
        except click.Abort as abort:
            more = [word for word in getattr(abort.__cause__, "more_words", ()) if word not in words]
            line = " ".join(["w2w", *map(quote, [*words, *more])])
            same = " ".join(["the same command", *(["with", *more] if more else [])])
            then = f"next: {line if len(line) <= LONGEST_LINE else same}"
            with suppress(OSError):  # of a terminal that was closed
                say("; ".join(["w2w: interrupted", *getattr(abort.__cause__, "__notes__", []), then]))
            status = interrupted_status()
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        quiet_libraries()
        with captured_messages(), logged_progress(say):
            try:
                return super().invoke(ctx)
            except W2WError as error:
                if os.environ.get("W2W_DEBUG"):
                    raise
                say("; ".join([f"w2w: error: {error}", *getattr(error, "__notes__", [])]))
                ctx.exit(2)
            except ImportError as error:  # W2WError too, if optional_imports guards it
                explained = import_problem(error)
                if os.environ.get("W2W_DEBUG") or explained is None:
                    raise
                say(f"w2w: error: {explained}")
                ctx.exit(2)
            except OSError as error:  # a full disk or a read-only folder
                if os.environ.get("W2W_DEBUG") or error.errno in (None, errno.EPIPE):
                    raise
                say(f"w2w: error: {error.filename or 'the system'}: {error.strerror}")
                ctx.exit(2)


def complete_attributes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the directions of the SPACE on the command line that begin as typed; none if it is no local folder.

    A shell puts them into the line as they are, and a stranger's manifest may name anything: only names that are one
    plain word are returned.
    """
    from ..store.manifest import FILENAME, read_json_in

    # click sorts no arguments before an option without a value, the one that is being completed
    space = ctx.params.get("space") or next(iter(ctx.args), "")
    with suppress(W2WError, OSError, TypeError, ValueError):
        names = read_json_in(Path(space), FILENAME).get("directions")
        words = [name for name in names or () if isinstance(name, str) and _PLAIN_WORD.fullmatch(name)]
        return [name for name in words if name.startswith(incomplete)]
    return []


class LaterChoice(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A choice among names that are imported on demand, so that `w2w --help` stays fast."""

    name = "name"

    def __init__(self, load: Callable[[], list[str]]):
        self.load = load

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.load())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.load():
            self.fail(f"{value!r} is not one of {', '.join(self.load())}", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in self.load() if name.startswith(incomplete)]


def quiet_libraries() -> None:
    """Turn off progress bars and warnings of other libraries; errors still show."""
    for name, value in {
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)


def examples(*lines: str) -> str:
    """Return an epilog with example commands; those that are too long for a terminal go on in the next line."""
    return "\b\nExamples:\n" + "\n".join(f"  {_continued(line)}" for line in lines)


def _continued(line: str) -> str:
    """Return a command with ``\\`` where its next word would not fit."""
    rows = [""]
    for word in re.findall(r'(?:"[^"]*"|\S)+', line):
        if rows[-1] and len(rows[-1]) + len(word) > LONGEST_EXAMPLE:
            rows.append("   ")
        rows[-1] += f" {word}" if rows[-1] else word
    return " \\\n  ".join(rows)


def out_option(help: str, *old_names: str, required: bool = True) -> Callable[[F], F]:
    """Add the option ``--out``, and the flag ``--force`` to replace an earlier output.

    A command that is interrupted says that nothing was written, unless what it calls says more (PEP 678 notes).

    Parameters
    ----------
    old_names : str
        Other names of the flag.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, out: Path | None, **options: Any) -> Any:
            there = out is not None and os.path.lexists(out)
            try:
                return function(*args, out=out, **options)
            except KeyboardInterrupt as interrupt:
                if out is not None and not getattr(interrupt, "__notes__", None):
                    interrupt.add_note(f"{out} is as it was" if there else "nothing was written")
                raise

        force = click.option("--force", *old_names, "force", is_flag=True, help="Replace an earlier output.")
        option = click.option("--out", "-o", type=click.Path(path_type=Path), required=required, help=help)
        return option(force(call))  # type: ignore[return-value]

    return decorate


def generation_options(note: str) -> Callable[[F], F]:
    """Add the options that are keywords of the stock pipelines' call; `note` follows their help."""

    def decorate(function: F) -> F:
        for option in (
            click.option(
                "--guidance-scale", "--guidance", "guidance_scale", type=GUIDANCE,
                help=f"How closely pictures follow the prompt{note}",
            ),
            click.option(
                "--num-inference-steps", "--steps", "num_inference_steps", type=click.IntRange(1, 1000),
                help=f"Denoising steps{note}",
            ),
        ):  # fmt: skip
            function = option(function)
        return function

    return decorate


def given_settings(num_inference_steps: int | None, guidance_scale: float | None) -> dict[str, Any]:
    """Return the generation settings that were given as options."""
    settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    return {name: value for name, value in settings.items() if value is not None}


def drawing_cases(prompts: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Return every prompt with every seed, by default one of each."""
    return [(prompt, seed) for prompt in prompts or ("sks person",) for seed in seeds or (0,)]


def json_option(function: F) -> F:
    """Add the flag ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print data for a script.")(function)


def adapter_options(function: F) -> F:
    """Add the options that describe a checkpoint, see :func:`w2w_hub.read_adapter`."""
    for option in (
        click.option(
            "--component",
            type=click.Choice(COMPONENTS),
            help="Component that the checkpoint adapts, if its keys do not name one.",
        ),
        click.option("--alpha", type=float, help="Alpha of a checkpoint that does not state one."),
        click.option(
            "--trust",
            "--believe",  # its old name, until 0.3
            "trust",
            type=click.Choice(["tensors", "config"]),
            help="Source to use if tensors and configuration disagree on rank or alpha.",
        ),
        click.option(
            "--allow-torch",
            is_flag=True,
            help="Also open .pt, .bin and .ckpt files given as arguments; only tensors are read, no code is run.",
        ),
    ):
        function = option(function)
    return function


class WriterChoice(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """The name of a dialect that can be written; dialects are imported on demand."""

    name = "dialect"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from ..dialects.writing import writer_of

        return writer_of(value).name

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        from ..dialects import writers

        return f"[{'|'.join(writers())}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ..dialects import writers

        return [CompletionItem(name) for name in writers() if name.startswith(incomplete)]


def finite(value: Any) -> float | None:
    """Return a word as a finite number; None if it is not one."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def finite_numbers(text: str, option: str) -> list[float]:
    """Return the numbers of a comma-separated option; raise a usage error unless all are finite."""
    numbers = [finite(word) for word in text.split(",")]
    if None in numbers:
        raise click.UsageError(f"{option} {text!r} is not a list of finite numbers such as -3,0,3")
    return [number for number in numbers if number is not None]


class StrengthType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``ATTRIBUTE=STRENGTH``, for instance ``Beard=+2``."""

    name = "attribute=strength"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        name, sign, number = str(value).rpartition("=")  # a level has the name Hair=red
        strength = finite(number)
        if not name or not sign or strength is None:
            reason = " with a finite number" if name and sign else ""
            advice = f"; to set the attribute: --set {value}" if name and number and number[0].isalpha() else ""
            self.fail(f"{value!r} is not ATTRIBUTE=STRENGTH{reason}, for instance Beard=+2{advice}", param, ctx)
        return name, strength


class FiniteType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A finite number, of a range if one is given."""

    name = "float"

    def __init__(self, low: float = -math.inf, high: float = math.inf):
        self.low, self.high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = finite(value)
        if number is None:
            self.fail(f"{value!r} is not a finite number", param, ctx)
        if not self.low <= number <= self.high:
            self.fail(f"{value} is not between {self.low:g} and {self.high:g}", param, ctx)
        return number


class PromptType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A text that is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).strip():
            self.fail("a prompt must not be empty", param, ctx)
        return str(value)


FINITE = FiniteType()
GUIDANCE = FiniteType(0, 100)  # as dialects.generation.SETTINGS
PROMPT = PromptType()
SEED = click.IntRange(0, 2**63 - 1)  # what torch takes


def no_loading_bars() -> None:
    """Turn off the bars with which diffusers and transformers load a model."""
    from ..models.pipelines import quiet

    quiet.no_loading_bars()


def open_pipeline(space: Path | WeightSpace, base: Path | str | None = None) -> Any:
    """Open a weight space with the pipeline of its base model, or of another one, quietly, on the best device.

    A command opens the space first, to find mistakes in its arguments before torch is imported, which takes seconds.
    """
    from ..space import WeightSpace

    opened = space if isinstance(space, WeightSpace) else WeightSpace.from_pretrained(space)
    with notice("loading the base model", logged=False):
        from ..models.pipelines import best_device
        from ..models.pipelines.registry import pipeline_of

        no_loading_bars()
        pipe = pipeline_of(opened, base)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(best_device())


def case_options(function: F) -> F:
    """Add the options of :func:`drawing_cases`."""
    seed = click.option(
        "--seed", "seeds", multiple=True, type=SEED, help="Seed of the noise. May be repeated.  [default: 0]"
    )
    prompt = click.option(
        "--prompt", "prompts", multiple=True, type=PROMPT,
        help="Prompt of the pictures. May be repeated.  [default: sks person]",
    )  # fmt: skip
    return prompt(seed(function))
