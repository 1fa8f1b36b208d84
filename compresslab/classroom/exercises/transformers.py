"""Lab 09: layers to inherit, cosine of states, attention scores, replaced words, uncertainty, early exits."""

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.harnesses import as_array
from compresslab.techniques import distill, early_exit, inherit

f32 = np.float32


def _numbers(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(0, 2, shape).astype(f32)


# ---- layers to inherit -----------------------------------------------------------------------------
def inherited_layers(student: int, teacher: int) -> list[int]:
    """The library's map of kind "skip"."""
    return distill.layer_map(student, teacher, "skip")


def _layer_cases(generator: np.random.Generator) -> list[Case]:
    more = int(generator.integers(3, 9))
    return [
        Case("3 of 6", (3, 6)),
        Case("4 of 12", (4, 12)),
        Case("all", (5, 5)),
        Case("a single one", (1, 7)),
        Case("5 of 12", (5, 12)),
        Case("4 of 6", (4, 6)),
        Case("some", (more, 3 * more - 1)),
    ]


def _many_layers(_: np.random.Generator) -> Case:
    return Case("200 layers of 2,000", (200, 2_000))


INHERITED_LAYERS = Exercise(
    id="transformers.inherited_layers",
    title="Which layers",
    points=1,
    reference=inherited_layers,
    cases=_layer_cases,
    large=_many_layers,
    lines=1,
    harness=as_array,
    returns="numbers of teacher layers",
    mistakes=(
        Mistake(
            "the last of each part",
            lambda s, t: [(i + 1) * t // s - 1 for i in range(s)],
            "That is where TinyBERT *compares* layers. To begin with, the *first* layer of each part is "
            "taken: the student needs layer 0, which knows how to read embeddings.",
        ),
        Mistake(
            "the first layers",
            lambda s, t: list(range(s)),
            "They are to be spread over the whole teacher: layer i of the student takes the place of "
            "teacher / student layers.",
        ),
        Mistake(
            "the last layers",
            lambda s, t: list(range(t - s, t)),
            "They are to be spread over the whole teacher, beginning with its first layer.",
        ),
        Mistake(
            "a rounded step",
            lambda s, t: [i * (t // s) for i in range(s)],
            "For 5 layers of 12 the step is 2.4, not 2: multiply first, divide after.",
        ),
        Mistake(
            "rounded to the nearest",
            lambda s, t: [round(i * t / s) for i in range(s)],
            "Part i begins at i · teacher / student rounded *down*: // does it.",
        ),
        Mistake(
            "too many",
            lambda s, t: list(range(0, t, max(t // s, 1))),
            "For 5 layers of 12 a whole step of 2 gives six layers. Multiply first, divide after.",
        ),
        Mistake(
            "every second, whatever the sizes",
            lambda s, t: [2 * i for i in range(s)],
            "Every second layer is right for half of the layers only. The step is teacher / student.",
        ),
        Mistake(
            "first and last fixed",
            lambda s, t: [round(i * (t - 1) / max(s - 1, 1)) for i in range(s)],
            "That spreads them so that the last is always taken. The step is teacher / student.",
        ),
        Mistake(
            "counted from 1",
            lambda s, t: [i * t // s + 1 for i in range(s)],
            "Layers are counted from 0.",
        ),
    ),
)


# ---- cosine of states ------------------------------------------------------------------------------
def token_cosine(student: np.ndarray, teacher: np.ndarray, tokens: np.ndarray) -> float:
    """The library's cosine distance at tokens that are kept."""
    keep = torch.from_numpy(tokens != 0)
    both = (
        distill.kept(torch.from_numpy(s).double().transpose(1, 2), keep) for s in (student, teacher)
    )
    return float(distill.FEATURES["cosine"](*both))


def _tokens(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.int64)


def _cosine_cases(generator: np.random.Generator) -> list[Case]:
    def states(n: int, length: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        return _numbers(generator, n, length, width), _numbers(generator, n, length, width)

    same = _numbers(generator, 1, 2, 3)
    return [
        Case("one token", (f32([[[3.0, 4.0]]]), f32([[[4.0, 3.0]]]), _tokens([5]))),
        Case("three times as long", (3 * same, same, _tokens([4, 9]))),
        Case("opposite", (-same, same, _tokens([4, 9]))),
        Case("two sentences", (*states(2, 3, 4), _tokens([3, 4, 5], [6, 7, 8]))),
        Case("padding", (*states(2, 4, 3), _tokens([7, 8, 0, 0], [4, 5, 6, 9]))),
        Case("padding at the start", (*states(2, 3, 5), _tokens([0, 0, 7], [0, 3, 5]))),
        Case(
            "states of very different size",
            (states(1, 3, 4)[0] * f32(1e3), states(1, 3, 4)[0] * f32(1e-3), _tokens([3, 4, 5])),
        ),
    ]


def _cosines(s, t, axis=2):
    s, t = s.astype(float), t.astype(float)
    length = np.sqrt(np.square(s).sum(axis) * np.square(t).sum(axis))
    return (s * t).sum(axis) / np.maximum(length, 1e-12)


def _many_tokens(generator: np.random.Generator) -> Case:
    student, teacher = generator.normal(0, 1, (2, 300, 100, 4)).astype(np.float32)
    tokens = generator.integers(0, 9, (300, 100))
    return Case("300 sentences of 100 words", (student, teacher, tokens))


TOKEN_COSINE = Exercise(
    id="transformers.token_cosine",
    title="The same direction",
    points=2,
    reference=token_cosine,
    cases=_cosine_cases,
    large=_many_tokens,
    lines=4,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "padding counted",
            lambda s, t, x: float(1 - _cosines(s, t).mean()),
            "Where token is 0 there is no word: its states are nobody's business. Average over the others.",
        ),
        Mistake(
            "padding as 0 in the mean",
            lambda s, t, x: float(((1 - _cosines(s, t)) * (x != 0)).mean()),
            "Divide by the number of words, not by the number of places.",
        ),
        Mistake(
            "the similarity itself",
            lambda s, t, x: float(_cosines(s, t)[x != 0].mean()),
            "A loss is small where both agree: 1 minus the cosine.",
        ),
        Mistake(
            "the dot product",
            lambda s, t, x: float(1 - (s.astype(float) * t).sum(2)[x != 0].mean()),
            "A cosine is the dot product of vectors of *length 1*: divide by both lengths.",
        ),
        Mistake(
            "divided by the squares",
            lambda s, t, x: float(
                1
                - (
                    (s.astype(float) * t).sum(2)
                    / (np.square(s.astype(float)).sum(2) * np.square(t.astype(float)).sum(2))
                )[x != 0].mean()
            ),
            "Divide by the lengths: square roots of the sums of squares.",
        ),
        Mistake(
            "mean of sentences' means",
            lambda s, t, x: float(
                np.mean(
                    [
                        (1 - _cosines(s, t))[i][x[i] != 0].mean()
                        for i in range(len(x))
                        if (x[i] != 0).any()
                    ]
                )
            ),
            "Every word counts the same, in short sentences and in long ones.",
        ),
        Mistake(
            "whole sentences as one vector",
            lambda s, t, x: float(
                1
                - np.mean(
                    [
                        _cosines(s[i][x[i] != 0].reshape(-1), t[i][x[i] != 0].reshape(-1), 0)
                        for i in range(len(x))
                    ]
                )
            ),
            "One cosine for each word, along the width.",
        ),
        Mistake(
            "along the words",
            lambda s, t, x: float(1 - _cosines(s, t, 1).mean()),
            "The direction of a word's state is along its width, the last axis.",
        ),
        Mistake(
            "mean squared error",
            lambda s, t, x: float(np.square(s.astype(float) - t)[x != 0].mean()),
            "Not how far apart, but whether they point the same way: the size of a state must not matter.",
        ),
    ),
)


# ---- attention scores ------------------------------------------------------------------------------
def attention_loss(student: np.ndarray, teacher: np.ndarray, tokens: np.ndarray) -> float:
    """The library's squared error at pairs of kept tokens."""
    keep = torch.from_numpy(tokens != 0)
    both = (distill.kept(torch.from_numpy(s).double(), keep) for s in (student, teacher))
    return float(distill.FEATURES["mse"](*both))


def _attention_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, heads: int, *rows: list[int]) -> Case:
        tokens = _tokens(*rows)
        shape = (len(tokens), heads, tokens.shape[1], tokens.shape[1])
        return Case(label, (_numbers(generator, *shape), _numbers(generator, *shape), tokens))

    same = _numbers(generator, 1, 2, 3, 3)
    return [
        case("one head, two words", 1, [3, 4]),
        Case("equal scores", (same, same.copy(), _tokens([3, 4, 5]))),
        case("two heads", 2, [3, 4, 5], [6, 7, 8]),
        case("padding", 2, [5, 6, 0]),
        case("sentences of different length", 3, [5, 6, 7, 8], [9, 0, 0, 0]),
        case("padding at the start", 2, [0, 0, 7, 8], [0, 4, 5, 6]),
    ]


def _many_heads(generator: np.random.Generator) -> Case:
    student, teacher = generator.normal(0, 1, (2, 4_000, 4, 16, 16)).astype(np.float32)
    return Case(
        "four thousand sentences", (student, teacher, generator.integers(0, 9, (4_000, 16)))
    )


def _pairs(x):
    return (x != 0)[:, :, None] & (x != 0)[:, None, :]


def _squares(s, t):
    return np.square(s.astype(float) - t)


def _soft(z):
    e = np.exp(z.astype(float) - z.max(3, keepdims=True))
    return e / e.sum(3, keepdims=True)


ATTENTION_LOSS = Exercise(
    id="transformers.attention_loss",
    title="Who looks at whom",
    points=2,
    reference=attention_loss,
    cases=_attention_cases,
    large=_many_heads,
    lines=4,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "padding counted",
            lambda s, t, x: float(_squares(s, t).mean()),
            "A score counts where both tokens are words: the one that looks and the one looked at.",
        ),
        Mistake(
            "padding as 0 in the mean",
            lambda s, t, x: float((_squares(s, t) * _pairs(x)[:, None]).mean()),
            "Divide by the number of scores that count, not by all.",
        ),
        Mistake(
            "either is a word",
            lambda s, t, x: float(
                _squares(s, t)
                .transpose(0, 2, 3, 1)[(x != 0)[:, :, None] | (x != 0)[:, None, :]]
                .mean()
            ),
            "*Both* tokens must be words, the one that looks and the one looked at.",
        ),
        Mistake(
            "only those looked at",
            lambda s, t, x: float(
                _squares(s, t)
                .transpose(0, 2, 1, 3)
                .swapaxes(2, 3)[np.broadcast_to((x != 0)[:, None, :], (*x.shape, x.shape[1]))]
                .mean()
            ),
            "A row of padding that looks at words does not count either.",
        ),
        Mistake(
            "only those who look",
            lambda s, t, x: float(_squares(s, t).transpose(0, 2, 3, 1)[x != 0].mean()),
            "A word's score for padding does not count either: nobody looks there after the softmax.",
        ),
        Mistake(
            "probabilities",
            lambda s, t, x: float(
                _squares(_soft(s), _soft(t)).transpose(0, 2, 3, 1)[_pairs(x)].mean()
            ),
            "TinyBERT compares the scores *before* the softmax: they converge faster (section 3.1).",
        ),
        Mistake(
            "heads averaged first",
            lambda s, t, x: float(
                _squares(s.astype(float).mean(1), t.astype(float).mean(1))[_pairs(x)].mean()
            ),
            "Each head looks for something else: compare head with head, then average.",
        ),
        Mistake(
            "heads added up",
            lambda s, t, x: float(_squares(s, t).sum(1)[_pairs(x)].mean()),
            "A mean over heads and pairs.",
        ),
        Mistake(
            "absolute differences",
            lambda s, t, x: float(
                np.abs(s.astype(float) - t).transpose(0, 2, 3, 1)[_pairs(x)].mean()
            ),
            "Mean *squared* error.",
        ),
        Mistake(
            "mean of sentences' means",
            lambda s, t, x: float(
                np.mean(
                    [
                        _squares(s, t)[i].transpose(1, 2, 0)[_pairs(x)[i]].mean()
                        for i in range(len(x))
                    ]
                )
            ),
            "Every score counts the same: one mean over all that count.",
        ),
    ),
)


# ---- replaced words --------------------------------------------------------------------------------
def replace_words(
    tokens: np.ndarray, near: np.ndarray, rolls: np.ndarray, picks: np.ndarray, share: float
) -> np.ndarray:
    """The library's rule."""
    arrays = (torch.from_numpy(a) for a in (tokens, near, rolls, picks))
    return inherit.replace_where(*arrays, share).numpy()


def _word_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, share: float, tokens: np.ndarray, words: int = 9, count: int = 3) -> Case:
        # No word is its own neighbour, so that every replacement shows.
        offsets = np.array([generator.permutation(words - 4)[:count] + 1 for _ in range(words)])
        near = 3 + (np.arange(words)[:, None] - 3 + offsets) % (words - 3)
        rolls = generator.random(tokens.shape)
        return Case(label, (tokens, near, rolls, generator.integers(0, count, tokens.shape), share))

    def some(n: int, length: int) -> np.ndarray:
        return generator.integers(3, 9, (n, length))

    mixed = some(3, 8)
    mixed[:, 0], mixed[0, 4], mixed[2, 5:] = 2, 1, 0
    border = case("a roll that is the share", 0.5, some(1, 4))
    border.args[2][0, 1:3] = 0.5
    return [
        border,
        case("every word", 1.0, _tokens([3, 4])),
        case("no word", 0.0, some(2, 4)),
        case("some words", 0.4, some(3, 8)),
        case("special words", 1.0, _tokens([0, 1, 2, 3])),
        case("a mixed batch", 0.5, mixed),
        case("one neighbour each", 0.7, some(2, 6), count=1),
    ]


def _many_words(generator: np.random.Generator) -> Case:
    tokens = generator.integers(0, 50, (400, 300))
    near, picks = generator.integers(3, 50, (50, 4)), generator.integers(0, 4, (400, 300))
    return Case("120,000 words", (tokens, near, generator.random((400, 300)), picks, 0.3))


REPLACE_WORDS = Exercise(
    id="transformers.replace_words",
    title="Other words, another sentence",
    points=2,
    reference=replace_words,
    cases=_word_cases,
    large=_many_words,
    lines=3,
    mistakes=(
        Mistake(
            "special words replaced",
            lambda x, near, rolls, picks, share: np.where(rolls < share, near[x, picks], x),
            "0, 1 and 2 are padding, the unknown word and the mask: they stay.",
        ),
        Mistake(
            "only padding kept",
            lambda x, near, rolls, picks, share: np.where(
                (rolls < share) & (x > 0), near[x, picks], x
            ),
            "The unknown word (1) and the mask (2) stay as well.",
        ),
        Mistake(
            "the mask replaced",
            lambda x, near, rolls, picks, share: np.where(
                (rolls < share) & (x >= 2), near[x, picks], x
            ),
            "2 is the mask: it stays as well.",
        ),
        Mistake(
            "the words kept, the others replaced",
            lambda x, near, rolls, picks, share: np.where(
                (rolls >= share) & (x >= 3), near[x, picks], x
            ),
            "`share` is the probability of being replaced: roll below it.",
        ),
        Mistake(
            "always the nearest",
            lambda x, near, rolls, picks, share: np.where(
                (rolls < share) & (x >= 3), near[x, 0], x
            ),
            "`picks` says which of the neighbours: otherwise every copy has the same new words.",
        ),
        Mistake(
            "the pick instead of the neighbour",
            lambda x, near, rolls, picks, share: np.where((rolls < share) & (x >= 3), picks, x),
            "`picks` is a column of `near`, not a word.",
        ),
        Mistake(
            "neighbours of the place",
            lambda x, near, rolls, picks, share: np.where(
                (rolls < share) & (x >= 3), near[np.arange(x.shape[1])[None] % len(near), picks], x
            ),
            "`near` has a row for every *word*: look up the row of the token.",
        ),
        Mistake(
            "word 3 kept",
            lambda x, near, rolls, picks, share: np.where(
                (rolls < share) & (x > 3), near[x, picks], x
            ),
            "Words begin at 3: the first of them may be replaced as well.",
        ),
        Mistake(
            "nothing replaced",
            lambda x, near, rolls, picks, share: x.copy(),
            "Where the roll is below `share`, a neighbour takes the word's place.",
        ),
    ),
)


# ---- uncertainty -----------------------------------------------------------------------------------
def uncertainty(logits: np.ndarray) -> np.ndarray:
    """The library's normalised entropy."""
    return early_exit.uncertainty(torch.from_numpy(logits)).numpy()


def _uncertainty_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("two equal classes", (f32([[1.0, 1.0]]),)),
        Case("four equal classes", (f32([[2.0, 2.0, 2.0, 2.0]]),)),
        Case("rather sure", (f32([[3.0, 0.0, 0.0]]),)),
        Case("several examples", (_numbers(generator, 4, 6),)),
        Case(
            "quite sure: probabilities that are 0", (f32([[300.0, 0.0, -300.0], [0.0, 0.0, 0.0]]),)
        ),
        Case("very large logits", (f32([[800.0, 800.0], [-900.0, -899.0]]),)),
    ]


def _many_logits(generator: np.random.Generator) -> Case:
    return Case("40,000 examples", (generator.normal(0, 2, (40_000, 26)).astype(np.float32),))


def _entropies(z):
    z = z.astype(float)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(1), p


def _careless(z):
    with np.errstate(all="ignore"):
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return (-(p * np.log(p)).sum(1) / np.log(z.shape[1])).astype(f32)


def _overflowing(z):
    with np.errstate(all="ignore"):
        p = np.exp(z)
        p /= p.sum(1, keepdims=True)
        return (-(p * np.log(np.where(p > 0, p, 1))).sum(1) / np.log(z.shape[1])).astype(f32)


def _of_probabilities(p, classes):
    return (-(p * np.log(np.where(p > 0, p, 1))).sum(1) / np.log(classes)).astype(f32)


def _off_batch(z):
    with np.errstate(all="ignore"):
        p = np.exp(z - z.max())
        return _of_probabilities(p / p.sum(1, keepdims=True), z.shape[1])


def _off_axis(z):
    with np.errstate(all="ignore"):
        p = np.exp(z - z.max(0))
        return _of_probabilities(p / p.sum(0), z.shape[1])


UNCERTAINTY = Exercise(
    id="transformers.uncertainty",
    title="How sure is it?",
    points=2,
    reference=uncertainty,
    cases=_uncertainty_cases,
    large=_many_logits,
    lines=4,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "not divided by its maximum",
            lambda z: _entropies(z)[0].astype(f32),
            "With more classes the entropy can be larger. Divide by its maximum, log(classes), so that 1 "
            "means knowing nothing.",
        ),
        Mistake(
            "NaN where a probability is 0",
            _careless,
            "0 times log 0 is NaN to the machine; here it is 0, the limit of p log p.",
        ),
        Mistake(
            "overflow",
            _overflowing,
            "exp(800) is infinite. Take the row's maximum off first: the probabilities stay the same.",
        ),
        Mistake(
            "the batch's maximum taken off",
            _off_batch,
            "Take off each row's own maximum: next to a much larger row all powers of a row become 0, and "
            "0 / 0 is NaN.",
        ),
        Mistake(
            "softmax over the batch",
            lambda z: _off_axis(z),
            "The probabilities of one example, a row, add up to 1.",
        ),
        Mistake(
            "two kinds of logarithm",
            lambda z: (_entropies(z)[0] / np.log(2) / np.log(z.shape[1])).astype(f32),
            "Entropy and its maximum need the same logarithm.",
        ),
        Mistake(
            "the sign",
            lambda z: (-_entropies(z)[0] / np.log(z.shape[1])).astype(f32),
            "Logarithms of probabilities are negative: the entropy is minus their mean.",
        ),
        Mistake(
            "one minus the highest probability",
            lambda z: (1 - _entropies(z)[1].max(1)).astype(f32),
            "That is a measure of doubt, too, but FastBERT's looks at all classes: the entropy.",
        ),
        Mistake(
            "certainty",
            lambda z: (1 - _entropies(z)[0] / np.log(z.shape[1])).astype(f32),
            "0 is sure, 1 knows nothing.",
        ),
        Mistake(
            "divided by the number of classes",
            lambda z: (_entropies(z)[0] / z.shape[1]).astype(f32),
            "The largest entropy of N classes is log N, not N.",
        ),
        Mistake(
            "one number for the batch",
            lambda z: np.full(len(z), _entropies(z)[0].mean() / np.log(z.shape[1]), f32),
            "Every example has an uncertainty of its own.",
        ),
    ),
)


# ---- early exits -----------------------------------------------------------------------------------
def _first_sure(sure):
    sure = sure.copy()
    sure[:, -1] = True
    return sure.argmax(1) + 1


def exit_layers(uncertain: np.ndarray, speed: float) -> np.ndarray:
    """After how many layers each example leaves; what `early_exit.EarlyExit.answer` does in batches."""
    return _first_sure(uncertain < speed)


def _exit_cases(generator: np.random.Generator) -> list[Case]:
    grid = f32([[0.9, 0.5, 0.1], [0.2, 0.6, 0.1], [0.9, 0.8, 0.7]])
    return [
        Case("one example, sure at layer 2", (f32([[0.9, 0.2, 0.1]]), 0.3)),
        Case("sure, then not so sure", (f32([[0.2, 0.9, 0.1]]), 0.5)),
        Case("never sure", (f32([[0.9, 0.8, 0.7, 0.6]]), 0.5)),
        Case("three examples", (grid, 0.55)),
        Case("speed 0: everybody to the end", (np.zeros((2, 3), f32), 0.0)),
        Case("speed above 1: all leave at once", (generator.random((4, 3)).astype(f32), 1.1)),
        Case("exactly at the threshold", (f32([[0.5, 0.25, 0.125]]), 0.25)),
        Case("many examples", (generator.random((20, 6)).astype(f32), 0.3)),
    ]


def _many_examples(generator: np.random.Generator) -> Case:
    return Case("50,000 examples", (generator.random((50_000, 6)), 0.3))


EXIT_LAYERS = Exercise(
    id="transformers.exit_layers",
    title="Who leaves where",
    points=2,
    reference=exit_layers,
    cases=_exit_cases,
    large=_many_examples,
    lines=3,
    returns="layers passed, of each example",
    mistakes=(
        Mistake(
            "the doubtful leave",
            lambda u, v: _first_sure(u > v),
            "Who is *sure* leaves: uncertainty below the threshold.",
        ),
        Mistake(
            "the never sure leave at once",
            lambda u, v: (u < v).argmax(1) + 1,
            "`argmax` of a row without True is 0. Whoever is never sure goes through all layers.",
        ),
        Mistake(
            "counted from 0",
            lambda u, v: _first_sure(u < v) - 1,
            "Whoever leaves at the first exit has gone through 1 layer.",
        ),
        Mistake(
            "the last sure exit",
            lambda u, v: np.where(
                (u < v).any(1), u.shape[1] - (u < v)[:, ::-1].argmax(1), u.shape[1]
            ),
            "Whoever has left is gone: the *first* exit that is sure counts.",
        ),
        Mistake(
            "one layer too many for the never sure",
            lambda u, v: np.cumprod(u >= v, axis=1).sum(1) + 1,
            "Whoever is never sure leaves at the last exit: there are no more layers than columns.",
        ),
        Mistake(
            "nothing for the never sure",
            lambda u, v: np.where((u < v).any(1), _first_sure(u < v), 0),
            "Whoever is never sure goes through all layers.",
        ),
        Mistake(
            "the surest exit",
            lambda u, v: u.argmin(1) + 1,
            "Later exits are not known yet when an example leaves: the first that is sure enough.",
        ),
        Mistake(
            "at the threshold, too",
            lambda u, v: _first_sure(u <= v),
            "*Below* the threshold: at speed 0 nobody leaves early.",
        ),
        Mistake(
            "doubts counted",
            lambda u, v: np.minimum((u >= v).sum(1) + 1, u.shape[1]),
            "Who has been sure once is gone: what later exits would have said does not count.",
        ),
    ),
)

EXERCISES = (
    INHERITED_LAYERS,
    TOKEN_COSINE,
    ATTENTION_LOSS,
    REPLACE_WORDS,
    UNCERTAINTY,
    EXIT_LAYERS,
)
