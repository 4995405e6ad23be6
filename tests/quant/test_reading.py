"""Read noise: the deviation of outputs equals that of noise on every cell at every read."""

import pytest
import torch
import torch.nn.functional as F

from tersa.quant.reading import DENSE, READS, Reading, Window, generator, input_norm

DRAWS = 4000
SPREAD_TOLERANCE = 0.06
"""Relative; five standard errors of a deviation over DRAWS numbers."""
CONVOLUTION = Window(kernel=3, stride=2, padding=1)


def wave(*shape: int) -> torch.Tensor:
    count = int(torch.tensor(shape).prod())
    return torch.sin(0.9 * torch.arange(count) + 0.3).reshape(shape)


def reading(sigma: list[float], window: Window = DENSE, outputs: int = 1) -> Reading:
    runs = len(sigma)
    halves = [(0.5 + wave(runs, outputs).abs(), 0.2 + wave(runs, outputs).abs())]
    return Reading(torch.tensor(sigma), halves, [window], [generator(9 + r, READS) for r in range(runs)])


def test_dense_outputs_against_noisy_cells() -> None:
    u, w, b = wave(DRAWS, 12)[:1].expand(DRAWS, -1), wave(5, 12), wave(5)
    read = reading([0.1], outputs=5)
    (half, half_bias), source = read.halves[0], torch.Generator().manual_seed(3)
    cells = w + 0.1 * half[0][:, None] * torch.randn(DRAWS, 5, 12, generator=source)
    biases = b + 0.1 * half_bias[0] * torch.randn(DRAWS, 5, generator=source)
    slow = torch.einsum("noi,ni->no", cells, u) + biases
    fast = read(0, (u @ w.T + b)[None], u)[0]
    torch.testing.assert_close(fast.std(0), slow.std(0), rtol=2 * SPREAD_TOLERANCE, atol=0)
    torch.testing.assert_close(fast.mean(0), u[0] @ w.T + b, rtol=0, atol=0.05)
    off_diagonal = torch.corrcoef((fast - fast.mean(0)).T) - torch.eye(5)
    assert float(off_diagonal.abs().max()) < 5 / DRAWS**0.5


@pytest.mark.parametrize("shared", [True, False])
def test_norm_of_dense_inputs(shared: bool) -> None:
    u = wave(4, 2, 3, 3) if shared else wave(2, 4, 2, 3, 3)
    half, bias = torch.tensor([[0.5], [2.0]]), torch.tensor([[1.0], [3.0]])
    power = u.square().sum((-1, -2, -3)).expand(2, 4)
    expected = (half.square() * power + bias.square()).sqrt()[:, :, None]
    torch.testing.assert_close(input_norm(u, DENSE, half, bias), expected)


@pytest.mark.parametrize("shared", [True, False])
def test_norm_of_patches(shared: bool) -> None:
    u = wave(4, 2, 7, 6) if shared else wave(3, 4, 2, 7, 6)
    half, bias = 0.5 + wave(3, 5).abs(), wave(3, 5).abs()
    found = input_norm(u, CONVOLUTION, half, bias)
    for run in range(3):
        patches = F.unfold(u if shared else u[run], 3, padding=1, stride=2)  # (N, C k k, places)
        power = patches.square().sum(1).reshape(4, 1, *found.shape[-2:])
        expected = (half[run, :, None, None] ** 2 * power + bias[run, :, None, None] ** 2).sqrt()
        torch.testing.assert_close(found[run], expected)


def test_convolution_outputs_take_the_noise() -> None:
    u = wave(1, 2, 7, 6).expand(DRAWS, -1, -1, -1)
    read = reading([0.1], CONVOLUTION, outputs=5)
    z = torch.zeros(1, DRAWS, 5, 4, 3)
    expected = 0.1 * input_norm(u[:1], CONVOLUTION, *read.halves[0])[0, 0]
    torch.testing.assert_close(read(0, z, u)[0].std(0), expected, rtol=SPREAD_TOLERANCE, atol=0)


def test_a_quiet_run_is_untouched_and_draws_nothing() -> None:
    read = reading([0.0, 0.1])
    state = read.generators[0].get_state()
    z, u = wave(2, 6, 3), wave(6, 4)
    found = read(0, z, u)
    assert torch.equal(found[0], z[0])
    assert bool((found[1] != z[1]).all())
    assert torch.equal(read.generators[0].get_state(), state)


def test_a_run_draws_the_same_alone_and_anew_each_time() -> None:
    z, u = wave(2, 6, 30), wave(6, 4)
    stack, whole = reading([0.2, 0.1]), reading([0.2, 0.1])
    alone = Reading(
        whole.deviation[1:], [tuple(h[1:] for h in whole.halves[0])], whole.windows, whole.generators[1:]
    )  # type: ignore[arg-type]
    first = stack(0, z, u)
    assert torch.equal(first[1:], alone(0, z[1:], u))
    assert not bool((stack(0, z, u) == first).any())


def test_noise_passes_no_gradient() -> None:
    u, w = wave(6, 4).requires_grad_(), wave(1, 3, 4)
    found = reading([0.3])(0, (u @ w.mT), u)
    (grad,) = torch.autograd.grad(found.sum(), u)
    torch.testing.assert_close(grad, w.sum((0, 1)).expand(6, -1))


def test_half_widths_follow_the_training() -> None:
    read = reading([0.1])
    z, u = torch.zeros(1, DRAWS, 3), wave(1, 4).expand(DRAWS, -1)
    before = read(0, z, u).std()
    for half in read.halves[0]:
        half.mul_(3.0)
    assert float(read(0, z, u).std() / before) == pytest.approx(3.0, rel=SPREAD_TOLERANCE)
