"""What keeps an address from being read, in words: no server, another server, no bucket, no login."""

from __future__ import annotations

import os
import re
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

from .folder import Storage
from .logins import full, scrubbed

_REFUSED = r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN|UNRECOGNIZED_CLIENT|\b40[13]\b|Unauthorized|Forbidden"
_SILENT = (
    r"NETWORK_CONNECTION|curlCode|[Cc]onnection refused|Could not (connect|resolve)|Cannot connect|[Nn]ame resolution|timed out"
)
LONG = 300  # characters of a store's own words
_LOGINS = {  # by the scheme: variables of which one names a login, and what else may hold one
    "s3": (("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"), "~/.aws/credentials"),
    "gs": (("GOOGLE_APPLICATION_CREDENTIALS",), "~/.config/gcloud/application_default_credentials.json"),
    "hf": (("HF_TOKEN",), "~/.cache/huggingface/token"),
}


def unread(storage: Storage, error: BaseException) -> str:
    """Why what an address names could not be read, and what to look at; of other errors than a store's, the error itself."""
    whole = scrubbed(" ".join(str(error).split()))
    said = whole if len(whole) <= LONG else f"{whole[:LONG]}..."
    if storage.local or _scheme(storage) == "file":
        return said
    if re.search(_SILENT, whole):
        return f"no server answers at {_endpoint(storage)}; look at {_variable(storage)} ({said})"
    if re.search(_REFUSED, whole):
        return f"{_endpoint(storage)} refuses the login{_login(storage)} ({said})"
    return _no_bucket(storage) if "NO_SUCH_BUCKET" in whole else said


def absent(storage: Storage) -> str:
    """Why nothing is there, as far as the bucket tells: it is none, the server is no such store, or it holds other things."""
    from pyarrow import fs

    scheme, bucket = _scheme(storage), _bucket(storage)
    if scheme in ("http", "https"):
        return _answer(storage)
    if scheme not in ("s3", "gs"):
        keys, _ = _LOGINS.get(scheme, ((), ""))
        return f"there is nothing{f', or nothing without a login ({keys[0]})' if keys else ''}; look at the address"
    try:
        if storage.system.get_file_info(bucket).type:
            return f"there is nothing of that name in the bucket {bucket} at {_endpoint(storage)}; look at the address"
        storage.system.get_file_info(fs.FileSelector(bucket))  # which says why there is no such bucket
    except (OSError, RuntimeError) as error:
        if re.search("RESOURCE_NOT_FOUND|UNKNOWN", str(error)):
            return f"what answers at {_endpoint(storage)} is no object store; look at {_variable(storage)}"
        if not isinstance(error, FileNotFoundError):
            return unread(storage, error)
    return _no_bucket(storage)


def _answer(storage: Storage) -> str:
    """What a web server says of an address that has nothing."""
    address, proxy = (
        full(storage.address),
        next((name for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy") if name in os.environ), ""),
    )
    through = f", through {proxy}" if proxy else ""
    try:
        with urlopen(Request(address, method="HEAD"), timeout=10):
            return "there is nothing; look at the address"
    except HTTPError as error:
        return f"the server says {error.code} {error.reason}{through}; look at the address"
    except (OSError, HTTPException) as error:
        return f"no server answers{through} ({scrubbed(str(getattr(error, 'reason', error)))}); look at the address, or at the network"


def _no_bucket(storage: Storage) -> str:
    return f"there is no bucket {_bucket(storage)} at {_endpoint(storage)}; look at the address, and at {_variable(storage)}"


def _scheme(storage: Storage) -> str:
    return {"gcs": "gs"}.get(found := storage.address.partition("://")[0], found)


def _bucket(storage: Storage) -> str:
    return storage.root.lstrip("/").partition("/")[0]


def _endpoint(storage: Storage) -> str:
    parts = urlsplit(full(storage.address))
    own = parse_qs(parts.query).get("endpoint_override", [""])[0]
    given = next((os.environ[key] for key in _endpoints(storage) if os.environ.get(key)), "")
    known = {"s3": "AWS", "gs": "Google Cloud Storage", "hf": "huggingface.co"}.get(
        _scheme(storage), parts.netloc.rpartition("@")[2]
    )
    return scrubbed(given or own if _scheme(storage) == "gs" else own or given) or known or "the store"


def _endpoints(storage: Storage) -> tuple[str, ...]:
    keys = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        "gs": ("CLOUD_STORAGE_EMULATOR_ENDPOINT",),
        "hf": ("HF_ENDPOINT",),
    }
    return keys.get(_scheme(storage), ())


def _variable(storage: Storage) -> str:
    """The variable that names the endpoint."""
    given = next((key for key in _endpoints(storage) if os.environ.get(key)), "")
    return given or next(iter(_endpoints(storage)[-1:]), "the address")


def _login(storage: Storage) -> str:
    """What of a login there is to look at."""
    keys, file = _LOGINS.get(_scheme(storage), ((), ""))
    given = next((key for key in keys if os.environ.get(key)), "")
    if given:
        return f" that {given} gives"
    if not keys or os.path.exists(os.path.expanduser(file)):
        return f" of {file}" if file else ""
    return f", for there is none: set {keys[0]} or write {file}"
