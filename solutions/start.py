# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # compresslab: neural networks, smaller and faster
#
# A hands-on course. In each lab you predict, write the few lines that matter, are told which mistake you made, and see the
# effect, with its control, in bytes on disk and milliseconds on *this* machine.
#
# **How it works.** Run a lab from top to bottom (*Shift + Enter*). Where a cell says `your code here`, write; the cell below it
# checks, as often as you like. If you are stuck, go on: the lab then runs on the library's own function, and says so.
# There are three kinds of exercise: *warm-ups* of a few lines (the check shows two worked cases; a slow version can be unfolded,
# but it earns half where speed is the point), *builds* of 10 to 30 lines that are judged in stages, and *open* tasks with
# no right answer, where bronze, silver and gold are measured.
# A ✔ in front of a sentence means that the numbers in *your* run bear it out.
#
# **Where to begin.** Lab 00, then 01. After that follow the arrows: a lab needs what points to it, or what is named above its box
# ("needs 02, 06"), and nothing else.

# %% where you are
from compresslab.classroom.course_map import CourseMap

CourseMap().show()

# %% [markdown]
# White: not begun; sand: begun; green: all exercises passed. Run the cell again after a lab.
#
# ## The labs
#
# {labs}
#
# Terms, in English and 中文, are in the [glossary](glossary.ipynb). Something does not work? In a terminal,
# `compresslab doctor` says what is wrong and how to mend it. `compresslab progress` lists every exercise.
#
# Labs run on letters that are drawn on your machine in a second, so nothing is downloaded. `COMPRESSLAB_DATASET=mnist` (or
# `cifar10`), set before JupyterLab starts, runs the same labs on other images; what then does not come out is marked ✘.
