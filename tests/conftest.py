"""Settings that all tests share."""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch and numpy are loaded: a thread per core in each of several processes is slower than one.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

# Derandomised: a run on a slow shared machine fails for the same reasons as any other run, or not at all.
settings.register_profile(
    "bsszoo", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("bsszoo")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What runs keep for later ones is not the user's, here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency tables of few blocks and networks, each timed a few times: a test is about what is done with them."""
    from bsszoo.latency.runtimes import RUNTIMES

    for name, value in {"MOST_TIMED": 20, "SECONDS_EACH": 0.0, "_SECONDS": 0.0, "_SECONDS_EXPORTED": 0.0}.items():
        monkeypatch.setattr(f"bsszoo.latency.table.{name}", value)
    for name, runtime in RUNTIMES.items():
        few = 16 if runtime.export is None else 8
        timed = None if runtime.timed is None else (20, 2)
        monkeypatch.setitem(RUNTIMES, name, replace(runtime, timed=timed, networks=few))


@pytest.fixture(scope="session")
def postgres():
    """A running server; skipped where its programs or its driver are not installed."""
    postgres_server = pytest.importorskip("postgres_server", reason="needs a POSIX system")
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed: pip install 'psycopg[binary]'")
    if postgres_server.programs() is None:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    server = postgres_server.PostgresServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of drawn shapes in COCO's format."""
    import shapes_coco

    root = tmp_path_factory.mktemp("shapes")
    shapes_coco.write_split(root, "train", 24, 0)
    shapes_coco.write_split(root, "val", 8, 1)
    return root


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn shapes, in a folder for each class."""
    import drawn_shapes

    return drawn_shapes.write(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def drawn_base(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the training of ``drawn_shapes.BASE`` on them, which tests only read."""
    import drawn_shapes

    from bsszoo.train.loop import train

    out = tmp_path_factory.mktemp("runs") / "base"
    train(drawn_shapes.recipe(drawn_shapes.BASE), drawn, out, device="cpu")
    return out


@pytest.fixture(scope="session")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fashion-MNIST as torchvision reads it; skipped where Debian's package is not installed."""
    import fashion_mnist

    if not fashion_mnist.DEBIAN.is_dir():
        pytest.skip("needs real pictures: apt-get install dataset-fashion-mnist")
    return fashion_mnist.unpack(tmp_path_factory.mktemp("clothes"))


@pytest.fixture
def seeded() -> None:
    """PyTorch on one thread, from the same random state in each test."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of runs without their plots."""
    for name, empty in (("cards", ""), ("plots", defaultdict(str)), ("learnt", "")):
        monkeypatch.setattr(f"bsszoo.report.page.{name}", lambda *_, empty=empty: empty)
