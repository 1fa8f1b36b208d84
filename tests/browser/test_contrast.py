"""What `check`, `claim`, `predict` and `Table` draw can be read, in JupyterLab's light and dark themes.

Contrast is that of WCAG 2.1, 1.4.3: (L1 + 0.05) / (L2 + 0.05) of the lighter and the darker colour's relative
luminance, at least 4.5 for text. Colours are what the browser computed, backgrounds laid over one another.
"""

import nbformat
import pytest

from tests.browser.test_in_a_browser import IDLE, NOTEBOOK, SHOTS, opened, run_all

CELLS = (
    "import numpy as np\nimport compresslab as cl\n"
    "from compresslab.lab import Table, begin, check, claim, predict, use_style\n"
    "from compresslab.notice import tell\n"
    "use_style()\nSEEDS = begin()",
    "def parameter_bytes(parameters, bits):\n    return parameters * bits\n"
    'check(parameter_bytes, "measuring.parameter_bytes")',
    "def parameter_bytes(parameters, bits):\n    return (parameters * bits + 7) // 8\n"
    'check(parameter_bytes, "measuring.parameter_bytes")',
    "def parameter_bytes(parameters, bits):\n    raise NotImplementedError\n"
    'check(parameter_bytes, "measuring.parameter_bytes")',
    "def parameter_bytes(parameters, bits):\n    return parameters / 0\n"
    'check(parameter_bytes, "measuring.parameter_bytes")',
    "from compresslab.classroom.exercises import exercise\n"
    "from compresslab.classroom.judge import slow\n"
    "from compresslab.classroom.result import CheckResult\n"
    'packing = exercise("numbers.pack4")\n'
    "slow(packing, packing.cases(np.random.default_rng(0))[0], 2.0, 0.01)",
    'ratio = exercise("measuring.times_faster")\n'
    'CheckResult(ratio, "passed", (("reached", "1.2"),), points=2.0, medal="bronze")',
    'CheckResult(exercise("prune.tune_pruned"), "failed", (("stage", "a mask"),), points=1.0)',
    'claim("One is more than none", 1.0, "points")',
    'claim("None is more than one", -1.0, "points")',
    'guess = predict("How many?", ["one", "two"])',
    'guess.reveal("two")',
    'tell("A note with `code` and **bold** words."); tell("An answer.", "answer")',
    'Table(["network", "bytes"], [["one", "1"], ["two", "2"]], "two rows", text_columns=1)',
    'cl.table(cl.measure(cl.models.MLP((1, 4, 4), 3), (1, 4, 4), "a perceptron"))',
)
TEXTS = """() => {
  const numbers = text => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return found.length < 4 ? [...found, 1] : found;
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const luminance = colour => {
    const part = colour.map(c => {
      const v = c / 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const background = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const found = [];
  for (const output of document.querySelectorAll('.jp-OutputArea-output')) {
    const walker = document.createTreeWalker(output, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement, words = walker.currentNode.data.trim();
      if (!words || !element.getClientRects().length || element.closest('button, script, style')) continue;
      const behind = background(element);
      const colour = over(numbers(getComputedStyle(element).color), behind);
      const [a, b] = [luminance(colour), luminance(behind)];
      found.push([words, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def notebook(course):
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    name = "contrast.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(made, course / "labs" / name)
    return name


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_every_word_that_is_shown_has_enough_contrast(theme, notebook, jupyter, page):
    opened(page, jupyter, notebook)
    page.click("text=Settings >> nth=0")
    page.hover("text=/^Theme$/ >> nth=0")
    page.click(f"text=/^{theme}$/ >> nth=0")
    wanted = "false" if theme.endswith("Dark") else "true"
    page.wait_for_selector(f"body[data-jp-theme-light={wanted}]", state="attached")
    run_all(page)
    page.wait_for_selector(IDLE)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.locator(f"{NOTEBOOK} .jp-Notebook").screenshot(path=SHOTS / f"contrast_{wanted}.png")
    texts = page.evaluate(TEXTS)
    said = " ".join(words for words, _ in texts)
    for word in (
        *("✔", "✘", "○", "expected", "two rows", "a perceptron", "The answer"),
        *("bronze", "but slow", "stopped with an error", "so far", "not done yet"),
    ):
        assert word in said, word
    poor = {words[:60]: round(contrast, 2) for words, contrast in texts if contrast < 4.5}
    assert not poor
