# SPDX-License-Identifier: MIT
"""Plain bytes through a connection: `stream.py take` on one side, `stream.py give HOST:PORT BYTES` on the other."""
import socket
import sys
import time

BLOCK = bytes(1 << 20)


def take():
    listener = socket.create_server(("127.0.0.1", 0))
    print("listening on", f":{listener.getsockname()[1]}", flush=True)
    connection, _ = listener.accept()
    began = None
    while connection.recv(len(BLOCK)):
        began = began or time.monotonic()
    print("seconds", time.monotonic() - began)


def give(host_and_port, nbytes):
    host, port = host_and_port.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as connection:
        for _ in range(nbytes // len(BLOCK)):
            connection.sendall(BLOCK)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


if sys.argv[1] == "take":
    take()
else:
    give(sys.argv[2], int(sys.argv[3]))
