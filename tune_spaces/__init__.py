"""The questions: one file per search space or study. ABOUT, METHOD and SPACE (dotted config keys -> Ray Tune domains), and, where they differ
from the defaults, BASE (settings that all trials share), SAMPLES (trials) and SCHEDULER (asha, pbt or none). A study makes a CLAIM;
docs/howto/studies.md has its form.

Values of a `choice` or a grid that the data refuses (a queue larger than the data set) are left out, with a word, before anything starts.
"""
