"""One pass over memory: optimiser step and quantisation of every tensor of every run, compiled.

The compiled twin of `tersa.study.update.reference_`, which says in readable torch what happens here, and with
which a test compares it bit for bit. A segment is one tensor of one run; threads share the segments. Each
segment is walked twice while it lies in the core's cache: the step (which finds the extremes on the way), and
the snap. Tensors are handed over by address, so that one call serves any number of them.

Arithmetic is float32 and unfused (no fast-math): the order of operations is the contract with the twin.

Division by zero gives infinity (`error_model="numpy"`): a check per division would forbid vector registers.
Nothing here allocates, and nothing knows of networks, rules or studies.
"""

# numba has no type stubs: everything its decorators return is unknown to the type checker.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportCallIssue=false, reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportUnusedFunction=false

from __future__ import annotations

import numpy as np
from numba import carray, njit, prange, types
from numba.extending import intrinsic

SGD, MOMENTUM, NESTEROV, ADAGRAD, ADADELTA, ADAM = range(6)
NONE, SYMMETRIC, ASYMMETRIC, BINARY, TERNARY = range(5)
GLOBAL, LAYER, CHANNEL = range(3)
NEAREST, STOCHASTIC = range(2)
INPLACE, LATENT, ACCUMULATE = range(3)

RHO, ADADELTA_EPS = np.float32(0.9), np.float32(1e-6)
ADAGRAD_EPS = np.float32(1e-10)
BETA1, BETA2, ADAM_EPS = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
MOMENTUM_SHARE = np.float32(0.9)
ONE, ZERO, HALF, TWO = np.float32(1), np.float32(0), np.float32(0.5), np.float32(2)
TWN = np.float32(0.7)
SMALLEST = np.float32(2.0**-100)
TO_UNIT = np.float32(1.0 / (1 << 24))


@intrinsic
def _pointer(typing, source):
    """A float32 pointer from an address."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(source), codegen


@njit(inline="always", error_model="numpy")
def _row(addresses, tensor, run, count):
    """The `count` values of one run in a tensor (R, count)."""
    return carray(_pointer(addresses[tensor] + np.int64(4) * run * count), (count,))


@njit(inline="always", error_model="numpy")
def _mix(word):
    word = np.uint32(word ^ (word >> np.uint32(16)))
    word = np.uint32(word * np.uint32(0x7FEB352D))
    word = np.uint32(word ^ (word >> np.uint32(15)))
    word = np.uint32(word * np.uint32(0x846CA68B))
    return np.uint32(word ^ (word >> np.uint32(16)))


@njit(inline="always", error_model="numpy")
def _stream(seed, step, tensor):
    key = _mix(np.uint32(seed))
    key = _mix(np.uint32(key + np.uint32(step)))
    return _mix(np.uint32(key + np.uint32(tensor)))


@njit(inline="always", error_model="numpy")
def _uniform(index, key):
    word = _mix(np.uint32(_mix(np.uint32(index)) ^ key))
    return np.float32(np.int32(word >> np.uint32(8))) * TO_UNIT


@njit(error_model="numpy")
def _step(optimiser, x, g, first, second, rate, decay, count, time):
    """x moved by one step, in place: two names for one array would forbid vector registers."""
    if optimiser == SGD:
        for i in range(count):
            x[i] = x[i] - rate * (g[i] + decay * x[i])
    elif optimiser == MOMENTUM:
        for i in range(count):
            m = MOMENTUM_SHARE * first[i] + (g[i] + decay * x[i])
            first[i] = m
            x[i] = x[i] - rate * m
    elif optimiser == NESTEROV:
        for i in range(count):
            d = g[i] + decay * x[i]
            m = MOMENTUM_SHARE * first[i] + d
            first[i] = m
            x[i] = x[i] - rate * (d + MOMENTUM_SHARE * m)
    elif optimiser == ADAGRAD:
        for i in range(count):
            d = g[i] + decay * x[i]
            s = first[i] + d * d
            first[i] = s
            x[i] = x[i] - rate * (d / (np.sqrt(s) + ADAGRAD_EPS))
    elif optimiser == ADADELTA:
        for i in range(count):
            d = g[i] + decay * x[i]
            s = RHO * first[i] + (ONE - RHO) * (d * d)
            a = second[i]
            delta = np.sqrt((a + ADADELTA_EPS) / (s + ADADELTA_EPS)) * d
            first[i] = s
            second[i] = RHO * a + (ONE - RHO) * (delta * delta)
            x[i] = x[i] - rate * delta
    else:
        grown = np.float32(time)
        one = ONE - BETA1**grown
        two = ONE - BETA2**grown
        for i in range(count):
            d = g[i] + decay * x[i]
            m = BETA1 * first[i] + (ONE - BETA1) * d
            v = BETA2 * second[i] + (ONE - BETA2) * (d * d)
            first[i] = m
            second[i] = v
            x[i] = x[i] - rate * ((m / one) / (np.sqrt(v / two) + ADAM_EPS))


@njit(error_model="numpy")
def _copy(to, of):
    for i in range(len(to)):
        to[i] = of[i]


@njit(error_model="numpy")
def _clip(x, low, high):
    for i in range(len(x)):
        x[i] = min(max(x[i], low), high)


@njit(inline="always", error_model="numpy")
def _ordered(word):
    """Integers that sort as the floats whose bits they are; its own inverse."""
    return np.int32(word ^ ((word >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(error_model="numpy")
def _extremes(x):
    """Smallest and largest value; over integers, because float comparisons forbid vector registers."""
    words = x.view(np.int32)
    low = np.int32(2147483647)
    high = np.int32(-2147483648)
    for i in range(len(words)):
        word = _ordered(words[i])
        low = min(low, word)
        high = max(high, word)
    return _ordered(low).view(np.float32), _ordered(high).view(np.float32)


@njit(error_model="numpy", fastmath={"reassoc", "nsz"})  # sums in any order: vector registers
def _mean_size(x):
    total = 0.0
    for i in range(len(x)):
        total += abs(x[i])
    return np.float32(total / len(x))


@njit(inline="always", error_model="numpy")
def _either(v, index, key):
    """v rounded down or up at random, right on average; a whole number stays."""
    below = np.floor(v)
    return below + (ONE if _uniform(index, key) < v - below else ZERO)


@njit(error_model="numpy")
def _symmetric(x, q, a, stochastic, key, start):
    if a <= SMALLEST:
        for i in range(len(x)):
            x[i] = ZERO
        return
    s = q / a
    if stochastic:
        for i in range(len(x)):
            v = min(max(x[i] * s, -q), q)
            code = _either(v, start + i, key)
            x[i] = (code / q) * a
    else:
        for i in range(len(x)):
            code = min(max(np.rint(x[i] * s), -q), q)
            x[i] = (code / q) * a


@njit(error_model="numpy")
def _asymmetric(x, m, low, high, stochastic, key, start):
    if high - low <= SMALLEST * TWO:
        for i in range(len(x)):
            x[i] = low
        return
    s = m / (high - low)
    if stochastic:
        for i in range(len(x)):
            v = min(max((x[i] - low) * s, ZERO), m)
            t = _either(v, start + i, key) / m
            x[i] = low * (ONE - t) + high * t
    else:
        for i in range(len(x)):
            t = min(max(np.rint((x[i] - low) * s), ZERO), m) / m
            x[i] = low * (ONE - t) + high * t


@njit(error_model="numpy")
def _binary(x, a, stochastic, key, start):
    if stochastic:
        for i in range(len(x)):
            p = min(max((x[i] / a + ONE) / TWO, ZERO), ONE) if a > SMALLEST else HALF
            x[i] = a if _uniform(start + i, key) < p else -a
    else:
        for i in range(len(x)):
            x[i] = -a if x[i] < ZERO else a


@njit(error_model="numpy", fastmath={"reassoc", "nsz"})
def _mean_above(x, t):
    total = 0.0
    above = 0
    for i in range(len(x)):
        size = abs(x[i])
        total += size if size > t else ZERO
        above += 1 if size > t else 0
    return np.float32(total / above) if above > 0 else ZERO


@njit(error_model="numpy")
def _ternary(x, stochastic, key, start):
    """Levels -a, 0, a with threshold t = 0.7 mean|x| and a the mean of what lies above it."""
    t = TWN * _mean_size(x)
    a = _mean_above(x, t)
    if stochastic:
        _symmetric(x, ONE, a, True, key, start)
        return
    for i in range(len(x)):
        v = x[i]
        x[i] = a if v > t else (-a if v < -t else ZERO)


@njit(error_model="numpy")
def _fine(x, out, m, low, high, extra, stochastic, key, start):
    """Codes with `extra` bits below the visible ones; the visible code is floor(F / 2^extra + 1/2).

    Levels are low + (high - low) F / 2^extra / m with F in 0 .. m 2^extra: `x` keeps them, `out` the seen.
    """
    parts = np.float32(1 << extra)
    if high - low <= SMALLEST * TWO:
        for i in range(len(x)):
            out[i] = low
        return
    s = m / (high - low)
    for i in range(len(x)):
        v = min(max((x[i] - low) * s, ZERO), m) * parts
        code = _either(v, start + i, key) if stochastic else np.rint(v)
        t = (code / parts) / m
        x[i] = low * (ONE - t) + high * t
        t = np.floor(code / parts + HALF) / m
        out[i] = low * (ONE - t) + high * t


@njit(error_model="numpy")
def _snap(value, fine, kind, bits, where, low, high, stochastic, storage, extra, key, start):
    """Levels of a tensor, or of a channel of it, in place; `fine` keeps the sums."""
    if where != GLOBAL:
        low, high = _extremes(fine if storage == ACCUMULATE else value)
    if kind != ASYMMETRIC:
        high = max(abs(low), abs(high))
        low = -high
    if storage == ACCUMULATE:
        if kind == SYMMETRIC:
            m = np.float32((1 << bits) - 2)
        elif kind == TERNARY:
            m = TWO
        elif kind == BINARY:
            m = ONE
        else:
            m = np.float32((1 << bits) - 1)
        _fine(fine, value, m, low, high, extra, stochastic, key, start)
    elif kind == SYMMETRIC:
        _symmetric(value, np.float32((1 << (bits - 1)) - 1), high, stochastic, key, start)
    elif kind == ASYMMETRIC:
        _asymmetric(value, np.float32((1 << bits) - 1), low, high, stochastic, key, start)
    elif kind == BINARY:
        a = high if where == GLOBAL else _mean_size(value)
        _binary(value, a, stochastic, key, start)
    elif where == GLOBAL:
        _symmetric(value, ONE, high, stochastic, key, start)
    else:
        _ternary(value, stochastic, key, start)


@njit(error_model="numpy")
def _segment(
    segment, values, masters, grads, firsts, seconds, sizes, rows, moved, snapped, optimiser, step, time,
    rate, decay, active, kind, bits, where, low, high, stochastic, storage, extra, seed,
):  # fmt: skip
    """Move and snap one tensor of one run: segment = run * tensors + tensor.

    `values` is what the network sees (R, n), `masters` where sums are kept (the same address where there is
    no other), `grads`, `firsts` and `seconds` the gradient and the optimiser's state; all are addresses (T,).
    `sizes` (T,) values per run, `rows` (T,) channels. `moved` and `snapped` (T,) say what is done to which
    tensor; `low` and `high` are the fixed ranges (R, T), the rest are settings per run (R,).
    """
    tensors = len(sizes)
    run = segment // tensors
    tensor = segment % tensors
    if not active[run] or not (moved[tensor] or snapped[tensor]):
        return
    count = sizes[tensor]
    value = _row(values, tensor, run, count)
    master = _row(masters, tensor, run, count)
    apart = masters[tensor] != values[tensor]
    if moved[tensor]:
        _step(
            optimiser, master, _row(grads, tensor, run, count), _row(firsts, tensor, run, count),
            _row(seconds, tensor, run, count), rate[run], decay[run], count, time,
        )  # fmt: skip
    snaps = snapped[tensor] and kind[run] != NONE
    if snaps and storage[run] == LATENT and where[run] == GLOBAL:
        _clip(master, low[run, tensor], high[run, tensor])
    if apart and not (snaps and storage[run] == ACCUMULATE):
        _copy(value, master)
    if snaps:
        key = _stream(seed[run], step, tensor)
        pieces = rows[tensor] if where[run] == CHANNEL else 1
        width = count // pieces
        for piece in range(pieces):
            a = piece * width
            _snap(
                value[a : a + width], master[a : a + width], kind[run], bits[run], where[run],
                low[run, tensor], high[run, tensor], stochastic[run] == 1, storage[run], extra[run], key, a,
            )  # fmt: skip
        if apart and storage[run] == INPLACE:
            _copy(master, value)


@njit(cache=True, error_model="numpy")
def alone(
    values, masters, grads, firsts, seconds, sizes, rows, moved, snapped, optimiser, step, time,
    rate, decay, active, kind, bits, where, low, high, stochastic, storage, extra, seed,
):  # fmt: skip
    """Every segment, on one thread."""
    for segment in range(len(sizes) * len(rate)):
        _segment(
            segment, values, masters, grads, firsts, seconds, sizes, rows, moved, snapped, optimiser,
            step, time, rate, decay, active, kind, bits, where, low, high, stochastic, storage, extra, seed,
        )  # fmt: skip


# A function of its own, not `alone` compiled twice: numba's cache does not tell two compilations of one
# function apart. Its body is a call, because loops and slices inside a prange are rewritten.
@njit(cache=True, error_model="numpy", parallel=True)
def together(
    values, masters, grads, firsts, seconds, sizes, rows, moved, snapped, optimiser, step, time,
    rate, decay, active, kind, bits, where, low, high, stochastic, storage, extra, seed,
):  # fmt: skip
    """Every segment, on `numba.get_num_threads()` threads."""
    for segment in prange(len(sizes) * len(rate)):
        _segment(
            segment, values, masters, grads, firsts, seconds, sizes, rows, moved, snapped, optimiser,
            step, time, rate, decay, active, kind, bits, where, low, high, stochastic, storage, extra, seed,
        )  # fmt: skip
