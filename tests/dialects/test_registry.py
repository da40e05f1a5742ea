"""Dialects state their own facts, and other packages can add some; names of 0.1 still work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import w2w_hub
from tests.conftest import factors
from tests.dialects.test_detection import KOHYA, MODULE, PAIRS, A, B
from w2w_hub import Adapter, ParameterLayout, read_adapter, write_adapter
from w2w_hub.cli import main
from w2w_hub.dialects import convert_adapter, read_deltas, recognize, writers
from w2w_hub.dialects.dialect import Dialect, FolderUse
from w2w_hub.dialects.registry import dialects, weights_names
from w2w_hub.errors import InvalidInputError, NotACheckpointError
from w2w_hub.lora import LoraFactors, Slot, Target, canonicalize, canonicalize_rows

TINY = """
import numpy as np
from safetensors.numpy import save_file
from w2w_hub.dialects.dialect import FolderUse, WritableDialect
from w2w_hub.lora import Adapter, LoraFactors, Target


class Tiny(WritableDialect):
    name = "tiny"
    weights_name = "tiny.safetensors"
    folder_use = FolderUse.WITHOUT_CONFIG
    load_hint = "tiny.load({path!r})"

    def matches(self, checkpoint):
        return any(key.startswith("tiny/") for key in checkpoint.keys)

    def read(self, checkpoint, options):
        tensors = checkpoint.tensors
        modules = {key[7:]: value for key, value in tensors.items() if key.startswith("tiny/A/")}
        return Adapter(
            {Target(*m.split("/")): LoraFactors(a, tensors["tiny/B/" + m], 1.0) for m, a in modules.items()},
            dialect=self.name,
        )

    def write(self, adapter, folder):
        tensors = {}
        for target, pair in adapter.factors.items():
            tensors[f"tiny/A/{target.component}/{target.module}"] = pair.A
            tensors[f"tiny/B/{target.component}/{target.module}"] = (pair.B * pair.scale).astype(np.float32)
        save_file(tensors, folder / self.weights_name)


TINY = Tiny()
"""
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Make packages with entry points, found on the path as installed ones are."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def make(package: str, code: str, value: str, dialect: str = "tiny") -> Path:
        (site / f"{package}.py").write_text(code, encoding="utf-8")
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[w2w_hub.dialects]\n{dialect} = {value}\n", encoding="utf-8")
        dialects.cache_clear()
        return site

    yield make
    dialects.cache_clear()
    for name in [name for name in sys.modules if name.startswith("w2w_test_")]:
        del sys.modules[name]


def test_a_package_adds_a_dialect_that_is_recognized_read_written_and_offered(install, tmp_path):
    install("w2w_test_tiny", TINY, "w2w_test_tiny:TINY")
    adapter = Adapter({Target("unet", MODULE): factors(2, 6, 7, scale=3.0)})
    write_adapter(adapter, tmp_path / "lora", ("tiny", "kohya"))
    assert recognize(tmp_path / "lora").name == "tiny"  # whose name stands for a folder, as kohya's does not
    again = read_adapter(tmp_path / "lora")
    for target, pair in adapter.factors.items():
        np.testing.assert_allclose(again.factors[target].delta(), pair.delta(), rtol=1e-6)
    np.testing.assert_allclose(read_deltas(tmp_path / "lora")[target], pair.delta(), rtol=1e-6)
    out = tmp_path / "out"
    result = CliRunner().invoke(
        main, ["convert", str(tmp_path / "lora" / "kohya_lora.safetensors"), "--to", "tiny", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert f"tiny.load({str(out)!r})" in result.stderr
    assert "tiny" in CliRunner().invoke(main, ["convert", "--help"]).output
    assert list(writers()) == ["peft", "diffusers", "kohya", "tiny"]


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("raise RuntimeError('broken')", "w2w_test_bad:TINY"),
        ("import a_module_that_nobody_has", "w2w_test_bad:TINY"),
        ("TINY = None", "w2w_test_bad:TINY"),
        ("", "w2w_test_bad:TINY"),
        (TINY, "w2w_test_bad:Tiny"),  # the class, not an instance
        (TINY.replace('name = "tiny"', 'name = "peft"'), "w2w_test_bad:TINY"),
        (TINY.replace('name = "tiny"', 'name = "Tiny\\n"'), "w2w_test_bad:TINY"),
        (TINY.replace('    name = "tiny"\n', ""), "w2w_test_bad:TINY"),
    ],
    ids=["raises", "lacks a module", "no dialect", "no name in it", "class", "taken name", "odd name", "nameless"],
)
def test_a_broken_package_is_named_in_a_warning_and_the_other_dialects_work(install, tmp_path, code, value):
    install("w2w_test_bad", code, value, dialect="bad")
    install("w2w_test_tiny", TINY, "w2w_test_tiny:TINY")
    save_file(PAIRS["kohya"], tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="w2w_test_bad") as caught:
        assert recognize(tmp_path / "a.safetensors").name == "kohya"
    assert len(caught) == 1
    assert "tiny" in dialects()
    assert type(dialects()["peft"]).__module__ == "w2w_hub.dialects.peft"


def test_two_packages_with_one_name_leave_the_first_in_the_order_of_their_names(install):
    install("w2w_test_b", TINY, "w2w_test_b:TINY")
    install("w2w_test_a", TINY, "w2w_test_a:TINY")
    with pytest.warns(UserWarning, match="w2w_test_b"):
        assert type(dialects()["tiny"]).__module__ == "w2w_test_a"


def test_no_package_is_imported_before_dialects_are_listed(install):
    site = install("w2w_test_tiny", TINY, "w2w_test_tiny:TINY")
    code = "import sys, w2w_hub, w2w_hub.cli, w2w_hub.dialects; assert 'w2w_test_tiny' not in sys.modules"
    code += "; w2w_hub.dialects.writers(); assert 'w2w_test_tiny' in sys.modules"
    path = [str(site), str(Path(w2w_hub.__file__).parents[1])]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"], check=True, cwd=site)


# ---------------------------------------------------------------- facts about our own
def test_each_dialects_facts_are_whole():
    for name, form in dialects().items():
        assert form.name == name
        assert isinstance(form, Dialect)
        assert form.weights_name or form.folder_use is FolderUse.NEVER
    for form in writers().values():
        assert form.weights_name
        assert "'x y'" in form.load_hint.format(path="x y")


@pytest.mark.parametrize("name", ["peft", "diffusers", "kohya"])
def test_a_written_folder_holds_the_weights_under_the_dialects_own_name(tmp_path, name):
    form = writers()[name]
    write_adapter(Adapter({Target("unet", MODULE): factors()}), tmp_path / "lora", (name,))
    others = {"adapter_config.json"} if form.owns_config else set()
    assert {path.name for path in (tmp_path / "lora").iterdir()} == {form.weights_name} | others
    assert form.single_file == (not others)


def test_the_files_that_a_folder_stands_for_are_these_in_this_order():
    assert weights_names(with_config=True) == ("adapter_model.safetensors", "adapters.safetensors")
    assert weights_names(with_config=False) == ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")


@pytest.mark.parametrize(
    ("names", "config", "chosen"),
    [
        (("adapter_model", "pytorch_lora_weights", "x"), True, "adapter_model"),
        (("adapters", "pytorch_lora_weights", "x"), True, "adapters"),
        (("pytorch_lora_weights", "kohya_lora", "x"), False, "pytorch_lora_weights"),
        (("adapter_model", "pytorch_lora_weights"), False, "adapter_model"),
        (("kohya_lora", "x"), False, None),
        (("adapters", "x"), False, None),
        (("x",), False, "x"),
        (("x",), True, None),
        (("pytorch_lora_weights",), True, None),
    ],
    ids=str,
)
def test_a_folder_stands_for_the_file_of_a_usual_name_or_its_only_one(tmp_path, names, config, chosen):
    ranks = {}
    for rank, name in enumerate(names, 1):
        ranks[name] = rank
        pair = {f"unet.{MODULE}.lora_A.weight": np.ones((rank, 6), "f4"),
                f"unet.{MODULE}.lora_B.weight": np.ones((7, rank), "f4")}  # fmt: skip
        save_file(pair, tmp_path / f"{name}.safetensors")
    if config:
        config_data = {"peft_type": "LORA", "r": ranks.get(chosen or "", 1), "lora_alpha": 1}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config_data), encoding="utf-8")
    if chosen is None:
        with pytest.raises(w2w_hub.W2WError, match=re.escape(str(tmp_path))):
            w2w_hub.describe(tmp_path)
        return
    assert w2w_hub.describe(tmp_path)["rank"] == [ranks[chosen]]


RANK_KEYS = {
    "diffusers": {f"unet.{MODULE}.lora_A.weight": (3, 6), "text_encoder.x.lora_linear_layer.down.weight": (4, 6)},
    "diffusers-attn-processor": {f"unet.{MODULE[:-5]}.processor.to_k_lora.down.weight": (3, 6)},
    "kohya": {f"{KOHYA}.lora_down.weight": (3, 6), f"{KOHYA}_x.lora_down.weight": (4, 6, 3, 3)},
    "peft": {f"base_model.model.{MODULE}.lora_A.weight": (3, 6), f"base_model.model.{MODULE}.lora_B.weight": (9, 3)},
    "lycoris": {f"{KOHYA}.hada_w1_b": (3, 6), f"{KOHYA}_x.lokr_w2_b": (4, 6), f"{KOHYA}_x.lokr_w1_a": (8, 9)},
    "cloneofsimo": {"unet:0:down": (3, 6), "unet:0:up": (7, 3)},
    "flux-xlabs": {"double_blocks.0.processor.proj_lora1.down.weight": (3, 6)},
    "flux-bfl": {"double_blocks.0.img_attn.proj.lora_A.weight": (3, 6)},
    "onetrainer": {"lora_transformer_proj_out.lora_down.weight": (3, 6), "lora_transformer_proj_out.alpha": ()},
    "mlx": {"model.layers.0.q_proj.lora_a": (6, 3), "model.layers.0.q_proj.lora_b": (3, 9)},
}


@pytest.mark.parametrize("name", RANK_KEYS)
def test_a_dialect_tells_ranks_from_the_shapes_of_its_own_keys(name):
    form = dialects()[name]
    found = [form.rank_of(key, shape) for key, shape in RANK_KEYS[name].items()]
    assert found[0] == 3
    assert set(found) <= {3, 4, None}
    assert form.rank_of(next(iter(RANK_KEYS[name])), (5,)) is None
    assert sorted(RANK_KEYS) == sorted(dialects())


# ---------------------------------------------------------------- names of 0.1
def warned(call: Callable[[], object], new: str) -> object:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    assert [w.category for w in caught] == [DeprecationWarning]
    assert new in str(caught[0].message)
    assert caught[0].filename == __file__
    return result


def test_old_names_warn_with_the_new_one_and_do_the_same(tmp_path):
    import w2w_hub.dialects as package
    import w2w_hub.lora as lora

    save_file(PAIRS["kohya"] | {f"{KOHYA}.alpha": np.array(4, "f4")}, tmp_path / "a.safetensors")
    path = tmp_path / "a.safetensors"
    assert warned(lambda: package.detect(path), "recognize") is recognize(path)
    assert warned(lambda: package.CheckpointFormat, "Dialect") is Dialect
    adapter = warned(lambda: read_adapter(path, believe="tensors"), "trust")
    assert {pair.scale for pair in adapter.factors.values()} == {2.0}
    with pytest.raises(InvalidInputError):
        read_adapter(path, trust="nobody")
    warned(lambda: convert_adapter(path, tmp_path / "out", "diffusers", believe="tensors"), "trust")
    one = warned(lambda: Adapter({Target("unet", "a"): factors()}, passengers=("x",)), "ignored_keys")
    assert one.ignored_keys == ("x",)
    assert warned(lambda: one.passengers, "ignored_keys") == ("x",)
    layout = ParameterLayout.from_adapter(one)
    other = Adapter({Target("unet", "b"): factors()})
    assert warned(lambda: layout.misfit(other), "incompatibility") == layout.incompatibility(other) != ""
    assert warned(lambda: layout.ratios(one), "scale_ratios") == {}
    assert warned(lambda: layout.part_sizes, "factor_sizes") == layout.factor_sizes
    slot = layout.slots[0]
    assert warned(lambda: slot.middle, "b_offset") == slot.b_offset
    assert warned(lambda: lora.canonicalise(one), "canonicalize") == canonicalize(one)
    rows = np.random.default_rng(0).normal(size=(2, layout.size))
    np.testing.assert_array_equal(
        warned(lambda: lora.canonicalise_rows(layout, rows), "canonicalize_rows"), canonicalize_rows(layout, rows)
    )


def test_the_old_option_of_the_command_works_too(tmp_path):
    header = {"ss_network_alpha": "16.0", "ss_network_dim": "2"}
    tensors = PAIRS["kohya"] | {f"{KOHYA}.alpha": np.array(4, "f4")}
    save_file(tensors, tmp_path / "a.safetensors", metadata=header)
    for option in ("--trust", "--believe"):
        result = CliRunner().invoke(main, ["inspect", str(tmp_path / "a.safetensors"), option, "config", "--json"])
        assert json.loads(result.stdout)["scale"] == [8.0]


# ---------------------------------------------------------------- shapes that factors and slots share
@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 2)], ids=str)
def test_factors_and_their_slot_have_the_same_shapes(kernel):
    pair = LoraFactors(np.ones((2, 5 * int(np.prod(kernel))), "f4"), np.ones((7, 2), "f4"), 1.0, kernel)
    slot = Slot(Target("unet", "a"), 2, 5, 7, 11, kernel)
    assert pair.columns == slot.columns == pair.A.shape[1]
    assert pair.size == slot.size == ((2, 5, 7, kernel) if kernel else (2, 5, 7))
    assert pair.weight_shape == slot.weight_shape == pair.delta().shape
    assert (slot.b_offset, slot.end) == (11 + pair.A.size, 11 + pair.A.size + pair.B.size)


def test_what_is_no_checkpoint_is_not_recognized(tmp_path):
    save_file({"x": A, "y": B}, tmp_path / "a.safetensors")
    with pytest.raises(NotACheckpointError, match=r"a\.safetensors"):
        recognize(tmp_path / "a.safetensors")
