"""Any module: snapped in place, trained straight-through, baked."""

import pytest
import torch
from torch import Tensor, nn

from tersa.errors import TersaError, UsageError
from tersa.quant.apply import TensorReport, attach_, detach_, quantise_
from tersa.quant.quantiser import QUANTISERS, quantise
from tersa.quant.spec import QuantSpec

NAMES = ["0.weight", "0.bias", "4.weight"]


def network() -> nn.Sequential:
    """A convolution, a normalisation (which stays real) and a dense layer without a bias."""
    made = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4, bias=False)
    )
    with torch.no_grad():
        for k, parameter in enumerate(made.parameters()):
            parameter.copy_(torch.sin(torch.arange(parameter.numel()) * 0.7 + k).view_as(parameter))
    return made


def values(module: nn.Module, names: list[str] = NAMES) -> dict[str, Tensor]:
    return {
        name: getattr(module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]).detach().clone()
        for name in names
    }


@pytest.mark.parametrize("kind", QUANTISERS)
@pytest.mark.parametrize("where", ["layer", "channel"])
def test_quantise_snaps_each_tensor_by_itself(kind: str, where: str) -> None:
    if kind == "clusters":
        where = "layer"
    spec = QuantSpec.model_validate({"kind": kind, "range": where, "storage": "after"})
    module = network()
    before, batch_norm = values(module), module[1].weight.detach().clone()
    reports = quantise_(module, spec)
    assert [report.name for report in reports] == NAMES
    for report in reports:
        found = quantise(before[report.name], spec)
        now = values(module)[report.name]
        assert torch.equal(now, found.values)
        error = float((now - before[report.name]).double().square().mean())
        assert report.mean_squared_error == pytest.approx(error)
        assert report.values == now.numel()
        assert report.levels <= spec.levels
        assert (report.low, report.high) == (float(found.low.min()), float(found.high.max()))
        assert TensorReport.model_validate_json(report.model_dump_json()) == report
    assert torch.equal(module[1].weight, batch_norm)


def test_quantise_with_bounds_and_stochastic_rounding() -> None:
    spec = QuantSpec(kind="symmetric", bits=2, range="calibrated", rounding="stochastic", storage="after")
    bounds = {name: (torch.tensor(-2.0), torch.tensor(2.0)) for name in NAMES}
    made = [network() for _ in range(3)]
    for module, seed in zip(made, (1, 1, 2), strict=True):
        quantise_(module, spec, bounds=bounds, seed=seed)
    first, same, other = (values(module) for module in made)
    assert all(torch.equal(first[name], same[name]) for name in NAMES)
    assert any(not torch.equal(first[name], other[name]) for name in NAMES)
    assert {value for tensor in first.values() for value in tensor.unique().tolist()} <= {-2.0, 0.0, 2.0}


def test_nothing_changes_when_a_weight_is_not_a_number() -> None:
    module = network()
    with torch.no_grad():
        module[4].weight[0, 0] = float("nan")
    before = values(module)
    with pytest.raises(TersaError, match="1 of the 48 values"):
        quantise_(module, QuantSpec(kind="binary", storage="after"))
    assert torch.equal(values(module)["0.weight"], before["0.weight"])


def test_a_shared_parameter_is_snapped_once() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    names = [report.name for report in quantise_(module, QuantSpec(kind="binary", storage="after"))]
    assert names == ["0.weight", "0.bias", "1.bias"]
    with pytest.raises(UsageError, match="share parameters"):
        attach_(module, QuantSpec(kind="binary", storage="latent"))


@pytest.mark.parametrize("kind", QUANTISERS)
def test_attached_the_module_computes_with_levels_and_trains_real_copies(kind: str) -> None:
    spec = QuantSpec.model_validate({"kind": kind, "storage": "latent"})
    module = network()
    before = values(module)
    assert attach_(module, spec) == NAMES
    for name, now in values(module).items():
        assert torch.equal(now, quantise(before[name], spec).values)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01)
    module(torch.sin(torch.arange(36.0)).view(2, 2, 3, 3)).square().sum().backward()
    optimiser.step()
    original = module[4].parametrizations.weight.original
    assert len(original.unique()) > spec.levels or spec.levels > 48
    assert not torch.equal(original, before["4.weight"])
    trained = values(module)
    assert detach_(module) == NAMES
    assert all(torch.equal(now, trained[name]) for name, now in values(module).items())
    assert [name for name, _ in module.named_parameters()] == [
        name for name, _ in network().named_parameters()
    ]


def test_a_learned_step_is_trained() -> None:
    module = network()
    attach_(module, QuantSpec(kind="symmetric", bits=3, range="learned", storage="latent"))
    steps = {name: p for name, p in module.named_parameters() if name.endswith(".step")}
    assert len(steps) == 3
    module(torch.sin(torch.arange(36.0)).view(2, 2, 3, 3)).square().sum().backward()
    assert all(step.grad is not None and float(step.grad.abs()) > 0 for step in steps.values())


def test_stochastic_rounding_draws_at_each_training_pass_alone() -> None:
    module = nn.Linear(30, 30)
    spec = QuantSpec(kind="symmetric", bits=2, rounding="stochastic", storage="latent")
    attach_(module, spec, seed=5)
    first, second = module.weight.detach(), module.weight.detach()
    assert not torch.equal(first, second)
    module.eval()
    assert torch.equal(module.weight, module.weight)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: quantise_(m, QuantSpec(kind="binary")), "storage after means, not inplace"),
        (lambda m: attach_(m, QuantSpec(kind="binary", storage="after")), "storage latent means, not after"),
        (lambda m: quantise_(m, QuantSpec()), "kind none"),
        (
            lambda m: quantise_(nn.ReLU(), QuantSpec(kind="binary", storage="after")),
            "no linear or convolutional",
        ),
        (
            lambda m: quantise_(
                m, QuantSpec(kind="binary", storage="after"), bounds={"1.weight": (None, None)}
            ),
            "bounds name 1.weight; the module has 0.weight, 0.bias, 4.weight",
        ),
        (
            lambda m: attach_(m, QuantSpec(kind="binary", storage="latent", range="calibrated")),
            "needs bounds for 0.bias, 0.weight, 4.weight",
        ),
        (lambda m: detach_(m), "nothing is attached"),
    ],
)
def test_what_has_no_meaning_is_refused(call, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call(network())


def test_attaching_twice_is_refused_and_strangers_are_left_alone() -> None:
    module, spec = network(), QuantSpec(kind="binary", storage="latent")
    attach_(module, spec)
    with pytest.raises(UsageError, match="parametrised already"):
        attach_(module, spec)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    with pytest.raises(UsageError, match="nothing is attached"):
        detach_(normed)
