"""Ask this container's node how it is: exit code 0 if GET of the path says 200. usage: healthcheck.py /livez

It is run every few seconds: so it imports little, and speaks HTTP by itself (`python3 -I -S`).
"""

import os
import socket
import sys

TIMEOUT_S = 2.5


def main(path: str) -> int:
    """Return the exit code; what is wrong goes to stdout, which `docker inspect` shows."""
    listen = os.environ.get("RAFTKV_HTTP_LISTEN", "")
    port = int(listen.rpartition(":")[2])
    try:
        connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        if os.environ.get("RAFTKV_TLS_CERT"):
            connection = _encrypted(connection)
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    except OSError as error:
        print(f"no answer on port {port}: {error}")  # noqa: T201
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    print(body.decode(errors="replace").strip())  # noqa: T201
    return 0 if head.split(b" ")[1:2] == [b"200"] else 1


def _encrypted(connection: socket.socket) -> socket.socket:
    """Speak TLS. Whose certificate it is does not matter: it is the loopback, and nothing secret is said."""
    import ssl  # noqa: PLC0415 - takes as long to import as all else

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
