"""A scenario in, a recommendation out that was run: candidates by rule, every constraint verified.

    the constraint           candidates                                              rule from
    nothing yet              int8 after training                                     lab 02
    memory, over fourfold    4 bits, trained; half the channels, int8;               labs 03, 04;
                             pruned, shared, Huffman-coded                           Han et al. 2016
    memory, over eightfold   2 bits, trained; half the channels, 4 bits;             lab 03;
                             a binary network                                        lab 10
    time                     half the channels, int8; a student of half the width    labs 04, 08
    quality                  int8 trained toward the float network;                  lab 03;
                             a student of the same shape                             lab 08
    nothing may be trained   int8; 4 bits with MSE ranges;                           lab 02;
                             a little pruning and sharing, untuned                   labs 04, 12

The rules only propose. Every candidate is built with what the scenario allows, written to a file, raced with
the float network in one run on one thread, and tested on validation images; what misses a constraint stays
in the table with the reason. A loss has its standard error: a limit holds for the loss plus one, and less
than one between two candidates is a tie (`advice`). No constraint met, no recommendation. Where there are no
labels but training is allowed, the network's own answers take their place.

On a microcontroller only integer networks count, and their activations count against its memory; its speed
cannot be measured here, so a scenario that asks for one is refused. Left out: energy, searching settings.
"""

from compresslab.advisor.advice import Advice, Verdict
from compresslab.advisor.advise import Advisor, Built
from compresslab.advisor.rules import Candidate
from compresslab.advisor.scenario import HARDWARE, Scenario

__all__ = ["HARDWARE", "Advice", "Advisor", "Built", "Candidate", "Scenario", "Verdict"]
