"""Ten runs at once: how many bits does a small network need, with a float copy of its weights or without?"""

from tersa import Cell, load, train_stack

cells = [
    Cell(data="digits", model="mlp:32", epochs=8, batch=32, quant="symmetric", bits=bits, storage=storage)
    for storage in ("inplace", "latent")
    for bits in (2, 3, 4, 6, 8)
]
for result in train_stack(cells, load("digits")):
    print(f"{result.cell.storage:8} {result.cell.bits} bits: {result.test_accuracy:.1f} %")
