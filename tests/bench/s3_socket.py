#!/usr/bin/env python3
"""usage: s3_socket.py HOST:PORT CA PATH NAME...

Gets PATH/NAME of an HTTP server that asks for no signature, one after the other over one connection,
into one buffer: what a client pays for the kernel's part of it, and nothing else.  CA: a file of
certificates, and the server speaks TLS, which OpenSSL decrypts; or "-"."""
import socket
import ssl
import sys

BUFFER_BYTES = 1 << 20


def get(connection, host, path, buffer):
    connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head, end = b"", -1
    while end < 0:
        more = connection.recv(4096)
        if not more:
            sys.exit(f"{path}: no answer")
        head += more
        end = head.find(b"\r\n\r\n")
    lines = head[:end].lower().split(b"\r\n")
    if b" 200" not in lines[0]:
        sys.exit(f"{path}: {lines[0].decode()}")
    length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
    left = length - (len(head) - end - 4)
    while left > 0:
        got = connection.recv_into(buffer)
        if got == 0:
            sys.exit(f"{path}: it ends early")
        left -= got


def main():
    host, ca, path, *names = sys.argv[1:]
    address, port = host.rsplit(":", 1)
    buffer = bytearray(BUFFER_BYTES)
    connection = socket.create_connection((address, int(port)))
    if ca != "-":
        connection = ssl.create_default_context(cafile=ca).wrap_socket(connection, server_hostname=address)
    with connection:
        for name in names:
            get(connection, host, f"{path}/{name}", buffer)


main()
