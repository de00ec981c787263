"""Optimisers and schedules."""

import pytest
import torch
from unetsegment_training.config import FitConfig
from unetsegment_training.optimise import make_optimizer, make_schedules, share_of_peak


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop"])
def test_each_optimizer_walks_downhill(name):
    config = FitConfig(optimizer=name, learning_rate=0.01, momentum=0.9)
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer([weight], config)
    for _ in range(20):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.item() < 0.95
    if name == "sgd":
        assert optimizer.defaults["nesterov"] and optimizer.defaults["momentum"] == 0.9
    assert optimizer.defaults["weight_decay"] == config.weight_decay


def test_schedules_by_hand():
    poly = FitConfig(schedule="poly", epochs=10, warmup_steps=0)
    assert share_of_peak(0, poly, 5) == 1 and share_of_peak(4, poly, 5) == 1
    assert share_of_peak(25, poly, 5) == pytest.approx(0.5**0.9) and share_of_peak(50, poly, 5) == 0
    cosine = FitConfig(schedule="cosine", epochs=10, warmup_steps=4)
    assert share_of_peak(0, cosine, 10) == pytest.approx(1.002 / 4) and share_of_peak(50, cosine, 10) == pytest.approx(
        0.502
    )
    constant = FitConfig(schedule="constant", warmup_steps=10)
    assert [share_of_peak(n, constant, 5) for n in (0, 4, 9, 900)] == [0.1, 0.5, 1, 1]


def test_plateau_waits_and_warm_up_comes_first():
    config = FitConfig(schedule="plateau", plateau_patience=2, warmup_steps=4, learning_rate=0.9)
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], config)
    plateau, warm = (entry["scheduler"] for entry in make_schedules(optimizer, config, 5))
    seen = []
    for _ in range(6):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        warm.step()
    assert seen == pytest.approx([0.225, 0.39375, 0.5625, 0.73125, 0.9, 0.9])
    for _ in range(4):  # the first is the best; two more are waited for
        plateau.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3)
    warm.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3)
