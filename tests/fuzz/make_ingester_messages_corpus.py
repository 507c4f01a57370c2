#!/usr/bin/env python3
"""Writes the seeds of the ingester_messages fuzz target: real requests and answers of a live Mimir, each with the byte that names its message."""
import hashlib
import json
import pathlib
import sys

CORPUS = pathlib.Path(__file__).parent / "corpus" / "ingester_messages"
# In the order of tests/storage/messages/reencode.h: request, answer, request, ...
METHODS = [
    "QueryStream", "LabelNames", "LabelValues", "MetricsForLabelMatchers", "MetricsMetadata", "QueryExemplars",
    "UserStats", "AllUserStats", "LabelNamesAndValues", "LabelValuesCardinality", "ActiveSeries",
]
MAX_BYTES = 2000


def main(captures):
    captures = pathlib.Path(captures)
    CORPUS.mkdir(parents=True, exist_ok=True)
    seeds = {}
    for call in json.loads((captures / "index.json").read_text()):
        service, method = call["method"].strip("/").split("/")
        if service != "cortex.Ingester" or method not in METHODS:
            continue
        for which, part in enumerate(("requests", "responses")):
            for message in call[part]:
                data = (captures / message["file"]).read_bytes()
                if len(data) <= MAX_BYTES:
                    seed = bytes([2 * METHODS.index(method) + which]) + data
                    seeds[hashlib.sha1(seed).hexdigest()[:8]] = (method, part, seed)
    for digest, (method, part, seed) in seeds.items():
        (CORPUS / f"{method}-{part[:-1]}-{digest}").write_bytes(seed)


if __name__ == "__main__":
    main(sys.argv[1])
