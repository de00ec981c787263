"""Faster on a processor, and still the same: norms with channels last, and what a run with them ends with."""

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet, SegResNet
from unetsegment_training.processor import FORMATS, InstanceNorm, channels_last


def norm_and_gradients(function, x, weight, bias, gradient):
    parts = [part.detach().clone(memory_format=torch.preserve_format).requires_grad_() for part in (x, weight, bias)]
    answer = function(*parts)
    answer.backward(gradient)
    return [answer.detach(), *(part.grad for part in parts)]


@pytest.mark.parametrize("shape", [(2, 5, 4, 6, 3), (3, 4, 7, 5)])
def test_instance_norm_with_channels_last_is_instance_norm(shape):
    torch.manual_seed(0)
    x = (torch.randn(shape, dtype=torch.float64) * 3 + 1).contiguous(memory_format=FORMATS[len(shape)])
    weight, bias = torch.rand(2, shape[1], dtype=torch.float64)
    gradient = torch.randn(shape, dtype=torch.float64)
    ours = norm_and_gradients(lambda *p: InstanceNorm.apply(*p, 1e-5), x, weight, bias, gradient)
    theirs = norm_and_gradients(lambda x, w, b: F.instance_norm(x, weight=w, bias=b), x, weight, bias, gradient)
    assert ours[0].is_contiguous(memory_format=FORMATS[len(shape)])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(
        lambda *p: InstanceNorm.apply(*p, 1e-5), [p.requires_grad_() for p in (x, weight, bias)]
    )


def test_a_network_answers_and_learns_alike():
    torch.manual_seed(0)
    network = BasicUNet(2, 1, 2, (4, 4, 8, 8, 8, 4)).double()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    answers = []
    for turned in (False, True):
        if turned:
            assert channels_last(network)
            x = x.contiguous(memory_format=torch.channels_last)
        network.zero_grad()
        answer = network(x)
        answer.square().mean().backward()
        answers.append([answer.detach(), *(p.grad for p in network.parameters())])
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other)


def test_networks_with_norms_that_turn_it_around_are_left_alone():
    network = SegResNet(2, 8, 1, 2)
    assert not channels_last(network)
