"""An S3 server of this process, on the loopback interface, as moto has it."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kills import dies_at


class ObjectStorage:
    """requests: counted, by method and what is asked for.  received, sent: bytes of bodies.

    before: called with the method and the path of each request; True: the server is busy.
    """

    def __init__(self, application: Any) -> None:
        self.application = application
        self.requests: Counter[str] = Counter()
        self.received = self.sent = 0
        self.before: Callable[[str, str], object] = lambda method, path: None
        self.environment = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if self.before(method, path) is True:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Service Unavailable", [("Content-Length", "0")])
            return
        listed = method == "GET" and "list-type" in environ.get("QUERY_STRING", "")
        self.requests["LIST" if listed else method] += 1
        self.received += int(environ.get("CONTENT_LENGTH") or 0)
        for part in self.application(environ, start):
            self.sent += len(part)
            yield part

    def forget(self) -> None:
        """Clients that are open already ask another server."""
        from s3fs import S3FileSystem

        S3FileSystem.clear_instance_cache()

    @property
    def system(self) -> Any:
        from s3fs import S3FileSystem

        return S3FileSystem(use_listings_cache=False)

    def put(self, folder: Path, url: str) -> None:
        """All files of a folder."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.system.put_file(str(path), f"{url}/{path.relative_to(folder).as_posix()}")

    def contents(self, url: str) -> dict[str, bytes]:
        """Every file below a URL."""
        root = url.removeprefix("s3://")
        found = self.system.find(root)
        return {path[len(root) + 1 :]: bytes(self.system.cat_file(path)) for path in found}


def label_there(animals: str, output: Path, url: str | None = None) -> int:
    """Label as one process of a job that is cut; how many pairs were scored. No PyTorch: it takes
    seconds to import."""
    from dear.data.collections import open_collection
    from dear.data.label_mirror import LabelMirror
    from dear.data.shards import Shard, Share
    from dear.digests import Input, Inputs
    from dear.label import FirstStage, label_with

    collection = open_collection(animals)
    runs = [collection.run("bm25", "test")]
    share = Share.plan(Shard(0, 1), 192, Inputs({"run": Input("1")}))
    mirror = None if url is None else LabelMirror(url)
    return label_with(collection, runs, FirstStage(runs), output, share=share, mirror=mirror).scored


def killed(what: str, animals: str, output: str, url: str) -> None:
    """Dies behind the second shard, or with a third one that is not copied yet."""
    from dear.data.label_mirror import LabelMirror
    from dear.data.labels import LabelStore

    if what == "append":
        LabelStore.append = dies_at(2, LabelStore.append, after=True)  # type: ignore[method-assign]
    else:
        LabelMirror.push = dies_at(4, LabelMirror.push)  # type: ignore[method-assign]
    label_there(animals, Path(output), url)


@contextlib.contextmanager
def served() -> Iterator[ObjectStorage]:
    """A server with an empty bucket `bucket`, whom `environment` leads to."""
    import threading

    from moto.backends import get_backend
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    get_backend("s3").reset()
    storage = ObjectStorage(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, storage, threaded=True)
    storage.environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        import boto3

        boto3.client(
            "s3",
            endpoint_url=storage.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        ).create_bucket(Bucket="bucket")
        yield storage
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
