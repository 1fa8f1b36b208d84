"""Lab 15: the residual stream of a small network turned, so that it computes the same in other axes."""

from collections.abc import Callable

import numpy as np

from compresslab.classroom.exercise import Case, Exercise, Mistake

ENDS, LAYERS, GAINS, BIASES = (
    "words and head",
    "layers that read and write",
    "gains of norms",
    "biases, several blocks",
)
Block = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
f32 = np.float32


def turned_stream(
    words: np.ndarray,
    gains: np.ndarray,
    blocks: tuple[Block, ...],
    head: np.ndarray,
    turn: np.ndarray,
) -> tuple[np.ndarray, tuple[Block, ...], np.ndarray]:
    """Weights of the same network on a turned stream, without gains."""
    return _with_parts()(words, gains, blocks, head, turn)


def _with_parts(
    words_by: Callable = lambda t, q: t @ q,
    reader: Callable = lambda w, q: w @ q,
    writer: Callable = lambda w, q: q.T @ w,
    gain: Callable = lambda w, g: w * g,
    last_gain: Callable = lambda w, g: w * g,
    bias_read: Callable = lambda b, w, g, q: b,
    bias_written: Callable = lambda b, q: b @ q,
    head_by: Callable = lambda w, q: w @ q,
    gain_before: bool = True,
    order: Callable = lambda gains: gains,
) -> Callable:
    """The library's way for such a network, with one thing or another done differently."""

    def stream(words, gains, blocks, head, turn):
        q, gains = turn.astype(np.float64), order(gains)
        out = []
        for g, (read, offset, write, shift) in zip(gains, blocks, strict=False):
            taken = reader(gain(read, g), q) if gain_before else gain(reader(read, q), g)
            numbers = (
                taken,
                bias_read(offset, read, g, q),
                writer(write, q),
                bias_written(shift, q),
            )
            out.append(tuple(np.asarray(n, f32) for n in numbers))
        last = (
            head_by(last_gain(head, gains[-1]), q)
            if gain_before
            else last_gain(head_by(head, q), gains[-1])
        )
        return words_by(words, q).astype(f32), tuple(out), last.astype(f32)

    return stream


def logits(
    words: np.ndarray, blocks: tuple[Block, ...], head: np.ndarray, gains: np.ndarray | None = None
) -> np.ndarray:
    """What the network answers for every word, float64 [words, classes]; gains of 1 if None."""
    gains = np.ones((len(blocks) + 1, words.shape[1])) if gains is None else gains

    def normed(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.square(x).mean(1, keepdims=True) + 1e-5) * gain

    x = words.astype(np.float64)
    for gain, (read, offset, write, shift) in zip(gains, blocks, strict=False):
        x = x + np.maximum(normed(x, gain) @ read.T + offset, 0) @ write.T + shift
    return normed(x, gains[-1]) @ head.T


def _cases(generator: np.random.Generator) -> list[Case]:
    def numbers(*shape: int) -> np.ndarray:
        return generator.normal(0, 1, shape).astype(f32)

    def turn(width: int) -> np.ndarray:
        return np.linalg.qr(generator.normal(0, 1, (width, width)))[0].astype(f32)

    def network(width: int, hidden: int, blocks: int, gains: bool, biases: bool) -> tuple:
        found = []
        for _ in range(blocks):
            offset, shift = numbers(hidden), numbers(width)
            found.append(
                (
                    numbers(hidden, width),
                    offset if biases else 0 * offset,
                    numbers(width, hidden),
                    shift if biases else 0 * shift,
                )
            )
        gain = np.exp(numbers(blocks + 1, width)) if gains else np.ones((blocks + 1, width), f32)
        return numbers(7, width), gain.astype(f32), tuple(found), numbers(5, width), turn(width)

    quarter = f32([[0, -1], [1, 0]])
    two = network(2, 3, 0, False, False)
    return [
        Case("two channels, a quarter of a turn", (*two[:4], quarter), ENDS),
        Case("no block", network(6, 4, 0, False, False), ENDS),
        Case("one block", network(4, 6, 1, False, False), LAYERS),
        Case("as many hidden units as channels", network(5, 5, 1, False, False), LAYERS),
        Case("a gain in front of the head", network(4, 4, 0, True, False), GAINS),
        Case("gains in front of both", network(6, 8, 1, True, False), GAINS),
        Case("biases", network(4, 6, 1, False, True), BIASES),
        Case("biases, as many hidden units as channels", network(5, 5, 1, False, True), BIASES),
        Case("three blocks, all of it", network(8, 12, 3, True, True), BIASES),
    ]


TURNED_STREAM = Exercise(
    id="today.turned_stream",
    title="Turn the stream of a small network",
    points=16,
    reference=turned_stream,
    cases=_cases,
    lines=15,
    tolerance=1e-4,
    stages=((ENDS, 4), (LAYERS, 4), (GAINS, 4), (BIASES, 4)),
    mistakes=(
        Mistake(
            "the stream turned back",
            _with_parts(
                words_by=lambda t, q: t @ q.T,
                reader=lambda w, q: w @ q.T,
                writer=lambda w, q: q @ w,
                bias_written=lambda b, q: b @ q.T,
                head_by=lambda w, q: w @ q.T,
            ),
            "Every row x of the stream becomes x Q. This network's becomes x Q^T.",
        ),
        Mistake(
            "the words as they were",
            _with_parts(words_by=lambda t, q: t),
            "The stream begins with the words: they are the first to be turned.",
        ),
        Mistake(
            "a head that does not turn back",
            _with_parts(head_by=lambda w, q: w),
            "The head reads the stream like any other layer.",
        ),
        Mistake(
            "readers turned the wrong way",
            _with_parts(reader=lambda w, q: w @ q.T, head_by=lambda w, q: w @ q.T),
            "y = W x for a column x; the stream now brings Q^T x, and W Q makes up for it.",
        ),
        Mistake(
            "layers that write as they were",
            _with_parts(writer=lambda w, q: w, bias_written=lambda b, q: b),
            "What a layer adds to the stream must be turned as the stream is: Q^T W for what it writes.",
        ),
        Mistake(
            "writers turned the wrong way",
            _with_parts(writer=lambda w, q: q @ w),
            "A layer writes W h as a column; turned, that is Q^T W h.",
        ),
        Mistake(
            "writers turned at their inputs",
            _with_parts(writer=lambda w, q: w @ q if w.shape[1] == len(q) else w),
            "The hidden units are not in the stream and stay as they are: a writer is turned on "
            "the side of its "
            "*outputs*.",
        ),
        Mistake(
            "gains forgotten",
            _with_parts(gain=lambda w, g: w, last_gain=lambda w, g: w),
            "A gain scales channels of the old axes, and the new norm has none: it goes into the "
            "columns of the "
            "layer that reads it.",
        ),
        Mistake(
            "the head's gain forgotten",
            _with_parts(last_gain=lambda w, g: w),
            "The last norm stands in front of the head: its gain goes into the head.",
        ),
        Mistake(
            "gains behind the turn",
            _with_parts(gain_before=False),
            "The gain belongs to the old axes: it goes into the weight *before* that is turned, "
            "(W diag(g)) Q.",
        ),
        Mistake(
            "gains over the outputs",
            _with_parts(
                gain=lambda w, g: w * g[:, None] if len(w) == len(g) else w,
            ),
            "A gain scales what the layer reads: the columns of its weight, not the rows.",
        ),
        Mistake(
            "the bias that is written stays",
            _with_parts(bias_written=lambda b, q: b),
            "The bias of a layer that writes is added to the stream: it is turned, too.",
        ),
        Mistake(
            "the bias that is written turned the wrong way",
            _with_parts(bias_written=lambda b, q: q @ b),
            "A bias is a row of the stream: b Q.",
        ),
        Mistake(
            "gains one place off",
            _with_parts(order=lambda gains: np.roll(gains, -1, axis=0)),
            "`gains[i]` stands in front of block i, and the last one in front of the head.",
        ),
        Mistake(
            "the first gain for every block",
            _with_parts(
                order=lambda gains: np.concatenate([0 * gains[:-1] + gains[:1], gains[-1:]])
            ),
            "Every block has a gain of its own: `gains[i]` stands in front of block i.",
        ),
        Mistake(
            "the bias that is written forgotten",
            _with_parts(bias_written=lambda b, q: 0 * b),
            "The layer that writes adds its bias, `shift`: the new one does so, too.",
        ),
        Mistake(
            "the inner bias forgotten",
            _with_parts(bias_read=lambda b, w, g, q: 0 * b),
            "The layer that reads adds its bias, `offset`: the new one does so, too.",
        ),
        Mistake(
            "the inner bias turned",
            _with_parts(bias_read=lambda b, w, g, q: b @ q if len(b) == len(q) else b),
            "The hidden units are not turned, and neither is their bias.",
        ),
    ),
)

EXERCISES = (TURNED_STREAM,)
