"""A mail server that misbehaves on demand, and keeps what it was given.

    sink = Sink()                      # a plain server on a free port of the loopback
    sink = Sink(tls="start", cert=pair)  # STARTTLS; tls="wrap": TLS from the first byte
    sink.modes = {"RCPT": "550 no such user"}   # answer to a command instead of the usual one
    sink.messages                      # [(sender, [recipients], bytes)], in order of arrival
    sink.held                          # how often somebody met SILENT or SLOW
    sink.commands                      # every line that came in, TLS or not: (encrypted, text)

Answers by the word of the command (`banner`, `EHLO`, `AUTH`, `MAIL`, `RCPT`, `DATA`, and `DATA.` for
the end of a message); the answer None closes the connection, SILENT says nothing for ever, SLOW
writes a byte each 10 s, and a callable gets the line and returns one of these. Only the standard
library is used.
"""

import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time

SILENT = object()
SLOW = object()


class Sink:
    def __init__(self, tls=None, cert=None, port=0, auth=None, inject=b"", offer_tls=True):
        self.tls, self.cert, self.auth, self.inject = tls, cert, auth, inject
        self.offer_tls = offer_tls
        self.modes, self.messages, self.commands, self.connections, self.held = {}, [], [], 0, 0
        self._port, self._open, self._stop = port, [], threading.Event()
        self._listener = None
        self.up()

    @property
    def port(self):
        return self._port

    def up(self):
        """Begins to listen, on the same port as before."""
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self._port), reuse_port=False)
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self):
        """Refuses connections until `up`."""
        self._stop.set()
        if self._listener:
            # close() alone would leave accept() waiting, and the port open.
            try:
                self._listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self._listener.close()
            self._listener = None
        for connection in self._open:
            try:
                connection.close()
            except OSError:
                pass
        self._open = []

    close = down

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.cert)
        return context

    def _serve(self, connection):
        try:
            Session(self, connection).run()
        except (OSError, ssl.SSLError, ConnectionError):
            pass
        finally:
            connection.close()


class Session:
    def __init__(self, sink, connection):
        self.sink, self.stop = sink, sink._stop
        self.connection, self.encrypted = connection, False
        self.buffer = b""
        self.sender, self.recipients = None, []

    def run(self):
        if self.sink.tls == "wrap":
            self._encrypt()
        if not self._answer("banner", "", "220 sink ready"):
            return
        while True:
            line = self._line()
            if line is None:
                return
            word = line.split(" ")[0].upper()
            self.sink.commands.append((self.encrypted, line))
            if word == "EHLO":
                ok = self._answer(word, line, self._ehlo())
            elif word == "STARTTLS" and self.sink.tls == "start":
                self.connection.sendall(b"220 go ahead\r\n" + self.sink.inject)
                self._encrypt()
                ok = True
            elif word == "AUTH":
                ok = self._answer(word, line, "235 welcome" if self.encrypted else "538 never")
            elif word == "MAIL":
                self.sender, self.recipients = line.partition("<")[2].partition(">")[0], []
                ok = self._answer(word, line, "250 ok")
            elif word == "RCPT":
                self.recipients.append(line.partition("<")[2].partition(">")[0])
                ok = self._answer(word, line, "250 ok")
            elif word == "DATA":
                ok = self._answer(word, line, "354 go on")
                if ok and self._last.startswith("354"):
                    ok = self._message()
            elif word == "QUIT":
                self._answer(word, line, "221 bye")
                return
            else:
                ok = self._answer(word, line, "250 ok")
            if not ok:
                return

    def _ehlo(self):
        lines = ["sink", "8BITMIME"]
        if self.sink.tls == "start" and not self.encrypted and self.sink.offer_tls:
            lines.append("STARTTLS")
        if self.encrypted or not self.sink.offer_tls:
            lines.append("AUTH PLAIN LOGIN")
        return "\r\n".join(
            f"250{' ' if line is lines[-1] else '-'}{line}" for line in lines
        )

    def _encrypt(self):
        self.connection = self.sink._context().wrap_socket(self.connection, server_side=True)
        self.sink._open.append(self.connection)
        self.encrypted, self.buffer = True, b""

    def _message(self):
        while not self.buffer.endswith(b"\r\n.\r\n") and self.buffer != b".\r\n":
            more = self.connection.recv(65536)
            if not more:
                return False
            self.buffer += more
        text, self.buffer = self.buffer[:-3], b""
        text = b"\r\n".join(
            line[1:] if line.startswith(b".") else line for line in text.split(b"\r\n")
        )
        # Kept before the answer: the server has it, whatever the client learns of that.
        self.sink.messages.append((self.sender, self.recipients, text))
        taken = self._answer("DATA.", "", "250 taken")
        if self._last and not self._last.startswith("2"):
            self.sink.messages.pop()
        return taken

    def _answer(self, word, line, usual):
        answer = self.sink.modes.get(word, usual)
        if callable(answer):
            answer = answer(line)
            answer = usual if answer is True else answer
        self._last = answer if isinstance(answer, str) else None
        if answer is None:
            return False
        if answer in (SILENT, SLOW):
            self.sink.held += 1
        if answer is SILENT:
            self.stop.wait()
            return False
        if answer is SLOW:
            for byte in (usual + "\r\n").encode():
                self.connection.sendall(bytes([byte]))
                if self.stop.wait(10):
                    return False
            self._last = usual
            return True
        self.connection.sendall(answer.encode() + b"\r\n")
        return True

    def _line(self):
        while b"\n" not in self.buffer:
            more = self.connection.recv(65536)
            if not more:
                return None
            self.buffer += more
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")


class Authority:
    """A certificate authority in a folder, made by openssl(1)."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        self.root = os.path.join(folder, "root.pem")
        self._run(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", self._path("root.key"), "-out", self.root, "-days", "30",
            "-subj", "/CN=test root", "-addext", "basicConstraints=critical,CA:TRUE",
        )

    def _path(self, name):
        return os.path.join(self.folder, name)

    def _run(self, *arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    def issue(self, name, alternative="IP:127.0.0.1,DNS:localhost", days=30):
        """A certificate and its key; `days` may lie in the past (negative)."""
        key, request, cert = (self._path(f"{name}.{end}") for end in ("key", "csr", "pem"))
        self._run(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", key, "-out", request, "-subj", f"/CN={name}",
        )
        with tempfile.NamedTemporaryFile("w", suffix=".cnf") as extension:
            extension.write(f"subjectAltName={alternative}\n")
            extension.flush()
            dates = ["-days", str(days)]
            if days < 0:
                # x509 -days takes no negative number everywhere; `ca` takes dates.
                return self._expired(name, request, cert, key, alternative)
            self._run(
                "x509", "-req", "-in", request, "-CA", self.root, "-CAkey",
                self._path("root.key"), "-CAcreateserial", "-out", cert, *dates,
                "-extfile", extension.name,
            )
        return cert, key

    def _expired(self, name, request, cert, key, alternative):
        config = self._path(f"{name}.cnf")
        with open(config, "w") as out:
            out.write(
                f"[ca]\ndefault_ca=d\n[d]\ndatabase={self._path(name + '.db')}\n"
                f"serial={self._path(name + '.srl')}\nnew_certs_dir={self.folder}\n"
                f"default_md=sha256\npolicy=p\nx509_extensions=e\n[p]\ncommonName=supplied\n"
                f"[e]\nsubjectAltName={alternative}\n"
            )
        open(self._path(name + ".db"), "w").close()
        with open(self._path(name + ".srl"), "w") as out:
            out.write("1000\n")
        self._run(
            "ca", "-batch", "-config", config, "-in", request, "-out", cert, "-cert", self.root,
            "-keyfile", self._path("root.key"), "-startdate", "20200101000000Z", "-enddate",
            "20200201000000Z", "-notext",
        )
        return cert, key


def wait_for(what, condition, seconds=30):
    """Polls until `condition()` is true, and returns what it returned."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)
