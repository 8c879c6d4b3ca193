"""An S3 server on this machine (moto), and a small set of pictures in the forms in which people keep them on one."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BUCKET = "pictures"


class ObjectStore:
    """`env`: what a process needs in order to find the server."""

    def __init__(self, port: int) -> None:
        keys = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        self.env = {**keys, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}

    def take(self, folder: Path) -> str:
        """The address under which a folder's files stand from now on."""
        from pyarrow import fs

        system, _ = fs.FileSystem.from_uri(f"s3://{BUCKET}")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                with system.open_output_stream(f"{BUCKET}/{folder.name}/{path.relative_to(folder).as_posix()}") as file:
                    file.write(path.read_bytes())
        return f"s3://{BUCKET}/{folder.name}"


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """The server, with this process's environment leading to it."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        store = ObjectStore(server.get_host_and_port()[1])
        with pytest.MonkeyPatch.context() as patch:
            for name, value in store.env.items():
                patch.setenv(name, value)
            fs.FileSystem.from_uri(f"s3://{BUCKET}?allow_bucket_creation=true")[0].create_dir(BUCKET)
            yield store
    finally:
        server.stop()


def pictures(folder: Path, form: str, count: int = 210, side: int = 20) -> Path:
    """A set of three classes: noise of three colours, each image its own. form: folder, parquet (of several row groups) or tar (several)."""
    rng, classes = np.random.default_rng(0), ("ash", "elm", "oak")
    found = []
    for i in range(count):
        picture = rng.integers(0, 120, (side, side, 3), np.uint8)
        picture[..., i % 3] += 120
        found.append((classes[i % 3], f"{i:04d}", cv2.imencode(".png", picture)[1].tobytes()))
    folder.mkdir(parents=True)
    if form == "folder":
        for name, key, data in found:
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"{key}.png").write_bytes(data)
    elif form == "parquet":
        rows = pa.table({"image": [data for *_, data in found], "label": [name for name, *_ in found]})
        for part in range(2):
            pq.write_table(
                rows.slice(part * count // 2, count // 2), folder / f"train-{part:05d}-of-00002.parquet", row_group_size=40
            )
    else:
        for part in range(3):
            with tarfile.open(folder / f"train-{part:04d}.tar", "w") as tar:
                for name, key, data in found[part::3]:
                    for ending, content in ((".png", data), (".cls", name.encode())):
                        member = tarfile.TarInfo(key + ending)
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
    return folder
