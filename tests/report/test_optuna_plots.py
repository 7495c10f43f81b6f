"""Optuna's own plots and importances take our studies as any other."""

from __future__ import annotations

import matplotlib as mpl
import optuna
import pytest

mpl.use("Agg")

from bsszoo import compress

PLOTS = [
    "plot_optimization_history",
    "plot_param_importances",
    "plot_parallel_coordinate",
    "plot_slice",
    "plot_edf",
    "plot_timeline",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots") / "run"
    compress("resnet18", flops="70%", trials=8, batch=4, out=folder, measure=False)
    return optuna.load_study(study_name="bsszoo", storage=f"sqlite:///{folder / 'study.db'}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_of_optuna_draws_our_study(study, name):
    import matplotlib.pyplot as plt

    drawn = getattr(optuna.visualization.matplotlib, name)(study)
    assert drawn is not None
    plt.close("all")


def test_optuna_sees_every_entry_of_the_code_and_the_results(study):
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert len(study.trials) == 8
    assert set(study.best_trial.params) == {f"{letter}{i}" for letter in "CL" for i in range(2, 6)}
    assert set(optuna.importance.get_param_importances(study)) <= set(study.best_trial.params)
