#!/usr/bin/env python3
"""Kills `gptkit serve --feedback` at random moments while people rank answers, and looks for what was acknowledged.

    python3 scripts/check_feedback.py --model runs/sft-small-1 [--gptkit target/release/gptkit] [--sessions 20]

Every record that the server acknowledged must be in the store, once. Needs Python alone.
"""

import argparse
import json
import random
import sqlite3
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from serving import Server


def post(url, path, body, person):
    headers = {"content-type": "application/json", "x-gptkit-person": person}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def label(url, session, person, acknowledged):
    """Ranks answers until the server is gone."""
    number = 0
    while True:
        number += 1
        question = {"messages": [{"role": "user", "content": f"Count to {number}."}], "n": 2, "store": True}
        try:
            answer = post(url, "/v1/chat/completions", question | {"max_tokens": 8, "seed": number}, person)
            answers = [{"request": answer["id"], "choice": choice} for choice in (0, 1)]
            record = {"client_id": f"{session}-{person}-{number}", "answers": answers, "ranking": [1, 2]}
            post(url, "/api/rankings", record, person)
            post(url, "/api/rankings", record, person)  # as a page does that has lost the answer
        except OSError:
            return
        acknowledged.append(record["client_id"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gptkit", default="target/release/gptkit")
    parser.add_argument("--model", required=True)
    parser.add_argument("--sessions", type=int, default=20)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    acknowledged = []
    for session in range(options.sessions):
        with Server(options.gptkit, "--model", options.model, "--feedback", folder) as server:
            arguments = [(server.url, session, f"p{i}", acknowledged) for i in range(4)]
            people = [threading.Thread(target=label, args=one) for one in arguments]
            for thread in people:
                thread.start()
            time.sleep(random.uniform(0.3, 2.0))
            server.process.kill()
            for thread in people:
                thread.join()
    stored = sqlite3.connect(folder / "feedback.sqlite").execute("SELECT client_id FROM rankings").fetchall()
    stored = [client_id for (client_id,) in stored]
    lost = set(acknowledged) - set(stored)
    print(f"{options.sessions} sessions: {len(acknowledged)} records acknowledged, {len(stored)} stored")
    print(f"lost: {len(lost)}, stored twice: {len(stored) - len(set(stored))}")
    subprocess.run([options.gptkit, "feedback", "stats", str(folder)], check=True)
    raise SystemExit(bool(lost) or len(stored) != len(set(stored)))


if __name__ == "__main__":
    main()
