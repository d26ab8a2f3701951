"""The shadow: reads the log, scores with a challenger in a process of its own, appends what came of it.

:mod:`~shadow_mlops.challenger.scoring` is the core that turns events into one result batch;
:mod:`~shadow_mlops.challenger.consumer` feeds it from the live tail.
"""
