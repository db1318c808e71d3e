"""`python -m launcher.seeds`: the page of docs/seeds-recomputed.md on stdout."""

from launcher.seeds.table import markdown, seed_rows

print(markdown(seed_rows()), end="")
