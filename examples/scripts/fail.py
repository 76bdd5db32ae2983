"""A script that fails after a while, for seeing what that looks like."""

from __future__ import annotations

import sys
import time

for step in range(1, 4):
    print(f"Step {step} of 5")
    time.sleep(0.05)
print("The disk of the moon is full", file=sys.stderr)
sys.exit(7)
