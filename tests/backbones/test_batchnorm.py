import pytest
import torch
from torch import Tensor, nn

from featcache.backbones.batchnorm import (
    adapt_batch_norm,
    batch_norm_statistics,
    has_batch_norm,
    load_batch_norm_statistics,
    require_batch_norm,
)
from featcache.core.tensor_files import state_digest
from featcache.errors import UsageError, WeightsError


def small_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.01), nn.Dropout(0.9), nn.Flatten(1)
    )
    return net.eval().requires_grad_(False)


def some_batches(n: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, 8, 8, generator=generator) * (i + 1) for i in range(n)]


def test_adapted_statistics_are_the_average_over_the_batches():
    net, batches = small_net(), some_batches()
    maps = [net[0](batch).double().transpose(0, 1).flatten(1) for batch in batches]
    mean = torch.stack([m.mean(1) for m in maps]).mean(0)
    var = torch.stack([m.var(1, unbiased=True) for m in maps]).mean(0)

    adapt_batch_norm(net, batches)

    torch.testing.assert_close(net[1].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net[1].running_var.double(), var, rtol=1e-5, atol=1e-6)
    assert net[1].num_batches_tracked == 3


def test_second_layer_sees_what_training_would_show_it():
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    net = nn.Sequential(first, second).eval()

    adapt_batch_norm(net, some_batches())

    torch.testing.assert_close(second.running_mean, torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(second.running_var, torch.ones(3), rtol=0, atol=0.01)


def test_adapting_changes_no_parameter_and_restores_modes_and_momentum():
    net = small_net()
    parameters = state_digest(dict(net.named_parameters()))

    adapt_batch_norm(net, some_batches())

    assert state_digest(dict(net.named_parameters())) == parameters
    assert not any(module.training for module in net.modules())
    assert net[1].momentum == 0.01


def test_adapting_does_not_depend_on_the_statistics_before_or_on_dropout():
    once, twice = small_net(), small_net()

    adapt_batch_norm(once, some_batches())
    adapt_batch_norm(twice, some_batches(1))
    adapt_batch_norm(twice, some_batches())

    assert state_digest(once.state_dict()) == state_digest(twice.state_dict())


def test_statistics_come_back_after_a_round_trip():
    adapted, fresh = small_net(), small_net()
    adapt_batch_norm(adapted, some_batches())

    load_batch_norm_statistics(fresh, batch_norm_statistics(adapted))

    image = some_batches(1)[0]
    assert torch.equal(fresh(image), adapted(image))


def test_kept_statistics_do_not_follow_the_module():
    net = small_net()

    kept = batch_norm_statistics(net)
    adapt_batch_norm(net, some_batches())

    assert sorted(kept) == ["1.num_batches_tracked", "1.running_mean", "1.running_var"]
    assert torch.equal(kept["1.running_mean"], torch.zeros(4))


@pytest.mark.parametrize("wrong", [{}, {"1.running_mean": torch.zeros(9)}])
def test_statistics_of_another_backbone_are_refused_and_change_nothing(wrong):
    net = small_net()
    before = state_digest(net.state_dict())
    statistics = {**batch_norm_statistics(net), **wrong} if wrong else {}

    with pytest.raises(WeightsError, match=r"do not fit this backbone.*1\.running_mean"):
        load_batch_norm_statistics(net, statistics)

    assert state_digest(net.state_dict()) == before


@pytest.mark.parametrize(
    ("batches", "message"),
    [([], "there are none"), ([torch.zeros(1, 3, 3, 3)], r"\(1, 3, 3, 3\), too few images")],
)
def test_batches_without_a_variance_are_refused_and_leave_the_old_statistics(batches, message):
    net = small_net()
    net[1].running_mean.fill_(7)
    before = state_digest(net.state_dict())

    with pytest.raises(UsageError, match=message):
        adapt_batch_norm(net, batches)

    assert state_digest(net.state_dict()) == before


def test_interrupted_adapting_leaves_the_old_statistics_in_evaluation_mode():
    def interrupted():
        yield some_batches(1)[0]
        raise KeyboardInterrupt

    net = small_net()
    before = state_digest(net.state_dict())

    with pytest.raises(KeyboardInterrupt):
        adapt_batch_norm(net, interrupted())

    assert state_digest(net.state_dict()) == before
    assert not net[1].training


def test_backbone_without_batch_norm_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))

    assert not has_batch_norm(net)
    with pytest.raises(UsageError, match=r"vgg16 has no BatchNorm layer.*--bn frozen"):
        require_batch_norm(net, backbone="vgg16")
