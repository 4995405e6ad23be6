"""Clustered networks hold few values, and train with exactly the values that are stored."""

import copy
from collections.abc import Callable

import pytest
import torch
from tests.prune.networks import Chain, Depthwise, fill
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.errors import ModelError
from tersa.prune.clustering import (
    Codebook,
    Sharing,
    cluster,
    half,
    held,
    install_,
    snap_bias,
    sort_out,
    stored,
)
from tersa.prune.coding import entropy_bits
from tersa.prune.rate import Rate
from tersa.quant.clusters import share

BOOKS: tuple[Codebook, ...] = ("layer", "network")

IMAGES = torch.sin(0.3 * torch.arange(5 * 3 * 8 * 8, dtype=torch.float32)).view(5, 3, 8, 8)


def chain() -> nn.Module:
    return fill(Chain())


def pruned() -> nn.Module:
    """Two thirds of the weights of one layer are zero."""
    model = chain()
    weight = model.get_parameter("fc1.weight")
    with torch.no_grad():
        weight.view(-1)[torch.arange(weight.numel()) % 3 > 0] = 0.0
    return model


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize("codebook", BOOKS)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_each_tensor_has_at_most_two_to_the_bits_values(bits: int, codebook: Codebook) -> None:
    model, found = chain(), cluster(chain(), bits, codebook=codebook)
    install_(model, found)
    assert len(found.books) == (1 if codebook == "network" else 3)
    for name in found.weights:
        assert len(model.get_parameter(name).unique()) <= 2**bits


@pytest.mark.parametrize("codebook", BOOKS)
def test_stored_numbers_are_half_precision_and_their_products_exact(codebook: Codebook) -> None:
    found = cluster(chain(), 3, codebook=codebook)
    for place, (name, one) in enumerate(found.weights.items()):
        book = found.book(place)
        assert torch.equal(book, half(book))
        assert half(torch.tensor(one.scale)).item() == one.scale
        exact = book.double() * one.scale
        assert torch.equal(found.state()[name].double(), exact[one.codes])


def test_a_layers_clusters_are_those_of_k_means() -> None:
    """In units of the scale, which shifts nothing but the rounding of centroids to multiples of a step."""
    model = chain()
    found = cluster(model, 3)
    expected = share(model.get_parameter("fc1.weight"), 3)
    assert (found.weights["fc1.weight"].codes == expected.codes).float().mean() > 0.98
    centroids = found.book(1) * found.weights["fc1.weight"].scale
    reach = float(expected.centroids.abs().max()) / 127  # the step is below twice that
    torch.testing.assert_close(centroids, expected.centroids, rtol=0, atol=reach)
    fine, exact = cluster(model, 7), share(model.get_parameter("fc1.weight"), 7)
    centroids = fine.book(1) * fine.weights["fc1.weight"].scale
    torch.testing.assert_close(centroids, exact.centroids.unique(), rtol=2e-3, atol=1e-3)  # 11 bits


@pytest.mark.parametrize("codebook", BOOKS)
def test_zeros_are_a_symbol_of_their_own(codebook: Codebook) -> None:
    model = pruned()
    zero = model.get_parameter("fc1.weight") == 0
    found = cluster(model, 2, codebook=codebook)
    assert [one.sparse for one in found.weights.values()] == [False, True, False]
    assert torch.equal(found.weights["fc1.weight"].codes == 0, zero)
    install_(model, found)
    assert torch.equal(model.get_parameter("fc1.weight") == 0, zero)
    assert len(model.get_parameter("fc1.weight").unique()) <= 5


def test_what_is_stored_how() -> None:
    kinds = sort_out(chain())
    assert kinds.weights == ("conv1.weight", "fc1.weight", "fc2.weight")
    assert kinds.biases == ("conv1.bias", "fc1.bias", "fc2.bias")
    assert set(kinds.others) == {
        f"bn.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def test_biases_lie_within_half_a_level() -> None:
    bias = torch.sin(torch.arange(20.0))
    for bits in (4, 8):
        found = snap_bias(bias, bits)
        middle = 2 ** (bits - 1) - 1
        values = (found.codes - middle) * found.scale
        assert float((values - bias).abs().max()) <= found.scale * (0.5 + middle / 2**11)  # the scale's bits
        assert found.codes.min() >= 0
        assert found.codes.max() <= 2 * middle
    assert snap_bias(torch.zeros(3), 8).codes.tolist() == [127] * 3


def test_other_values_keep_their_bits_where_half_precision_would_lose_them() -> None:
    fine = torch.tensor([1.0, 0.1, -3.7])
    assert torch.equal(stored(fine), half(fine))
    for values in (torch.tensor([1e-9, 1.0]), torch.tensor([1e6]), torch.tensor([2**20 + 1])):
        assert torch.equal(stored(values), values)


def test_whole_numbers_and_truth_values_are_stored_as_they_are() -> None:
    """A causal mask, the least whole number, whose size has no place in 64 bits, and nothing at all."""
    network = fill(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8)))
    buffers = {
        "mask": torch.tril(torch.ones(3, 3)).bool(),
        "numbers": torch.tensor([-(2**63), 0, 7]),
        "empty": torch.zeros(0, dtype=torch.int32),
    }
    for name, value in buffers.items():
        network.register_buffer(name, value)
    found = cluster(network, bits=2)
    for name, value in buffers.items():
        assert torch.equal(found.others[name], value)
        assert found.others[name].dtype == value.dtype
    again = copy.deepcopy(network)
    again.get_buffer("mask").fill_(True)
    install_(again, found)
    assert torch.equal(again.get_buffer("mask"), buffers["mask"])


@pytest.mark.parametrize("codebook", BOOKS)
@pytest.mark.parametrize("reassign", [True, False])
@pytest.mark.parametrize("build", [chain, pruned])
@pytest.mark.parametrize("rate", [None, Rate(0.05), Rate(0.05, aim=100.0)])
def test_training_computes_with_what_is_stored(
    build: Callable[[], nn.Module], reassign: bool, codebook: Codebook, rate: Rate | None
) -> None:
    """Before training and after some steps: the wrapper's outputs are the stored network's, bit for bit."""
    model = build()
    sharing = Sharing(model, cluster(model, 2, codebook=codebook), reassign=reassign, rate=rate)
    optimizer = torch.optim.Adam([p for p in sharing.parameters() if p.requires_grad], lr=0.02)
    for _ in range(3):
        decoded = copy.deepcopy(sharing.network)
        found = sharing.eval().clustered()
        install_(decoded, found)
        for name in ("running_mean", "running_var", "weight", "bias"):
            sharing.network.state_dict()[f"bn.{name}"].copy_(found.others[f"bn.{name}"])
        assert torch.equal(sharing(IMAGES), decoded.eval()(IMAGES))
        optimizer.zero_grad()
        F.cross_entropy(sharing(IMAGES), torch.arange(5) % 4).backward()
        optimizer.step()
        sharing.train()(IMAGES)


@pytest.mark.parametrize("reassign", [True, False])
def test_training_lowers_the_loss_and_keeps_zeros_and_codes(reassign: bool) -> None:
    model, labels = pruned(), torch.arange(5) % 4
    start = cluster(model, 2)
    sharing = Sharing(model, start, reassign=reassign)
    optimizer = torch.optim.Adam([p for p in sharing.parameters() if p.requires_grad], lr=0.01)
    losses: list[float] = []
    for _ in range(30):
        loss = F.cross_entropy(sharing.eval()(IMAGES), labels)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    found = sharing.clustered()
    zeros = start.weights["fc1.weight"].codes == 0
    assert torch.equal(found.weights["fc1.weight"].codes == 0, zeros)
    pairs = [
        torch.stack([found.weights[n].codes, start.weights[n].codes]).flatten(1).unique(dim=1).shape[1]
        for n in start.weights
    ]
    before = [len(start.weights[n].codes.unique()) for n in start.weights]
    assert (pairs == before) is not reassign, "members stay with their centroid unless they are reassigned"


def test_centroid_gradients_are_sums_over_members() -> None:
    model = chain()
    sharing = Sharing(model, cluster(model, 2), reassign=False)
    values = sharing.values()
    upstream = torch.cos(torch.arange(values["fc1.weight"].numel())).view_as(values["fc1.weight"])
    (values["fc1.weight"] * upstream).sum().backward()
    one = cluster(model, 2).weights["fc1.weight"]
    by_hand = torch.stack([upstream[one.codes == k].sum() * one.scale for k in range(4)])
    torch.testing.assert_close(sharing.books[1].grad, by_hand)


def test_centroids_without_members_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(4, 8))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.5, -1.0, 2.0, 2.0]).repeat(8, 1))
    found = cluster(model, 4)
    assert len(found.books[0]) == 3


def test_tied_weights_are_stored_once_and_given_back_twice() -> None:
    model = Tied()
    found = cluster(model, 2)
    assert list(found.weights) == ["first.weight"]
    assert "second.weight" not in held(model)
    install_(model, found)
    assert torch.equal(model.first.weight, model.second.weight)
    assert model.first.weight is model.second.weight
    sharing = Sharing(model, found, reassign=True)
    assert torch.equal(sharing(torch.ones(2, 6)), model(torch.ones(2, 6)))


def test_depthwise_networks_cluster_too() -> None:
    model = fill(Depthwise())
    found = cluster(model, 3, codebook="network")
    install_(model, found)
    assert torch.isfinite(model(IMAGES)).all()


def test_all_zero_layers() -> None:
    model = chain()
    nn.init.zeros_(model.get_parameter("fc1.weight"))
    for codebook in BOOKS:
        found = cluster(model, 2, codebook=codebook)
        assert not found.state()["fc1.weight"].any()


def test_what_cannot_be_clustered_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing to cluster"):
        cluster(nn.Sequential(nn.Linear(2, 2)), 2)
    broken = chain()
    broken.get_parameter("fc1.weight").data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"tensor fc1\.weight has values that are NaN"):
        cluster(broken, 2)
    with pytest.raises(ModelError, match="float64"):
        cluster(chain().double(), 2)


@pytest.mark.parametrize("codebook", BOOKS)
def test_weights_settle_for_fewer_bits_the_more_a_bit_is_worth(codebook: Codebook) -> None:
    """Zeros stay, latents are as they were; worth next to nothing, it costs no more error than k-means."""
    model = pruned()
    start = cluster(model, 4, codebook=codebook)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def error(found: dict[str, Tensor]) -> float:
        return sum(float((found[name] - before[name]).square().sum()) for name in start.weights)

    bits: list[float] = []
    errors: list[float] = []
    for trade in (1e-6, 0.03, 0.3):
        sharing = Sharing(model, start, reassign=True, rate=Rate(trade))
        latents = [latent.clone() for latent in sharing.latents]
        sharing.settle_(trade)
        assert all(torch.equal(old, new) for old, new in zip(latents, sharing.latents, strict=True))
        found = sharing.clustered()
        state = found.state()
        assert not state["fc1.weight"][before["fc1.weight"] == 0].any()
        bits.append(sum(entropy_bits(one.codes.numpy()) for one in found.weights.values()))
        errors.append(error(state))
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < 0.8 * bits[0]
    assert errors == sorted(errors)
    assert errors[0] <= 1.05 * error(start.state())
