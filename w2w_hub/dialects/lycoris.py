"""LyCORIS' LoKr and LoHa: changes that are not products of two rank-r factors.

LoKr is ``kron(w1, w2) * scale``, LoHa ``(w1_a @ w1_b) * (w2_a @ w2_b) * scale``. Each factor is stored whole or
decomposed again, for convolutions also with a core tensor (``t1``, ``t2``). As matrices of ``in * kh * kw`` columns the
change is the same whether a trainer factored a convolution's kernel or flattened it first, as the first LoKr did.
`read_deltas` returns the exact change; a LoRA of rank r approximates it, on request only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..errors import CorruptFileError, InvalidInputError, UnsupportedFormatError, W2WError
from ..lora.adapter import Adapter, LoraFactors, Target, as_float32
from ..lora.canonical import representative
from .assemble import Parts, dtypes_of, factors_of, require_size, require_work
from .checkpoint import Checkpoint, ReadOptions
from .dialect import DenseDialect, LazyDeltas
from .flux import bare_name, is_flux, pieces
from .flux_model import require_flux, require_proportions, require_widths
from .kohya import is_for_flux, split_key, target_of_name
from .names import CONVOLUTIONS, target_of
from .peft import PREFIX
from .scales import alpha_of

_TAIL = re.compile(
    r"^(?P<module>.+)\.(?P<role>lokr_(?:w[12](?:_[ab])?|t2)|hada_(?:w[12]_[ab]|t[12])|lora_(?:down|up|mid)\.weight|alpha)$"
)
_LORA = {"lora_down.weight": "A", "lora_up.weight": "B", "lora_mid.weight": "mid"}
_ROTATION = (".oft_diag", ".oft_blocks")


@dataclass(frozen=True)
class Dense:
    """One module's change as a matrix ``scale * combine(left, right)``, computed on demand.

    Attributes
    ----------
    kind : "kron", "hadamard" or "product"
    left, right : ndarray
        float64 matrices, or pairs of matrices that are multiplied first.
    rows : ndarray or None
        This module's rows of the matrix, if several modules are fused.
    """

    kind: str
    left: tuple[np.ndarray, ...]
    right: tuple[np.ndarray, ...]
    scale: float
    kernel: tuple[int, ...] = ()
    rows: np.ndarray | None = None
    label: str = "this module"  # in messages

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the whole matrix, before `rows` are selected."""
        (m1, n1), (m2, n2) = ((f[0].shape[0], f[-1].shape[1]) for f in (self.left, self.right))
        return {"kron": (m1 * m2, n1 * n2), "hadamard": (m1, n1), "product": (m1, n2)}[self.kind]

    def _own(self) -> Dense:
        """Select the rows of a fused module in its left factor, where possible."""
        if self.kind != "kron" or self.rows is None:
            return self
        height = self.right[0].shape[0]
        first, last = int(self.rows[0]), int(self.rows[-1]) + 1
        if first % height or last % height or last - first != len(self.rows):
            return self
        top = self.left[0][first // height : last // height]
        return replace(self, left=(top, *self.left[1:]), rows=None)

    def matrix(self) -> np.ndarray:
        if (own := self._own()) is not self:
            return own.matrix()
        left, right = (_product(f, self.label) for f in (self.left, self.right))
        combine: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
            "kron": np.kron, "hadamard": np.multiply, "product": np.matmul
        }  # fmt: skip
        with np.errstate(over="ignore", invalid="ignore"):
            found = combine[self.kind](left, right) * self.scale
        found = found if self.rows is None else found[self.rows]
        _require_finite(found, self.label)
        return found

    def delta(self) -> np.ndarray:
        """Return the change, float64 ``(out, in)`` or ``(out, in, kh, kw)``."""
        found = self.matrix()
        return found.reshape(found.shape[0], found.shape[1] // math.prod(self.kernel), *self.kernel)

    def svd(self, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ``u (out, k), values (k,), v (k, columns)``: all values, and at least rank + 8 vectors."""
        if (own := self._own()) is not self:
            return own.svd(rank)
        if self.rows is None and self.kind == "kron":
            # the decomposition of a Kronecker product is the product of the decompositions
            (u1, s1, v1), (u2, s2, v2) = (
                np.linalg.svd(_product(f, self.label), full_matrices=False) for f in (self.left, self.right)
            )
            with np.errstate(over="ignore"):
                products = np.multiply.outer(s1, s2)
            order = np.argsort(-products, axis=None, kind="stable")
            kept = order[: rank + 8]  # a few more, to detect equal values at the cut
            i, j = np.unravel_index(kept, products.shape)
            u = np.einsum("mk,nk->mnk", u1[:, i], u2[:, j]).reshape(-1, len(kept))
            v = np.einsum("km,kn->kmn", v1[i], v2[j]).reshape(len(kept), -1)
            values = products.ravel()[order] * abs(self.scale)
            _require_finite(values, self.label)
            return u * np.sign(self.scale), values, v
        return np.linalg.svd(self.matrix(), full_matrices=False)


def _product(factors: tuple[np.ndarray, ...], label: str) -> np.ndarray:
    """Multiply the factors of one side of a module."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = factors[0] if len(factors) == 1 else factors[0] @ factors[1]
    _require_finite(found, label)
    return found


def _require_finite(values: np.ndarray, label: str) -> None:
    if not np.isfinite(values).all():
        raise InvalidInputError(f"{label}: the product of the factors overflows float64; train it again")


class Lycoris(DenseDialect):
    """LoKr and LoHa in kohya's names or Flux' dotted ones, also mixed with plain LoRA modules."""

    name = "lycoris"
    rank_keys = re.compile(r"lora_down|(?:lokr|hada)_w[12]_b$")

    def matches(self, checkpoint: Checkpoint) -> bool:
        return any(
            (".lokr_" in k or ".hada_" in k or k.endswith(_ROTATION)) and not k.startswith(PREFIX)
            for k in checkpoint.keys
        )

    def read(self, checkpoint: Checkpoint, options: ReadOptions) -> Adapter:
        if options.svd_rank is None:
            kinds = sorted(
                {k for k, mark in (("LoKr", ".lokr_"), ("LoHa", ".hada_")) if mark in " ".join(checkpoint.keys)}
            )
            self._refuse_rotations(checkpoint)
            raise UnsupportedFormatError(
                f"{checkpoint.where} is a {' and '.join(kinds)}, whose change is not a product of two low-rank "
                "factors; w2w_hub.dialects.read_deltas returns it exactly, svd_rank=8 (--rank 8) approximates it"
            )
        modules, parts = self._modules(checkpoint)
        factors, lost, total = {}, 0.0, 0.0
        for target, module in modules.items():
            require_size(math.prod(module.shape), target, checkpoint.where)
            u, values, v = module.svd(options.svd_rank)
            pair, _, _ = representative(u, values[: u.shape[1]], v, options.svd_rank, 1.0, module.kernel)
            lost, total = lost + float((values[options.svd_rank :] ** 2).sum()), total + float((values**2).sum())
            a, b = (as_float32(f, module.label) for f in (pair.A, pair.B))
            factors[target] = LoraFactors(a, b, 1.0, module.kernel)
        return Adapter(
            factors,
            base_model=checkpoint.metadata.get("ss_sd_model_name"),
            dialect=self.name,
            ignored_keys=tuple(parts.ignored_keys),
            metadata={
                "scale_from": ["its own rule, multiplied into B"],
                "dtypes": dtypes_of(checkpoint),
                "error": math.sqrt(lost / total) if total else 0.0,
            },
        )

    def deltas(self, checkpoint: Checkpoint) -> LazyDeltas:
        modules, _ = self._modules(checkpoint)
        for target, module in modules.items():
            require_size(math.prod(module.shape), target, checkpoint.where)
        scales = frozenset(module.scale for module in modules.values())
        return LazyDeltas({target: module.delta for target, module in modules.items()}, scales)

    @staticmethod
    def _refuse_rotations(checkpoint: Checkpoint) -> None:
        if any(k.endswith(_ROTATION) for k in checkpoint.keys):
            raise UnsupportedFormatError(
                f"{checkpoint.where} is an OFT: it rotates the base weights, so its change cannot be added to them"
            )

    def _modules(self, checkpoint: Checkpoint) -> tuple[dict[Target, Dense], Parts]:
        self._refuse_rotations(checkpoint)
        where, parts = checkpoint.where, Parts(checkpoint.where)
        named: dict[str, dict[str, np.ndarray]] = {}
        for key, value in checkpoint.tensors.items():
            found = _TAIL.match(key)
            if found:
                named.setdefault(found["module"], {})[_LORA.get(found["role"], found["role"])] = value
            else:
                if not parts.ignore(key, value, checkpoint):
                    parts.unknown_keys.append(key)
        modules: dict[Target, Dense] = {}
        for_flux = is_for_flux(checkpoint)
        fused_names = {name: fused for name in named if (fused := _fused_name(name))}
        for name, roles in named.items():
            fused = fused_names.get(name)
            target = None if fused else _target(name, for_flux)
            if not fused and target is None:
                parts.unmapped_keys.append(name)
                continue
            module = _dense(roles, name, target, where)
            for part, rows in _split(fused, module, where) if fused else [(target, None)]:
                assert part is not None
                if part in modules:
                    raise UnsupportedFormatError(f"{where}: {part} appears under two names; save it again")
                modules[part], parts.modules[part] = replace(module, rows=rows), roles
        parts.require_understood()
        if fused_names:
            underscored = any(name.startswith("lora_unet_") for name in fused_names)
            require_flux(fused_names.values(), checkpoint.metadata, where, underscored=underscored)
        else:
            require_proportions({t: (m.shape[1], m.shape[0]) for t, m in modules.items()}, where)
        return modules, parts


def _target(name: str, flux: bool = False) -> Target | None:
    found = split_key(f"{name}.x")
    if found:
        return target_of_name(found[0], found[1], flux=flux)
    if name.startswith("lycoris_"):  # LyCORIS' wrapper for any model
        return target_of_name("unet", name.removeprefix("lycoris_"))
    return None if name.startswith("diffusion_model.") else target_of(name)


def _fused_name(name: str) -> str | None:
    found = split_key(f"{name}.x")
    bare = found[1] if found and found[0] == "unet" else bare_name(name)
    return bare if is_flux(bare) and (found is not None or "." in name) else None


def _split(fused: str, module: Dense, where: str) -> Iterator[tuple[Target, np.ndarray | None]]:
    outputs, inputs = module.shape
    require_widths(fused, inputs, outputs, where)
    # split like a LoRA whose B holds row numbers
    for path, share in pieces(fused, {"A": np.empty((1, inputs)), "B": np.arange(outputs)[:, None]}, where):
        yield Target("transformer", path), share["B"].ravel()


def _dense(roles: Mapping[str, np.ndarray], name: str, target: Target | None, where: str) -> Dense:
    """Build the `Dense` of one module from its tensors."""
    for role, tensor in roles.items():
        if tensor.dtype.kind != "f" and role != "alpha":
            raise UnsupportedFormatError(f"{where}: {name} {role} has dtype {tensor.dtype}, expected floating point")
        if 0 in tensor.shape:
            raise CorruptFileError(f"{where}: {name} {role} is empty, {tensor.shape}; fetch it again")
        if not np.isfinite(tensor).all():
            raise InvalidInputError(f"{where}: {name} {role} holds NaN or infinity; train it again")
    alpha = alpha_of(roles["alpha"], f"{name}.alpha", where)[0] if "alpha" in roles else 0.0
    kinds = {role[:5] for role in roles if role != "alpha"}
    if len(kinds) != 1 and kinds - {"A", "B", "mid"}:
        raise UnsupportedFormatError(f"{where}: {name} mixes parameterizations ({', '.join(sorted(kinds))})")
    wide = {role: tensor.astype(np.float64) for role, tensor in roles.items()}
    try:
        if kinds == {"lokr_"}:
            return _lokr(wide, name, target, alpha, where)
        if kinds == {"hada_"}:
            return _loha(wide, name, target, alpha, where)
        a, b, kernel = factors_of(roles, name, where)
    except KeyError as error:
        raise CorruptFileError(f"{where}: {name} has no {error.args[0]}; fetch it again") from error
    except (ValueError, IndexError) as error:
        if isinstance(error, W2WError):
            raise
        raise CorruptFileError(f"{where}: {name}: its tensors do not multiply ({error}); fetch it again") from error
    if a.shape[0] != b.shape[1]:
        raise CorruptFileError(f"{where}: {name}: {b.shape} and {a.shape} do not multiply; fetch it again")
    scale = alpha / a.shape[0] if alpha else 1.0
    return Dense("product", (b.astype(np.float64),), (a.astype(np.float64),), scale, kernel, label=f"{where}: {name}")


def _lokr(t: Mapping[str, np.ndarray], name: str, target: Target | None, alpha: float, where: str) -> Dense:
    whole = "lokr_w1" in t, "lokr_w2" in t
    left = (_matrix(t["lokr_w1"]),) if whole[0] else (_matrix(t["lokr_w1_a"]), _matrix(t["lokr_w1_b"]))
    kernel: tuple[int, ...] = ()
    if whole[1]:
        right: tuple[np.ndarray, ...] = (_matrix(t["lokr_w2"]),)
        kernel = t["lokr_w2"].shape[2:]
    elif "lokr_t2" in t:
        kernel = t["lokr_t2"].shape[2:]
        right = (_matrix(_apply_core(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"], name, where)),)
    else:
        right = (_matrix(t["lokr_w2_a"]), _matrix(t["lokr_w2_b"]))
    ranks = {t[role].shape[0] for role in ("lokr_w1_b", "lokr_w2_b") if role in t}
    if len(ranks) > 1:
        raise CorruptFileError(f"{where}: {name} has factors of rank {sorted(ranks)}, expected one rank")
    scale = alpha / ranks.pop() if alpha and ranks else 1.0  # whole factors ignore alpha
    return _checked(Dense("kron", left, right, scale), kernel, name, target, where)


def _loha(t: Mapping[str, np.ndarray], name: str, target: Target | None, alpha: float, where: str) -> Dense:
    rank = t["hada_w1_b"].shape[0]
    scale = alpha / rank if alpha else 1.0
    sides: list[tuple[np.ndarray, ...]] = []
    kernel: tuple[int, ...] = ()
    for i in "12":
        a, b = t[f"hada_w{i}_a"], t[f"hada_w{i}_b"]
        if f"hada_t{i}" in t:
            kernel = t[f"hada_t{i}"].shape[2:]
            sides.append((_matrix(_apply_core(t[f"hada_t{i}"], a, b, name, where)),))
        else:
            sides.append((_matrix(a), _matrix(b)))
    if ("hada_t1" in t) != ("hada_t2" in t):
        raise CorruptFileError(f"{where}: {name} has only one of hada_t1 and hada_t2; fetch it again")
    return _checked(Dense("hadamard", sides[0], sides[1], scale), kernel, name, target, where)


def _apply_core(core: np.ndarray, a: np.ndarray, b: np.ndarray, name: str, where: str) -> np.ndarray:
    a, b = _matrix(a), _matrix(b)
    require_size(a.shape[1] * b.shape[1] * math.prod(core.shape[2:]), name, where)
    half = core.size * a.shape[1]
    require_work(half + half // max(core.shape[0], 1) * b.shape[1], f"{name}: its core tensor", where)
    result: np.ndarray = np.einsum("ij...,ip,jr->pr...", core, a, b, optimize=["einsum_path", (0, 1), (0, 1)])
    return result


def _matrix(tensor: np.ndarray) -> np.ndarray:
    if tensor.ndim < 2:
        raise ValueError(f"shape {tensor.shape}")
    return tensor.reshape(tensor.shape[0], -1)


def _checked(dense: Dense, kernel: tuple[int, ...], name: str, target: Target | None, where: str) -> Dense:
    """Validate shapes and add the kernel; 3 x 3 for a convolution that was flattened before factoring."""
    for side in (dense.left, dense.right):
        if len(side) == 2 and side[0].shape[1] != side[1].shape[0]:
            raise CorruptFileError(
                f"{where}: {name}: {side[0].shape} and {side[1].shape} do not multiply; fetch it again"
            )
    if dense.kind == "hadamard" and dense.shape != (dense.right[0].shape[0], dense.right[-1].shape[1]):
        raise CorruptFileError(f"{where}: {name}: its two products have different shapes; fetch it again")
    if not kernel and target is not None and target.component == "unet" and CONVOLUTIONS.fullmatch(target.module):
        kernel = (3, 3)
    if dense.shape[1] % math.prod(kernel):
        raise CorruptFileError(
            f"{where}: {name} has {dense.shape[1]} columns, which do not fit a convolution of {kernel}"
        )
    return replace(dense, kernel=tuple(kernel), label=f"{where}: {name}")


LYCORIS = Lycoris()
