"""Compare speed, memory and accuracy of the space builder with the alternatives.

    python scripts/bench_space.py cpu                       # 6,000 x 20,000, k = 200: every peer in its own process
    python scripts/bench_space.py decode                    # one point of 99,648 numbers
    python scripts/bench_space.py engines                   # how far numpy, torch and dask agree
    python scripts/bench_space.py gpu --device cuda:0       # the paper's size, in GPU memory
    python scripts/bench_space.py disk --work DIR --k 1000  # the same, from disk
    python scripts/bench_space.py scaling --plot scaling.html

Every command prints a Markdown table. Peers run one after the other in rounds, so that whatever else the machine does
falls on all of them; the median of the rounds is shown, and ratios are what to look at.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from figures import save_figures

sys.path.insert(0, str(Path(__file__).parents[1]))

from w2w_hub.space import Krylov, NumpyEngine
from w2w_hub.space.fit.rows import Rows
from w2w_hub.space.fit.solvers import choose, get_solvers
from w2w_hub.space.fit.solvers.components import find_components

TOLERANCE = Krylov.tolerance  # the library's own
REACHED = 0.9999  # of the variance that the exact components carry


# ---------------------------------------------------------------- data with a known kind of spectrum
def decaying(rows: int, numbers: int, seed: int = 0) -> np.ndarray:
    """Return float32 rows: components that decay as i^-0.6 plus noise, with columns of many scales and offsets."""
    rng = np.random.default_rng(seed)
    rank = min(rows, numbers, 1000)
    left = rng.standard_normal((rows, rank), np.float32) * (1 + np.arange(rank, dtype=np.float32)) ** -0.6
    right = rng.standard_normal((rank, numbers), np.float32)
    scale = np.exp(rng.standard_normal(numbers, np.float32))
    values = np.empty((rows, numbers), np.float32)
    for start in range(0, rows, 1000):
        part = slice(start, start + 1000)
        noise = 0.5 * rng.standard_normal((len(left[part]), numbers), np.float32)
        values[part] = 1e-3 * scale * (left[part] @ right + noise) + 0.05
    return values


class ArrayRows(Rows):
    """The rows of an array, in place of a dataset's."""

    def __init__(self, values: Any, tile_values: int):
        self.values, self.tile_values, self.block_rows = values, tile_values, None
        self.n, self.d = values.shape
        self.tile_rows = max(16, tile_values // self.d)

    def _read(self, first: int, last: int, buffer: Any = None) -> Any:
        return self.values[first * self.tile_rows : last * self.tile_rows]


class FileRows(ArrayRows):
    """The rows of a `.npy` file, read again in every pass."""

    def __init__(self, path: Path, tile_values: int):
        super().__init__(np.load(path, mmap_mode="r"), tile_values)
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115, for as long as this is

    def _read(self, first: int, last: int, buffer: np.ndarray | None = None) -> np.ndarray:
        start, stop = first * self.tile_rows, min(last * self.tile_rows, self.n)
        out = np.empty((stop - start, self.d), np.float32) if buffer is None else buffer[: stop - start]
        left, offset = memoryview(out).cast("B"), self.values.offset + 4 * start * self.d
        while len(left):  # at most 2 GB come at once
            count = os.preadv(self.file.fileno(), [left], offset)
            left, offset = left[count:], offset + count
        return out


# ---------------------------------------------------------------- peers
def standardised(folder: Path) -> np.ndarray:
    """Return the standardized matrix in memory, as peers need it."""
    values = np.load(folder / "rows.npy")
    return (values - values.mean(0)) / values.std(0, ddof=1)


def sklearn_pca(folder: Path, k: int, **options: Any) -> np.ndarray:
    from sklearn.decomposition import PCA

    model = PCA(k, svd_solver="randomized", random_state=0, **options)
    return model.fit(standardised(folder)).components_


def sklearn_incremental(folder: Path, k: int) -> np.ndarray:
    from sklearn.decomposition import IncrementalPCA

    return IncrementalPCA(k, batch_size=max(1000, 2 * k)).fit(standardised(folder)).components_


def torch_lowrank(folder: Path, k: int, niter: int) -> np.ndarray:
    import torch

    torch.manual_seed(0)
    return torch.svd_lowrank(torch.from_numpy(standardised(folder)), q=k, niter=niter)[2].T.numpy()


def gram_eigh(folder: Path, k: int) -> np.ndarray:
    from scipy.linalg import eigh

    values = standardised(folder)
    n = len(values)
    found, vectors = eigh((values @ values.T).astype(np.float64), subset_by_index=[n - k, n - 1], overwrite_a=True)
    return ((vectors / np.sqrt(found)).T[::-1].astype(np.float32)) @ values


def dask_compressed(folder: Path, k: int) -> np.ndarray:
    import dask.array as da

    values = da.from_array(standardised(folder), chunks=(1000, -1))
    return da.linalg.svd_compressed(values, k, n_power_iter=4, seed=0)[2].compute(scheduler="threads")


def ours(folder: Path, k: int, engine: str = "numpy", tolerance: float = TOLERANCE) -> np.ndarray:
    """Stream the dataset from disk and compute only the components."""
    from w2w_hub import WeightDataset
    from w2w_hub.space.fit.engines import get_engine

    dataset = WeightDataset.open(folder / "dataset")
    runner = get_engine(engine, devices="cpu" if engine == "torch" else None)
    with runner.running():
        rows = runner.rows(dataset, np.arange(len(dataset)))
        solver = choose(rows.n, rows.d, k, get_solvers(tolerance=tolerance))
        found = find_components(runner, rows, k, solver)
    print(found.facts, file=sys.stderr)
    return found.basis


def whole_build(folder: Path, k: int) -> np.ndarray:
    """Run the public call, which also computes coefficients, norms and diagnostics."""
    from w2w_hub import WeightDataset, build_space

    return build_space(WeightDataset.open(folder / "dataset"), k).basis


EXACT = "Gram + scipy eigh"
PEERS: dict[str, Callable[..., np.ndarray]] = {
    EXACT: gram_eigh,  # first: the others' variance is told as a share of what it carries
    "w2w_hub, components": ours,
    "w2w_hub, components, tolerance=1e-4": lambda folder, k: ours(folder, k, tolerance=1e-4),
    "w2w_hub, build_space": whole_build,
    "w2w_hub, components, engine torch": lambda folder, k: ours(folder, k, "torch"),
    "sklearn PCA randomized": sklearn_pca,
    "sklearn PCA randomized, iterated_power=7, n_oversamples=50": lambda folder, k: sklearn_pca(
        folder, k, iterated_power=7, n_oversamples=50
    ),
    "sklearn IncrementalPCA": sklearn_incremental,
    "torch.svd_lowrank niter=4": lambda folder, k: torch_lowrank(folder, k, 4),
    "torch.svd_lowrank niter=20": lambda folder, k: torch_lowrank(folder, k, 20),
    "dask svd_compressed, n_power_iter=4": dask_compressed,
}
IMPORTS = {  # before the clock starts
    "w2w_hub": ("w2w_hub.space", "scipy.linalg"),
    "sklearn": ("sklearn.decomposition",),
    "torch": ("torch",),
    "Gram": ("scipy.linalg",),
    "dask": ("dask.array",),
}


def peak_memory() -> int:
    """Return this process's peak memory in bytes; `ru_maxrss` would include the parent's at the fork."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@click.group(help=__doc__)
def main() -> None:
    pass


with_figures = click.option(
    "--json", "figures", type=click.Path(path_type=Path), help="Write the figures to this file."
)


@main.command(hidden=True)
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("k", type=int)
@click.argument("basis", type=click.Path(path_type=Path))
def peer(name: str, folder: Path, k: int, basis: Path) -> None:
    """Run one peer in this process; print seconds and peak memory as JSON."""
    import importlib

    for start, modules in IMPORTS.items():
        for module in modules if name.startswith(start) else ():
            importlib.import_module(module)
    began, busy = time.perf_counter(), time.process_time()
    found = PEERS[name](folder, k)
    told = {"seconds": time.perf_counter() - began, "busy": time.process_time() - busy}
    told["peak"] = peak_memory()
    np.save(basis, found.astype(np.float32))
    print(json.dumps(told))


@main.command()
@click.option("--rows", default=6000, show_default=True)
@click.option("--numbers", default=20_000, show_default=True)
@click.option("--k", default=200, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", type=int, help="Of every peer; as many as there are cores without it.")
@click.option("--only", multiple=True, help="Peers whose names start with this, beside the exact one.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("bench-space"), show_default=True)
@with_figures
def cpu(
    rows: int, numbers: int, k: int, rounds: int, threads: int | None, only: tuple[str, ...], work: Path,
    figures: Path | None,
) -> None:  # fmt: skip
    """Run every peer in rounds, each in its own process."""
    from threadpoolctl import threadpool_info

    names = [n for n in PEERS if not only or n == EXACT or n.startswith(only)]
    environment = dict(os.environ)
    if threads is not None:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    work.mkdir(exist_ok=True)
    told: dict[str, list[dict[str, float]]] = {n: [] for n in names}
    captured: dict[str, float] = {}
    try:
        prepare(work, rows, numbers)
        for number in range(rounds):
            for name in names:
                words = [sys.executable, __file__, "peer", name, str(work), str(k), str(work / "basis.npy")]
                done = subprocess.run(words, capture_output=True, text=True, env=environment)
                if done.returncode:
                    click.echo(f"{name} failed: {done.stderr.strip().splitlines()[-1]}", err=True)
                    continue
                told[name].append(json.loads(done.stdout))
                captured[name] = captured.get(name) or carried(work, np.load(work / "basis.npy"))
                click.echo(f"round {number + 1}, {name}: {told[name][-1]} {done.stderr.strip()[-120:]}", err=True)
        blas = {f"{p['internal_api']} {p.get('architecture', '')}".strip() for p in threadpool_info()}
        count = threads or max(p["num_threads"] for p in threadpool_info())
        click.echo(f"{rows:,} x {numbers:,} float32, k = {k}, {count} threads a peer ({', '.join(sorted(blas))}), "
                   f"median of {rounds} rounds, load of the machine {os.getloadavg()[2]:.1f}\n")  # fmt: skip
        report_cpu(told, {name: value / captured[EXACT] for name, value in captured.items()}, figures)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def report_cpu(
    told: dict[str, list[dict[str, float]]], captured: dict[str, float], figures: Path | None = None
) -> None:
    """Print the table, with ratios per round to the fastest peer that captures enough variance."""
    reach = [n for n in captured if not n.startswith("w2w_hub") and captured[n] >= REACHED]
    fastest = min(reach, key=lambda n: median(t["seconds"] for t in told[n]))
    ratios = {
        name: {key: median(a[key] / b[key] for a, b in zip(times, told[fastest], strict=False)) for key in times[0]}
        for name, times in told.items()
        if times
    }
    click.echo("| | captured | seconds | ratio | processor seconds | ratio | peak memory | ratio |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, ratio in ratios.items():
        cells = [
            f"{median(t[key] for t in told[name]) / scale:{form}} | {ratio[key]:.2f}"
            for key, scale, form in (("seconds", 1, ".1f"), ("busy", 1, ".1f"), ("peak", 1e9, ".2f"))
        ]
        click.echo(f"| {name} | {captured[name]:.7f} | {' | '.join(cells)} |")
    click.echo(
        f"\nRatios are to {fastest}, the fastest peer that captures {REACHED} of the exact components' variance."
    )
    kept: list[tuple[str, float, str]] = []
    for name in (n for n in ratios if n.startswith("w2w_hub")):
        kept.append((name, ratios[name]["seconds"], f"of {fastest}"))
        kept.append((f"{name}, peak memory", ratios[name]["peak"], f"of {fastest}"))
    save_figures(figures, kept)


def prepare(work: Path, rows: int, numbers: int) -> None:
    """Write the same matrix as a `.npy` file for the peers and as a dataset for us."""
    from w2w_hub import ParameterLayout, write_dataset
    from w2w_hub.dataset.manifest import Compatibility
    from w2w_hub.lora.adapter import Target

    values = decaying(rows, numbers)
    np.save(work / "rows.npy", values)
    layout = ParameterLayout({Target("unet", "blocks.0.to_q"): (1, numbers // 2, numbers - numbers // 2)}, 27.0)
    shutil.rmtree(work / "dataset", ignore_errors=True)
    write_dataset(
        values, work / "dataset", layout=layout, compatibility=Compatibility(initialisation="made up"),
        parquet_view=False,
    )  # fmt: skip


def carried(work: Path, basis: np.ndarray) -> float:
    """Return the variance of the standardized rows within the span of a basis."""
    q = np.linalg.qr(basis.T.astype(np.float64))[0].astype(np.float32)
    values = standardised(work)
    return float(sum(((values[i : i + 500] @ q).astype(np.float64) ** 2).sum() for i in range(0, len(values), 500)))


@main.command()
@click.option("--numbers", default=99_648, show_default=True)
@click.option("--k", default=1000, show_default=True)
@with_figures
def decode(numbers: int, k: int, figures: Path | None) -> None:
    """Compare decoding one point with a plain vector-matrix product."""
    from w2w_hub import ParameterLayout, WeightSpace
    from w2w_hub.lora.adapter import Target
    from w2w_hub.space import Coordinates

    rng = np.random.default_rng(0)
    layout = ParameterLayout({Target("unet", "a.to_q"): (1, numbers // 2, numbers - numbers // 2)}, 27.0)
    basis = rng.standard_normal((k, numbers), np.float32) / np.sqrt(numbers, dtype=np.float32)
    mean, std = np.zeros(numbers, np.float32), np.ones(numbers, np.float32)
    space = WeightSpace(Coordinates(layout, mean, std, basis, np.ones(k)), None, recipe={})
    point = space.point(rng.standard_normal(k).astype(np.float32))
    pairs = []
    for _ in range(41):
        began = time.perf_counter()
        point.coefficients @ basis
        middle = time.perf_counter()
        space.decode(point)
        pairs.append((middle - began, time.perf_counter() - middle))
    plain, whole = (median(column) for column in zip(*pairs[1:], strict=True))
    click.echo(f"| one point, d = {numbers:,}, k = {k:,} | ms |\n| --- | --- |")
    click.echo(f"| vector times matrix | {1e3 * plain:.1f} |\n| `WeightSpace.decode` | {1e3 * whole:.1f} |")
    ratio = median(b / a for a, b in pairs[1:])
    click.echo(f"\nRatio {ratio:.2f}.")
    save_figures(figures, [("decode of one point", ratio, "of the plain product")])


@main.command()
@click.option("--rows", default=2000, show_default=True)
@click.option("--numbers", default=4000, show_default=True)
@click.option("--k", default=40, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("bench-space"), show_default=True)
@with_figures
def engines(rows: int, numbers: int, k: int, work: Path, figures: Path | None) -> None:
    """Compare engines and solvers with the Krylov solver in NumPy."""
    from w2w_hub import WeightDataset, build_space
    from w2w_hub.space import TorchEngine
    from w2w_hub.space.fit.rebuild import compare_spaces

    def build(**options: Any) -> tuple[Any, float]:
        """Build a space twice; return it and the lesser seconds, since the first build loads libraries."""
        times = []
        for _ in range(2):
            began = time.perf_counter()
            space = build_space(dataset, k, directions=False, **{"solver": "krylov", **options})
            times.append(time.perf_counter() - began)
        return space, min(times)

    work.mkdir(exist_ok=True)
    try:
        prepare(work, rows, numbers)
        dataset = WeightDataset.open(work / "dataset")
        first, reference = build()
        kept: list[tuple[str, float, str]] = [("build_space, krylov", reference, "s")]
        click.echo(f"{rows:,} x {numbers:,}, k = {k}\n\n| | singular values | angle | separated components |")
        click.echo("| --- | --- | --- | --- |")
        for name, options in {
            "numpy, read in other blocks": {"engine": NumpyEngine(block_rows=999)},
            "torch": {"engine": TorchEngine("cpu")},
            "dask": {"engine": "dask"},
            "numpy, exact Gram": {"solver": "gram"},
        }.items():
            other, seconds = build(**options)
            kept.append((f"build_space, {name}", seconds / reference, "of krylov in NumPy"))
            found = compare_spaces(first, other)
            same = " (the same bits)" if found.identical else ""
            click.echo(
                f"| {name}{same} | {found.singular_value_error:.0e} | {found.angle:.0e} | {found.separated} of {k} |"
            )
        save_figures(figures, kept)
    finally:
        shutil.rmtree(work, ignore_errors=True)


# ---------------------------------------------------------------- GPUs
def on_device(rows: int, numbers: int, device: Any, seed: int = 0) -> Any:
    """Standardized rows with components that decay as i^-0.6 plus noise, made on the device block by block."""
    import torch

    torch.manual_seed(seed)
    rank = min(rows, numbers, 20_000)
    decay = torch.arange(1, rank + 1, device=device, dtype=torch.float32) ** -0.6
    right = torch.randn(rank, numbers, device=device)
    values = torch.empty(rows, numbers, device=device)
    for start in range(0, rows, 2048):
        part = values[start : start + 2048]
        torch.randn(part.shape, out=part, device=device)
        part *= 0.5
        part += (torch.randn(len(part), rank, device=device) * decay) @ right
    for start in range(0, numbers, 4096):
        part = values[:, start : start + 4096]
        part -= part.mean(0)
        part /= part.std(0)
    return values


def quality(source: ArrayRows, basis: Any) -> tuple[float, float]:
    """Return the share of variance in the span of a basis ``(k, d)``, and the largest relative residual.

    What a peer returns need not be orthonormal to more than three digits, which would count some variance twice.
    """
    import torch

    span = torch.linalg.qr(basis.T.double())[0].T.float()
    carried, total = 0.0, 0.0
    image, squares = torch.zeros_like(basis), torch.zeros(len(basis), dtype=torch.float64, device=basis.device)
    for _, tile in source.tiles():
        part = torch.as_tensor(tile, device=basis.device)
        total += float(part.norm().double() ** 2)
        carried += float((part @ span.T).norm().double() ** 2)
        inside = part @ basis.T
        squares += (inside.double() ** 2).sum(0)
        image += inside.T @ part
    theta = squares.float()[:, None]
    return carried / total, float(((image - theta * basis).norm(dim=1) / theta[:, 0]).max())


class Device:
    """One or several devices, the clock, and the solver on them."""

    def __init__(self, names: tuple[str, ...]):
        import torch

        self.names, self.first = list(names), torch.device(names[0])
        self.cuda = self.first.type == "cuda"
        torch.set_float32_matmul_precision("highest")

    @property
    def tile_values(self) -> int:
        return 1 << 28 if self.cuda else 1 << 20

    def __str__(self) -> str:
        import torch

        name = torch.cuda.get_device_name(self.first) if self.cuda else "CPU"
        return f"{len(self.names)} {name}, torch {torch.__version__}"

    def warm_up(self) -> None:
        """Load the libraries of all peers, which happens at first use."""
        import torch

        values = on_device(600, 800, self.first)
        torch.svd_lowrank(values, q=40, niter=2)
        self.components(ArrayRows(values, self.tile_values), 40, 0)

    def timed(self, function: Callable[[], Any]) -> tuple[float, float, Any]:
        """Return seconds, peak memory of the first device in bytes, and the result."""
        import torch

        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats(self.first)
        began = time.perf_counter()
        found = function()
        if self.cuda:
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated(self.first) if self.cuda else float("nan")
        return time.perf_counter() - began, peak, found

    def components(
        self, source: ArrayRows, k: int, memory: int | None, tolerance: float = TOLERANCE
    ) -> tuple[Any, int]:
        """Return the solver's components and its number of passes."""
        from w2w_hub.space import TorchEngine

        solver = Krylov(tolerance=tolerance).sized(source.n, source.d, k)
        with TorchEngine(self.names, memory).running() as engine:
            found = find_components(engine, source, k, solver)
        return found.basis, found.facts["passes"] + 1  # and the pass for mean and standard deviation


HEADER = (
    "| k | | seconds | passes | peak memory, GB | / matrix | carried of all variance | largest residual |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def on_gpu(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--k", "counts", multiple=True, type=int, default=(1000, 10_000), show_default=True),
        click.option("--numbers", default=99_648, show_default=True),
        click.option("--rows", default=64_974, show_default=True),
        click.option("--device", "devices", multiple=True, default=("cuda:0",), show_default=True),
    ):
        function = option(function)
    return function


@main.command()
@on_gpu
@click.option("--niter", "niters", multiple=True, type=int, default=(2, 20), show_default=True)
@click.option("--tolerance", "tolerances", multiple=True, type=float, default=(TOLERANCE,), show_default=True)
def gpu(
    devices: tuple[str, ...], rows: int, numbers: int, counts: tuple[int, ...], niters: tuple[int, ...],
    tolerances: tuple[float, ...],
) -> None:  # fmt: skip
    """Solve a matrix in the memory of the first device, compared with torch.svd_lowrank."""
    import torch

    device = Device(devices)
    device.warm_up()
    values = on_device(rows, numbers, device.first)
    size = values.numel() * 4
    source = ArrayRows(values, device.tile_values)
    click.echo(f"{rows:,} x {numbers:,} float32 ({size / 1e9:.1f} GB) in the memory of {device}\n\n{HEADER}")
    for k in counts:
        peers: dict[str, Callable[[], tuple[Any, int]]] = {
            **{
                f"w2w_hub, tolerance={tolerance:g}": lambda k=k, tolerance=tolerance: (
                    device.components(source, k, 0, tolerance)
                )
                for tolerance in tolerances
            },
            **{
                f"torch.svd_lowrank niter={niter}": lambda k=k, niter=niter: (
                    torch.svd_lowrank(values, q=k, niter=niter)[2].T.contiguous(), 2 * niter + 2
                )
                for niter in niters
            },
        }  # fmt: skip
        for name, work in peers.items():
            seconds, peak, (basis, passes) = device.timed(work)
            basis = torch.as_tensor(basis, dtype=torch.float32, device=device.first)
            carried, residual = quality(source, basis)
            click.echo(
                f"| {k:,} | {name} | {seconds:.1f} | {passes} | {peak / 1e9:.1f} | {peak / size:.2f} | {carried:.7f} | "
                f"{residual:.1e} |"
            )
            del basis


@main.command()
@on_gpu
@click.option("--memory", default=12.0, show_default=True, help="GB of rows that the GPU keeps between passes.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for the matrix as a file.")
def disk(devices: tuple[str, ...], rows: int, numbers: int, counts: tuple[int, ...], memory: float, work: Path) -> None:
    """Solve a matrix in a file, part of which the device keeps, compared with reading the file as often."""
    import torch

    device = Device(devices)
    device.warm_up()
    values = on_device(rows, numbers, device.first)
    work.mkdir(parents=True, exist_ok=True)
    stored = np.lib.format.open_memmap(work / "rows.npy", "w+", np.float32, (rows, numbers))
    for start in range(0, rows, 2048):
        stored[start : start + 2048] = values[start : start + 2048].cpu().numpy()
    stored.flush()
    del stored, values
    source = FileRows(work / "rows.npy", device.tile_values)
    size = 4 * rows * numbers
    click.echo(f"{rows:,} x {numbers:,} float32 ({size / 1e9:.1f} GB) in a file, {memory:g} GB kept by {device}\n")
    click.echo(HEADER)
    for k in counts:
        seconds, peak, (basis, passes) = device.timed(lambda k=k: device.components(source, k, int(memory * 1e9)))
        carried, residual = quality(source, torch.as_tensor(basis, dtype=torch.float32, device=device.first))
        click.echo(
            f"| {k:,} | w2w_hub | {seconds:.1f} | {passes} | {peak / 1e9:.1f} | {peak / size:.2f} | {carried:.7f} | "
            f"{residual:.1e} |"
        )
        began = time.perf_counter()
        for _ in range(passes):
            for _ in source.tiles():
                pass
        click.echo(f"| {k:,} | reading the file as often | {time.perf_counter() - began:.1f} | {passes} | | | | |")


@main.command()
@click.option("--rows", "row_counts", multiple=True, type=int, default=(1000, 2000, 4000), show_default=True)
@click.option("--numbers", "widths", multiple=True, type=int, default=(2500, 5000, 10_000), show_default=True)
@click.option("--k", "counts", multiple=True, type=int, default=(25, 50, 100), show_default=True)
@click.option("--device", default=None, help="Torch on this device; NumPy without it.")
@click.option("--plot", type=click.Path(path_type=Path), help="A page with the seconds against each, other sizes held.")
def scaling(
    row_counts: tuple[int, ...], widths: tuple[int, ...], counts: tuple[int, ...], device: str | None, plot: Path | None
) -> None:
    """Measure the Krylov solver against n, d and k, varying one at a time."""
    from w2w_hub.common.pages import render
    from w2w_hub.space.fit.engines import get_engine
    from w2w_hub.space.report.svg import line_chart

    values = decaying(max(row_counts), max(widths))
    middle = [sorted(c)[len(c) // 2] for c in (row_counts, widths, counts)]
    runner = get_engine("torch", devices=device) if device else get_engine("numpy")

    def cost(n: int, d: int, k: int) -> tuple[float, int]:
        with runner.running():
            rows = ArrayRows(np.ascontiguousarray(values[:n, :d]), min(runner.tile_values, 1 << 22))
            began = time.perf_counter()
            found = find_components(runner, rows, k, Krylov().sized(n, d, k))
        return time.perf_counter() - began, found.facts["passes"]

    cost(*middle)  # what is loaded and compiled once is nobody's cost
    series: dict[str, list[tuple[float, float]]] = {"n": [], "d": [], "k": []}
    click.echo("| n | d | k | seconds | passes | ms a pass |\n| --- | --- | --- | --- | --- | --- |")
    for axis, (letter, steps) in enumerate(zip("ndk", (row_counts, widths, counts), strict=True)):
        for step in steps:
            n, d, k = (step if i == axis else m for i, m in enumerate(middle))
            seconds, passes = cost(n, d, k)
            series[letter].append((step / steps[0], seconds / passes))
            click.echo(f"| {n:,} | {d:,} | {k} | {seconds:.2f} | {passes} | {1e3 * seconds / passes:.0f} |")
    if plot is not None:
        chart = line_chart(series, "size, of the smallest", "seconds a pass", logarithmic=True)
        plot.write_text(render("base.html", title="Cost of the Krylov solver", body=chart), "utf-8")
        click.echo(f"\n{plot}")


if __name__ == "__main__":
    main()
