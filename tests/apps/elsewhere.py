"""Work that is done in a process of its own, by a queue's worker: URL RUN COUNT EPOCH PACE."""

import sys
import time

import tailrace
from tailrace.errors import WriterFenced

FENCED = 3


def main(url: str, run: str, count: int, epoch: int, pace: float) -> int:
    try:
        with tailrace.attach(url, run, producer="worker", epoch=epoch) as attached:
            for number in range(1, count + 1):
                attached.emit("row", n=number, epoch=epoch)
                time.sleep(pace)
            attached.emit("done", result=count)
    except WriterFenced:
        return FENCED
    return 0


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(words[0], words[1], int(words[2]), int(words[3]), float(words[4])))
