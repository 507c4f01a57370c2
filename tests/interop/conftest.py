"""Real peers that are slow to build. They are made once from Go modules into a cache outside the checkout (build.sh)."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "e2e"))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "brunn-check")
