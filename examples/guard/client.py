"""Ask a guard about pictures, with retries: python client.py http://127.0.0.1:8765 picture.png ..."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import httpx

TRIES = 5


def ask(client: httpx.Client, picture: Path) -> dict[str, object]:
    """The guard's prediction for one picture. Waits as it is told while the guard is busy."""
    for attempt in range(TRIES):
        answer = client.post("/v1/predict", files={"images": picture.read_bytes()})
        if answer.status_code not in (429, 503):
            break
        time.sleep(float(answer.headers.get("Retry-After", 2**attempt)))
    answer.raise_for_status()
    predictions: list[dict[str, object]] = answer.json()["predictions"]
    return predictions[0]


def main() -> None:
    """Print one line per picture."""
    url, *pictures = sys.argv[1:]
    token = os.environ.get("SPARRING_GUARD_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        for picture in pictures:
            found = ask(client, Path(picture))
            if found.get("abstained"):
                sys.stdout.write(f"{picture}: no answer, ask a person and quote {found['reference']}\n")
            else:
                sys.stdout.write(f"{picture}: {found['name']} ({found.get('confidence', '?')})\n")


if __name__ == "__main__":
    main()
