"""From jobs and offers to plans: what fits, how long, how much, and at most how much. Read `planner.py` first."""
