"""Our groups against Torch-Pruning's dependency graph on the zoo: the same layers go together."""

import pytest
import torch

from tersa.models.zoo import build
from tersa.prune.groups import find_groups

tp = pytest.importorskip("torch_pruning")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("spec", "shape"), [("resnet:20", (3, 32, 32)), ("mobilenet:0.25", (3, 32, 32)), ("lenet", (1, 28, 28))]
)
def test_layers_that_go_together(spec: str, shape: tuple[int, int, int]) -> None:
    model = build(spec, shape, 10)
    found = find_groups(model, shape)
    ours = {frozenset(group.layers) for group in found.groups}
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=torch.zeros(1, *shape))
    names = {module: name for name, module in model.named_modules()}
    theirs: set[frozenset[str]] = set()
    for name, module in model.named_modules():
        if not isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) or name in found.kept:
            continue
        group = graph.get_pruning_group(
            module, graph.get_pruner_of_module(module).prune_out_channels, idxs=[0]
        )
        members = {
            names[step.target.module]
            for step, _ in group
            if graph.is_out_channel_pruning_fn(step.handler)
            and isinstance(step.target.module, (torch.nn.Conv2d, torch.nn.Linear))
        }
        theirs.add(frozenset(members))
    assert ours == theirs
