"""The columns of a plan's rows, and the kinds of operations."""

KIND, A, B, OUT, ZERO_A, ZERO_B, EXTRA = 0, 1, 2, 3, 4, 5, 6
HEIGHT, WIDTH, CHANNELS, OUT_HEIGHT, OUT_WIDTH, OUT_CHANNELS = 7, 8, 9, 10, 11, 12
DOWN_SIZE, ACROSS_SIZE, DOWN, ACROSS, TOP, LEFT = 13, 14, 15, 16, 17, 18
WEIGHT, WORDS, PANEL, START, FACTOR, OFFSET, COLUMNS = 19, 20, 21, 22, 23, 24, 25
"""The columns of a row. Of a window: its size, its stride and the border, from top to bottom and across."""
ZERO, LOW, HIGH, FACTOR_A, FACTOR_B, REALS = 0, 1, 2, 3, 4, 5
"""The columns of a row's real numbers."""
QUANTIZE, CONVOLUTION, DEPTHWISE, PRODUCT, LOGITS, DEQUANTIZE = 0, 1, 2, 3, 4, 5
MAX, MAX_WINDOWS, MEAN, MEAN_WINDOWS, ADD, MULTIPLY = 6, 7, 8, 9, 10, 11
TABLE, TABLES, CONCATENATE, SELECT, ROWS_OF, IMAGE_OF, ENLARGE, PLACE = (
    12,
    13,
    14,
    15,
    16,
    17,
    18,
    19,
)
"""Kinds of operations."""
