"""The files of the ELEVATER leaderboard and of its published toolkit: written, checked, scored and read back."""
