"""scikit-learn's bundled digits: 1,797 images of 8x8 pixels, values 0..16 in the source.

From E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998. Good for exercises;
too easy for claims.
"""

import numpy as np

from compresslab.data.split import Split, examples, held_out

TEST = 540


def load(train_size: int | None, seed: int) -> Split:
    """The last 540 images are the test set, as in the source's own order of writers."""
    # Here, since it takes a second or two to import, and most labs have other images.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images[:, None] * (255 / 16)).astype(np.uint8)
    labels = bunch.target
    train, val = held_out(images[:-TEST], labels[:-TEST], train_size, seed)
    test = examples(images[-TEST:], labels[-TEST:])
    return Split("digits", train, val, test, tuple("0123456789"))
