"""Dask workers and a dataset on the Hub of which only the labels are here."""

from __future__ import annotations

import pytest

from .conftest import seed


def test_a_lazily_opened_dataset_is_built_from_by_workers_at_its_commit(hub, client, folders) -> None:
    pytest.importorskip("distributed", reason="pip install 'w2w-hub[dask]'")
    commit = seed(hub, folders.people, "org/people")
    found = client().run(
        """
        from distributed import LocalCluster
        from w2w_hub import WeightDataset, build_space
        from w2w_hub.space import DaskEngine
        lazy = WeightDataset.open(sys.argv[1], revision="v1.0.0", lazy=True)
        kept = [str(p) for p in lazy.path.rglob("c/*") if p.is_file()]
        one = dict(n_workers=1, threads_per_worker=1, dashboard_address=None, processes=False, protocol="tcp")
        with LocalCluster(**one) as cluster:
            space = build_space(lazy, 6, engine=DaskEngine(cluster.scheduler_address), directions=False)
        alone = build_space(WeightDataset.open(sys.argv[2]), 6, directions=False)
        out(kept=kept, revision=space.recipe["dataset_revision"],
            apart=float(abs(space.singular_values / alone.singular_values - 1).max()))
        """,
        "org/people",
        folders.people,
    )
    assert not found["kept"]
    assert found["apart"] < 1e-5
    assert commit in str(found["revision"])
