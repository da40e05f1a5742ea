"""Write and publish a Hugging Face Space that serves the explorer of a published weight space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..common.arguments import checked, place
from ..common.constraints import flag, one_of, optional, text
from ..common.install import requirement
from ..common.limits import MAX_CARD_BYTES
from ..common.subject import HubFile
from ..common.text import Markdown, command, one_line, python_string
from ..dataset.card import HUB
from ..dialects.base_model import CONFIG, EMBEDDED, base_files
from ..errors import AlreadyExistsError, HubConflictError, HubNotFoundError, InvalidInputError, WithdrawnError
from ..space.card import dataset_repository, linked_dataset
from ..space.withdrawn import notice, withdrawn_in
from ..store.atomic import new_folder, require_output
from ..store.cards import is_rendered, render_card
from ..store.hub.cache import REPO
from ..store.hub.client import Token, api, call
from ..store.hub.locate import locate
from ..store.hub.options import HubOptions
from ..store.hub.semver import is_version_tag
from ..store.hub.source import Source
from ..store.hub.transfer import limited_bar
from ..store.manifest import CARD, SPACE, read_json_in
from ..store.manifest import FILENAME as MANIFEST
from ..store.paths import has_file, read_file, short
from ..store.replacing import files_named
from .card import license_keys

APP, PACKAGES = "app.py", "requirements.txt"
APP_FILES = files_named(APP, PACKAGES, CARD)
CPU, ZERO = "cpu", "zero"
LARGEST_ON_CPU = 10**9  # bytes of a base model that two processors draw with in seconds
LONGEST_TITLE = 100  # characters
GRADIO, PYTHON = "6.31.0", "3.12"  # what the Space runs; ZeroGPU has this Python
PINNED = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "huggingface_hub", "numpy")
LATER = "A private or gated weight space is read with the secret `HF_TOKEN` of the Space's settings."
NOTES = {
    CPU: "The base model is small: the free CPU hardware is enough.",
    ZERO: "The base model needs a GPU: choose ZeroGPU, or any GPU, in the settings of the Space. On other hardware it "
    "runs, slowly.",
}  # fmt: skip


@dataclass(frozen=True)
class SpaceApp:
    """A written Space.

    Attributes
    ----------
    folder : Path
    source : str
        The weight space that it serves, ``org/space@v1.0.0``.
    hardware : {"cpu", "zero"}
    repo : str or None
        The Hub Space that it was published as.
    commit : str or None
        The commit of that.
    private : bool
        Whether a new repository is private.
    """

    folder: Path
    source: str
    hardware: str
    repo: str | None = None
    commit: str | None = None
    private: bool = True

    @property
    def url(self) -> str | None:
        """The page of the published Space."""
        return None if self.repo is None else f"{HUB}/spaces/{self.repo}"

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON."""
        return {**vars(self), "folder": str(self.folder), "url": self.url}


@checked(
    space=place(), hardware=optional(one_of(CPU, ZERO)), package=optional(text()), push=optional(text()),
    public=flag(),
)  # fmt: skip
def space_app(
    space: Path | str, out: Path | str, *, hardware: str | None = None, package: str | None = None,
    push: str | None = None, public: bool = False, overwrite: bool = False, token: Token = None,
    cache_dir: Path | str | None = None,
) -> SpaceApp:  # fmt: skip
    """Write a Hugging Face Space that serves the explorer of a published weight space (`w2w space-app`).

    The folder has an ``app.py`` of a few lines, ``requirements.txt`` with pinned versions, and ``README.md`` with the
    Space's settings. It holds no weights: the Space fetches the commit from the Hub while it is built. No token is
    written anywhere.

    Parameters
    ----------
    space : str or path
        ``org/space@v1.0.0``. Without a version, the commit of today is served.
    out : path
        The folder to write.
    hardware : {"cpu", "zero"}, optional
        ZeroGPU or CPU; by default what the size of the base model suggests, CPU up to 1 GB.
    package : str, optional
        The requirement that installs this package, for pip; by default where this installation came from.
    push : str, optional
        Also publish it as this Space, ``org/name``.
    public : bool
        Make a new Space public; without it, it is private, and a public one is refused.
    overwrite : bool
        Replace an earlier output, in the folder and on the Hub.

    Raises
    ------
    InvalidInputError
        For a local folder, which a Space cannot reach, and for a weight space without a base model.
    WithdrawnError
        If rows that it was fitted on were withdrawn from its dataset.
    AlreadyExistsError, HubConflictError
        If something else is there already.
    HubError
    """
    if push is not None and not REPO.fullmatch(push):
        raise InvalidInputError(f"{short(push)} is not the name of a Space on the Hub (org/name)", name="push")
    out = require_output(out, overwrite=overwrite, own=APP_FILES)
    options = HubOptions(token, cache_dir)
    source = locate(space, "space", options=options)
    _require_published(source, Path(space))
    _require_present(source)
    served = _Served(source)
    chosen = hardware or served.hardware
    files = served.files(chosen, package or requirement("explore"))
    with new_folder(out, overwrite=overwrite, own=APP_FILES) as folder:
        for name, content in files.items():
            (folder / name).write_text(content, "utf-8")
    made = SpaceApp(out, served.name, chosen)
    return made if push is None else _publish(made, push, files, public=public, overwrite=overwrite, token=token)


def _require_published(source: Source, given: Path) -> None:
    if source.revision is None:
        push = command("w2w push", given, options=("ORG/NAME", "--version", "1.0.0"))
        raise InvalidInputError(
            f"{given} is not on the Hub, where a Space could read it; publish it first: {push}", path=given
        )


def _require_present(source: Source) -> None:
    """Raise if a weight space was fitted on rows that were withdrawn: a page would show them to everybody."""
    assert source.revision is not None
    manifest = source.manifest()
    if manifest["format"] == SPACE and (gone := withdrawn_in(source)):
        revision = source.revision
        raise WithdrawnError(
            f"{revision.repo} at {revision.asked}: {notice(gone)}", date=gone[0].date, repo_id=revision.repo,
            revision=revision.asked, name=gone[0].id,
        )  # fmt: skip


class _Served:
    """A weight space on the Hub, and the files of the Space that serves it."""

    def __init__(self, source: Source):
        assert source.revision is not None
        self.source, self.revision = source, source.revision
        self.manifest = source.manifest()
        if self.manifest["format"] != SPACE or CONFIG not in source.files:
            raise InvalidInputError(
                f"{self.revision.repo} at {self.revision.asked} has no base model, so nothing can be drawn; publish a "
                "version that was built with one: w2w build --base",
                repo_id=self.revision.repo,
                revision=self.revision.asked,
            )
        asked = self.revision.asked
        self.name = f"{self.revision.repo}@{asked if is_version_tag(asked) else self.revision.commit}"
        self.base = self._base()
        self.dataset = self._dataset()

    def _base(self) -> str:
        """Return the base model's repository, or ``embedded``."""
        folder = self.source.need([CONFIG])
        named = read_json_in(folder, CONFIG).get("base_model")
        if named == EMBEDDED or (isinstance(named, str) and REPO.fullmatch(named)):
            return named
        raise InvalidInputError(
            f"{self.revision}: its base model {short(named)} is no repository of the Hub", repo_id=self.revision.repo
        )

    def _dataset(self) -> tuple[str, str] | None:
        """Return repository and revision of the dataset, as its card links it or as the recipe records it."""
        self.source.need_card()
        card = ""
        if has_file(self.source.folder, CARD):
            card = read_file(self.source.folder, CARD, MAX_CARD_BYTES).decode("utf-8", errors="replace")
        return linked_dataset(card) or dataset_repository(self.manifest.get("recipe", {}))

    @property
    def hardware(self) -> str:
        """What the size of the base model suggests; one of another repository counts as large."""
        size = sum(self.source.files[name]["size"] for name in base_files(self.source.files))
        return CPU if self.base == EMBEDDED and size <= LARGEST_ON_CPU else ZERO

    def files(self, hardware: str, package: str) -> dict[str, str]:
        """Return the files of the Space by name."""
        return {APP: self._app(hardware), PACKAGES: _requirements(package), CARD: self._card(hardware)}

    def _app(self, hardware: str) -> str:
        arguments = [python_string(self.name)]
        if self.dataset is not None:
            arguments.append(Markdown(f"dataset={python_string('@'.join(self.dataset))}"))
        first = []
        if hardware == ZERO:
            first = ["import spaces  # before torch", ""]
            arguments.append(Markdown("gpu=spaces.GPU"))
        return "\n".join(
            [
                *first,
                "from w2w_hub.explore import create_app",
                "",
                f"demo = create_app({', '.join(arguments)})",
                "",
                'if __name__ == "__main__":',
                "    demo.launch()",
                "",
            ]
        )

    def _card(self, hardware: str) -> str:
        repo, files = self.revision.repo, self.source.files
        models = [repo, *([] if self.base == EMBEDDED else [self.base])]
        title = one_line(f"{self.manifest.get('name') or repo} {self.manifest['version']}", LONGEST_TITLE)
        wanted = ",".join([MANIFEST, *(name for name in sorted(files) if not set(name) & set(" ,"))])
        settings: dict[str, Any] = {
            "title": title, "sdk": "gradio", "sdk_version": GRADIO, "python_version": PYTHON, "app_file": APP,
            **license_keys(str(self.manifest.get("licence", "unknown"))), "models": models,
            **({} if self.dataset is None else {"datasets": [self.dataset[0]]}),
            "preload_from_hub": [f"{repo} {wanted} {self.revision.commit}"],
            "suggested_hardware": "cpu-basic" if hardware == CPU else "zero-a10g",
            "tags": ["w2w-hub", "weight-space"],
        }  # fmt: skip
        run = command("w2w explore", self.name)
        values: Mapping[str, Any] = {
            "title": title, "space": self.name, "address": Markdown(f"{HUB}/{repo}/tree/{self.revision.commit}"),
            "commit": self.revision.commit, "digest": self.manifest["digest"],
            "base": "inside the weight space" if self.base == EMBEDDED else self.base,
            "dataset": "not stated" if self.dataset is None else "@".join(self.dataset),
            "hardware": "CPU" if hardware == CPU else "ZeroGPU", "note": Markdown(f"{NOTES[hardware]} {LATER}"),
            "local": Markdown(run),
        }  # fmt: skip
        return render_card("explorer_card.md", settings, values)


def _requirements(package: str) -> str:
    """Return the packages of the Space: this one, and the versions that are installed here of those that it needs."""
    lines = [package]
    for name in PINNED:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        lines.append(f"{name}=={version.partition('+')[0]}")
    return "\n".join([*lines, ""])


# --------------------------------------------------------------------- publish
def _publish(
    made: SpaceApp, repo: str, files: Mapping[str, str], *, public: bool, overwrite: bool, token: Token
) -> SpaceApp:
    """Publish the files as a Space; one that this package did not write is not touched."""
    from huggingface_hub import CommitOperationAdd

    client: Any = api(token)
    try:
        there: Any = call(repo, client.repo_info, repo, repo_type="space")
    except HubNotFoundError:
        there = None
    if there is None:
        call(
            repo, client.create_repo, repo, repo_type="space", space_sdk="gradio", private=not public, exist_ok=True
        )  # fmt: skip
    else:
        if not there.private and not public:
            raise HubConflictError(
                f"{repo} is a public Space; to replace what it shows, say so with --public (public=True)", repo_id=repo
            )
        _require_own(client, repo, overwrite=overwrite)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=text.encode()) for name, text in files.items()]
    done: Any = call(
        repo, client.create_commit, repo, operations, repo_type="space", commit_message=f"Explorer of {made.source}"
    )
    private = not public if there is None else bool(there.private)
    return replace(made, repo=repo, commit=str(done.oid), private=private)


def _require_own(client: Any, repo: str, *, overwrite: bool) -> None:
    """Raise unless the README of a Space is as this package wrote it, or may be replaced."""
    if overwrite:
        return
    try:
        bar = limited_bar(MAX_CARD_BYTES, HubFile(repo, "main", CARD))
        file = call(repo, client.hf_hub_download, repo, CARD, repo_type="space", tqdm_class=bar)
    except HubNotFoundError:
        files = call(repo, client.list_repo_files, repo, repo_type="space")
        if not set(files) - {".gitattributes"}:
            return
    else:
        card = read_file(Path(file).parent, CARD, MAX_CARD_BYTES).decode("utf-8", errors="replace")
        if is_rendered(card):
            return
    raise AlreadyExistsError(
        f"the Space {repo} holds something that w2w did not write, or that was changed; to replace its {APP}, "
        f"{PACKAGES} and {CARD}, add --force (overwrite=True)",
        repo_id=repo,
    )


__all__ = ["SpaceApp", "space_app"]
