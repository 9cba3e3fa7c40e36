"""The frozen trunk's tokens: computed once an image, kept on disk, read from there.

In finetune mode the trunk never changes, so what enters the first trainable block is the same in
every epoch. It is computed once; an epoch then costs what the last block and the head cost. Nothing
is approximated: the same weights, the same losses (up to the rounding of `cache_dtype`).

Begin with plan.py: what a cache is of. builder.py makes one by way of trunk.py, cache.py reads it.
"""
