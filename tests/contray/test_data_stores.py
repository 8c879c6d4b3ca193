"""Images on an S3 server: the same batches as from the disk, also in loader processes, and the words where the server has them not."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from contray.config.sections import DataConfig
from contray.data import GlobalBatches, Source, loader, open_source
from contray.data.expected import Expected
from contray.errors import ConfigError, UserError
from contray.methods._base import View
from contray.storage.folder import Storage
from contray.storage.reached import unread
from tests.object_store import ObjectStore, pictures, serving


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with serving() as found:
        yield found


def opened(place: Path | str, scratch: Path) -> Source:
    return open_source(DataConfig(source=str(place), scratch=str(scratch), memory_gb=0.0))


@pytest.mark.parametrize("form", ["folder", "parquet", "tar"])
def test_batches_are_those_of_the_disk(store: ObjectStore, form: str, tmp_path: Path) -> None:
    folder = pictures(tmp_path / f"batches-{form}", form)
    found = []
    for place in (folder, store.take(folder)):
        source = opened(place, tmp_path / "s")
        assert source.test is not None
        batches = GlobalBatches(source.train, {"view": View(size=16)}, strength=1.0, batch_size=16, seed=3)
        read = list(loader(batches, range(3), range(2, 14), workers=2 if place != folder else 0, pin=False))
        found.append((source.train.labels, source.train.classes, [source.train.key(i) for i in range(9)], read))
    near, far = found
    assert np.array_equal(near[0], far[0])
    assert near[1:3] == far[1:3]
    for one, other in zip(near[3], far[3], strict=True):
        assert torch.equal(one["views"]["view"], other["views"]["view"])
        assert torch.equal(one["index"], other["index"])


def test_what_the_server_has_not_is_said(store: ObjectStore, tmp_path: Path) -> None:
    here = store.env["AWS_ENDPOINT_URL"]
    for address, said in (
        ("s3://pictures/none", f"there is nothing of that name in the bucket pictures at {here}; look at the address"),
        ("s3://nobody/set", f"there is no bucket nobody at {here}; look at the address, and at AWS_ENDPOINT_URL"),
    ):
        with pytest.raises(ConfigError, match=f"^data.source: {address}: {said}"):
            opened(address, tmp_path)


class Refuses(BaseHTTPRequestHandler):
    """A server that answers all with one code."""

    def do_GET(self) -> None:
        self.send_response(self.server.code)  # pyright: ignore[reportAttributeAccessIssue]
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *words: object) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (403, r"refuses the login that AWS_ACCESS_KEY_ID gives .*ACCESS_DENIED"),
        (404, "what answers at .* is no object store; look at AWS_ENDPOINT_URL"),
    ],
)
def test_a_server_that_refuses_is_told_from_one_that_is_no_store(
    code: int, said: str, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = HTTPServer(("127.0.0.1", 0), Refuses)
    server.code = code  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match=f"^data.source: s3://pictures/set.*{said}"):
            opened("s3://pictures/set", tmp_path)
        if code == 403:
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
            monkeypatch.setenv("HOME", str(tmp_path))
            assert "for there is none: set AWS_ACCESS_KEY_ID" in unread(Storage("s3://pictures/set"), OSError("ACCESS_DENIED"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, store: ObjectStore) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # pyarrow itself tries for 6 s
    error = OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect to server")
    said = unread(Storage("s3://pictures/set"), error)
    assert said.startswith("no server answers at http://127.0.0.1:9; look at AWS_ENDPOINT_URL")


def test_what_is_asked_for_next_is_read_at_once_and_nothing_twice() -> None:
    asked, all_asked = [], threading.Barrier(4, timeout=30)

    def read(i: int) -> bytes:
        asked.append(i)
        if i < 4:
            all_asked.wait()  # passes only where four are under way
        if i == 9:
            raise FileNotFoundError(i)
        return bytes([i])

    ahead = Expected(read)
    ahead.expect([0, 1, 2, 3, 9, 1])
    assert [ahead(i) for i in (3, 0, 2, 1)] == [b"\3", b"\0", b"\2", b"\1"]
    with pytest.raises(FileNotFoundError):
        ahead(9)
    assert ahead(7) == b"\7"
    assert sorted(asked) == [0, 1, 2, 3, 7, 9]


def test_an_address_without_a_bucket_is_said_and_a_slash_behind_it_is_none(store: ObjectStore, tmp_path: Path) -> None:
    for address in ("s3://", "s3:///x"):
        with pytest.raises(UserError, match=f"got {address}, which names no bucket"):
            opened(address, tmp_path)
    assert opened(f"{store.take(pictures(tmp_path / 'slash', 'folder', 9))}/", tmp_path).name == "slash"


def test_another_image_of_the_same_size_is_another_set(store: ObjectStore, tmp_path: Path) -> None:
    place = store.take(pictures(tmp_path / "replaced", "folder", 9))
    before = opened(place, tmp_path).train.content()
    assert opened(place, tmp_path).train.content() == before
    file = tmp_path / "replaced" / "ash" / "0000.png"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    assert opened(store.take(tmp_path / "replaced"), tmp_path).train.content() != before
