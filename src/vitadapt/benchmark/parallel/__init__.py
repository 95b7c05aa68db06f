"""Where cells run: in this process, in several, or on a Ray cluster. Imports nothing: a worker is not placed yet."""
