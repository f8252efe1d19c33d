"""Small files in the formats of the real ones, and a server for them on this machine."""

import hashlib
import struct
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np

from kdbench.data.labelled import Labelled
from kdbench.data.sources import Archive


def _python2_pickle(value: Any) -> bytes:
    """What Python 2's cPickle writes, protocol 2: the published CIFAR files are of this form."""
    if isinstance(value, Mapping):
        items = b"".join(_python2_pickle(key) + _python2_pickle(item) for key, item in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2_pickle, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    assert isinstance(value, np.ndarray)
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    shape = b"(" + b"".join(map(_python2_pickle, value.shape)) + b"t"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = b"T" + struct.pack("<i", value.nbytes) + value.tobytes()
    return empty + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def python2_pickle(value: Any) -> bytes:
    return b"\x80\x02" + _python2_pickle(value) + b"."


def images_of(count: int, classes: int, *, side: int = 32, seed: int = 0) -> Labelled:
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return Labelled(images, np.arange(count, dtype=np.int64) % classes)


class Server:
    """Serves ``files`` on this machine; ``cut`` ends answers early; ``ranges`` says whether parts can be asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers["Range"]
                server.asked.append((self.path, wanted))
                content = server.files.get(self.path.rsplit("/", 1)[-1])
                if content is None or not self.path.startswith("/good/"):
                    self.send_error(404)
                    return
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start : None if server.cut is None else start + server.cut])

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def archive(self, name: str, content: bytes, folder: str = ".", where: str = "good") -> Archive:
        self.files[name] = content
        return Archive((f"{self.url}/{where}/{name}",), hashlib.md5(content).hexdigest(), folder)
