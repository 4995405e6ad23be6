from tersa import Goals, ShrinkSpec, shrink

spec = ShrinkSpec(data="digits", goals=Goals(max_loss=2.0))
result = shrink(spec, "runs/digits", resume=True)

print(result.verdict)
print(f"{result.baseline.test_accuracy:.2f} % became {result.result.test_accuracy:.2f} %")
print(f"{result.compression:.0f}x fewer parameters, {result.acceleration:.1f}x fewer MACs")
for layer in result.layers:
    print(f"{layer.name}: {layer.after} of {layer.before} channels")
