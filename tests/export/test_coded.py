"""Coded networks come back bit for bit, from any network, and damaged files are one line."""

import random
import struct
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

from tersa.errors import DataError, ModelError
from tersa.export.artefact import Header
from tersa.export.coded import MOST_VALUES, decode, encode, read_coded, write_coded
from tersa.models.load import load
from tersa.models.zoo import build
from tersa.prune.clustering import Clustered, Codebook, cluster, install_
from tersa.prune.coding import CHOICES, entropy_bits
from tersa.prune.groups import find_groups
from tersa.prune.surgery import remove_
from tersa.prune.symbols import varint

DIGITS = tuple(str(number) for number in range(10))

FIXED_BYTES = 100
"""What a LeNet's file holds beside codes: spec, sizes, normalisation, one codebook, scales, checksum."""

USER = """
from torch import nn
def build(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 6), nn.Linear(6, classes))
"""


def network(spec: str, shape: tuple[int, int, int]) -> nn.Module:
    """A zoo network whose weights and statistics are neither zero nor equal."""
    model = build(spec, shape, 10, seed=3)
    with torch.no_grad():
        for number, (name, value) in enumerate(model.state_dict().items()):
            wave = torch.sin(0.37 * torch.arange(value.numel()) + number).view(value.shape)
            if value.ndim < 2 and value.is_floating_point():
                value.copy_(0.3 * wave + (1.0 if name.endswith(("var", "weight")) else 0.0))
            elif not value.is_floating_point():
                value.fill_(number)
    return model.eval()


def header(shape: tuple[int, int, int], classes: tuple[str, ...] = DIGITS) -> Header:
    mean = tuple(0.1307 + 0.1 * channel for channel in range(shape[0]))
    return Header(classes, shape, mean, (0.3081,) * shape[0])


def pruned_lenet() -> nn.Module:
    model = network("lenet5", (1, 28, 28))
    groups = find_groups(model, (1, 28, 28))
    removed = [unit for group in groups.groups for unit in group.units.tolist()[5:]]
    remove_(model, groups, torch.tensor(removed))
    return model


def lenet_file(tmp_path: Path, coder: str = "auto") -> tuple[Path, nn.Module, Clustered]:
    model = pruned_lenet()
    found = cluster(model, 3, codebook="network")
    path = tmp_path / "lenet.coded"
    built = build("lenet5", (1, 28, 28), 10)
    parts = write_coded(path, found, "lenet5", header((1, 28, 28)), built, coder)
    assert parts.total == path.stat().st_size
    install_(model, found)
    return path, model, found


@pytest.mark.parametrize(
    ("spec", "shape", "codebook"),
    [
        ("lenet5", (1, 28, 28), "network"),
        ("mlp:20x10", (1, 8, 8), "layer"),
        ("lenet:6-8-20+separable", (1, 28, 28), "layer"),
        ("resnet:20", (3, 32, 32), "layer"),
        ("resnet:20", (3, 32, 32), "network"),
        ("mobilenet:0.25", (3, 32, 32), "network"),
        ("elman:12", (1, 8, 8), "network"),
    ],
)
def test_any_network_comes_back_bit_for_bit(
    spec: str, shape: tuple[int, int, int], codebook: Codebook
) -> None:
    model = network(spec, shape)
    found = cluster(model, 2, codebook=codebook)
    data, parts = encode(found, spec, header(shape), build(spec, shape, 10))
    assert parts.total == len(data)
    install_(model, found)
    loaded = decode(data, "x.coded")
    assert loaded.spec == spec
    assert loaded.header.classes == DIGITS
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], value), name
    images = torch.cos(0.1 * torch.arange(2 * shape[0] * shape[1] * shape[2])).view(2, *shape)
    assert torch.equal(loaded.module(images), model(images))


@pytest.mark.parametrize("coder", CHOICES)
def test_a_pruned_network_needs_no_description(tmp_path: Path, coder: str) -> None:
    path, model, found = lenet_file(tmp_path, coder)
    again, about = read_coded(path)
    images = torch.sin(torch.arange(3 * 784.0)).view(3, 1, 28, 28)
    assert torch.equal(again(images), model(images))
    assert not again.training
    assert about.shape == (1, 28, 28)
    assert about.mean == pytest.approx((0.1307,))
    values = torch.cat([one.codes.flatten() for one in found.weights.values()])
    if coder in ("auto", "arithmetic"):
        biases = sum(one.codes.numel() for one in found.biases.values())
        assert path.stat().st_size <= entropy_bits(values.numpy()) / 8 + biases + FIXED_BYTES


def test_normalisation_is_the_same_in_single_precision(tmp_path: Path) -> None:
    path, _, _ = lenet_file(tmp_path)
    assert torch.equal(torch.tensor(read_coded(path)[1].mean), torch.tensor((0.1307,)))
    model = network("mlp:20", (1, 8, 8))
    halves = Header(DIGITS, (1, 8, 8), (0.5,), (0.25,))
    sizes = [len(encode(cluster(model, 2), "mlp:20", h, model)[0]) for h in (halves, header((1, 8, 8)))]
    assert sizes[1] - sizes[0] == 4


def test_class_names_are_kept_where_they_say_something() -> None:
    names = ("Ärmel", "b", "", "d e", "f", "g", "h", "i", "j", "k")
    model = network("mlp:20", (1, 8, 8))
    plain, named = (
        encode(cluster(model, 2), "mlp:20", header((1, 8, 8), classes), model)[0]
        for classes in (DIGITS, names)
    )
    assert decode(named, "x").header.classes == names
    assert len(named) - len(plain) == sum(1 + len(name.encode()) for name in names)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_zeros_cost_little_and_stay(share: float) -> None:
    model = network("lenet5:8-12-100", (1, 28, 28))
    weight = model.get_parameter("fc1.weight")
    noise = (torch.sin(torch.arange(weight.numel()) * 12.9898) * 43758.5453).frac().abs().view_as(weight)
    with torch.no_grad():
        weight[noise < share] = 0
    for coder in ("auto", "huffman"):
        found = cluster(model, 2)
        data, _ = encode(found, "lenet5:8-12-100", header((1, 28, 28)), model, coder)
        again = decode(data, "x").module.get_parameter("fc1.weight")
        assert torch.equal(again == 0, weight == 0)
        dense = encode(
            cluster(network("lenet5:8-12-100", (1, 28, 28)), 2),
            "lenet5:8-12-100",
            header((1, 28, 28)),
            model,
            coder,
        )[0]
        assert (len(data) < 0.5 * len(dense)) is (share == 0.95)


def test_a_users_own_file_is_run_only_when_it_is_named(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text(USER)
    spec = f"{source}:build"
    model = load(spec, (1, 4, 4), 10).module
    path = tmp_path / "own.coded"
    found = cluster(model, 2)
    write_coded(path, found, spec, header((1, 4, 4)), model)
    source.write_text(USER + f"\nimport pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    for named in (None, "other.py:build"):
        with pytest.raises(ModelError, match=r"whose code would run .* --model"):
            read_coded(path, named)
    assert not (tmp_path / "ran").exists()
    module, _ = read_coded(path, spec)
    assert (tmp_path / "ran").exists()
    moved = tmp_path / "moved"
    moved.mkdir()
    source.rename(moved / "net.py")
    read_coded(path, f"{moved / 'net.py'}:build")
    with pytest.raises(ModelError, match=r"holds a network of .* not .*net.py:other'"):
        read_coded(path, f"{moved / 'net.py'}:other")
    install_(model, found)
    assert torch.equal(module(torch.ones(2, 1, 4, 4)), model.eval()(torch.ones(2, 1, 4, 4)))


def test_every_single_damaged_byte_is_told(tmp_path: Path) -> None:
    data = lenet_file(tmp_path)[0].read_bytes()
    for place in range(0, len(data), 7):
        broken = bytearray(data)
        broken[place] ^= 0x15
        with pytest.raises(DataError) as caught:
            decode(bytes(broken), "x.coded")
        assert str(caught.value).startswith("x.coded ")
        assert "\n" not in str(caught.value)


def test_every_cut_is_told(tmp_path: Path) -> None:
    data = lenet_file(tmp_path)[0].read_bytes()
    for length in [*range(60), *range(60, len(data), 13)]:
        with pytest.raises(DataError, match=r"^x\.coded is"):
            decode(data[:length], "x.coded")


def test_damage_behind_a_right_checksum_is_one_line_or_a_network(tmp_path: Path) -> None:
    """Whoever writes the checksum anew gets no further: every fault is still one line, and none hangs."""
    data = lenet_file(tmp_path)[0].read_bytes()[:-4]
    chance = random.Random(5)
    told, whole = 0, 0
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(chance.choice([1, 1, 3])):
            broken[chance.randrange(3, min(len(broken), 120))] = chance.randrange(256)
        broken += b"" if chance.random() < 0.7 else bytes(chance.randrange(5))
        try:
            decode(bytes(broken) + struct.pack("<I", zlib.crc32(bytes(broken))), "x.coded")
        except (DataError, ModelError) as error:
            told += "\n" not in str(error)
        else:
            whole += 1
    assert told + whole == 150
    assert told > 60  # of the rest, most changed a number that may have any value


def sealed(body: bytes) -> bytes:
    data = b"TC\x01" + body
    return data + struct.pack("<I", zlib.crc32(data))


def text(value: str) -> bytes:
    return varint(len(value)) + value.encode()


NORMAL = struct.pack("<2f", 0.1, 0.3)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "cut off"),
        (b"\x00" + varint(2**40), "length of a text"),
        (b"\x00" + text("\x1b[2J\nx") + bytes([1, 8, 8, 10]) + NORMAL, "is no model spec"),
        (b"\x01" + text("mlp:4") + bytes([1, 2, 2, 1]) + text("cat\x1b[2J") + NORMAL, "class name 'cat"),
        (b"\x00" + text("lenet9") + bytes([1, 28, 28, 10]) + NORMAL, "unknown model 'lenet9'"),
        (b"\x00" + text("lenet5") + bytes([1, 4, 4, 10]) + NORMAL, "takes images from"),
        (b"\x00" + text("lenet5") + bytes([1, 28, 28]) + varint(2**50), "as number of classes"),
        (b"\x00" + text("lenet5") + varint(2**30), "size of an image"),
        (b"\x00" + text("mlp:60000x60000") + bytes([1, 8, 8, 10]) + NORMAL, "values; at most"),
        (b"\x00" + text("lenet5") + bytes([1, 28, 28, 10]) + struct.pack("<2f", 0, 0), "must be above 0"),
        (b"\x00" + text("lenet5") + bytes([1, 28, 28, 10]) + struct.pack("<2f", 0, float("nan")), "NaN"),
        (b"\x00" + text("lenet5") + bytes([1, 28, 28, 10]) + NORMAL + b"\x08" + varint(2**50), "a size of"),
        (b"\x00" + text("mlp:4") + bytes([1, 2, 2, 3]) + NORMAL + b"\x80", "changes number 5"),
        (b"\x00" + text("mlp:4") + bytes([1, 2, 2, 3]) + NORMAL + b"\x07" * 4, "of a kind that is not known"),
        (b"\x00" + text("mlp:4") + bytes([1, 2, 2, 3]) + NORMAL + b"\x04" * 4, "0 clustered tensors"),
        (
            b"\x00"
            + text("mlp:4")
            + bytes([1, 2, 2, 3])
            + NORMAL
            + b"\x08"
            + varint(MOST_VALUES)
            + b"\x00" * 3,
            "values, or are of a kind",
        ),
    ],
)
def test_hostile_heads(body: bytes, fault: str) -> None:
    with pytest.raises(DataError, match=fault) as caught:
        decode(sealed(body), "x.coded")
    assert "\n" not in str(caught.value)


def test_a_newer_schema_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="schema 9, this tersa reads up to 2; install a newer"):
        decode(b"TC\x09 and so on", "x")
    for data in (b"", b"T", b"TC", b"PK\x03\x04 a zip file"):
        with pytest.raises(DataError, match="x is not a coded network"):
            decode(data, "x")
    with pytest.raises(DataError, match=r"none\.coded cannot be read"):
        read_coded(tmp_path / "none.coded")
    with pytest.raises(DataError, match="cannot be read"):
        read_coded(tmp_path)


def test_a_network_of_another_spec_is_not_written() -> None:
    model = network("mlp:20", (1, 8, 8))
    with pytest.raises(ModelError, match="not the spec's"):
        encode(cluster(model, 2), "lenet5", header((1, 28, 28)), build("lenet5", (1, 28, 28), 10))


FIRST_SCHEMA = bytes.fromhex(
    "544301040c6c656e6574353a332d342d38011c1c0a39d6053e48bf9d3e09020a021802020a021802200a021002020803cdbc06b8"
    "7936d03c03ecbc1ab81e36e93c03e6bcf4b5f238303d03efbca9b8b435c33cc1359d35ab350336e71b4d13bb1b011c0201696e37"
    "2e30bc7d2a3b6a2393af76f18beee8f03773e6cac8124e289264325b0bbbc036e94f38f5eb30781868a264417bcaa0d04d75a71b"
    "2063c6d8542f00ecfece000016d3f0fefbe7c5996a3e1ae87a8d5d"
)
"""A file as tersa wrote it before schema 2: `lenet5:3-4-8` with two channels left in each layer."""


def test_a_file_of_the_first_schema_is_still_read() -> None:
    loaded = decode(FIRST_SCHEMA, "old.coded")
    values = loaded.module.state_dict()
    assert [tuple(v.shape) for v in values.values() if v.dim() > 1] == [
        (2, 1, 5, 5), (2, 2, 5, 5), (2, 32), (10, 2)
    ]  # fmt: skip
    assert sum(float(value.double().abs().sum()) for value in values.values()) == 80.02740544080734
    image = torch.cos(0.01 * torch.arange(784.0)).view(1, 1, 28, 28)
    wanted = [0.3284, 0.4418, 0.4966, 0.4848, 0.4066, 0.2737, 0.1017, -0.0821, -0.2542, -0.3949]
    torch.testing.assert_close(loaded.module(image)[0], torch.tensor(wanted), rtol=0, atol=6e-5)
    built = build("lenet5:3-4-8", (1, 28, 28), 10)
    again, parts = encode(loaded.clustered, loaded.spec, loaded.header, built)
    assert again[2] == 2
    assert parts.total < len(FIRST_SCHEMA)
    fresh = decode(again, "new.coded").module.state_dict()
    assert all(torch.equal(fresh[name], value) for name, value in values.items())


def test_only_widths_of_a_chain_are_written() -> None:
    built = build("lenet5", (1, 28, 28), 10)
    sizes = [
        encode(cluster(model, 1), "lenet5", header((1, 28, 28)), built)[1].header
        for model in (network("lenet5", (1, 28, 28)), pruned_lenet())
    ]
    assert sizes[1] - sizes[0] == 3, "one for each layer that lost channels"


def test_numbers_that_fit_no_byte_are_halves() -> None:
    model = network("mlp:20", (1, 8, 8))
    coarse = cluster(model, 2)
    fine = Clustered(
        tuple(book + 2.0**-9 for book in coarse.books),
        coarse.weights,
        coarse.biases,
        coarse.bias_bits,
        coarse.others,
    )
    data, parts = encode(fine, "mlp:20", header((1, 8, 8)), model)
    assert parts.codebooks == encode(coarse, "mlp:20", header((1, 8, 8)), model)[1].codebooks + 2 * 3
    install_(model, fine)
    state = decode(data, "x").module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
