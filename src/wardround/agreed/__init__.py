"""Values that every party computes from the study file by itself: the plan, the strategy, the network, the masks.

The coordinator and every hospital use the same functions on the same file, so that nothing that the guarantee rests on
has to be sent.
"""
