"""uvicorn in a thread: `python threaded.py APP PORT LOOP`.

The main thread hears SIGTERM and does what such programs do: it sets `should_exit`.
"""

import signal
import sys
import threading

import uvicorn


def main() -> None:
    app, port, loop = sys.argv[1:]
    config = uvicorn.Config(app, port=int(port), loop=loop)
    server = uvicorn.Server(config)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    while not asked.wait(0.1) and thread.is_alive():
        pass
    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    main()
