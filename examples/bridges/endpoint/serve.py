"""A classifier to try it on: digits-cnn behind HTTP on this machine, with nothing but the standard library."""

import base64
import io
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import torch
from PIL import Image

import sparring as sp

MODEL = sp.load_model("digits-cnn")


class Classify(BaseHTTPRequestHandler):
    """POST {"image": base64 PNG} -> {"scores": [...]}."""

    def do_POST(self) -> None:
        """One picture."""
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(sent["image"]))), dtype=np.float32) / 255
        with torch.no_grad():
            scores = MODEL(torch.from_numpy(picture)[None, None])[0].tolist()
        answer = json.dumps({"scores": scores}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Quiet."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 8000), Classify).serve_forever()
