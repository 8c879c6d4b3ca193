"""Ablations: methods with a part taken away or put in another's place, for the studies in `tune_spaces`. Found by name like a method, listed nowhere.

A variant is one subclass of its method's class, with the fewest lines, and a Config that adds what is ablated, where that is a matter of settings; all else
it imports from the method's file. The defaults of what it adds are the method itself.
"""
