"""Many cells at once: one schedule, and crews that run cells here, in worker processes, or on a Ray cluster.

Nothing is imported here, because a worker process passes this door before it knows its cores and its GPU.
"""
